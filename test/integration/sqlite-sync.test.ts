// Native SQLite as its user meets it: handlers that end when they return, and what becomes of those
// that do not; transactions ended by a handler; another process that holds the write lock.

import { join } from "node:path";
import {
  createConsumer,
  createInbox,
  createOutbox,
  defineTopic,
  type LogMark,
  type OnceboxEvent,
  type PartitionClaim,
  type SyncConsumer,
  text,
} from "@oncebox/core";
import { migrate, sqliteStorage } from "@oncebox/sqlite";
import { memoryBroker } from "@oncebox/testing";
import Database from "better-sqlite3";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { effectsOf, openDatabase, temporaryFolder } from "../conformance/sqlite-knex-under-test.ts";

const mark: LogMark = { topicId: null, leaderEpoch: null, last: null };
const orders = defineTopic({ name: "orders", value: text() });

let place: ReturnType<typeof temporaryFolder>;
let file: string;
let database: Database.Database;
let running: { stop(): Promise<void> } | undefined;

beforeEach(async () => {
  place = temporaryFolder();
  file = join(place.folder, "main.db");
  database = openDatabase(file);
  database.exec("CREATE TABLE effects (text TEXT NOT NULL)");
  await migrate(database);
});
afterEach(async () => {
  await running?.stop();
  running = undefined;
  database.close();
  place.remove();
});

async function claimed(storage = sqliteStorage({ database })): Promise<PartitionClaim> {
  await storage.registerTopic({
    ...{ consumer: "billing", groupId: "billing", topic: "orders", topicId: null },
    ...{ start: new Map([[0, 0n]]), added: new Map() },
  });
  const ref = { consumer: "billing", topic: "orders", partition: 0, owner: "test" };
  return (await storage.claim(ref, 1_000)) as PartitionClaim;
}

const insert = (tx: Database.Database, value: string) =>
  tx.prepare("INSERT INTO effects VALUES (?)").run(value);

test("outbox and inbox answer at once, in the caller's own transaction", async () => {
  const storage = sqliteStorage({ database });
  const outbox = createOutbox({ storage });
  const inbox = createInbox({ name: "hooks", storage });
  const message = orders.message({ key: "k", value: "v" });
  const woken: string[] = [];
  await storage.wake.listen({ woken: () => woken.push("woken"), expected: () => {} });
  const work = database.transaction(() => {
    const once = inbox.once(database, { source: "/hooks", id: "1" });
    const again = inbox.once(database, { source: "/hooks", id: "1" });
    return { once, again, ids: outbox.enqueue(database, [message, message]) };
  });
  const { once, again, ids } = work();
  expect([once, again]).toEqual(["new", "duplicate"]);
  expect(ids).toHaveLength(2);
  expect(woken).toEqual([]);
  await Promise.resolve();
  // The transaction had ended by then: its rows can be read.
  expect(woken).toEqual(["woken"]);
  expect(() => outbox.enqueue(database, message)).toThrow(/without an open transaction/);
});

test("B14: a transaction is refused a promise, and rolled back", () => {
  const storage = sqliteStorage({ database });
  const work = async () => insert(database, "lost");
  expect(() => storage.transactionSync(work)).toThrow(/returned a promise/);
  expect(effectsOf(database)).toEqual([]);
  storage.transactionSync(() => insert(database, "kept"));
  expect(effectsOf(database)).toEqual(["kept"]);
});

test("B14: an async function is refused as a handler before anything runs", () => {
  const storage = sqliteStorage({ database });
  const broker = {
    timing: { sessionTimeoutMs: 10_000, heartbeatIntervalMs: 1_000, rebalanceTimeoutMs: 10_000 },
    consumer: () => {},
    offsets: () => {},
    retentionMs: () => {},
  } as never;
  const consumer = createConsumer({ name: "billing", storage, broker });
  const run = (async () => {}) as unknown as () => void;
  expect(() => consumer.handle(orders, run)).toThrow(/synchronous/);
});

