// SQLite through knex as its user meets it: handles that are dead when their handler has ended, a
// transaction that a handler ends or tries to end, and the one connection, which others need too.

import { join } from "node:path";
import {
  createConsumer,
  defineTopic,
  type LogMark,
  type PartitionClaim,
  type Storage,
  text,
} from "@oncebox/core";
import { migrate } from "@oncebox/sqlite";
import { knexStorage } from "@oncebox/sqlite/knex";
import { memoryBroker } from "@oncebox/testing";
import type Database from "better-sqlite3";
import createKnex, { type Knex } from "knex";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import {
  effectsOf,
  nativeOf,
  openDatabase,
  temporaryFolder,
} from "../conformance/sqlite-knex-under-test.ts";

const mark: LogMark = { topicId: null, leaderEpoch: null, last: null };
const orders = defineTopic({ name: "orders", value: text() });
const endedEarly = expect.objectContaining({ code: "transaction-ended-early" });
const isFinished = expect.objectContaining({ code: "transaction-finished" });

let place: ReturnType<typeof temporaryFolder>;
let database: Database.Database;
let knex: Knex;
let storage: Storage<Knex.Transaction>;

beforeEach(async () => {
  place = temporaryFolder();
  const filename = join(place.folder, "main.db");
  database = openDatabase(filename);
  database.exec("CREATE TABLE effects (text TEXT NOT NULL)");
  database.exec("CREATE TABLE taken (name TEXT UNIQUE)");
  database.exec("INSERT INTO taken VALUES ('one')");
  await migrate(database);
  knex = createKnex({
    ...{ client: "better-sqlite3", connection: { filename }, useNullAsDefault: true },
  });
  storage = knexStorage(knex);
});
afterEach(() => {
  // A transaction that a failed test left open would be waited for for ever.
  knex.destroy().catch(() => {});
  database.close();
  place.remove();
});

async function claimed(): Promise<PartitionClaim> {
  await storage.registerTopic({
    ...{ consumer: "billing", groupId: "billing", topic: "orders", topicId: null },
    ...{ start: new Map([[0, 0n]]), added: new Map() },
  });
  const ref = { consumer: "billing", topic: "orders", partition: 0, owner: "test" };
  return (await storage.claim(ref, 1_000)) as PartitionClaim;
}

const insert = async (tx: Knex.Transaction, value: string) => tx("effects").insert({ text: value });
const failingRollback = (tx: Knex.Transaction) =>
  tx.raw("INSERT OR ROLLBACK INTO taken VALUES ('one')");

test("a handler cut off leaves nothing, and its connection to others", async () => {
  const chunk = await storage.open(await claimed(), []);
  const { tx } = chunk.handle();
  await insert(tx, "cut");
  chunk.destroy();
  await expect(insert(tx, "late")).rejects.toEqual(isFinished);
  await storage.transaction((next) => insert(next, "kept"));
  expect(effectsOf(database)).toEqual(["kept"]);
  const strange = knex as unknown as Knex.Transaction;
  await expect(storage.enqueue(strange, [])).rejects.toMatchObject({ code: "invalid-handle" });
});

test("a handler that ended the transaction can neither enqueue nor record ids", async () => {
  const chunk = await storage.open(await claimed(), []);
  const { tx } = chunk.handle();
  (await nativeOf(tx)).exec("COMMIT");
  const refused = { code: "invalid-handle" };
  await expect(storage.enqueue(tx, [])).rejects.toMatchObject(refused);
  await expect(storage.recordIds(tx, "billing", [])).rejects.toMatchObject(refused);
  await chunk.rollback();
});

// Guards the refusal: with the proof behind each statement alone, the COMMIT itself would stand.
test("what begins or ends a transaction is refused before it is sent", async () => {
  const chunk = await storage.open(await claimed(), []);
  const { tx, end } = chunk.handle();
  await insert(tx, "before");
  for (const control of ["COMMIT", "/* x */ end", "BEGIN IMMEDIATE", "ROLLBACK", "\uFEFFcommit"]) {
    await expect(tx.raw(control).then(), control).rejects.toEqual(endedEarly);
    const inner = tx.transaction((part) => part.raw(control).then());
    await expect(inner, `${control}, in a savepoint`).rejects.toEqual(endedEarly);
  }
  const connection: Database.Database = await tx.client.acquireConnection();
  expect(() => connection.exec("COMMIT")).toThrow(endedEarly);
  expect(() => connection.close()).toThrow(endedEarly);
  expect(effectsOf(database)).toEqual([]);
  await tx.transaction((part) => insert(part, "in a savepoint"));
  const undone = tx.transaction(async (part) => {
    await insert(part, "undone");
    throw new Error("undo");
  });
  await expect(undone).rejects.toThrow("undo");
  end();
  await chunk.commit(1n, mark);
  expect(effectsOf(database)).toEqual(["before", "in a savepoint"]);
});

