/**
 * The one write lock of a SQLite file, and how long anything here waits for it. The driver waits
 * inside its call, where nothing else of the process can run: so one try is short, and what may wait
 * longer sleeps between tries. Decides nothing about what is run again.
 */
import { StorageError } from "@oncebox/core";
import type { Database } from "better-sqlite3";
import { isBusy, translated } from "./sqlite-errors.ts";
import { prepared } from "./statements.ts";

/** Longest time that one try for the lock may hold up the event loop. */
const tryMs = 50;
/** Between two tries, at random up to this: whoever holds the lock usually has it for a millisecond. */
const pauseMs = 20;

/** Lends the driver's connection. Nobody else uses it while `work` runs, which never waits. */
export interface Access {
  readonly use: <R>(work: (db: Database) => R) => Promise<R>;
  /** How long the storage's own verbs wait for the lock, sleeps and tries together. */
  readonly busyTimeoutMs: number;
}

/** Runs `work` with the short wait of one try, whatever the connection is set to otherwise. */
function briefly<R>(db: Database, work: () => R): R {
  const usual = prepared(db, "PRAGMA busy_timeout").pluck().get() as bigint;
  prepared(db, `PRAGMA busy_timeout = ${tryMs}`).get();
  try {
    return work();
  } finally {
    prepared(db, `PRAGMA busy_timeout = ${usual}`).get();
  }
}

/** Takes the write lock. Throws StorageError `storage-conflict` where it is held longer than a try. */
export function beginImmediate(db: Database): void {
  checkFree(db);
  briefly(db, () => prepared(db, "BEGIN IMMEDIATE").run());
}

/** What is begun in somebody's open transaction would be part of it, and see what is not committed. */
function checkFree(db: Database): void {
  if (!db.inTransaction) return;
  throw new StorageError(
    "storage-conflict",
    "a transaction is open on this better-sqlite3 Database: end each in the same turn in which it was begun, or give Oncebox a Database of its own",
    { retryable: true },
  );
}

/** Rolls back where there is something to roll back. Never throws. */
export function rollBack(db: Database): boolean {
  try {
    if (db.inTransaction) prepared(db, "ROLLBACK").run();
    return true;
  } catch {
    // The connection is closed, or SQLite has rolled back by itself.
    return false;
  }
}

interface Work {
  readonly doing: string;
  /** Instead of the storage's own limit. */
  readonly waitMs?: number;
}

/** A transaction of the storage itself: no handler runs in it. */
export function writing<R>(
  { use, busyTimeoutMs }: Access,
  { doing, waitMs = busyTimeoutMs }: Work,
  work: (db: Database) => R,
): Promise<R> {
  const inTransaction = (db: Database) => {
    beginImmediate(db);
    try {
      const result = work(db);
      prepared(db, "COMMIT").run();
      return result;
    } catch (error) {
      rollBack(db);
      throw error;
    }
  };
  return untilFree({ doing, waitMs }, () => use(inTransaction));
}

/** Statements that only look, outside of any transaction. */
export function reading<R>(
  { use, busyTimeoutMs: waitMs }: Access,
  doing: string,
  work: (db: Database) => R,
): Promise<R> {
  const outside = (db: Database) => {
    checkFree(db);
    return work(db);
  };
  return untilFree({ doing, waitMs }, () => use(outside));
}

/** Tries until it is told something else than that the lock is held; at most `waitMs`. */
export async function untilFree<R>(
  { doing, waitMs }: { readonly doing: string; readonly waitMs: number },
  attempt: () => R | Promise<R>,
): Promise<R> {
  const until = performance.now() + waitMs;
  for (;;) {
    try {
      return await attempt();
    } catch (error) {
      if (!isBusy(error) || performance.now() >= until) throw translated(doing, error);
    }
    await new Promise((resolve) => setTimeout(resolve, 1 + Math.random() * pauseMs));
  }
}
