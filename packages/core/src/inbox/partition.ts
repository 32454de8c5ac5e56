/**
 * One partition for the length of one assignment: claim it, keep a small buffer, turn it into chunks,
 * one at a time, and decide what follows from each outcome. Nothing here outlives the assignment:
 * a new one makes a new worker, which reads the position again.
 *
 *              ┌────────────── fenced, unknown, moved ◀─────────────┐
 *              ▼                                                    │
 *   claiming ──▶ claimed ──▶ chunk ──▶ committed ──▶ next chunk     │
 *      │                      │ ▲                                   │
 *      └─ wait, try again     │ └─ failed: good messages before it, then it alone, with back-off
 *                             │ └─ trouble: the same chunk again, no attempt spent
 *                             └─────────────────────────────────────┘
 *   ended: by a new assignment or a stop; a running chunk still finishes, fenced by its token.
 */
import { HandlerError, type OnceboxError, PermanentError, type PositionError } from "../errors.ts";
import type { DropReason, Observer } from "../events.ts";
import type { LogBounds, RecordBatch } from "../ports/broker.ts";
import type { Clock } from "../ports/clock.ts";
import type { PartitionClaim, PartitionRef, Storage } from "../ports/storage.ts";
import { backoffMs, backoffs } from "../retry.ts";
import { type Buffer, type BufferLimits, buffer } from "./buffer.ts";
import { type Chunk, type ChunkOutcome, runChunk } from "./chunk.ts";
import type { Handler } from "./handler.ts";
import { afterCommit, afterFailure, chunkCut, type Isolation } from "./isolation.ts";
import type { Permits } from "./permits.ts";
import {
  brokenBatch,
  claimError,
  outOfRange,
  rewound,
  unreadable,
  unregistered,
} from "./position-errors.ts";

/** What a worker needs of its consumer. */
export interface PartitionContext<Tx> {
  readonly storage: Storage<Tx>;
  readonly handler: Handler<Tx>;
  readonly clock: Clock;
  readonly observe: Observer;
  /** Who claims, for a person who reads the table. */
  readonly owner: string;
  /** Transactions of chunks, and claims, that may be open at once in this consumer. */
  readonly chunks: Permits;
  readonly claims: Permits;
  readonly chunkSizeMax: number;
  readonly chunkBytesMax: number;
  readonly buffer: BufferLimits;
  readonly claimWaitMs: number;
  readonly heartbeatIntervalMs: number;
  readonly sessionTimeoutMs: number;
  /** Gives a partition without a row its start. */
  readonly register: (topic: string) => Promise<void>;
  /** The database holds this position under this claim. */
  readonly committed: (claim: PartitionClaim, nextOffset: bigint) => void;
  readonly cut: AbortSignal;
}

export interface PartitionStatus {
  readonly topic: string;
  readonly partition: number;
  readonly epoch: bigint | null;
  readonly nextOffset: bigint | null;
  /** Messages in the log that are not applied yet, as of the last fetch; null before the first. */
  readonly lag: bigint | null;
  /** Why the partition waits: a failing message, or a position outside the log. */
  readonly blockedBy: OnceboxError | null;
}

export interface PartitionWorker {
  readonly ref: PartitionRef;
  /** The next offset to fetch; null while not claimed, full, or outside the log. */
  readonly position: () => bigint | null;
  readonly deliver: (batch: RecordBatch) => void;
  readonly displaced: (asked: bigint, log: LogBounds | null) => void;
  readonly unreadable: (asked: bigint, error: Error) => void;
  readonly status: () => PartitionStatus;
  /** Starts no further chunk: the service stops. What still commits counts for the group's offset. */
  readonly end: () => void;
  /** Starts no further chunk: another assignment began. What still commits is for others to tell. */
  readonly void: () => void;
  /** Resolves when the running chunk has ended. */
  readonly done: Promise<void>;
}

/** Reruns of a chunk under local trouble (deadlock, time-out) before its messages run one by one. */
const localRerunsMax = 10;

export function partitionWorker<Tx>(
  context: PartitionContext<Tx>,
  ref: PartitionRef,
): PartitionWorker {
  return new Worker(context, ref);
}

class Worker<Tx> implements PartitionWorker {
  readonly ref: PartitionRef;
  readonly done: Promise<void>;
  readonly #context: PartitionContext<Tx>;
  readonly #ending = new AbortController();
  readonly #voided = new AbortController();
  readonly #cut: AbortSignal;
  #claim: PartitionClaim | null = null;
  #buffer: Buffer | null = null;
  #nextOffset: bigint | null = null;
  #logEnd: bigint | null = null;
  #isolation: Isolation | null = null;
  #reruns = 0;
  #claimTries = 0;
  #displaced: PositionError | null = null;
  #blockedBy: OnceboxError | null = null;
  #isVoid = false;
  #ring: () => void = () => {};

  constructor(context: PartitionContext<Tx>, ref: PartitionRef) {
    this.#context = context;
    this.ref = ref;
    this.#cut = AbortSignal.any([context.cut, this.#voided.signal]);
    this.done = this.#run();
  }

