// Owns what native SQLite brings to the storage suite. A transaction of that storage is one call, so
// each one that the suite opens runs in a thread with a connection of its own, as in another process,
// and is led through it step by step. What is a promise in any case is asked here. Where the write
// lock is held, a chunk is tried again, as the consumer does.

import { randomUUID } from "node:crypto";
import { join } from "node:path";
import {
  type ChunkTransaction,
  type HandlerTransaction,
  OnceboxError,
  type Recorded,
  type Storage,
} from "@oncebox/core";
import { migrate, sqliteStorage } from "@oncebox/sqlite";
import type { EmptyPlace, StorageUnderTest } from "@oncebox/testing";
import type Database from "better-sqlite3";
import { rewriteOn, type StatementChange } from "../fixtures/sqlite-rewrite.ts";
import { type Command, Session } from "../fixtures/sqlite-session.ts";
import {
  appliedIn,
  effectsOf,
  openDatabase,
  tamperWith,
  temporaryFolder,
  Waiting,
} from "./sqlite-knex-under-test.ts";

export type NativeUnderTest = StorageUnderTest<Session>;

const free: Session[] = [];

/** Ends the threads of all contexts. */
export async function endSessions(): Promise<void> {
  await Promise.all(free.splice(0).map((session) => session.end()));
}

/** Sessions of one context: given back when it is closed. */
class Sessions {
  readonly #all: { readonly session: Session; readonly file: string; busy: boolean }[] = [];

  readonly #changes: readonly StatementChange[];

  constructor(changes: readonly StatementChange[]) {
    this.#changes = changes;
  }

