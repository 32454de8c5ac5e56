/**
 * One partition for the length of one assignment: claim it, keep a small buffer, turn it into chunks,
 * one at a time, and decide what follows from each outcome. Nothing here outlives the assignment:
 * a new one makes a new worker, which reads the position again.
 *
 *              ┌────────────── fenced, unknown, moved ◀─────────────┐
 *              ▼                                                    │
 *   claiming ──▶ claimed ──▶ chunk ──▶ committed ──▶ next chunk     │
 *      │             │        │ ▲                                   │
 *      └─ wait,      │        │ └─ failed: the good before it, then it alone, then set aside
 *         try again  │        │ └─ trouble: the same chunk again, no attempt spent
 *                    │        └─────────────────────────────────────┤
 *                    └─ position lost ── a policy says go on ───────┘
 *                            └─ waits for an operator's seek, which fences the claim
 *   ended: by a new assignment or a stop; a running chunk still finishes, fenced by its token.
 */
import type { OnceboxError } from "../errors.ts";
import type { FetchPosition } from "../ports/broker.ts";
import { within } from "../ports/clock.ts";
import type { PartitionClaim, PartitionRef } from "../ports/storage.ts";
import type { Chunk, ChunkOutcome } from "./chunk.ts";
import { claimPartition, goOnFrom, isHeld, leavings, writtenDown } from "./claim.ts";
import { type GoOn, rewound } from "./lost-position.ts";
import type { PartitionContext } from "./partition-context.ts";
import {
  type Cut,
  cutOf,
  freshPlan,
  keptMeetingTrouble,
  type Plan,
  planAfterCommit,
  planAfterFailure,
  planAfterTrouble,
  planInOrder,
  planOfClaim,
  toldOf,
  toldOfFailure,
} from "./plan.ts";
import { Reader } from "./reader.ts";
import { type PartitionStatus, statusOf } from "./status.ts";

/** From here on the wait after being fenced does not double any more. */
const fencesMax = 5;

export class PartitionWorker {
  readonly ref: PartitionRef;
  /** Resolves when the worker and its running chunk have ended. */
  readonly done: Promise<void>;
  /** Takes what the broker says of the log; null while not claimed. */
  reader: Reader | null = null;
  readonly #context: PartitionContext;
  readonly #ending = new AbortController();
  readonly #voided = new AbortController();
  readonly #cut: AbortSignal;
  /** With the position of the last commit. */
  #claim: PartitionClaim | null = null;
  #nextOffset: bigint | null = null;
  #lastEpoch = 0n;
  #plan: Plan;
  readonly #left: ReturnType<typeof leavings>;
  #moved = false;
  /** Times that the claim was taken over in a row, without a commit in between. */
  #fences = 0;
  #blockedBy: OnceboxError | null = null;
  #lastError: unknown = null;
  #progressAt: number | null = null;
  #working = false;
  #stolen = false;
  #isVoid = false;
  #ring: () => void = () => {};

  constructor(context: PartitionContext, ref: PartitionRef) {
    this.#context = context;
    this.ref = ref;
    this.#plan = freshPlan(context.chunkSizeMax);
    this.#left = leavings(context);
    this.#cut = AbortSignal.any([context.cut, this.#voided.signal]);
    this.done = this.#run();
  }

