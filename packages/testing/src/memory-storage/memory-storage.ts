/**
 * The storage port in memory: row locks, snapshots, time-outs and every way to lose an answer, on a
 * clock that may be anybody's. Each storage is a process with a pool of its own; several may share
 * one database. Puts the parts together.
 */
import { type Clock, ConfigurationError, type Storage } from "@oncebox/core";
import { openChunk } from "./chunk.ts";
import { type MemoryDatabase, memoryDatabase } from "./database.ts";
import { troubleOf } from "./database-error.ts";
import { laneVerbs } from "./lanes.ts";
import { holdOf, type MemoryTx, makeTx } from "./memory-tx.ts";
import { runTransaction } from "./own-transaction.ts";
import { parkingVerbs } from "./parked.ts";
import { openParked } from "./parked-turn.ts";
import { partitionVerbs } from "./partitions.ts";
import type { StorageParts } from "./parts.ts";
import { Pool } from "./pool.ts";
import { pruningVerbs } from "./pruning.ts";
import { recordIds } from "./record-ids.ts";
import { registrationVerbs } from "./registration.ts";

export interface MemoryStorageOptions {
  /**
   * Time of a database of its own; that of a given database counts else.
   * @defaultValue the machine's
   */
  readonly clock?: Clock;
  /**
   * The database to work on, to be shared by several storages.
   * @defaultValue one of its own
   */
  readonly database?: MemoryDatabase;
  /**
   * How it is called in faults, and among those who block others.
   * @defaultValue storage-1, storage-2, …
   */
  readonly name?: string;
  /**
   * Connections at once.
   * @defaultValue 10
   */
  readonly poolSize?: number;
  /**
   * After how long an idle open transaction is ended, in milliseconds; null: never.
   * @defaultValue 20000
   */
  readonly idleInTransactionTimeoutMs?: number | null;
  /**
   * How long a statement of a handler waits for a lock, in milliseconds; null: without limit.
   * @defaultValue null
   */
  readonly lockTimeoutMs?: number | null;
  /**
   * Whether a statement is sent without waiting for the answers before it on its connection. They
   * run in the order of sending in either case.
   * @defaultValue true
   */
  readonly pipelined?: boolean;
}

export interface MemoryStorage extends Storage<MemoryTx> {
  readonly name: string;
  readonly database: MemoryDatabase;
  /** Committed rows of a business table, in the order in which they were committed. */
  readonly rows: <T = unknown>(table: string) => readonly T[];
  /** The process stands still: nothing is sent, and no answer is heard, until it thaws. */
  readonly freeze: () => void;
  readonly thaw: () => void;
}

const storagesOf = new WeakMap<MemoryDatabase, number>();

/** A storage in memory. */
export function memoryStorage(options: MemoryStorageOptions = {}): MemoryStorage {
  const { clock, poolSize: size = 10, lockTimeoutMs = null } = options;
  const { idleInTransactionTimeoutMs = 20_000, pipelined = true } = options;
  const database = options.database ?? memoryDatabase(clock === undefined ? {} : { clock });
  const number = (storagesOf.get(database) ?? 0) + 1;
  storagesOf.set(database, number);
  const name = options.name ?? `storage-${number}`;
  const pool = new Pool(database, { client: name, size, idleInTransactionTimeoutMs, pipelined });
  const parts: StorageParts = { database, pool, lockTimeoutMs };
  return {
    ...{ name, database },
    rows: (table) => database.rows(table),
    freeze: () => pool.freeze(),
    thaw: () => pool.thaw(),
    ...partitionVerbs(parts),
    ...registrationVerbs(parts),
    ...laneVerbs(parts),
    ...parkingVerbs(parts),
    ...pruningVerbs(parts),
    check: () => check(parts, idleInTransactionTimeoutMs),
    close: async () => undefined,
    transaction: (work) => runTransaction(parts, work),
    trouble: troubleOf,
    recordIds: (tx, consumer, ids) => recordIds(parts, tx, consumer, ids),
    open: (claim, records) => openChunk(parts, claim, records),
    openParked: (turn) => openParked(parts, turn),
    wake: {
      send: () => database.wake("woken", name),
      expect: () => database.wake("expected", name),
      listen: async (listener) => {
        // A process that stands still is woken when it goes on.
        const later = (tell: () => void) => () => {
          if (!pool.isFrozen) return tell();
          pool.running().then(tell, () => undefined);
        };
        const { woken, expected } = listener;
        const stop = database.listen({ woken: later(woken), expected: later(expected) }, name);
        return async () => stop();
      },
    },
  };
}

async function check({ database, pool }: StorageParts, idleMs: number | null) {
  return pool.with("check of the database", async (connection) => {
    await connection.run("check", () => undefined, { writes: false });
    if (database.isReadOnly()) {
      throw new ConfigurationError(
        "database-read-only",
        "the database cannot be written to: connect to the primary",
      );
    }
    const { size: poolSize, pipelined } = pool;
    return { pipelined, poolSize, idleInTransactionTimeoutMs: idleMs };
  });
}

/** A transaction that no storage began, as an application has them. */
export interface MemoryTransaction {
  readonly tx: MemoryTx;
  readonly commit: () => Promise<void>;
  readonly rollback: () => Promise<void>;
}

/** Begins a transaction over a connection of its own. Rejects where the database is down. */
export async function beginTransaction(database: MemoryDatabase): Promise<MemoryTransaction> {
  const connection = database.connect({
    client: "application",
    idleInTransactionTimeoutMs: null,
    pipelined: true,
    running: async () => undefined,
  });
  connection.begin();
  let over = false;
  const tx = makeTx(database.tables, null, {
    connection,
    ended: () => over,
    failed: () => undefined,
    enqueued: () => undefined,
    shared: null,
  });
  const end = async (how: () => Promise<unknown>) => {
    over = true;
    await how().finally(() => database.disconnect(connection));
  };
  return {
    tx,
    commit: () => end(() => connection.commit()),
    rollback: () => end(() => connection.rollback()),
  };
}

/** What a suite does behind a handle's back. */
export interface BehindTx {
  /** How the database calls the connection. */
  readonly connection: string;
  readonly statements: () => number;
  /** Runs a statement that the database refuses. */
  readonly failStatement: () => Promise<unknown>;
  /** Commits on a path that the handle cannot refuse, and begins another on request. */
  readonly endSecretly: (then: { readonly begin: boolean }) => Promise<void>;
  /** Ends the connection at the database's side. */
  readonly cut: () => void;
}

/** The connection under a handle, for suites that break it. Throws for a handle that is dead. */
export function behind(tx: MemoryTx): BehindTx {
  const { connection, failed } = holdOf(tx);
  return {
    connection: connection.name,
    statements: () => connection.statements,
    failStatement: () =>
      connection.refuse().catch((error: unknown) => {
        failed(error);
        throw error;
      }),
    endSecretly: async ({ begin }) => {
      await connection.commit();
      if (begin) connection.begin();
    },
    cut: () => connection.cut(),
  };
}
