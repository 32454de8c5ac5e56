/**
 * What is read of one claimed partition: where to fetch, which batch to take, and when the log turns
 * out to be another one than the position belongs to. It lives as long as the claim; what to do about
 * a lost position is the worker's.
 *
 *   verifying ── the last record is still there, or nobody can tell ──▶ reading
 *       │                                                                  │
 *       └─ another record stands there ──▶ lost ◀── the position does not fit the log
 *                                           │
 *                                           └─ may pass (the topic is gone): asked again after a while
 */
import type { DropReason, Observer } from "../events.ts";
import type { Displacement, FetchPosition, LogState, RecordBatch } from "../ports/broker.ts";
import type { Clock } from "../ports/clock.ts";
import type { LastRecord, PartitionClaim, PartitionRef } from "../ports/storage.ts";
import { type Buffer, type BufferLimits, buffer, type ChunkLimits } from "./buffer.ts";
import { type Chunk, lastRecordOf } from "./chunk.ts";
import {
  brokenBatch,
  type LostPosition,
  type LostPositionPolicy,
  lostPosition,
  recordChanged,
  unreadable,
} from "./lost-position.ts";

/** What a reader needs of its consumer. */
export interface ReaderContext {
  readonly clock: Clock;
  readonly observe: Observer;
  readonly buffer: BufferLimits;
  readonly onLostPosition: LostPositionPolicy;
  readonly hangingTransactionAfterMs: number;
}

/** After how long a position is asked for again that may fit once more. */
const askAgainMs = 30_000;

export class Reader {
  readonly #context: ReaderContext;
  readonly #ref: PartitionRef;
  readonly #claim: PartitionClaim;
  readonly #ring: () => void;
  readonly #buffer: Buffer;
  /** The record to find again before anything is taken; null once that is settled. */
  #verifying: LastRecord | null;
  #lost: LostPosition | null = null;
  #lostAt = 0;
  /** The log did not fit behind what waits here: asked again when all of that is handled. */
  #draining = false;
  /** Nobody was told of it yet. */
  #untold = false;
  #trouble: Error | null = null;
  #log: LogState | null = null;
  #heldSince = 0;
  #heardAt: number;

  /** `ring` is called when there is a chunk, or the position was lost. */
  constructor(context: ReaderContext, claim: PartitionClaim, ring: () => void) {
    const { consumer, topic, partition, nextOffset, log } = claim;
    const { topicId, leaderEpoch, last } = log;
    this.#context = context;
    this.#ref = { consumer, topic, partition };
    this.#claim = claim;
    this.#ring = ring;
    this.#buffer = buffer({ offset: nextOffset, topicId, leaderEpoch }, context.buffer);
    this.#verifying = last !== null && last.offset < nextOffset ? last : null;
    this.#heardAt = context.clock.now();
  }

  /** Set when the position does not fit the log. */
  get lost(): LostPosition | null {
    return this.#lost;
  }

  /** Whether the loss is still to be told: by `announce`, when it is sure who holds the partition. */
  get untold(): boolean {
    return this.#untold;
  }

