/**
 * One chunk, one transaction: prove the claim, record the ids, run the handlers, advance, commit.
 * It answers what became of the transaction and decides nothing about what happens next.
 *
 *   open ──▶ handle … handle ──▶ commit ──▶ committed
 *    │          │                  │
 *    │          └─▶ failed         ├─▶ failed (nobody knows at which message)
 *    ├─▶ fenced, moved             ├─▶ fenced
 *    └─▶ trouble                   ├─▶ trouble
 *                                  └─▶ unknown
 */
import {
  ClaimLostError,
  CommitUnknownError,
  HandlerError,
  OnceboxError,
  StorageError,
} from "../errors.ts";
import { checksumOf } from "../hashes.ts";
import { idBytesOf, incomingIdentity, replayedIdBytes } from "../ids.ts";
import { idOf, type Message, sourceOf, textOf } from "../message.ts";
import { handlerOutbox } from "../outbox/outbox.ts";
import type { BrokerRecord } from "../ports/broker.ts";
import type { Clock } from "../ports/clock.ts";
import type {
  ChunkTransaction,
  LastRecord,
  LogMark,
  PartitionClaim,
  RecordRef,
  Storage,
  StorageVerbs,
} from "../ports/storage.ts";
import type { Handler } from "./handler.ts";
import { type HandlerWatch, handlerHung, handlerWatch } from "./handler-time.ts";

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

export type ChunkOutcome =
  | { readonly kind: "committed"; readonly applied: number; readonly duplicates: number }
  /** A message failed, and nothing was committed. `offset` is null where nobody knows which. */
  | { readonly kind: "failed"; readonly offset: bigint | null; readonly error: OnceboxError }
  | { readonly kind: "trouble"; readonly trouble: "global" | "local"; readonly error: unknown }
  | { readonly kind: "fenced" }
  /** The row is not where it was left, though the claim holds: the database went back. */
  | { readonly kind: "moved"; readonly nextOffset: bigint }
  | { readonly kind: "unknown"; readonly error: OnceboxError }
  /** The deadline of a stop passed; the connection was destroyed. */
  | { readonly kind: "cut" };

/** Runs the chunks of one topic: made by `chunkRunner`. */
export type RunChunk = (run: ChunkRun) => Promise<ChunkOutcome>;

export interface ChunkRun {
  readonly claim: PartitionClaim;
  readonly chunk: Chunk;
  readonly attempt: number;
  /** Aborted when there is no time left: the transaction is cut where it stands. */
  readonly cut: AbortSignal;
  readonly clock: Clock;
  /** Longest time of one handler, in milliseconds. */
  readonly handlerTimeoutMs: number;
}

interface HandlerRun<Tx> extends ChunkRun {
  readonly storage: Storage<Tx>;
  readonly handler: Handler<Tx>;
  /** Of the messages that the handler enqueues. */
  readonly source: string | undefined;
}

