/**
 * One chunk, one transaction: prove the claim, record the ids, run the handlers, set aside what is
 * given up, with its letter, advance, commit. It answers what became of the transaction and decides
 * nothing about what happens next.
 *
 *   open ──▶ handle … handle ──▶ commit ──▶ committed
 *    │          │                  │
 *    │          ├─▶ failed         ├─▶ failed (nobody knows at which message)
 *    │          └─▶ failed-at-once │
 *    ├─▶ fenced, moved             ├─▶ fenced
 *    └─▶ trouble                   ├─▶ trouble
 *                                  └─▶ unknown
 */
import { ClaimLostError, CommitUnknownError, HandlerError, type OnceboxError } from "../errors.ts";
import { checksumOf } from "../hashes.ts";
import { idBytesOf, replayedIdBytes } from "../ids.ts";
import { idOf, sourceOf } from "../message.ts";
import type { BrokerRecord } from "../ports/broker.ts";
import type { Clock } from "../ports/clock.ts";
import type { OutboxEntry } from "../ports/outbox.ts";
import type {
  ChunkTransaction,
  LastRecord,
  LogMark,
  PartitionClaim,
  PartitionRef,
  RecordRef,
  Storage,
  StorageVerbs,
} from "../ports/storage.ts";
import { letterOf } from "./dead-letter.ts";
import type { GiveUp } from "./failure-policy.ts";
import type { BatchHandler, Handler } from "./handler.ts";
import {
  afterHandler,
  FailedAt,
  handleBatch,
  handleOne,
  handling,
  type Running,
  storageFailed,
  untilCut,
} from "./handler-run.ts";
import { atOnceByKey } from "./handlers-at-once.ts";
import { type Sorted, sorted } from "./parking.ts";

/** The records of one partition that share one transaction. */
export interface Chunk {
  /** The position before it. */
  readonly firstOffset: bigint;
  /** The position behind it: markers and holes are covered. */
  readonly endOffset: bigint;
  readonly records: readonly BrokerRecord[];
  /** The topic it was read from; null for a chunk of no records read nowhere. */
  readonly topicId: string | null;
  /** Leader epoch of what lies directly before `endOffset`; null: not known. */
  readonly endEpoch: number | null;
}

/** What a chunk did with its records. */
export interface ChunkCounts {
  readonly applied: number;
  readonly duplicates: number;
  /** Set aside: given up, or behind another of their key. */
  readonly parked: number;
  readonly dropped: number;
}

export type ChunkOutcome =
  | ({ readonly kind: "committed" } & ChunkCounts)
  /** A message failed, and nothing was committed. `offset` is null where nobody knows which. */
  | { readonly kind: "failed"; readonly offset: bigint | null; readonly error: OnceboxError }
  /**
   * Handlers that ran at once failed: in order it shows which. `refused`: one did what cannot be done
   * beside others.
   */
  | { readonly kind: "failed-at-once"; readonly refused: boolean; readonly error: unknown }
  | { readonly kind: "trouble"; readonly trouble: "global" | "local"; readonly error: unknown }
  | { readonly kind: "fenced" }
  /** The row is not where it was left, though the claim holds: the database went back. */
  | { readonly kind: "moved"; readonly nextOffset: bigint }
  | { readonly kind: "unknown"; readonly error: OnceboxError }
  /** The deadline of a stop passed; the connection was destroyed. */
  | { readonly kind: "cut" };

/** Runs the chunks of one topic: made by `runnersOf`. */
export type RunChunk = (run: ChunkRun) => Promise<ChunkOutcome>;

export interface ChunkRun {
  readonly claim: PartitionClaim;
  readonly chunk: Chunk;
  readonly attempt: number;
  /** Handlers of different keys that may run at the same time; 1: one after another, in order. */
  readonly atOnceMax: number;
  /** What is done with one of the records instead of handling it. */
  readonly giveUp: GiveUp | null;
  /** Aborted when there is no time left: the transaction is cut where it stands. */
  readonly cut: AbortSignal;
  readonly clock: Clock;
  /** Longest time of one handler, in milliseconds. */
  readonly handlerTimeoutMs: number;
}

interface HandlerRun<Tx> extends ChunkRun {
  readonly storage: Storage<Tx>;
  readonly handler: Handler<Tx> | BatchHandler<Tx>;
  /** Of the messages that the handler enqueues. */
  readonly source: string | undefined;
  readonly deduplicate: "id" | "offset";
}

