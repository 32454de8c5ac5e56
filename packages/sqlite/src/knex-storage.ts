/**
 * The storage on SQLite through knex, for handlers that wait. knex begins and ends its transactions;
 * every statement of ours goes to the better-sqlite3 Database beneath, where nothing of a user's
 * configuration (postProcessResponse, wrapIdentifier) changes it.
 */
import {
  type ChunkTransaction,
  checkOptions,
  type HandlerTransaction,
  integer,
  type ParkedTransaction,
  type ParkedTurn,
  type PartitionClaim,
  type RecordRef,
  type Rule,
  type Storage,
  StorageError,
  TransactionFinishedError,
} from "@oncebox/core";
import type { Database } from "better-sqlite3";
import type { Knex } from "knex";
import { commitChunk, endMarked, mark, nameOf, openChunk, proveOpen } from "./chunk.ts";
import { connectionOf, finished, type Hold, handleOf } from "./handles/knex.ts";
import { enqueueRows } from "./lanes.ts";
import { type Access, beginImmediate, rollBack, untilFree } from "./locking.ts";
import { migrateWith } from "./migrate.ts";
import { commitTurn, nameOfTurn, openTurn } from "./parking.ts";
import { recordIds } from "./record-ids.ts";
import { translated } from "./sqlite-errors.ts";
import { verbsOf } from "./sqlite-storage.ts";
import { prepared } from "./statements.ts";
import { createWake } from "./wake.ts";

export interface SqliteKnexStorageOptions {
  /**
   * How many milliseconds statements of the storage wait for the write lock of the file. They sleep
   * between tries, when others use the connection; one try never holds up the event loop for longer
   * than 50 milliseconds. What is enqueued or recorded in a transaction of yours waits as your own
   * statements do, by the connection's `timeout`.
   * @defaultValue 5_000
   */
  readonly busyTimeoutMs?: number;
}

const aKnex: Rule = {
  is: 'a knex instance with client: "better-sqlite3"',
  fits: (value) =>
    typeof value === "function" &&
    (value as { readonly client?: { readonly driverName?: unknown } }).client?.driverName ===
      "better-sqlite3",
};

/**
 * For a knex with `client: "better-sqlite3"` and its usual pool of one. Throws ConfigurationError that
 * lists every wrong option. Connects to nothing.
 */
export function knexStorage(
  knex: Knex,
  options: SqliteKnexStorageOptions = {},
): Storage<Knex.Transaction> {
  checkOptions(
    "knexStorage",
    { knex, ...options },
    { knex: aKnex, busyTimeoutMs: integer(1, 86_400_000) },
  );
  const access = { ...lenderOf(knex), busyTimeoutMs: options.busyTimeoutMs ?? 5_000 };
  const wake = createWake(fileOf(knex), null);
  // Handles of transactions whose commit is seen here, with whether rows were written through them.
  const enqueuedIn = new WeakMap<object, { enqueued: boolean }>();
  return {
    ...verbsOf(access),
    wake: { send: wake.send, expect: wake.expect, listen: wake.listen },
    close: async () => wake.close(),
    open: (claim, records) => openTransaction(knex, access, claim, records),
    openParked: (turn) => openParked(knex, access, turn),
    transaction: async (work) => {
      const seen = { enqueued: false };
      const result = await runTransaction(knex, access, (tx) => {
        enqueuedIn.set(tx, seen);
        return work(tx);
      });
      if (seen.enqueued) wake.send();
      return result;
    },
    enqueue: async (tx, rows) => {
      await through(tx, "enqueue", (db) => enqueueRows(db, rows));
      const seen = enqueuedIn.get(tx);
      if (seen !== undefined) seen.enqueued = true;
    },
    recordIds: (tx, consumer, ids) =>
      through(tx, "recording of message ids", (db) => recordIds(db, consumer, ids)),
  };
}

/** Brings the database to this version: as `migrate` of @oncebox/sqlite, over a connection of knex. */
export async function migrate(knex: Knex): Promise<string[]> {
  checkOptions("migrate", { knex }, { knex: aKnex });
  return migrateWith(lenderOf(knex));
}

function lenderOf(knex: Knex): Pick<Access, "use"> {
  return {
    use: async (work) => {
      const db: Database = await knex.client.acquireConnection();
      try {
        return work(db);
      } finally {
        await knex.client.releaseConnection(db);
      }
    },
  };
}

function fileOf(knex: Knex): string {
  return String(knex.client.connectionSettings?.filename ?? "");
}

/** A statement of ours in a transaction of the caller's. */
async function through<R>(
  tx: Knex.Transaction,
  doing: string,
  work: (db: Database) => R,
): Promise<R> {
  if (typeof tx !== "function" || tx.isTransaction !== true) {
    throw new StorageError("invalid-handle", `${doing}: expected a knex transaction`);
  }
  if (tx.isCompleted()) throw finished();
  const { db, ended } = await connectionOf(tx);
  if (ended) throw finished();
  if (!db.inTransaction) {
    // Ended by a statement that knex did not look at: what is written now, nothing would undo.
    throw new StorageError("invalid-handle", `${doing}: expected a transaction that is still open`);
  }
  try {
    return work(db);
  } catch (error) {
    throw translated(doing, error);
  }
}

/** A transaction of knex's, with the Database beneath it. */
interface Begun {
  readonly trx: Knex.Transaction;
  readonly db: Database;
}

/**
 * Begins through knex, and takes the write lock: waiting for it later would block the event loop.
 * Between two tries the connection is knex's again: it has no other.
 */
