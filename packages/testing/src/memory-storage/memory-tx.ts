/**
 * The transaction handle of handlers: key-value tables and append-only ones, under the rules of a
 * database. Dead when its handler or its transaction has ended.
 */
import { type HandlerHandle, StorageError, TransactionFinishedError } from "@oncebox/core";
import type { Connection } from "./connection.ts";
import type { StorageParts } from "./parts.ts";
import type { Row, Tables, Transaction } from "./tables.ts";

/**
 * A transaction of the memory storage. Values are copied on their way in and out; a transaction sees
 * what is committed and what it wrote itself. Nothing here can begin or end it.
 */
export interface MemoryTx {
  /** Adds a row; nothing is unique, so what is done twice is there twice. */
  readonly append: (table: string, row: Row) => Promise<void>;
  /** The row of a key, or undefined. Locks nothing. */
  readonly get: <T = unknown>(table: string, key: string) => Promise<T | undefined>;
  /** Writes the row of a key; waits for another transaction that wrote it. */
  readonly put: (table: string, key: string, row: Row) => Promise<void>;
  /** Locks the row, then changes what it finds: no other change is lost. Returns what it wrote. */
  readonly update: <T extends Row>(
    table: string,
    key: string,
    change: (row: T | undefined) => T,
  ) => Promise<T>;
  readonly delete: (table: string, key: string) => Promise<void>;
  /**
   * Runs work behind a savepoint: where it throws, what was written since is undone, a failed
   * statement included, and the transaction goes on. Throws StorageError `transaction-shared` where
   * other handlers use the transaction at the same time.
   */
  readonly savepoint: <R>(work: () => Promise<R>) => Promise<R>;
  /** All rows of a table, in the order in which they were committed. */
  readonly rows: <T = unknown>(table: string) => Promise<readonly T[]>;
}

/** What stands behind a handle. */
export interface Hold {
  readonly connection: Connection;
  readonly ended: () => boolean;
  /** A statement failed: kept, in case that its error is swallowed. */
  readonly failed: (error: unknown) => void;
  /** Rows of the outbox were written: whoever commits wakes the relays. */
  readonly enqueued: () => void;
  /** Called for what other handlers of the same transaction forbid; null: there are none. */
  readonly shared: (() => void) | null;
}

const holds = new WeakMap<object, Hold>();

/** Throws StorageError `invalid-handle` or TransactionFinishedError. */
export function holdOf(tx: unknown): Hold {
  const hold = typeof tx === "object" && tx !== null ? holds.get(tx) : undefined;
  if (hold === undefined) {
    throw new StorageError("invalid-handle", "expected a transaction of a memory storage");
  }
  if (hold.ended()) {
    throw new TransactionFinishedError(
      "this transaction handle was used after its handler or transaction had ended: await everything inside it",
    );
  }
  return hold;
}

/** Takes `other`, which stands before a handle, for that handle. For any other handle nothing. */
export function standsFor(other: object, tx: object): void {
  const hold = holds.get(tx);
  if (hold !== undefined) holds.set(other, hold);
}

/**
 * For what must not be written outside of a transaction. Throws StorageError `invalid-handle` where
 * the handle's work has ended it, and what `holdOf` throws.
 */
export function openHoldOf(tx: unknown): Hold {
  const hold = holdOf(tx);
  if (hold.connection.transaction === null) {
    throw new StorageError(
      "invalid-handle",
      "expected a transaction that is open, not one that ended",
    );
  }
  return hold;
}

/** A handle on whatever transaction is open on the connection. */
export function makeTx(tables: Tables, lockTimeoutMs: number | null, hold: Hold): MemoryTx {
  const run = async <R>(
    verb: string,
    work: (transaction: Transaction) => R | Promise<R>,
    writes = true,
  ): Promise<R> => {
    holdOf(tx);
    try {
      return await hold.connection.run(verb, work, { writes });
    } catch (error) {
      hold.failed(error);
      throw error;
    }
  };
  const named = (table: string) => `user ${table}`;
  const write = async (transaction: Transaction, table: string, key: string) => {
    await tables.lock(transaction, `${named(table)}/${key}`, lockTimeoutMs);
  };
  const tx: MemoryTx = {
    append: (table, row) => {
      const copy = structuredClone(row);
      return run("append", (transaction) => {
        const key = `#${tables.next(named(table))}`;
        tables.write(transaction, named(table), key, copy);
      });
    },
    get: <T>(table: string, key: string) =>
      run(
        "get",
        (transaction) =>
          structuredClone(tables.get(transaction, named(table), key)) as T | undefined,
        false,
      ),
    put: (table, key, row) => {
      const copy = structuredClone(row);
      return run("put", async (transaction) => {
        await write(transaction, table, key);
        tables.write(transaction, named(table), key, copy);
      });
    },
    update: <T extends Row>(table: string, key: string, change: (row: T | undefined) => T) =>
      run("update", async (transaction) => {
        await write(transaction, table, key);
        const found = tables.get(transaction, named(table), key) as T | undefined;
        const row = structuredClone(change(structuredClone(found)));
        tables.write(transaction, named(table), key, row);
        return structuredClone(row);
      }),
    delete: (table, key) =>
      run("delete", async (transaction) => {
        await write(transaction, table, key);
        tables.write(transaction, named(table), key, undefined);
      }),
    rows: <T>(table: string) =>
      run(
        "rows",
        (transaction) =>
          tables.entries(transaction, named(table)).map(([, row]) => structuredClone(row) as T),
        false,
      ),
    savepoint: async (work) => inSavepoint(tables, holdOf(tx), work),
  };
  holds.set(tx, hold);
  return tx;
}

/** A handle for one handler of a transaction that others may use at the same time. */
export function handlerHandle(
  { database, lockTimeoutMs }: StorageParts,
  shared: boolean,
  hold: Pick<Hold, "connection" | "ended" | "failed">,
): HandlerHandle<MemoryTx> {
  let over = false;
  let refused = false;
  const tx = makeTx(database.tables, lockTimeoutMs, {
    ...hold,
    ended: () => over || hold.ended(),
    enqueued: () => undefined,
    shared: !shared
      ? null
      : () => {
          refused = true;
        },
  });
  const end = () => {
    over = true;
  };
  return { tx, end, refused: () => refused };
}

/** Runs work behind a savepoint. Throws StorageError `transaction-shared`. */
async function inSavepoint<R>(tables: Tables, hold: Hold, work: () => Promise<R>): Promise<R> {
  if (hold.shared !== null) {
    hold.shared();
    throw new StorageError(
      "transaction-shared",
      'a savepoint was refused: other handlers use this transaction at the same time, and what it undoes would be theirs as well; with ordering "partition" each has it alone',
    );
  }
  const { connection } = hold;
  await connection.run("savepoint", (transaction) => tables.savepoint(transaction));
  try {
    const result = await work();
    await connection.run("release-savepoint", (transaction) => tables.release(transaction));
    return result;
  } catch (error) {
    const undo = (transaction: Transaction) => tables.rollbackTo(transaction);
    await connection.run("rollback-to", undo, { evenAborted: true });
    throw error;
  }
}