  get #paused(): boolean {
    return this.#context.paused(this.ref.topic);
  }

  /** What to fetch next; null while not claimed, full, paused, or outside the log. */
  position(): FetchPosition | null {
    if (this.#ending.signal.aborted || this.#paused) return null;
    return this.reader?.position() ?? null;
  }

  /** The claim as it stands now, where no chunk runs that would find out by itself that it is lost. */
  idleClaim(): PartitionClaim | null {
    return this.#working || this.#ending.signal.aborted ? null : this.#claim;
  }

  /** The database says that this claim is held no more. A chunk may have moved it since the question. */
  claimLost({ token, nextOffset }: PartitionClaim): void {
    const now = this.idleClaim();
    if (now?.token !== token || now.nextOffset !== nextOffset) return;
    this.#stolen = true;
    this.#ring();
  }

  /** For how long the client owes this partition an answer, in milliseconds. Asked again and again. */
  silentMs(): number {
    if (this.position() === null) this.reader?.heard();
    return this.reader?.silentMs() ?? 0;
  }

  /** Looks again whether there is something to do: a pause is over. */
  readonly nudge = (): void => this.#ring();

  status(): PartitionStatus {
    return statusOf(this.ref, {
      claim: this.#claim,
      reader: this.reader,
      paused: this.#paused,
      nextOffset: this.#nextOffset,
      blockedBy: this.#blockedBy,
      lastError: this.#lastError,
      sinceProgressMs:
        this.#progressAt === null ? null : this.#context.clock.now() - this.#progressAt,
    });
  }

  /** Starts no further chunk: the service stops. What still commits counts for the group's offset. */
  end(): void {
    this.#ending.abort();
    this.#ring();
  }

  /** Starts no further chunk: another assignment began. What still commits is for others to tell. */
  void(): void {
    this.#isVoid = true;
    this.end();
    void this.#cutLater();
  }

  /**
   * A chunk of an assignment that is over may finish, as its claim may still hold. A hung one must
   * not keep its permit and its connection for ever. Never rejects.
   */
  async #cutLater(): Promise<void> {
    const { clock, sessionTimeoutMs } = this.#context;
    await within(clock, sessionTimeoutMs, this.done, null);
    this.#voided.abort();
  }

  async #run(): Promise<void> {
    const ended = this.#ending.signal;
    while (!ended.aborted) {
      const [claim, reader] = [this.#claim, this.reader];
      if (claim === null || reader === null) {
        await this.#claimNow();
        continue;
      }
      const goOn = reader.lost?.goOn;
      const cut = this.#nextOffset === null ? null : cutOf(this.#plan, this.#nextOffset);
      const chunk = this.#paused || cut === null ? null : this.#nextChunk(reader, cut);
      if (this.#stolen) await this.#fenced(claim);
      else if (reader.untold) await this.#announce(reader, claim);
      else if (goOn) await this.#goOn(claim, goOn, reader.lost?.error.message ?? "");
      else if (chunk === null || cut === null) await this.#rung();
      else await this.#workOrRecover(claim, chunk, cut);
    }
    this.#leave();
    await this.#left.said();
  }

  /** What nobody expected (an adapter that breaks its promise) must not end the process. */
  async #workOrRecover(claim: PartitionClaim, chunk: Chunk, cut: Cut): Promise<void> {
    this.#working = true;
    try {
      await this.#work(claim, chunk, cut);
    } catch (error) {
      this.#unclaim();
      await this.#troubled(chunk, "global", error);
    } finally {
      this.#working = false;
    }
  }

  /** Until a batch arrives or the worker ends. Conditions are read before, in the same turn. */
  #rung(): Promise<void> {
    return new Promise((resolve) => {
      this.#ring = resolve;
      if (this.#ending.signal.aborted) resolve();
    });
  }

  async #claimNow(): Promise<void> {
    const context = { ...this.#context, left: this.#left };
    const claim = await claimPartition(context, this.ref, this.#ending.signal, (error) => {
      this.#lastError = error;
      if (error.code === "storage-unavailable") this.#context.database(error);
    });
    if (claim === null) return;
    const { epoch, nextOffset, stalledClaims: claims } = claim;
    const known = this.#nextOffset;
    // After an operator's seek it may lie anywhere.
    const sought = claim.soughtEpoch > this.#lastEpoch;
    // Nobody takes turns with an operator.
    if (sought) this.#fences = 0;
    if (known !== null && nextOffset < known && !sought) this.#rewound(known, nextOffset);
    this.#lastEpoch = epoch;
    this.#claim = claim;
    this.#moved = false;
    this.#plan = planOfClaim(this.#plan, claim, this.#context.chunkSizeMax);
    if (this.#plan.isolation !== null) {
      this.#context.observe({ ...this.ref, type: "inbox.claims-stalled", claims });
    }
    this.#nextOffset = nextOffset;
    this.reader = new Reader(this.#context, claim, () => this.#ring());
    this.#context.database(null);
    this.#context.claimed(claim);
    this.#tell(claim, nextOffset);
  }

  #tell(claim: PartitionClaim, nextOffset: bigint): void {
    if (!this.#isVoid) this.#context.committed(claim, nextOffset);
  }

  /** Buffers and claim go together: what was fetched belongs to a position that may be another now. */
  #unclaim(): void {
    this.#leave();
    this.#claim = null;
    this.reader = null;
    // An operator may have moved the position past the message.
    this.#blockedBy = null;
    this.#stolen = false;
  }

  /** Given up alive. One that has moved the position, and tried nothing since, counts for nothing. */
  #leave(): void {
    const claim = this.#claim;
    if (claim === null || this.#moved) return;
    this.#moved = true;
    this.#left.gaveUp(claim);
  }

  /** The claim was taken over: by another consumer, or by an operator who moved the position. */
  async #fenced(claim: PartitionClaim): Promise<void> {
    const { observe, clock, heartbeatIntervalMs } = this.#context;
    observe({ ...this.ref, type: "inbox.fenced", epoch: claim.epoch });
    this.#unclaim();
    // Most often a new assignment is on its way. It may also never come: the thief may be dead. One
    // that is cut off from Kafka only hears of none, and must not take the partition back for long.
    const waits = 2 ** Math.min(this.#fences, fencesMax);
    this.#fences += 1;
    await this.#sleep(heartbeatIntervalMs * (waits + clock.random()));
  }

  /**
   * The position does not fit the log. Said by whoever holds the partition only: a process that was
   * frozen looks for its old place in a log that others have read on in.
   */
  async #announce(reader: Reader, claim: PartitionClaim): Promise<void> {
    const held = await isHeld(this.#context, claim, this.#ending.signal);
    if (held === false) await this.#fenced(claim);
    else if (held) reader.announce();
  }

  /** The position is lost and a policy says where to go on: moved like by an operator. */
  async #goOn(claim: PartitionClaim, goOn: GoOn, reason: string): Promise<void> {
    const moved = await goOnFrom(this.#context, claim, goOn, reason, this.#ending.signal);
    if (moved === false) return this.#fenced(claim);
    this.#unclaim();
  }

  #nextChunk(reader: Reader, { recordsMax, before }: Cut): Chunk | null {
    return reader.chunk({ recordsMax, bytesMax: this.#context.chunkBytesMax, before });
  }

  async #work(claim: PartitionClaim, chunk: Chunk, cut: Cut): Promise<void> {
    const { chunks, clock } = this.#context;
    // What may kill the process runs beside nothing: its neighbours would be suspected as well.
    const turn = cut.careful ? chunks.acquireAll : chunks.acquire;
    const release = await turn(this.#ending.signal);
    if (release === null) return;
    // Paused while it waited for its turn.
    if (this.#paused) return release();
    const began = clock.now();
    let outcome: ChunkOutcome | null;
    try {
      outcome = cut.careful ? await writtenDown(this.#context, claim, chunk, cut) : null;
      // What was written down is held against the message until it is taken back.
      if (cut.careful) this.#moved = false;
      outcome ??= await this.#runChunk(claim, chunk, cut);
    } finally {
      // What follows may wait long, and needs no permit.
      release();
    }
    if (outcome.kind === "committed") this.#committed(claim, chunk, outcome, clock.now() - began);
    else await this.#setBack(claim, chunk, outcome);
  }

  #runChunk(claim: PartitionClaim, chunk: Chunk, cut: Cut): Promise<ChunkOutcome> {
    const { clock, observe, handlerTimeoutMs, runChunk } = this.#context;
    const { firstOffset, endOffset, records } = chunk;
    const at = { epoch: claim.epoch, firstOffset, endOffset, messages: records.length };
    observe({ ...this.ref, type: "inbox.chunk-opening", ...at });
    const { attempt, giveUp } = cut;
    const atOnceMax = cut.inOrder ? 1 : this.#context.atOnceMax();
    const how = { attempt, giveUp, atOnceMax, cut: this.#cut };
    return runChunk({ claim, chunk, ...how, clock, handlerTimeoutMs });
  }

  #committed(
    claim: PartitionClaim,
    chunk: Chunk,
    outcome: ChunkOutcome & { kind: "committed" },
    ms: number,
  ): void {
    const { firstOffset, endOffset: nextOffset } = chunk;
    const { applied, duplicates, parked } = outcome;
    this.#nextOffset = nextOffset;
    this.#claim = { ...claim, nextOffset, trying: null };
    this.#moved = true;
    this.reader?.drop(nextOffset);
    this.#progressAt = this.#context.clock.now();
    this.#context.database(null);
    this.#fences = 0;
    const { epoch } = claim;
    const counts = { firstOffset, nextOffset, applied, duplicates, parked };
    this.#context.observe({ ...this.ref, type: "inbox.chunk-committed", epoch, ...counts, ms });
    this.#tell(claim, nextOffset);
    const { chunkSizeMax, policy, observe } = this.#context;
    const { plan, passed } = planAfterCommit(this.#plan, nextOffset, policy, chunkSizeMax);
    this.#plan = plan;
    if (passed === null) return;
    this.#blockedBy = null;
    const offset = chunk.records[0]?.offset ?? firstOffset;
    observe({ ...this.ref, ...toldOf(passed, offset) });
  }

  async #setBack(claim: PartitionClaim, chunk: Chunk, outcome: ChunkOutcome): Promise<void> {
    const { observe } = this.#context;
    switch (outcome.kind) {
      case "fenced":
        return this.#fenced(claim);
      case "unknown":
        observe({ ...this.ref, type: "inbox.commit-unknown", error: outcome.error });
        return this.#unclaim();
      case "moved":
        this.#rewound(chunk.firstOffset, outcome.nextOffset);
        this.#nextOffset = null;
        return this.#unclaim();
      case "trouble":
        return this.#troubled(chunk, outcome.trouble, outcome.error);
      case "failed":
        return this.#failed(chunk, outcome.offset, outcome.error);
      case "failed-at-once":
        if (outcome.refused) this.#context.keepOrder();
        this.#plan = planInOrder(this.#plan, chunk);
        return;
      case "cut":
        observe({ ...this.ref, type: "inbox.chunk-cut", firstOffset: chunk.firstOffset });
        return this.end();
    }
  }

  /** The database's trouble spends no attempt of a message. */
  async #troubled(chunk: Chunk, trouble: "global" | "local", error: unknown): Promise<void> {
    const { clock, observe } = this.#context;
    this.#lastError = error;
    this.#context.database(trouble === "global" ? error : null);
    const after = planAfterTrouble(this.#plan, trouble, clock.random());
    if (after === null) {
      return this.#failed(chunk, null, keptMeetingTrouble(this.ref, chunk, error));
    }
    const { plan, waitMs } = after;
    this.#plan = plan;
    const rerun = plan.reruns;
    observe({ ...this.ref, type: "inbox.chunk-rerun", trouble, rerun, waitMs, error });
    await this.#sleep(waitMs);
  }

  /** A message failed: first what is good before it, then it alone, then what its policy says. */
  async #failed(chunk: Chunk, offset: bigint | null, error: OnceboxError): Promise<void> {
    const { clock, observe, policy } = this.#context;
    this.#context.database(null);
    const after = planAfterFailure(this.#plan, chunk, { offset, error }, policy, clock.random());
    this.#plan = after.plan;
    if (after.failed === null) return;
    this.#blockedBy = error;
    this.#lastError = error;
    const { failed, waitMs } = after;
    observe({ ...this.ref, ...toldOfFailure(after, failed, error) });
    if (waitMs > 0) await this.#sleep(waitMs);
  }

  #rewound(known: bigint, found: bigint): void {
    const error = rewound(this.ref, known, found);
    this.#context.observe({ ...this.ref, type: "inbox.displaced", error, paused: false });
  }

  #sleep(ms: number): Promise<void> {
    return this.#context.clock.sleep(ms, this.#ending.signal);
  }
}
