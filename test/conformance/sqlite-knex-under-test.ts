// Owns what SQLite through knex brings to the storage suite: each context is a file of its own; each
// storage, and each user's transaction, has a knex of its own, as another process would.

import { randomUUID } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Storage } from "@oncebox/core";
import { migrate as migrateNative } from "@oncebox/sqlite";
import { knexStorage, migrate } from "@oncebox/sqlite/knex";
import type { EmptyPlace, StorageUnderTest } from "@oncebox/testing";
import Database from "better-sqlite3";
import createKnex, { type Knex } from "knex";
import { rewriteOn, type StatementChange } from "../fixtures/sqlite-rewrite.ts";
import type { Wrap } from "./broken-verbs.ts";

export type KnexUnderTest = StorageUnderTest<Knex.Transaction>;

/** What is broken in a context, for the suite to notice. */
export interface SqliteVariant {
  /** In each statement on its way to the database, those of users' transactions as well. */
  readonly changes?: readonly StatementChange[];
  /** Stands between the suite and each storage. */
  readonly wrap?: Wrap;
}

/** A folder for one file, and what deletes it. */
export function temporaryFolder() {
  const folder = mkdtempSync(join(tmpdir(), "oncebox-sqlite-"));
  return { folder, remove: () => rmSync(folder, { recursive: true, force: true }) };
}

/** A connection for looking and for tampering; closed by the caller. */
export function openDatabase(file: string): Database.Database {
  const database = new Database(file);
  database.pragma("journal_mode = WAL");
  // Nothing here cuts the power.
  database.pragma("synchronous = NORMAL");
  return database;
}

export function effectsOf(database: Database.Database): string[] {
  return database.prepare("SELECT text FROM effects").pluck().all() as string[];
}

export function tamperWith(database: Database.Database, how: "edit" | "forget" | "add"): void {
  const table = "oncebox_migrations";
  const last = `(SELECT max(number) FROM ${table})`;
  const changes = {
    edit: `UPDATE ${table} SET checksum = 'another' WHERE number = 1`,
    forget: `DELETE FROM ${table} WHERE number = ${last}`,
    add: `INSERT INTO ${table} (number, name, checksum)
          VALUES (${last} + 1, '9999_later', 'unknown')`,
  };
  database.exec(changes[how]);
}

export function appliedIn(database: Database.Database): string[] {
  const text = "SELECT name FROM oncebox_migrations ORDER BY applied_at, number";
  return database.prepare(text).pluck().all() as string[];
}

/** Counts what runs over any connection of this process: statements are kept and used again. */
export function countStatements(database: Database.Database): { readonly end: () => number } {
  const prototype = Object.getPrototypeOf(database.prepare("SELECT 1")) as Record<
    "run" | "get" | "all",
    (...values: unknown[]) => unknown
  >;
  const { run, get, all } = prototype;
  let count = 0;
  for (const [verb, call] of Object.entries({ run, get, all })) {
    prototype[verb as "run"] = function (this: unknown, ...values) {
      count += 1;
      return Reflect.apply(call, this, values);
    };
  }
  return {
    end: () => {
      Object.assign(prototype, { run, get, all });
      return count;
    },
  };
}

/** Calls that may be waiting for the write lock: no transaction shows them. */
export class Waiting {
  count = 0;

  readonly during = async <R>(work: () => Promise<R>): Promise<R> => {
    this.count += 1;
    try {
      return await work();
    } finally {
      this.count -= 1;
    }
  };
}

/** The connection itself, past a handler's guard. */
export async function nativeOf(tx: Knex.Transaction): Promise<Database.Database> {
  const connection: Database.Database = await tx.client.acquireConnection();
  return connection.prepare("SELECT 1").database;
}

/** Opens knexes, each with one connection whose statements are changed. */
class Knexes {
  readonly connections: Database.Database[] = [];
  readonly #knexes: Knex[] = [];
  readonly #changes: readonly StatementChange[];

  constructor(changes: readonly StatementChange[]) {
    this.#changes = changes;
  }