export async function runChunk<Tx>(run: HandlerRun<Tx>): Promise<ChunkOutcome> {
  const { storage, claim, chunk, cut } = run;
  let transaction: ChunkTransaction<Tx>;
  try {
    transaction = await storage.open(claim, recordRefs(claim, chunk.records, run.deduplicate));
  } catch (error) {
    return afterFailure(storage, error);
  }
  if (cut.aborted) {
    transaction.destroy();
    return { kind: "cut" };
  }
  if (transaction.nextOffset !== chunk.firstOffset) {
    await transaction.rollback();
    return { kind: "moved", nextOffset: transaction.nextOffset };
  }
  const found = sorted(chunk.records, transaction.recorded, run.giveUp);
  const outcome = await untilCut(run, transaction, claim, (running) =>
    handleAndCommit(run, transaction, running, found),
  );
  return blamed(outcome, handlingOf(run, found));
}

/**
 * A time-out names the handler that began first. Of those that ran at once on one connection it may
 * have waited for another, and of a batch nobody knows which message takes the time.
 */
function blamed(outcome: ChunkOutcome, handling: Handling): ChunkOutcome {
  if (outcome.kind !== "failed" || outcome.error.code !== "handler-timed-out") return outcome;
  const { error } = outcome;
  if (handling === handleAtOnce) return { kind: "failed-at-once", refused: false, error };
  return handling === handleWhole ? { ...outcome, offset: null } : outcome;
}

/** The handlers, then the commit; what fails in between rolls back. */
async function handleAndCommit<Tx>(
  run: HandlerRun<Tx>,
  transaction: ChunkTransaction<Tx>,
  running: Running,
  found: Sorted,
): Promise<ChunkOutcome> {
  const { storage, chunk } = run;
  const ended = await handlingOf(run, found)(run, transaction, running, found);
  if (ended !== null) return ended;
  const unwritten = await writeLetter(run, transaction, running, found);
  if (unwritten !== null) return unwritten;
  // From here on it is the database that takes its time.
  running.watch.end();
  try {
    await transaction.commit(chunk.endOffset, markOf(chunk), found.toPark);
  } catch (error) {
    return afterFailure(storage, error);
  }
  if (running.published) storage.wake.send();
  return { kind: "committed", ...countsOf(found) };
}

/**
 * Through a handle, as a handler would enqueue it. What keeps it from being written is told by the
 * offset of what is given up, which no handler ran for. Null: written, or there is none.
 */
async function writeLetter<Tx>(
  run: HandlerRun<Tx>,
  transaction: ChunkTransaction<Tx>,
  running: Running,
  found: Sorted,
): Promise<ChunkOutcome | null> {
  const { storage, claim } = run;
  const offset = found.givenUp?.offset ?? run.chunk.firstOffset;
  try {
    const letter = letterIn(run, found);
    if (letter === null) return null;
    const use = { shared: false, immediate: true };
    await handling(transaction, offset, running, use, (tx) => storage.enqueue(tx, [letter]));
    running.published = true;
    return null;
  } catch (error) {
    const failure = await afterHandler(run, transaction, claim, offset, error);
    return failure.kind === "failed" ? { ...failure, offset } : failure;
  }
}

/** The letter of what is given up for good; null: none. Throws InvalidMessageError. */
export function letterIn(
  { claim, giveUp }: Pick<ChunkRun, "claim" | "giveUp">,
  { givenUp }: Sorted,
): OutboxEntry | null {
  if (givenUp === null || giveUp === null || giveUp.letter === null) return null;
  const { attempts, error } = giveUp;
  return letterOf(giveUp.letter, claim, givenUp, { attempts, error, token: null });
}

export function countsOf({ toHandle, toPark, dropped, duplicates }: Sorted): ChunkCounts {
  return { applied: toHandle.length, parked: toPark.length, dropped, duplicates };
}

/** Resolves to null where all went well. */
type Handling = <Tx>(
  run: HandlerRun<Tx>,
  transaction: ChunkTransaction<Tx>,
  running: Running,
  found: Sorted,
) => Promise<ChunkOutcome | null>;

function handlingOf<Tx>({ handler, atOnceMax }: HandlerRun<Tx>, { toHandle }: Sorted): Handling {
  if (toHandle.length <= 1) return handleInOrder;
  if ("runBatch" in handler) return handleWhole;
  return atOnceMax > 1 ? handleAtOnce : handleInOrder;
}