  announce(): void {
    if (this.#lost === null || !this.#untold) return;
    this.#untold = false;
    const { error, goOn } = this.#lost;
    this.#context.observe({ ...this.#ref, type: "inbox.displaced", error, paused: goOn === null });
  }

  /** What kept Kafka from handing out the partition last. */
  get trouble(): Error | null {
    return this.#trouble;
  }

  get logEnd(): bigint | null {
    return this.#log?.end ?? null;
  }

  /**
   * What to fetch next; null: nothing at the moment. Asking changes nothing: a client may ask without
   * fetching, and the watchdog does.
   */
  position(): FetchPosition | null {
    const waitedMs = this.#context.clock.now() - this.#lostAt;
    if (this.#lost !== null && (!this.#lost.mayPass || waitedMs < askAgainMs)) return null;
    const wanted = this.#buffer.wanted();
    if (this.#draining && !this.#buffer.isEmpty()) return null;
    if (wanted === null || this.#verifying === null) return wanted;
    return { ...wanted, offset: this.#verifying.offset };
  }

  fetched(log: LogState): void {
    this.#watchTransactions(log);
    this.#log = log;
    const asked = this.#verifying?.offset ?? this.#buffer.wanted()?.offset;
    // Nothing to read is no silence; something to read that never comes is.
    if (asked === undefined || log.lastStable <= asked) this.heard();
    this.#draining = false;
    if (this.#lost?.mayPass !== true) return;
    this.#lost = null;
    this.#untold = false;
  }

  deliver(batch: RecordBatch): void {
    if (this.#verifying !== null) {
      this.#verify(this.#verifying, batch);
      return;
    }
    const acceptance = this.#lost === null ? this.#buffer.accept(batch) : "wrong-position";
    if (acceptance === "wrong-position") this.#dropped("wrong-position");
    else this.heard();
    if (acceptance === "accepted") this.#ring();
    else if (acceptance === "gap") this.#lose(brokenBatch(this.#ref, batch));
    else if (acceptance === "wrong-log") {
      this.#judge({ kind: "topic-recreated", topicId: batch.topicId });
    }
  }

  displaced(asked: bigint, why: Displacement): void {
    if (this.#askedFor(asked) && !this.#lastRecordGone(why)) this.#judge(why);
  }

  unreadable(asked: bigint, error: Error): void {
    if (this.#askedFor(asked)) this.#lose(unreadable(this.#ref, asked, error));
  }

  troubled(error: Error): void {
    this.heard();
    this.#trouble = error;
    this.#context.observe({ ...this.#ref, type: "inbox.fetch-troubled", error });
  }

  chunk(limits: ChunkLimits): Chunk | null {
    return this.#lost === null ? this.#buffer.chunk(limits) : null;
  }

  drop(nextOffset: bigint): void {
    this.#buffer.drop(nextOffset);
  }

  /** For how long the client owes an answer, in milliseconds. */
  silentMs(): number {
    return this.#context.clock.now() - this.#heardAt;
  }

  /** The client owes nothing at the moment. */
  heard(): void {
    this.#heardAt = this.#context.clock.now();
  }

  /** Whether an answer is about the position asked for now. */
  #askedFor(asked: bigint): boolean {
    this.heard();
    if (this.#lost !== null && !this.#lost.mayPass) return false;
    return asked === (this.#verifying?.offset ?? this.#buffer.wanted()?.offset);
  }

  /** What follows is fetched anew, at the position itself: Kafka compares epochs at that offset only. */
  #verify(expected: LastRecord, { fetchedOffset, records }: RecordBatch): void {
    if (fetchedOffset !== expected.offset) {
      this.#dropped("wrong-position");
      return;
    }
    this.heard();
    const record = records.find(({ offset }) => offset === expected.offset);
    const found = record === undefined ? null : lastRecordOf(record);
    const { timestamp, checksum } = found ?? expected;
    if (found !== null && (timestamp !== expected.timestamp || checksum !== expected.checksum)) {
      this.#lose(recordChanged(this.#ref, expected, found, this.#claim.nextOffset));
      return;
    }
    if (found === null) this.#unverifiable(expected.offset);
    this.#verifying = null;
  }

  /** Retention may take the last handled record and leave the position: nothing is lost by that. */
  #lastRecordGone(why: Displacement): boolean {
    if (this.#verifying === null || why.kind !== "out-of-range" || why.log === null) return false;
    const { start, end } = why.log;
    const { nextOffset } = this.#claim;
    if (start <= this.#verifying.offset || start > nextOffset || end < nextOffset) return false;
    this.#unverifiable(this.#verifying.offset);
    this.#verifying = null;
    return true;
  }

  #unverifiable(offset: bigint): void {
    this.#context.observe({ ...this.#ref, type: "inbox.continuity-unknown", offset });
  }

  #judge(why: Displacement): void {
    const wanted = this.#buffer.wanted();
    const { nextOffset: offset, log } = this.#claim;
    // What lost its place is the position, also while the record before it was looked for.
    const at = this.#verifying !== null || wanted === null ? { ...log, offset } : wanted;
    this.#lose(lostPosition(this.#ref, at, why, this.#context.onLostPosition));
  }

  /**
   * What waits here was read while all was well. It is handled first: the position that is lost is the
   * one in the database, and there is none as long as the log holds what comes next.
   */
  #lose(lost: LostPosition): void {
    if (!this.#buffer.isEmpty()) {
      this.#draining = true;
      return;
    }
    if (this.#lost?.error.code !== lost.error.code) this.#untold = true;
    this.#lost = lost;
    this.#lostAt = this.#context.clock.now();
    this.#ring();
  }

  /** D9. A transaction that stays open keeps everything behind it from being read. */
  #watchTransactions(log: LogState): void {
    const { clock, observe, hangingTransactionAfterMs } = this.#context;
    const held = log.lastStable < log.end;
    if (!held || this.#log === null || this.#log.lastStable !== log.lastStable) {
      this.#heldSince = clock.now();
    }
    const ms = clock.now() - this.#heldSince;
    if (!held || ms < hangingTransactionAfterMs) return;
    const { lastStable, end: logEnd } = log;
    observe({ ...this.#ref, type: "inbox.transaction-hanging", lastStable, logEnd, ms });
    // Told again after as long.
    this.#heldSince = clock.now();
  }

  #dropped(reason: DropReason): void {
    this.#context.observe({ ...this.#ref, type: "inbox.batch-dropped", reason });
  }
}
