/** Transactions around the work of others and around the storage's own, beside the chunks. */
import { CommitUnknownError, StorageError } from "@oncebox/core";
import type { Connection } from "./connection.ts";
import { MemoryDatabaseError, translated } from "./database-error.ts";
import { type MemoryTx, makeTx } from "./memory-tx.ts";
import type { StorageParts } from "./parts.ts";
import { lostBefore } from "./pool.ts";
import type { Transaction } from "./tables.ts";

/** T1. */
export async function runTransaction<R>(
  parts: StorageParts,
  work: (tx: MemoryTx) => Promise<R>,
): Promise<R> {
  const { pool, database, lockTimeoutMs } = parts;
  const connection = await pool.acquire();
  let over = false;
  let wrote = false;
  let firstFailure: unknown = null;
  try {
    const begun = connection.begin();
    const tx = makeTx(database.tables, lockTimeoutMs, {
      connection,
      ended: () => over,
      failed: (error) => {
        firstFailure ??= error;
      },
      enqueued: () => {
        wrote = true;
      },
      shared: null,
    });
    let result: R;
    try {
      result = await work(tx);
    } catch (error) {
      over = true;
      await connection.rollback();
      throw error;
    }
    over = true;
    await commitOf("transaction", connection, begun, firstFailure);
    if (wrote) database.wake("woken", pool.name);
    return result;
  } finally {
    pool.release(connection);
  }
}

/** Commits the very transaction that was begun, or says why not. */
export async function commitOf(
  doing: string,
  connection: Connection,
  begun: Transaction,
  firstFailure: unknown,
): Promise<void> {
  if (connection.lost) throw lostBefore(doing, firstFailure);
  if (connection.transaction !== begun) {
    await connection.rollback();
    throw endedEarly(doing);
  }
  let outcome: string;
  try {
    outcome = await connection.commit();
  } catch (error) {
    if (!(error instanceof MemoryDatabaseError)) throw error;
    if (error.neverSent) throw lostBefore(doing, error);
    throw new CommitUnknownError(`${doing}: the connection was lost before the reply`, {
      cause: error,
    });
  }
  if (outcome !== "committed") throw aborted(doing, firstFailure ?? begun.aborted);
}

export function endedEarly(doing: string): StorageError {
  return new StorageError(
    "transaction-ended-early",
    `${doing}: the transaction was ended by the work it was given to: what that committed may stay`,
  );
}

export function aborted(doing: string, cause: unknown): StorageError {
  return new StorageError(
    "transaction-aborted",
    `${doing}: a statement failed and its error was swallowed: nothing was committed`,
    { cause },
  );
}

/** Begins, works and commits; errors of the database are translated. */
export async function ownTransaction<R>(
  { pool }: StorageParts,
  doing: string,
  work: (connection: Connection) => Promise<R>,
): Promise<R> {
  const connection = await pool.acquire();
  try {
    const begun = connection.begin();
    let result: R;
    try {
      result = await work(connection);
    } catch (error) {
      await connection.rollback();
      throw translated(doing, error);
    }
    await commitOf(doing, connection, begun, null);
    return result;
  } finally {
    pool.release(connection);
  }
}
