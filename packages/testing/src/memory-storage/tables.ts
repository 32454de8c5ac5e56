/**
 * The rows of a memory database: what is committed, and what each open transaction has written. A
 * transaction reads what is committed at that moment and its own writes (READ COMMITTED). It writes
 * only rows whose locks it holds, so no two have unseen writes of one row. No time, no connections.
 */
import { connectionLost, MemoryDatabaseError } from "./database-error.ts";
import type { Locks } from "./locks.ts";

/** Rows are never changed in place: a snapshot may keep them. */
export type Row =
  | Readonly<Record<string, unknown>>
  | object
  | string
  | number
  | bigint
  | boolean
  | null;

interface Change {
  /** Undefined: deleted. */
  readonly row: Row | undefined;
}

/** What was written and not committed. */
export class Transaction {
  readonly changes = new Map<string, Map<string, Change>>();
  readonly locks = new Set<string>();
  /** After a failed statement nothing is done but a rollback. */
  aborted: unknown = null;
  /** What was written before each savepoint that is open, the outermost first. */
  readonly savepoints: ReadonlyMap<string, ReadonlyMap<string, Change>>[] = [];
  state: "open" | "committed" | "rolled back" = "open";
  /** The connection it runs on, for whoever asks who blocks. */
  readonly connection: string;

  constructor(connection: string) {
    this.connection = connection;
  }
}

type Committed = ReadonlyMap<string, ReadonlyMap<string, Row>>;

/** A state of the whole database, to be restored later. */
export interface Snapshot {
  readonly tables: Committed;
  readonly sequences: ReadonlyMap<string, bigint>;
}

export class Tables {
  readonly #locks: Locks;
  #tables = new Map<string, Map<string, Row>>();
  #sequences = new Map<string, bigint>();
  readonly #open = new Set<Transaction>();

  constructor(locks: Locks) {
    this.#locks = locks;
  }

  get open(): ReadonlySet<Transaction> {
    return this.#open;
  }

  begin(connection: string): Transaction {
    const transaction = new Transaction(connection);
    this.#open.add(transaction);
    return transaction;
  }

  get(transaction: Transaction | null, table: string, key: string): Row | undefined {
    const change = transaction?.changes.get(table)?.get(key);
    return change === undefined ? this.#tables.get(table)?.get(key) : change.row;
  }

  /** Committed rows in the order of their commits, then the transaction's own. */
  entries(transaction: Transaction | null, table: string): readonly (readonly [string, Row])[] {
    const found = new Map(this.#tables.get(table));
    for (const [key, { row }] of transaction?.changes.get(table) ?? []) {
      if (row === undefined) found.delete(key);
      else found.set(key, row);
    }
    return [...found];
  }

  /** Every write of a table that is not committed yet. */
  pending(table: string): readonly Row[] {
    return [...this.#open].flatMap(({ changes }) =>
      [...(changes.get(table)?.values() ?? [])].flatMap(({ row }) => row ?? []),
    );
  }

  /** The caller holds the row's lock, or its key is new and its own. */
  write(transaction: Transaction, table: string, key: string, row: Row | undefined): void {
    if (transaction.state !== "open") {
      throw new MemoryDatabaseError("bad-statement", "the transaction has ended");
    }
    const changes = transaction.changes.get(table) ?? new Map<string, Change>();
    transaction.changes.set(table, changes.set(key, { row }));
  }

  /** Numbers are handed out one by one and never given back, as those of a sequence. */
  next(sequence: string): bigint {
    const next = (this.#sequences.get(sequence) ?? 0n) + 1n;
    this.#sequences.set(sequence, next);
    return next;
  }

  last(sequence: string): bigint {
    return this.#sequences.get(sequence) ?? 0n;
  }

  async lock(transaction: Transaction, name: string, timeoutMs: number | null): Promise<boolean> {
    const taken = await this.#locks.acquire(transaction, name, timeoutMs);
    // Given in the moment in which its connection was cut.
    if (transaction.state !== "open") {
      this.#locks.release(transaction, name);
      throw connectionLost(false);
    }
    transaction.locks.add(name);
    return taken;
  }

  unlock(transaction: Transaction, name: string): void {
    transaction.locks.delete(name);
    this.#locks.release(transaction, name);
  }

  commit(transaction: Transaction): void {
    if (transaction.state !== "open") return;
    for (const [name, changes] of transaction.changes) {
      const table = this.#tables.get(name) ?? new Map<string, Row>();
      this.#tables.set(name, table);
      for (const [key, { row }] of changes) {
        if (row === undefined) table.delete(key);
        else table.set(key, row);
      }
    }
    this.#end(transaction, "committed");
  }

  rollback(transaction: Transaction): void {
    this.#end(transaction, "rolled back");
  }

  /**
   * Nothing of it can be committed any more: what it wrote and locked is free before its end. Not so
   * while a savepoint is open, to which it may go back.
   */
  abort(transaction: Transaction, cause: unknown): void {
    transaction.aborted ??= cause;
    if (transaction.savepoints.length > 0) return;
    transaction.changes.clear();
    this.#free(transaction);
  }

  savepoint({ changes, savepoints }: Transaction): void {
    savepoints.push(new Map([...changes].map(([table, rows]) => [table, new Map(rows)])));
  }

  release({ savepoints }: Transaction): void {
    savepoints.pop();
  }

  /** Undoes what was written since the innermost savepoint and ends that; locks stay until the end. */
  rollbackTo(transaction: Transaction): void {
    const before = transaction.savepoints.pop();
    if (before === undefined) throw new MemoryDatabaseError("bad-statement", "no such savepoint");
    transaction.aborted = null;
    transaction.changes.clear();
    for (const [table, rows] of before) transaction.changes.set(table, new Map(rows));
  }

  snapshot(): Snapshot {
    const tables = [...this.#tables].map(([name, rows]) => [name, new Map(rows)] as const);
    return { tables: new Map(tables), sequences: new Map(this.#sequences) };
  }

  restore({ tables, sequences }: Snapshot): void {
    this.#tables = new Map([...tables].map(([name, rows]) => [name, new Map(rows)]));
    this.#sequences = new Map(sequences);
  }

  #end(transaction: Transaction, state: "committed" | "rolled back"): void {
    if (transaction.state !== "open") return;
    transaction.state = state;
    this.#open.delete(transaction);
    this.#locks.cut(transaction, () => connectionLost(false));
    this.#free(transaction);
  }

  #free(transaction: Transaction): void {
    for (const name of transaction.locks) this.#locks.release(transaction, name);
    transaction.locks.clear();
  }
}