  position(): bigint | null {
    if (this.#displaced !== null || this.#ending.signal.aborted) return null;
    return this.#buffer?.wanted() ?? null;
  }

  deliver(batch: RecordBatch): void {
    this.#logEnd = batch.logEnd;
    const acceptance = this.#buffer?.accept(batch) ?? "wrong-position";
    if (acceptance === "accepted") this.#ring();
    else if (acceptance === "wrong-position") this.#dropped("wrong-position");
    else if (acceptance === "gap") this.#pause(brokenBatch(this.ref, batch));
  }

  displaced(asked: bigint, log: LogBounds | null): void {
    if (this.#stoodAt(asked)) this.#pause(outOfRange(this.ref, asked, log));
  }

  unreadable(asked: bigint, error: Error): void {
    if (this.#stoodAt(asked)) this.#pause(unreadable(this.ref, asked, error));
  }

  status(): PartitionStatus {
    const { topic, partition } = this.ref;
    const next = this.#nextOffset;
    return {
      topic,
      partition,
      epoch: this.#claim?.epoch ?? null,
      nextOffset: next,
      lag: next === null || this.#logEnd === null ? null : this.#logEnd - next,
      blockedBy: this.#displaced ?? this.#blockedBy,
    };
  }

  end(): void {
    this.#ending.abort();
    this.#ring();
  }

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
    const finished = new AbortController();
    const late = this.#context.clock.sleep(this.#context.sessionTimeoutMs, finished.signal);
    await Promise.race([this.done, late]);
    finished.abort();
    this.#voided.abort();
  }

  async #run(): Promise<void> {
    const ended = this.#ending.signal;
    while (!ended.aborted) {
      if (this.#claim === null) {
        await this.#tryClaim();
        continue;
      }
      const chunk = this.#nextChunk();
      if (chunk === null) await this.#rung();
      else await this.#workOrRecover(this.#claim, chunk);
    }
  }

  /** What nobody expected (an adapter that breaks its promise) must not end the process: claim again. */
  async #workOrRecover(claim: PartitionClaim, chunk: Chunk): Promise<void> {
    try {
      await this.#work(claim, chunk);
    } catch (error) {
      this.#unclaim();
      await this.#troubled(chunk, "global", error);
    }
  }

  /** Until a batch arrives or the worker ends. Conditions are read before, in the same turn. */
  #rung(): Promise<void> {
    return new Promise((resolve) => {
      this.#ring = resolve;
      if (this.#ending.signal.aborted) resolve();
    });
  }

  async #tryClaim(): Promise<void> {
    const { storage, claims, clock, observe, owner } = this.#context;
    const release = await claims.acquire(this.#ending.signal);
    if (release === null) return;
    const began = clock.now();
    try {
      const claim = await storage.claim({ ...this.ref, owner }, this.#context.claimWaitMs);
      if (claim === null) {
        await this.#context.register(this.ref.topic);
        throw unregistered(this.ref);
      }
      this.#claimTries = 0;
      if (!this.#ending.signal.aborted) this.#claimed(claim, clock.now() - began);
    } catch (error) {
      release();
      this.#claimTries += 1;
      observe({ ...this.ref, type: "inbox.claim-waiting", error: claimError(this.ref, error) });
      await this.#sleep(backoffMs(backoffs.claim, this.#claimTries, clock.random()));
    } finally {
      release();
    }
  }

  #claimed(claim: PartitionClaim, ms: number): void {
    const { epoch, nextOffset } = claim;
    const known = this.#nextOffset;
    if (known !== null && nextOffset < known) this.#rewound(known, nextOffset);
    this.#claim = claim;
    this.#nextOffset = nextOffset;
    this.#buffer = buffer(nextOffset, this.#context.buffer);
    this.#context.observe({ ...this.ref, type: "inbox.claimed", epoch, nextOffset, ms });
    this.#tell(claim, nextOffset);
  }

  #tell(claim: PartitionClaim, nextOffset: bigint): void {
    if (!this.#isVoid) this.#context.committed(claim, nextOffset);
  }

  /** Buffers and claim go together: what was fetched belongs to a position that may be another now. */
  #unclaim(): void {
    this.#claim = null;
    this.#buffer = null;
    this.#isolation = null;
    this.#reruns = 0;
  }