// Guards the proof before each statement and each handler: nothing here was refused.
test.each(["a conflict that rolls back", "a COMMIT past the handle"])(
  "behind %s nothing is written outside of a transaction",
  async (how) => {
    const chunk = await storage.open(await claimed(), []);
    const { tx, end } = chunk.handle();
    if (how.startsWith("a COMMIT")) (await nativeOf(tx)).exec("COMMIT");
    else await expect(failingRollback(tx).then()).rejects.toThrow(/UNIQUE/);
    await expect(insert(tx, "behind it")).rejects.toEqual(endedEarly);
    end();
    expect(() => chunk.handle()).toThrow(endedEarly);
    await expect(chunk.commit(1n, mark)).rejects.toEqual(endedEarly);
    expect(effectsOf(database)).toEqual([]);
    expect((await storage.positions("billing")).positions[0]?.nextOffset).toBe(0n);
  },
);

test("the statement at which the transaction ended is told as the cause", async () => {
  const work = storage.transaction(async (tx) => {
    await tx.transaction((part) => failingRollback(part).then());
  });
  const cause = expect.objectContaining({ code: "SQLITE_CONSTRAINT_UNIQUE" });
  await expect(work).rejects.toMatchObject({ code: "transaction-ended-early", cause });
});

test("a handler that ends its transaction harms no message behind it", async () => {
  const broker = memoryBroker();
  broker.admin.createTopic("orders", { partitions: 1 });
  for (const value of ["a", "b", "c"]) broker.admin.send(orders.message({ key: "k", value }));
  let tricks = 2;
  const blocked: string[] = [];
  const consumer = createConsumer({
    ...{ name: "billing", storage, broker },
    observer: (event) => {
      if (event.type === "inbox.blocked") blocked.push(`${event.offset} ${event.error.code}`);
    },
  }).handle(orders, async ({ value }, tx) => {
    if (value === "a" && tricks > 0) {
      tricks -= 1;
      await failingRollback(tx).catch(() => {});
      return;
    }
    await insert(tx, value);
  });
  await consumer.start();
  try {
    await vi.waitFor(() => expect(effectsOf(database)).toContain("c"), { timeout: 20_000 });
  } finally {
    await consumer.stop();
  }
  // In autocommit "b" and "c" would stay once for each try of "a".
  expect(effectsOf(database)).toEqual(["a", "b", "c"]);
  expect(blocked.join()).toContain("0 transaction-ended-early");
}, 30_000);

// Guards the handler's own sender: a query is sent when it is awaited, not when it is made.
test("a query that was made in a handler is dead with it, in the open chunk and behind it", async () => {
  const chunk = await storage.open(await claimed(), []);
  const { tx, end } = chunk.handle();
  const made = [1, 2].map((n) => tx("effects").insert({ text: `late ${n}` }));
  const raw = tx.raw("INSERT INTO effects VALUES ('late raw')");
  let part: Knex.Transaction | undefined;
  await tx
    .transaction(async (inner) => {
      part = inner;
      await insert(inner, "in time");
      end();
    })
    .catch(() => {});
  await expect(made[0]?.then()).rejects.toEqual(isFinished);
  await expect(raw.then()).rejects.toEqual(isFinished);
  await expect(insert(tx, "late")).rejects.toEqual(isFinished);
  await expect(storage.enqueue(part as Knex.Transaction, [])).rejects.toEqual(isFinished);
  const next = chunk.handle();
  await insert(next.tx, "next");
  next.end();
  await chunk.commit(1n, mark);
  await expect(made[1]?.then()).rejects.toEqual(isFinished);
  expect(effectsOf(database)).toEqual(["in time", "next"]);
});

test("while a chunk waits for the lock, the one connection serves others", async () => {
  const claim = await claimed();
  database.exec("BEGIN IMMEDIATE");
  let waiting = true;
  const opening = storage.open(claim, []).finally(() => {
    waiting = false;
  });
  for (let n = 0; n < 3; n += 1) expect(await knex("effects").select()).toEqual([]);
  expect(waiting).toBe(true);
  database.exec("ROLLBACK");
  await (await opening).rollback();
});