test.each([
  ["COMMIT"],
  ["ROLLBACK"],
  ["COMMIT; BEGIN"],
  ["ROLLBACK; BEGIN"],
  ["COMMIT; BEGIN; SAVEPOINT another"],
])("a handler that runs %s fails its chunk, and the position does not move", async (control) => {
  const storage = sqliteStorage({ database });
  const claim = await claimed(storage);
  const chunk = () =>
    storage.chunkSync(claim, [], ({ tx, proveOpen }) => {
      tx.exec(control);
      proveOpen();
      insert(tx, "after");
      return { nextOffset: 1n, mark };
    });
  expect(chunk).toThrow(expect.objectContaining({ code: "transaction-ended-early" }));
  expect(database.inTransaction).toBe(false);
  expect(effectsOf(database)).toEqual([]);
  expect((await storage.positions("billing")).positions[0]?.nextOffset).toBe(0n);
});

test("savepoints of a handler are its own", async () => {
  const storage = sqliteStorage({ database });
  storage.chunkSync(await claimed(storage), [], ({ tx }) => {
    const part = tx.transaction((fail: boolean) => {
      insert(tx, fail ? "undone" : "kept");
      if (fail) throw new Error("undo");
    });
    part(false);
    expect(() => part(true)).toThrow("undo");
    tx.exec("SAVEPOINT left_open");
    return { nextOffset: 1n, mark };
  });
  expect(effectsOf(database)).toEqual(["kept"]);
});

test("B15: while another process holds the lock, a try is short, local trouble, and restores the wait", async () => {
  const storage = sqliteStorage({ database, busyTimeoutMs: 200 });
  const claim = await claimed(storage);
  const other = openDatabase(file);
  other.exec("BEGIN IMMEDIATE");
  const before = performance.now();
  let error: unknown;
  try {
    storage.chunkSync(claim, [], () => ({ nextOffset: 1n, mark }));
  } catch (thrown) {
    error = thrown;
  }
  // 50 ms, and what a busy machine adds.
  expect(performance.now() - before).toBeLessThan(500);
  expect(storage.trouble(error)).toBe("local");
  expect(database.pragma("busy_timeout", { simple: true })).toBe(5_000);
  // Verbs that may wait leave the event loop its turns, and end at their limit.
  let turns = 0;
  const counting = setInterval(() => {
    turns += 1;
  }, 1);
  const claiming = storage.claim({ ...claim, owner: "another" }, 300);
  await expect(claiming).rejects.toMatchObject({ code: "claim-timeout", retryable: true });
  clearInterval(counting);
  expect(turns).toBeGreaterThan(2);
  other.exec("ROLLBACK");
  storage.chunkSync(claim, [], () => ({ nextOffset: 1n, mark }));
  other.close();
});

test("in a transaction of the caller's, the connection's own time-out counts, unless it began with the lock", () => {
  const outbox = createOutbox({ storage: sqliteStorage({ database }) });
  const inbox = createInbox({ name: "hooks", storage: sqliteStorage({ database }) });
  const work = database.transaction((id: string) => {
    inbox.once(database, { source: "/hooks", id });
    outbox.enqueue(database, orders.message({ key: "k", value: id }));
  });
  const ownMs = 300;
  database.pragma(`busy_timeout = ${ownMs}`);
  const other = openDatabase(file);
  other.exec("BEGIN IMMEDIATE");
  const before = performance.now();
  expect(() => work("1")).toThrow(expect.objectContaining({ code: "storage-conflict" }));
  // Well above the one try of the storage's own statements.
  expect(performance.now() - before).toBeGreaterThan(ownMs * 0.8);
  database.pragma("busy_timeout = 0");
  // Refused by the caller's own BEGIN: no statement of the storage can meet the lock behind it.
  expect(() => work.immediate("1")).toThrow(expect.objectContaining({ code: "SQLITE_BUSY" }));
  other.exec("ROLLBACK");
  work.immediate("1");
  expect(database.prepare("SELECT count(*) FROM oncebox_outbox_messages").pluck().get()).toBe(1);
  other.close();
});

test("a relay counts as alive for as long as it holds a lane, however slow its statements", async () => {
  const prepare = database.prepare.bind(database);
  database.prepare = ((source: string) => {
    const until = performance.now() + 5;
    while (performance.now() < until);
    return prepare(source);
  }) as typeof database.prepare;
  const lease = { relay: "relay", leaseMs: 60_000, renew: [], acquireMax: 64 };
  await sqliteStorage({ database }).leaseLanes(lease);
  const ends = `SELECT live_until - (SELECT max(leased_until) FROM oncebox_outbox_lanes)
    FROM oncebox_outbox_relays`;
  expect(prepare(ends).pluck().get()).toBeGreaterThanOrEqual(0);
});