function begin(knex: Knex, { busyTimeoutMs }: Access, doing: string): Promise<Begun> {
  return untilFree({ doing, waitMs: busyTimeoutMs }, async () => {
    const begun = await beginAnywhere(knex, doing);
    try {
      rollBack(begun.db);
      beginImmediate(begun.db);
      return begun;
    } catch (error) {
      await giveBack(begun);
      throw error;
    }
  });
}

async function beginAnywhere(knex: Knex, doing: string): Promise<Begun> {
  try {
    // null: foreign keys are checked as the connection is set to, in strict mode as well.
    const config = { enforceForeignCheck: null } as Knex.TransactionConfig;
    const trx = await knex.transaction(undefined, config);
    // Its end is told by what ends it; this one is for those who do not.
    trx.executionPromise.catch(() => {});
    return { trx, db: await trx.client.acquireConnection() };
  } catch (error) {
    throw translated(doing, error);
  }
}

/**
 * Gives the connection back to knex's pool. Ours has ended already, in the very call that ended it: what
 * knex commits is an empty one.
 */
async function giveBack({ trx, db }: Begun): Promise<boolean> {
  let clean = true;
  try {
    if (!db.inTransaction) prepared(db, "BEGIN").run();
  } catch (error) {
    // Closed beneath us. By this knex knows that its pool needs another.
    (db as { __knex__disposed?: unknown }).__knex__disposed = error;
    clean = false;
  }
  // The connection goes back to the pool in any case.
  await trx.rollback().catch(() => {});
  return clean;
}

/**
 * Proves that the transaction is open. Where it is not, the statement that failed when SQLite ended it
 * is the cause: a full disk is no fault of the handler's.
 */
function proofOf({ trx, db }: Begun, what: string): () => void {
  let failure: unknown;
  trx.client.on("query-error", (error: unknown) => {
    if (!db.open || !db.inTransaction) failure ??= error;
  });
  return () => proveOpen(db, what, failure);
}

async function runTransaction<R>(
  knex: Knex,
  access: Access,
  work: (tx: Knex.Transaction) => Promise<R>,
): Promise<R> {
  const what = "a transaction";
  const begun = await begin(knex, access, what);
  let over = false;
  try {
    mark(begun.db);
    const { trx, db } = begun;
    const hold = { ended: () => over, prove: proofOf(begun, what), shared: null };
    const result = await work(handleOf(trx, db, hold));
    over = true;
    hold.prove();
    endMarked(db, what, () => {});
    return result;
  } finally {
    over = true;
    rollBack(begun.db);
    await giveBack(begun);
  }
}

/** Begins, lets the first statements run, and gives handlers what then is open. */
async function openWith<R>(
  knex: Knex,
  access: Access,
  what: string,
  start: (begun: Begun) => R,
): Promise<R> {
  const begun = await begin(knex, access, what);
  try {
    return start(begun);
  } catch (error) {
    rollBack(begun.db);
    await giveBack(begun);
    throw translated(what, error);
  }
}

function openTransaction(
  knex: Knex,
  access: Access,
  claim: PartitionClaim,
  records: readonly RecordRef[],
): Promise<ChunkTransaction<Knex.Transaction>> {
  return openWith(knex, access, `chunk of ${nameOf(claim)}`, (begun) => {
    const opened = openChunk(begun.db, claim, records);
    const { commit, ...rest } = handlersOf(begun, nameOf(claim));
    return {
      ...rest,
      nextOffset: opened.nextOffset,
      recorded: opened.recorded,
      commit: (nextOffset, log, park = []) =>
        commit(() => commitChunk(begun.db, claim, opened, { nextOffset, mark: log, park })),
    };
  });
}

function openParked(
  knex: Knex,
  access: Access,
  turn: ParkedTurn,
): Promise<ParkedTransaction<Knex.Transaction>> {
  const what = nameOfTurn(turn);
  return openWith(knex, access, what, (begun) => {
    openTurn(begun.db, turn);
    const { commit, ...rest } = handlersOf(begun, what);
    return { ...rest, commit: () => commit(() => commitTurn(begun.db, turn)) };
  });
}

/** Handles in a transaction, and its ends, of which the first to come counts. */
function handlersOf(
  begun: Begun,
  what: string,
): HandlerTransaction<Knex.Transaction> & {
  readonly commit: (last: () => void) => Promise<void>;
} {
  const { db, trx } = begun;
  const prove = proofOf(begun, what);
  let over = false;
  const end = () => {
    if (over) return false;
    over = true;
    return true;
  };
  return {
    handle: ({ shared } = { shared: false }) => {
      // Behind the handler before: this one would write outside of any transaction.
      if (!over) prove();
      let ended = false;
      let refused = false;
      const refuse = () => {
        refused = true;
      };
      const hold: Hold = { ended: () => ended || over, prove, shared: shared ? { refuse } : null };
      return {
        tx: handleOf(trx, db, hold),
        end: () => {
          ended = true;
        },
        refused: () => refused,
      };
    },
    commit: async (last) => {
      if (!end())
        throw new TransactionFinishedError(`the transaction of ${what} has ended already`);
      try {
        prove();
        last();
      } finally {
        rollBack(db);
        await giveBack(begun);
      }
    },
    rollback: async () => {
      if (!end()) return true;
      const clean = rollBack(db);
      return (await giveBack(begun)) && clean;
    },
    destroy: () => {
      if (!end()) return;
      // At once: what the handler still sends must find no transaction of ours.
      rollBack(db);
      void giveBack(begun);
    },
  };
}
