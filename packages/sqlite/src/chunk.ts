/**
 * The steps of a chunk's transaction, each one call: begun, fenced and recorded by `openChunk`,
 * advanced and committed by `commitChunk`. Decides nothing; it says what happened.
 */
import {
  ClaimLostError,
  CommitUnknownError,
  type LogMark,
  type PartitionClaim,
  type PartitionRef,
  type Recorded,
  type RecordRef,
  StorageError,
  type ToPark,
} from "@oncebox/core";
import type { Database } from "better-sqlite3";
import { rollBack } from "./locking.ts";
import { amongParked, parkRows } from "./parked-rows.ts";
import { advanceText, openText } from "./queries.ts";
import { recordChunk } from "./record-ids.ts";
import { primaryCode, translated } from "./sqlite-errors.ts";
import { int, one, prepared, run } from "./statements.ts";

interface OpenedRow {
  readonly consumer: bigint;
  readonly next_offset: bigint;
  readonly parked: bigint;
  readonly last_time: bigint | null;
}

export interface OpenedChunk {
  readonly consumer: bigint;
  readonly nextOffset: bigint;
  readonly recorded: readonly Recorded[];
  /** Whether messages of the partition were parked before. */
  readonly left: boolean;
}

/** Where a chunk ends, and what it sets aside. */
export interface ChunkEnd {
  readonly nextOffset: bigint;
  readonly mark: LogMark;
  readonly park?: readonly ToPark[];
}

/**
 * I2, I3. In a transaction that was begun. Throws ClaimLostError; the caller rolls back.
 */
export function openChunk(
  db: Database,
  claim: PartitionClaim,
  records: readonly RecordRef[],
): OpenedChunk {
  const { consumer, topic, partition, token } = claim;
  const row = one<OpenedRow>(db, openText, consumer, topic, int(partition), token);
  if (row === undefined) throw claimLost(claim);
  const opened = { consumer: row.consumer, nextOffset: row.next_offset };
  const fresh = recordChunk(db, claim, { ...opened, lastTime: row.last_time }, records);
  // Without the hint there is nothing: nobody but a chunk, which holds this row, parks or writes it.
  const place = { consumer: row.consumer, topic, partition };
  const found =
    row.parked === 0n ? { recorded: fresh, left: false } : amongParked(db, place, records, fresh);
  mark(db);
  return { ...opened, ...found };
}

/**
 * I4, I5, I6. The advance is the last statement before COMMIT, so it fences what is parked as well.
 * Throws what `commit` of the port throws; the transaction is over either way.
 */
export function commitChunk(
  db: Database,
  claim: PartitionClaim,
  { consumer, nextOffset: from, left }: OpenedChunk,
  { nextOffset: to, mark: log, park = [] }: ChunkEnd,
): void {
  const { topic, partition, token } = claim;
  const { topicId, leaderEpoch, last } = log;
  const what = nameOf(claim);
  endMarked(db, what, () => {
    parkRows(db, { consumer, topic, partition }, park);
    const changed = run(
      ...[db, advanceText, to, topicId, int(leaderEpoch)],
      ...[last?.offset ?? null, last?.timestamp ?? null, int(last?.checksum ?? null)],
      int(Number(left || park.length > 0)),
      ...[consumer, topic, int(partition), token, from],
    );
    if (changed !== 1) throw claimLost(claim);
  });
}

/**
 * A savepoint tells this transaction from any other: COMMIT and ROLLBACK take it away, and a new BEGIN
 * does not bring it back.
 */
export function mark(db: Database): void {
  prepared(db, "SAVEPOINT oncebox_mark").run();
}

/** Throws StorageError `transaction-ended-early`: quick, for use behind each handler. */
export function proveOpen(db: Database, what: string, cause?: unknown): void {
  if (!db.open) throw connectionClosed(what);
  if (!db.inTransaction) throw endedEarly(what, cause);
}

/** Proves that the marked transaction is still the one, runs what is last in it, and commits. */
export function endMarked(db: Database, what: string, last: () => void): void {
  try {
    proveOpen(db, what);
    release(db, what);
    last();
    commit(db, what);
  } catch (error) {
    rollBack(db);
    throw translated(`commit of ${what}`, error);
  }
}

function release(db: Database, what: string): void {
  try {
    prepared(db, "RELEASE oncebox_mark").run();
  } catch (error) {
    if (primaryCode(error) !== "ERROR") throw error;
    throw endedEarly(what, error);
  }
}

function commit(db: Database, what: string): void {
  try {
    prepared(db, "COMMIT").run();
  } catch (error) {
    // What was written before the disk failed may be found, whole, when the log is read again.
    if (primaryCode(error) !== "IOERR") throw error;
    throw new CommitUnknownError(`commit of ${what}: the disk failed`, { cause: error });
  }
}

function connectionClosed(what: string): StorageError {
  return new StorageError(
    "storage-unavailable",
    `the connection was closed in the transaction of ${what}`,
    { retryable: true },
  );
}

function endedEarly(what: string, cause?: unknown): StorageError {
  return new StorageError(
    "transaction-ended-early",
    `the transaction of ${what} was ended by what ran in it: what that committed may stay, nothing else does`,
    { cause },
  );
}

export function claimLost(claim: PartitionClaim): ClaimLostError {
  const { consumer, topic, partition, epoch } = claim;
  return new ClaimLostError(`the claim on ${nameOf(claim)} was taken over`, {
    details: { consumer, topic, partition, epoch },
  });
}

export function nameOf({ consumer, topic, partition }: PartitionRef): string {
  return `${topic}/${partition} for ${consumer}`;
}