  async take(file: string): Promise<Session> {
    const known = this.#all.find((each) => !each.busy && each.file === file);
    if (known !== undefined) {
      known.busy = true;
      return known.session;
    }
    const session = free.pop() ?? new Session();
    this.#all.push({ session, file, busy: true });
    await session.call({ kind: "open", file, changes: [...this.#changes] });
    return session;
  }

  giveBack(session: Session): void {
    const known = this.#all.find((each) => each.session === session);
    if (known !== undefined) known.busy = false;
  }

  async openTransactions(): Promise<number> {
    const asked = this.#all.map(({ session }) => session.call<boolean>({ kind: "inTransaction" }));
    return (await Promise.all(asked)).filter((open) => open).length;
  }

  /** A failed case leaves transactions open: such a thread is not used again. */
  async close(): Promise<void> {
    for (const { session, busy } of this.#all) {
      if (busy) await session.end();
      else {
        await session.call({ kind: "open", file: ":memory:" });
        free.push(session);
      }
    }
  }
}

/** The consumer's part: what met the lock is run again. */
async function rerun<R>(work: () => Promise<R>): Promise<R> {
  for (;;) {
    try {
      return await work();
    } catch (error) {
      const { code } = error as { readonly code?: string };
      if (code !== "storage-conflict" && code !== "SQLITE_BUSY") throw error;
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
  }
}

/** Native storage with the signatures of one that waits. */
function waitingStorage(
  file: string,
  database: Database.Database,
  sessions: Sessions,
  { during }: Waiting,
): Storage<Session> {
  const {
    synchronous: _,
    chunkSync: __,
    parkedSync: ____,
    transactionSync: ___,
    ...storage
  } = sqliteStorage({
    database,
  });
  const ending = async <R>(session: Session, command: Command): Promise<R> => {
    try {
      return await session.call<R>(command);
    } finally {
      sessions.giveBack(session);
    }
  };
  const beginning = <R>(command: Command): Promise<{ session: Session; opened: R }> =>
    during(async () => {
      const session = await sessions.take(file);
      try {
        return { session, opened: await rerun(() => session.call<R>(command)) };
      } catch (error) {
        sessions.giveBack(session);
        throw error;
      }
    });
  const handlersOf = (session: Session): Omit<HandlerTransaction<Session>, "commit"> => ({
    handle: () => ({ tx: session, end: () => {}, refused: () => false }),
    rollback: () => ending(session, { kind: "rollback" }),
    destroy: () => {
      throw new Error("nothing can be cut off in a call");
    },
  });
  return {
    ...storage,
    claim: (ref, waitMs) => during(() => storage.claim(ref, waitMs)),
    seek: (request) => during(() => storage.seek(request)),
    open: async (claim, records): Promise<ChunkTransaction<Session>> => {
      const command: Command = { kind: "chunk", claim, records: [...records] };
      const { session, opened } = await beginning<{
        readonly nextOffset: bigint;
        readonly recorded: readonly Recorded[];
      }>(command);
      return {
        ...opened,
        ...handlersOf(session),
        commit: (nextOffset, mark, park = []) =>
          ending(session, { kind: "commit", advance: { nextOffset, mark, park: [...park] } }),
      };
    },
    openParked: async (turn) => {
      const { session } = await beginning<null>({ kind: "parked", turn });
      return { ...handlersOf(session), commit: () => ending(session, { kind: "commit" }) };
    },
    releaseParked: (request) => during(() => storage.releaseParked(request)),
    settleParked: (...args) => during(() => storage.settleParked(...args)),
    changeParked: (change) => during(() => storage.changeParked(change)),
    transaction: async (work) => {
      const { session } = await beginning({ kind: "transaction" });
      let result: Awaited<ReturnType<typeof work>>;
      try {
        result = await work(session);
      } catch (error) {
        await ending(session, { kind: "rollback" });
        throw error;
      }
      await ending(session, { kind: "commit" });
      return result;
    },
    enqueue: (session, rows) => session.call({ kind: "enqueue", rows: [...rows] }),
    recordIds: (session, consumer, ids) =>
      session.call({ kind: "recordIds", consumer, ids: [...ids] }),
  };
}

/** Makes a context, with statements changed in all but its setup; `close` ends it by force, whatever a failed case left open. */
export async function nativeUnderTest(changes: readonly StatementChange[] = []): Promise<{
  readonly context: NativeUnderTest;
  readonly close: () => Promise<void>;
}> {
  const { folder, remove } = temporaryFolder();
  const main = join(folder, "main.db");
  const admin = openDatabase(main);
  const databases = [admin];
  const open = (file: string) => {
    const database = openDatabase(file);
    rewriteOn(database, changes);
    databases.push(database);
    return database;
  };
  await migrate(admin);
  admin.exec("CREATE TABLE effects (text TEXT NOT NULL)");
  const sessions = new Sessions(changes);
  const waiting = new Waiting();
  const storageOn = (file: string) => waitingStorage(file, open(file), sessions, waiting);
  const context: NativeUnderTest = {
    storage: storageOn(main),
    another: () => storageOn(main),
    begin: async () => {
      const tx = await sessions.take(main);
      await rerun(() => tx.call({ kind: "exec", text: "BEGIN IMMEDIATE" }));
      const end = (text: string) => () =>
        tx.call({ kind: "exec", text }).finally(() => sessions.giveBack(tx));
      return { tx, commit: end("COMMIT"), rollback: end("ROLLBACK") };
    },
    insertEffect: (tx, text) =>
      tx.call({ kind: "run", text: "INSERT INTO effects VALUES (?)", values: [text] }),
    effects: async () => effectsOf(admin),
    failStatement: (tx) =>
      tx.call({ kind: "run", text: "INSERT INTO effects VALUES (NULL)", values: [] }),
    statements: async (tx, work) => {
      // What is counted runs in the thread: so it is sent there another way.
      const { call } = tx;
      let count = 0;
      tx.call = async <R>(command: Command): Promise<R> => {
        if (command.kind !== "enqueue") return call.call(tx, command) as Promise<R>;
        count += await call.call<Session, [Command], Promise<number>>(tx, {
          ...command,
          kind: "countedEnqueue",
        });
        return undefined as R;
      };
      await work();
      tx.call = call;
      return count;
    },
    connectionName: async () => randomUUID(),
    openTransactions: async () => (await sessions.openTransactions()) + waiting.count,
    plainControls: [],
    takeBack: async (tx, work) => {
      await tx.call({ kind: "exec", text: "SAVEPOINT a" });
      await work();
      await tx.call({ kind: "exec", text: "ROLLBACK TO a" });
    },
    endSecretly: (tx, { begin }) =>
      tx.call({ kind: "exec", text: begin ? "COMMIT; BEGIN" : "COMMIT" }),
    breakConnection: () => Promise.reject(new OnceboxError("storage-failed", "there is none")),
    breakCommit: () => {
      throw new Error("there is no wire to lose a reply on");
    },
    emptyPlace: async () => placeOf(join(folder, `${randomUUID()}.db`), open, storageOn),
  };
  const close = async () => {
    await sessions.close();
    for (const database of databases) database.close();
    remove();
  };
  return { context, close };
}

function placeOf(
  file: string,
  open: (file: string) => Database.Database,
  storageOn: (file: string) => Storage<Session>,
): EmptyPlace<Session> {
  const admin = open(file);
  return {
    storage: storageOn(file),
    migrate: () => migrate(open(file)),
    applied: async () => appliedIn(admin),
    tamper: async (how) => tamperWith(admin, how),
  };
}