export async function runChunk<Tx>(run: HandlerRun<Tx>): Promise<ChunkOutcome> {
  const { storage, claim, chunk, cut } = run;
  let transaction: ChunkTransaction<Tx>;
  try {
    transaction = await storage.open(claim, recordRefs(claim, chunk.records));
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
  const watch = handlerWatch(run.clock, run.handlerTimeoutMs);
  const progress: Progress = { watch, signal: AbortSignal.any([cut, watch.signal]), at: null };
  try {
    return await untilCut(run, transaction, progress, handleAndCommit(run, transaction, progress));
  } finally {
    watch.end();
  }
}

/** Where a chunk is: which handler runs, and since when. */
interface Progress {
  readonly watch: HandlerWatch;
  /** For handlers: cut, or hung. */
  readonly signal: AbortSignal;
  at: bigint | null;
}

/** The handlers, then the commit; what fails in between rolls back. */
async function handleAndCommit<Tx>(
  run: HandlerRun<Tx>,
  transaction: ChunkTransaction<Tx>,
  progress: Progress,
): Promise<ChunkOutcome> {
  const { storage, chunk } = run;
  let applied = 0;
  let published = false;
  for (const [index, record] of chunk.records.entries()) {
    const recorded = transaction.recorded[index];
    if (recorded === "duplicate" || recorded === "done") continue;
    // Cut while a handler ran: the next owner handles the rest.
    if (progress.signal.aborted) return { kind: "cut" };
    progress.at = record.offset;
    progress.watch.begin();
    try {
      if (recorded !== "new") throw idConflict(run.claim, record);
      published = (await handleOne(run, transaction, record, progress.signal)) || published;
      applied += 1;
    } catch (error) {
      return afterHandler(run, transaction, record, error);
    }
  }
  // From here on it is the database that takes its time.
  progress.watch.end();
  try {
    await transaction.commit(chunk.endOffset, markOf(chunk));
  } catch (error) {
    return afterFailure(storage, error);
  }
  if (published) storage.wake.send();
  return { kind: "committed", applied, duplicates: chunk.records.length - applied };
}

/** Runs one handler; tells whether it published something. */
async function handleOne<Tx>(
  run: HandlerRun<Tx>,
  transaction: ChunkTransaction<Tx>,
  record: BrokerRecord,
  signal: AbortSignal,
): Promise<boolean> {
  const { message, identity } = incomingOf(run.claim, record);
  const { tx, end } = transaction.handle();
  const { source, clock } = run;
  const outbox = handlerOutbox(run.storage, tx, identity, { source, clock });
  let published = false;
  try {
    await run.handler.run(message, tx, {
      attempt: run.attempt,
      signal,
      idempotencyKey: identity,
      outbox: {
        enqueue: (messages) => {
          published = true;
          return outbox.enqueue(messages);
        },
      },
    });
  } finally {
    end();
  }
  return published;
}

/** The message as its handler gets it, and what identifies it in all that is derived from it. */
export function incomingOf(
  { consumer, topic, partition }: PartitionClaim,
  record: BrokerRecord,
): { readonly message: Message<Uint8Array | null>; readonly identity: string } {
  const idBytes = idOf(record.headers);
  const message: Message<Uint8Array | null> = {
    id: idBytes === null ? null : textOf(idBytes),
    topic,
    partition,
    offset: record.offset,
    timestamp: record.timestamp,
    key: record.key === null ? null : textOf(record.key),
    keyBytes: record.key,
    value: record.value,
    headers: record.headers,
  };
  const identity = incomingIdentity({
    consumer,
    source: sourceOf(record.headers, topic),
    idBytes: idBytes === null ? null : idBytesOf(idBytes),
    topic,
    partition,
    offset: record.offset,
  });
  return { message, identity };
}

/** Rolls back, then tells the handler's own failure from trouble of the database under it. */
async function afterHandler<Tx>(
  run: HandlerRun<Tx>,
  transaction: ChunkTransaction<Tx>,
  record: BrokerRecord,
  error: unknown,
): Promise<ChunkOutcome> {
  const clean = await transaction.rollback();
  const trouble = run.storage.trouble(error);
  if (trouble !== null) return { kind: "trouble", trouble, error };
  // The connection went away under the handler, whatever it made of that.
  if (!clean) return { kind: "trouble", trouble: "global", error };
  return handlerFailed(run.claim, record, error);
}

/** The outcome where it was the handler's own failure. */
export function handlerFailed(
  { topic, partition }: PartitionClaim,
  { offset }: BrokerRecord,
  error: unknown,
): ChunkOutcome {
  const failure =
    error instanceof OnceboxError
      ? error
      : new HandlerError(
          "handler-failed",
          `the handler of ${topic} failed at ${topic}/${partition}@${offset}: ${reason(error)}`,
          { cause: error, details: { topic, partition, offset } },
        );
  return { kind: "failed", offset, error: failure };
}

/** What a rejected `open` or `commit` means. The transaction has ended either way. */
export function afterFailure(storage: StorageVerbs, error: unknown): ChunkOutcome {
  if (error instanceof ClaimLostError) return { kind: "fenced" };
  if (error instanceof CommitUnknownError) return { kind: "unknown", error };
  const trouble = storage.trouble(error);
  if (trouble !== null) return { kind: "trouble", trouble, error };
  const failure =
    error instanceof OnceboxError
      ? error
      : new StorageError("storage-failed", `a chunk failed: ${reason(error)}`, { cause: error });
  return { kind: "failed", offset: null, error: failure };
}

/** Nothing is waited for past a deadline: a handler that never returns must not hold anything. */
async function untilCut<Tx>(
  { cut, claim, handlerTimeoutMs }: ChunkRun,
  transaction: ChunkTransaction<Tx>,
  progress: Progress,
  outcome: Promise<ChunkOutcome>,
): Promise<ChunkOutcome> {
  let onCut = () => {};
  const wasCut = new Promise<ChunkOutcome>((resolve) => {
    onCut = () => {
      transaction.destroy();
      resolve({ kind: "cut" });
    };
    cut.addEventListener("abort", onCut, { once: true });
  });
  const hung = progress.watch.hung.then((): ChunkOutcome => {
    transaction.destroy();
    const error = handlerHung(claim, progress.at, handlerTimeoutMs);
    return { kind: "failed", offset: progress.at, error };
  });
  try {
    return await Promise.race([outcome, wasCut, hung]);
  } finally {
    cut.removeEventListener("abort", onCut);
  }
}

export function recordRefs(claim: PartitionClaim, records: readonly BrokerRecord[]): RecordRef[] {
  const { topic, replay } = claim;
  return records.map((record) => {
    const id = idOf(record.headers);
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

export function idConflict(claim: PartitionClaim, record: BrokerRecord): HandlerError {
  const { topic, partition } = claim;
  return new HandlerError(
    "message-id-conflict",
    `the message at ${topic}/${partition}@${record.offset} has the id of an earlier one but another key or value: ids must be unique within their source`,
    { details: { topic, partition, offset: record.offset } },
  );
}

function reason(error: unknown): string {
  if (error instanceof Error) return error.message;
  try {
    return String(error);
  } catch {
    // An object without a text form, thrown on purpose or by accident.
    return "a value that cannot be shown";
  }
}
