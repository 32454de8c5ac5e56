/**
 * The storage on SQLite, through a better-sqlite3 Database of the user's: a transaction is one call,
 * and nothing of the process runs in between. Puts the parts together.
 */
import {
  checkOptions,
  integer,
  StorageError,
  type StorageVerbs,
  type SyncStorage,
} from "@oncebox/core";
import type { Database } from "better-sqlite3";
import { checkDatabase } from "./check.ts";
import { commitChunk, endMarked, mark, nameOf, openChunk, proveOpen } from "./chunk.ts";
import { enqueueRows, laneVerbs } from "./lanes.ts";
import { type Access, beginImmediate, reading, rollBack } from "./locking.ts";
import { aDatabase } from "./migrate.ts";
import { commitTurn, nameOfTurn, openTurn, parkingVerbs } from "./parking.ts";
import { partitionVerbs } from "./partitions.ts";
import { pruningVerbs } from "./pruning.ts";
import { recordIds } from "./record-ids.ts";
import { registrationVerbs } from "./registration.ts";
import { seekVerbs } from "./seek.ts";
import { translated, trouble } from "./sqlite-errors.ts";
import { createWake } from "./wake.ts";

export interface SqliteStorageOptions {
  /**
   * The connection to the file that holds the business tables, in WAL mode. Stays yours: its settings
   * are not changed for longer than a statement, and it is not closed.
   */
  readonly database: Database;
  /**
   * How many milliseconds the storage's own statements wait for the write lock of the file. They
   * sleep between tries; one try never holds up the event loop for longer than 50 milliseconds.
   * Longer rides out longer foreign transactions; shorter reports them sooner. A chunk waits for one
   * try, and is run again by the consumer. What is enqueued or recorded in a transaction of yours waits as
   * your own statements do, by the connection's `timeout`.
   * @defaultValue 5_000
   */
  readonly busyTimeoutMs?: number;
}

/** Throws ConfigurationError that lists every wrong option. Runs no statement. */
export function sqliteStorage(options: SqliteStorageOptions): SyncStorage<Database> {
  checkOptions("sqliteStorage", options, {
    database: aDatabase,
    busyTimeoutMs: integer(1, 86_400_000),
  });
  const { database, busyTimeoutMs = 5_000 } = options;
  const wake = createWake(database.name, () => database.open && !database.inTransaction);
  return {
    ...verbsOf({ use: async (work) => work(database), busyTimeoutMs }),
    ...transactionsOf(database, wake.send),
    wake: { send: wake.send, expect: wake.expect, listen: wake.listen },
    close: async () => wake.close(),
  };
}

/** What is asked in the same way of a connection that is lent, whoever it belongs to. */
export function verbsOf(access: Access): Omit<StorageVerbs, "wake" | "close"> {
  return {
    ...partitionVerbs(access),
    ...registrationVerbs(access),
    ...seekVerbs(access),
    ...parkingVerbs(access),
    ...pruningVerbs(access),
    ...laneVerbs(access),
    check: () => reading(access, "check of the database", checkDatabase),
    trouble,
  };
}

type Transactions = Pick<
  SyncStorage<Database>,
  "synchronous" | "transactionSync" | "recordIdsSync" | "chunkSync" | "parkedSync" | "enqueueSync"
>;

function transactionsOf(database: Database, woken: () => void): Transactions {
  // Rows written in a transaction whose commit is seen here.
  let enqueued = false;
  return {
    synchronous: true,
    transactionSync: (work) => {
      const what = "a transaction";
      const result = inMarked(database, what, () => {
        enqueued = false;
        mark(database);
        const value = work(database);
        if (isPromiseLike(value)) throw asynchronous(value);
        return value;
      });
      endMarked(database, what, () => {});
      if (enqueued) woken();
      return result;
    },
    chunkSync: (claim, records, body) => {
      const what = nameOf(claim);
      const { opened, end } = inMarked(database, `chunk of ${what}`, () => {
        const found = translating(what, () => openChunk(database, claim, records));
        const { nextOffset, recorded } = found;
        const prove = () => proveOpen(database, what);
        return {
          opened: found,
          end: body({ nextOffset, recorded, tx: database, proveOpen: prove }),
        };
      });
      commitChunk(database, claim, opened, end);
    },
    parkedSync: (turn, body) => {
      const what = nameOfTurn(turn);
      inMarked(database, what, () => {
        translating(what, () => openTurn(database, turn));
        body({ tx: database, proveOpen: () => proveOpen(database, what) });
      });
      commitTurn(database, turn);
    },
    enqueueSync: (tx, rows) => {
      checkHandle(tx);
      translating("enqueue", () => enqueueRows(tx, rows));
      enqueued = true;
    },
    recordIdsSync: (tx, consumer, ids) => {
      checkHandle(tx);
      return translating("recording of message ids", () => recordIds(tx, consumer, ids));
    },
  };
}

/** Begins; what `work` throws rolls back and is thrown as it is. */
function inMarked<R>(db: Database, what: string, work: () => R): R {
  translating(what, () => beginImmediate(db));
  try {
    return work();
  } catch (error) {
    rollBack(db);
    throw error;
  }
}

function translating<R>(doing: string, work: () => R): R {
  try {
    return work();
  } catch (error) {
    throw translated(doing, error);
  }
}

/** Throws StorageError `invalid-handle` unless a transaction is open on this Database. */
export function checkHandle(tx: unknown): asserts tx is Database {
  if (!aDatabase.fits(tx)) throw invalid("something else");
  if (!(tx as Database).inTransaction) throw invalid("one without an open transaction");
}

function invalid(what: string): StorageError {
  return new StorageError(
    "invalid-handle",
    `expected a better-sqlite3 Database inside an open transaction, got ${what}`,
  );
}

function isPromiseLike(value: unknown): value is PromiseLike<unknown> {
  return typeof (value as { readonly then?: unknown } | null | undefined)?.then === "function";
}

function asynchronous(value: PromiseLike<unknown>): StorageError {
  // What it rejects with later is told by this error already.
  value.then(undefined, () => {});
  return new StorageError(
    "transaction-ended-early",
    "the work of a synchronous transaction returned a promise: it was rolled back when the work returned. Write it without await, or use knexStorage of @oncebox/sqlite/knex",
  );
}