async function handleInOrder<Tx>(
  run: HandlerRun<Tx>,
  transaction: ChunkTransaction<Tx>,
  running: Running,
  { toHandle }: Sorted,
): Promise<ChunkOutcome | null> {
  const { claim } = run;
  for (const { record, conflict } of toHandle) {
    // Cut while a handler ran: the next owner handles the rest.
    if (running.signal.aborted) return { kind: "cut" };
    try {
      if (conflict) throw idConflict(claim, record.offset);
      await handleOne(run, transaction, claim, record, running, false);
    } catch (error) {
      const { offset } = record;
      const failure = await afterHandler(run, transaction, claim, offset, error);
      return failure.kind === "failed" ? { ...failure, offset } : failure;
    }
  }
  return null;
}

/** All in one call. Nobody knows which message made it fail. */
async function handleWhole<Tx>(
  run: HandlerRun<Tx>,
  transaction: ChunkTransaction<Tx>,
  running: Running,
  { toHandle }: Sorted,
): Promise<ChunkOutcome | null> {
  const { claim, handler } = run;
  const first = toHandle[0]?.record.offset ?? run.chunk.firstOffset;
  try {
    for (const { record, conflict } of toHandle) {
      if (conflict) throw new FailedAt(record.offset, idConflict(claim, record.offset));
    }
    const records = toHandle.map(({ record }) => record);
    const call = { ...run, handler: handler as BatchHandler<Tx> };
    await handleBatch(call, transaction, claim, records, running);
    return null;
  } catch (error) {
    const failure = await afterHandler(run, transaction, claim, first, error);
    if (failure.kind !== "failed") return failure;
    return { ...failure, offset: error instanceof FailedAt ? error.offset : null };
  }
}

/** As above, handlers of different keys at the same time. */
async function handleAtOnce<Tx>(
  run: HandlerRun<Tx>,
  transaction: ChunkTransaction<Tx>,
  running: Running,
  { toHandle }: Sorted,
): Promise<ChunkOutcome | null> {
  const { claim, atOnceMax } = run;
  const items = toHandle.map((item) => ({ ...item, key: item.record.key }));
  let error: unknown;
  try {
    await atOnceByKey(items, atOnceMax, async ({ record, conflict }) => {
      if (running.signal.aborted) throw new HandlerError("handler-failed", "cut off");
      if (conflict) throw idConflict(claim, record.offset);
      await handleOne(run, transaction, claim, record, running, true);
    });
    // One that swallows the refusal has done other work than it would have done alone.
    if (!running.refused) return null;
  } catch (caught) {
    error = caught;
  }
  if (running.signal.aborted) return { kind: "cut" };
  const offset = run.chunk.firstOffset;
  const failure = await afterHandler(run, transaction, claim, offset, error);
  if (failure.kind === "trouble" && !running.refused) return failure;
  return { kind: "failed-at-once", refused: running.refused, error };
}

/** What a rejected `open` or `commit` means. The transaction has ended either way. */
export function afterFailure(
  storage: Pick<StorageVerbs, "trouble">,
  error: unknown,
): Extract<ChunkOutcome, { kind: "fenced" | "unknown" | "trouble" | "failed" }> {
  if (error instanceof ClaimLostError) return { kind: "fenced" };
  if (error instanceof CommitUnknownError) return { kind: "unknown", error };
  const trouble = storage.trouble(error);
  if (trouble !== null) return { kind: "trouble", trouble, error };
  return { kind: "failed", offset: null, error: storageFailed("a chunk", error) };
}

export function recordRefs(
  claim: PartitionClaim,
  records: readonly BrokerRecord[],
  deduplicate: "id" | "offset",
): RecordRef[] {
  const { topic, replay } = claim;
  return records.map((record) => {
    const id = deduplicate === "id" ? idOf(record.headers) : null;
    return {
      ...lastRecordOf(record),
      source: sourceOf(record.headers, topic),
      id: id === null ? null : replayedIdBytes(idBytesOf(id), record.offset, replay),
      key: record.key,
    };
  });
}

/** What is kept of a position's last record, to find it again after a restart. */
export function lastRecordOf(record: BrokerRecord): LastRecord {
  const { offset, timestamp, key, value } = record;
  return { offset, timestamp, checksum: checksumOf(key, value) };
}

export function markOf({ topicId, endEpoch, records }: Chunk): LogMark {
  const last = records.at(-1);
  return {
    topicId,
    leaderEpoch: endEpoch,
    last: last === undefined ? null : lastRecordOf(last),
  };
}

export function idConflict({ topic, partition }: PartitionRef, offset: bigint): HandlerError {
  return new HandlerError(
    "message-id-conflict",
    `the message at ${topic}/${partition}@${offset} has the id of an earlier one but another key or value: ids must be unique within their source`,
    { details: { topic, partition, offset } },
  );
}