test("a user's transaction that is open over an await is never joined", async () => {
  const storage = sqliteStorage({ database, busyTimeoutMs: 100 });
  const claim = await claimed(storage);
  database.exec("BEGIN IMMEDIATE");
  insert(database, "not committed");
  const chunk = () => storage.chunkSync(claim, [], () => ({ nextOffset: 1n, mark }));
  expect(chunk).toThrow(expect.objectContaining({ code: "storage-conflict" }));
  await expect(storage.positions("billing")).rejects.toMatchObject({ code: "storage-conflict" });
  database.exec("ROLLBACK");
  chunk();
});

test("a journal that could lose a commit is refused", async () => {
  const memory = new Database(":memory:");
  await migrate(memory);
  const refused = expect.objectContaining({ code: "journal-unsafe" });
  await expect(sqliteStorage({ database: memory }).check()).rejects.toEqual(refused);
  memory.close();
  database.pragma("synchronous = OFF");
  await expect(sqliteStorage({ database }).check()).rejects.toEqual(refused);
  database.pragma("synchronous = FULL");
  await sqliteStorage({ database }).check();
});

test("integers are read as they are, whatever the connection's default is", async () => {
  database.defaultSafeIntegers(true);
  const storage = sqliteStorage({ database });
  await migrate(database);
  await storage.check();
  const claim = await claimed(storage);
  const next = 2n ** 53n + 1n;
  storage.chunkSync(claim, [], () => ({ nextOffset: next, mark }));
  expect((await storage.positions("billing")).positions[0]?.nextOffset).toBe(next);
});

/**
 * A consumer on a broker in memory, and what it was told. Time is the machine's: SQLite says when a
 * parked message is due, and knows no clock of a test.
 */
async function consuming(
  handle: (consumer: SyncConsumer<Database.Database>) => void,
  messages: readonly { readonly key: string | null; readonly value: string }[],
) {
  const broker = memoryBroker();
  broker.admin.createTopic("orders");
  const storage = sqliteStorage({ database });
  const events: OnceboxEvent[] = [];
  const observer = (event: OnceboxEvent) => events.push(event);
  const consumer = createConsumer({ name: "billing", storage, broker, observer });
  handle(consumer);
  broker.admin.produce("orders", 0, messages);
  await consumer.start();
  running = consumer;
  return { events, until };
}

const until = (done: () => boolean) =>
  vi.waitFor(() => expect(done()).toBe(true), { timeout: 20_000 });
const retry = { localAttemptsMax: 2, redriveBackoffMs: 100 };

test("a message that fails is parked with those of its key, and tried again beside, in order", async () => {
  // Guards: the form of chunk and turn in one call (parkedSync).
  let broken = true;
  const { until, events } = await consuming(
    (consumer) =>
      consumer.handle(
        orders,
        ({ value }, tx) => {
          insert(tx, value);
          if (value === "a1" && broken) throw new Error("no");
        },
        { retry },
      ),
    [
      { key: "a", value: "a1" },
      { key: "b", value: "b1" },
      { key: "a", value: "a2" },
    ],
  );
  await until(() => events.some(({ type }) => type === "inbox.redrive-failed"));
  expect(effectsOf(database)).toEqual(["b1"]);
  broken = false;
  await until(() => effectsOf(database).length === 3);
  expect(effectsOf(database)).toEqual(["b1", "a1", "a2"]);
});

test("a batch is one call; a turn of it is a batch of one", async () => {
  const sizes: number[] = [];
  const { until } = await consuming(
    (consumer) =>
      consumer.handleBatch(
        orders,
        (messages, tx, { of, attempt }) => {
          sizes.push(messages.length);
          for (const message of messages) {
            expect(of(message)).toBe(of(message));
            insert(tx, message.value);
          }
          if (attempt < 4 && messages.some(({ value }) => value === "bad")) throw new Error("no");
        },
        { retry },
      ),
    ["a", "b", "bad", "c"].map((value) => ({ key: null, value })),
  );
  await until(() => effectsOf(database).length === 4);
  expect(effectsOf(database)).toEqual(["a", "b", "c", "bad"]);
  expect([sizes[0], sizes.at(-1)]).toEqual([4, 1]);
});