  #nextChunk(): Chunk | null {
    if (this.#buffer === null || this.#nextOffset === null) return null;
    const { alone, before } = chunkCut(this.#isolation, this.#nextOffset);
    const { chunkSizeMax, chunkBytesMax: bytesMax } = this.#context;
    return this.#buffer.chunk({ recordsMax: alone ? 1 : chunkSizeMax, bytesMax, before });
  }

  async #work(claim: PartitionClaim, chunk: Chunk): Promise<void> {
    const { chunks, clock, observe, storage, handler } = this.#context;
    const cut = this.#cut;
    const release = await chunks.acquire(this.#ending.signal);
    if (release === null) return;
    const began = clock.now();
    let outcome: ChunkOutcome;
    try {
      observe({
        ...this.ref,
        type: "inbox.chunk-opening",
        epoch: claim.epoch,
        firstOffset: chunk.firstOffset,
        endOffset: chunk.endOffset,
        messages: chunk.records.length,
      });
      const attempt = (this.#isolation?.attempts ?? 0) + 1;
      outcome = await runChunk({ storage, handler, claim, chunk, attempt, cut });
    } finally {
      release();
    }
    if (outcome.kind === "committed") this.#committed(claim, chunk, outcome, clock.now() - began);
    else await this.#setBack(claim, chunk, outcome);
  }

  #committed(
    claim: PartitionClaim,
    chunk: Chunk,
    outcome: ChunkOutcome & { kind: "committed" },
    ms: number,
  ): void {
    const { firstOffset, endOffset: nextOffset } = chunk;
    const { applied, duplicates } = outcome;
    this.#nextOffset = nextOffset;
    this.#buffer?.drop(nextOffset);
    this.#reruns = 0;
    const { epoch } = claim;
    const counts = { firstOffset, nextOffset, applied, duplicates };
    this.#context.observe({ ...this.ref, type: "inbox.chunk-committed", epoch, ...counts, ms });
    this.#tell(claim, nextOffset);
    const tried = this.#isolation?.attempts ?? 0;
    const { isolation, passed } = afterCommit(this.#isolation, nextOffset);
    this.#isolation = isolation;
    if (!passed) return;
    this.#blockedBy = null;
    const offset = chunk.records[0]?.offset ?? firstOffset;
    this.#context.observe({ ...this.ref, type: "inbox.unblocked", offset, attempts: tried });
  }

  async #setBack(claim: PartitionClaim, chunk: Chunk, outcome: ChunkOutcome): Promise<void> {
    const { observe, clock, heartbeatIntervalMs } = this.#context;
    switch (outcome.kind) {
      case "fenced":
        observe({ ...this.ref, type: "inbox.fenced", epoch: claim.epoch });
        this.#unclaim();
        // Most often a new assignment is on its way. It may also never come: the thief may be dead.
        return this.#sleep(heartbeatIntervalMs * (1 + clock.random()));
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
      case "cut":
        observe({ ...this.ref, type: "inbox.chunk-cut", firstOffset: chunk.firstOffset });
        return this.end();
    }
  }

  /** The database's trouble spends no attempt of a message. */
  async #troubled(chunk: Chunk, trouble: "global" | "local", error: unknown): Promise<void> {
    const { clock, observe } = this.#context;
    this.#reruns += 1;
    if (trouble === "local" && this.#reruns > localRerunsMax) {
      // Alone, a message that keeps meeting this trouble has failed by itself.
      const { topic, partition } = this.ref;
      const failure = new HandlerError(
        "handler-failed",
        `a chunk of ${topic}/${partition} from ${chunk.firstOffset} met trouble in the database ${this.#reruns} times in a row`,
        { cause: error },
      );
      return this.#failed(chunk, null, failure);
    }
    const backoff = backoffs[trouble];
    const waitMs = backoffMs(backoff, this.#reruns, clock.random());
    const rerun = this.#reruns;
    observe({ ...this.ref, type: "inbox.chunk-rerun", trouble, rerun, waitMs, error });
    await this.#sleep(waitMs);
  }

  /** A message failed: first what is good before it, then it alone, again and again. */
  async #failed(chunk: Chunk, failed: bigint | null, error: OnceboxError): Promise<void> {
    const { clock, observe } = this.#context;
    this.#reruns = 0;
    const { isolation, failed: message, wait } = afterFailure(this.#isolation, chunk, failed);
    this.#isolation = isolation;
    if (message === null) return;
    this.#blockedBy = error;
    const { offset, attempt } = message;
    const pause =
      error instanceof PermanentError
        ? backoffs.message.maxMs
        : backoffMs(backoffs.message, attempt, clock.random());
    const waitMs = wait ? pause : 0;
    observe({ ...this.ref, type: "inbox.blocked", offset, attempt, waitMs, error });
    if (wait) await this.#sleep(waitMs);
  }

  #rewound(known: bigint, found: bigint): void {
    const error = rewound(this.ref, known, found);
    this.#context.observe({ ...this.ref, type: "inbox.displaced", error });
  }

  /** Whether an answer is about the position asked for now, and news. */
  #stoodAt(asked: bigint): boolean {
    return this.#displaced === null && this.#buffer?.wanted() === asked;
  }

  #pause(error: PositionError): void {
    this.#displaced = error;
    this.#context.observe({ ...this.ref, type: "inbox.displaced", error });
  }

  #dropped(reason: DropReason): void {
    this.#context.observe({ ...this.ref, type: "inbox.batch-dropped", reason });
  }

  #sleep(ms: number): Promise<void> {
    return this.#context.clock.sleep(ms, this.#ending.signal);
  }
}