  readonly open = (filename: string): Knex => {
    const knex = createKnex({
      client: "better-sqlite3",
      connection: { filename },
      useNullAsDefault: true,
      // What users do to their rows and names must not reach ours.
      postProcessResponse: () => "processed",
      wrapIdentifier: (name, original) => original(name.toLowerCase()),
      pool: {
        afterCreate: (database: Database.Database, done: (error: null, db: object) => void) => {
          database.pragma("journal_mode = WAL");
          database.pragma("synchronous = NORMAL");
          rewriteOn(database, this.#changes);
          this.connections.push(database);
          done(null, database);
        },
      },
    });
    this.#knexes.push(knex);
    return knex;
  };

  close(): void {
    for (const database of this.connections) if (database.open) database.close();
    // A transaction that a failed case left open would be waited for for ever.
    for (const knex of this.#knexes) knex.destroy().catch(() => {});
  }
}

/**
 * Makes a context, broken in all but its setup; `close` ends it by force, whatever a failed case left
 * open.
 */
export async function knexUnderTest({
  changes = [],
  wrap = (storage) => storage,
}: SqliteVariant = {}): Promise<{
  readonly context: KnexUnderTest;
  readonly close: () => Promise<void>;
}> {
  const { folder, remove } = temporaryFolder();
  const file = join(folder, "main.db");
  const admin = openDatabase(file);
  await migrateNative(admin);
  admin.exec("CREATE TABLE effects (text TEXT NOT NULL)");
  const knexes = new Knexes(changes);
  const { open, connections } = knexes;
  const hooks: Pick<KnexUnderTest, "begin" | "endSecretly"> = {
    begin: async () => {
      const tx = await open(file).transaction();
      tx.executionPromise.catch(() => {});
      return { tx, commit: () => tx.commit(), rollback: () => tx.rollback() };
    },
    endSecretly: async (tx, { begin }) => {
      const native = await nativeOf(tx);
      native.prepare("COMMIT").run();
      if (begin) native.prepare("BEGIN").run();
    },
  };
  const waiting = new Waiting();
  const storageOn = (knex: Knex): Storage<Knex.Transaction> => {
    const { during } = waiting;
    const storage = wrap(knexStorage(knex), hooks);
    return {
      ...storage,
      claim: (ref, waitMs) => during(() => storage.claim(ref, waitMs)),
      open: (claim, records) => during(() => storage.open(claim, records)),
      seek: (request) => during(() => storage.seek(request)),
      openParked: (turn) => during(() => storage.openParked(turn)),
      releaseParked: (request) => during(() => storage.releaseParked(request)),
      settleParked: (...args) => during(() => storage.settleParked(...args)),
      changeParked: (change) => during(() => storage.changeParked(change)),
    };
  };
  const isOpen = (database: Database.Database) => database.open && database.inTransaction;
  const context: KnexUnderTest = {
    ...hooks,
    storage: storageOn(open(file)),
    another: () => storageOn(open(file)),
    insertEffect: async (tx, text) => {
      try {
        await tx("effects").insert({ text });
      } catch (error) {
        // Behind a secret end the handle writes nothing more, which is better than to tell later.
        if ((error as { readonly code?: unknown }).code !== "transaction-ended-early") throw error;
      }
    },
    effects: async () => effectsOf(admin),
    failStatement: (tx) => tx.raw("INSERT INTO effects VALUES (NULL)"),
    statements: async (_, work) => {
      const counting = countStatements(admin);
      await work();
      return counting.end();
    },
    connectionName: async () => randomUUID(),
    openTransactions: async () => {
      // One turn: what was sent before has got to where it waits.
      await new Promise((resolve) => setImmediate(resolve));
      return connections.filter(isOpen).length + waiting.count;
    },
    plainControls: [
      ...["BEGIN", "COMMIT", "ROLLBACK", " end;"].map((text) => (tx: Knex.Transaction) => {
        return tx.raw(text).then();
      }),
      (tx) => tx.commit(),
      (tx) => tx.rollback(),
    ],
    sharedRefusals: [
      ...[
        "SAVEPOINT a",
        "RELEASE a",
        "ROLLBACK TO a",
        "PRAGMA foreign_keys = OFF",
        "SELECT 1; SAVEPOINT a",
      ].map((text) => ({ name: text, use: (tx: Knex.Transaction) => tx.raw(text).then() })),
      { name: "transaction()", use: (tx) => tx.transaction(async () => {}) },
      { name: "savepoint()", use: (tx) => tx.savepoint(async () => {}) },
    ],
    takeBack: async (tx, work) => {
      await tx.raw("SAVEPOINT a");
      await work();
      await tx.raw("ROLLBACK TO a");
    },
    breakConnection: async (tx) => (await nativeOf(tx)).close(),
    breakCommit: () => {
      throw new Error("there is no wire to lose a reply on");
    },
    emptyPlace: async () => placeOf(join(folder, `${randomUUID()}.db`), open, storageOn),
  };
  const close = async () => {
    knexes.close();
    admin.close();
    remove();
  };
  return { context, close };
}

function placeOf(
  file: string,
  open: (file: string) => Knex,
  storageOn: (knex: Knex) => Storage<Knex.Transaction>,
): EmptyPlace<Knex.Transaction> {
  const look = <R>(work: (database: Database.Database) => R): R => {
    const database = openDatabase(file);
    try {
      return work(database);
    } finally {
      database.close();
    }
  };
  return {
    storage: storageOn(open(file)),
    migrate: () => migrate(open(file)),
    applied: async () => look(appliedIn),
    tamper: async (how) => look((database) => tamperWith(database, how)),
  };
}
