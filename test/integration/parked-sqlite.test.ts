// Parked messages in SQLite as several processes on one file meet them, and what is kept of their
// bytes; what a handle refuses that others use at the same time, where only SQLite has it.

import { randomUUID } from "node:crypto";
import { join } from "node:path";
import type { LogMark, PartitionClaim, SyncStorage, ToPark } from "@oncebox/core";
import { migrate, sqliteStorage } from "@oncebox/sqlite";
import { knexStorage } from "@oncebox/sqlite/knex";
import type Database from "better-sqlite3";
import createKnex, { type Knex } from "knex";
import { afterEach, beforeEach, expect, test } from "vitest";
import { effectsOf, openDatabase, temporaryFolder } from "../conformance/sqlite-knex-under-test.ts";
import { spawnWorker, type Worker } from "../fixtures/child.ts";

const mark: LogMark = { topicId: null, leaderEpoch: null, last: null };
const taker = new URL("../fixtures/workers/sqlite-taker.ts", import.meta.url);
const everything = { limit: 10_000, above: null };
const billing = { consumer: "billing" };
const take = { ...billing, topics: ["orders"], limit: 100, leaseMs: 60_000 };

let place: ReturnType<typeof temporaryFolder>;
let file: string;
let database: Database.Database;
let storage: SyncStorage<Database.Database>;
let workers: Worker[];

beforeEach(async () => {
  place = temporaryFolder();
  file = join(place.folder, "main.db");
  database = openDatabase(file);
  database.exec("CREATE TABLE effects (text TEXT NOT NULL)");
  await migrate(database);
  storage = sqliteStorage({ database });
  workers = [];
});
afterEach(async () => {
  for (const worker of workers) worker.kill();
  await Promise.all(workers.map(({ exited }) => exited));
  database.close();
  place.remove();
});

function spawnTaker(...args: readonly string[]): Worker {
  const worker = spawnWorker(taker, { args: [file, ...args] });
  workers.push(worker);
  return worker;
}

async function claimed(): Promise<PartitionClaim> {
  await storage.registerTopic({
    ...{ ...billing, groupId: "billing", topic: "orders", topicId: null },
    ...{ start: new Map([[0, 0n]]), added: new Map() },
  });
  const ref = { ...billing, topic: "orders", partition: 0, owner: "test" };
  return (await storage.claim(ref, 1_000)) as PartitionClaim;
}

const bytes = (text: string) => new TextEncoder().encode(text);

function toPark(offset: bigint, record: Partial<ToPark["record"]> = {}): ToPark {
  return {
    record: { offset, timestamp: 0n, key: null, value: null, headers: [], ...record },
    ...{ state: "waiting", attempts: 0, afterMs: 0, error: null },
  };
}

async function parkAll(park: readonly ToPark[]): Promise<void> {
  const last = park.reduce((max, { record }) => (record.offset > max ? record.offset : max), 0n);
  const end = { nextOffset: last + 1n, mark, park };
  storage.chunkSync(await claimed(), [], () => end);
}

// Guards that a turn is found and taken behind one write lock. A control in which nobody takes the
// lock finds the same message twice.
test.each([
  { how: "one lock at a time", args: [], doubled: false },
  { how: "without the lock, the control", args: ["unlocked"], doubled: true },
])("two processes take at once, $how", async ({ args, doubled }) => {
  const count = 1_500;
  const both = [spawnTaker("keep", "60000", ...args), spawnTaker("keep", "60000", ...args)];
  await Promise.all(both.map((worker) => worker.waitFor("ready")));
  // Every third has no key; the others have one each.
  const keyOf = (n: number) => (n % 3 === 0 ? null : bytes(`key ${n}`));
  await parkAll(Array.from({ length: count }, (_, n) => toPark(BigInt(n), { key: keyOf(n) })));
  const waiting = { ...billing, state: "waiting" } as const;
  const left = async () => (await storage.parked(waiting, { limit: 1, above: null })).length;
  while ((await left()) > 0) await new Promise((resolve) => setTimeout(resolve, 10));
  // What was taken last may not have been told yet.
  await Promise.all(both.map((worker) => worker.waitFor("nothing left")));
  const taken = both.map((worker) => worker.steps.filter(({ step }) => step === "took"));
  const ids = taken.flat().map(({ data }) => String(data?.id));
  expect(new Set(ids).size < ids.length).toBe(doubled);
  // Without both it would have shown nothing.
  for (const each of taken) expect(each.length).toBeGreaterThan(count / 20);
  if (doubled) return;
  expect(ids.length).toBe(count);
  for (const { attempts } of await storage.parked(billing, everything)) expect(attempts).toBe(1);
});

// Guards the file's one write lock: a consumer asks every second, mostly in vain, and must neither wait
// for whoever writes nor hold them up.
test("taking needs the write lock only where something is due", async () => {
  const later = { ...toPark(0n, { key: bytes("later") }), afterMs: 3_600_000 };
  const dead = { ...toPark(1n, { key: bytes("dead") }), state: "dead" } as const;
  await parkAll([later, dead]);
  const hasty = sqliteStorage({ database, busyTimeoutMs: 100 });
  const writer = openDatabase(file);
  try {
    writer.exec("BEGIN IMMEDIATE");
    expect(await hasty.takeParked({ ...take, token: randomUUID() })).toEqual([]);
    writer.exec(
      "UPDATE oncebox_parked_messages SET state = 'waiting', next_attempt_at = 0; COMMIT",
    );
    writer.exec("BEGIN IMMEDIATE");
    const refused = await hasty
      .takeParked({ ...take, token: randomUUID() })
      .catch((error: unknown) => error);
    expect(hasty.trouble(refused)).toBe("local");
    writer.exec("COMMIT");
    expect((await hasty.takeParked({ ...take, token: randomUUID() })).length).toBe(2);
  } finally {
    writer.close();
  }
});

// Guards the lease: without it a message whose process died would never be tried again. And that
// taking commits before the try: the attempt counts though nothing came of it.
test.each([
  { manner: "hold", step: "took", where: "between taking and trying" },
  { manner: "inside", step: "inside", where: "in the middle of the try" },
])("a kill $where: when the lease has run out it is tried again, and counted", async (killed) => {
  await parkAll([toPark(7n, { key: bytes("k") })]);
  const worker = spawnTaker(killed.manner, "1500");
  await worker.waitFor(killed.step);
  worker.kill();
  expect((await worker.exited).signal).toBe("SIGKILL");
  const [lost] = await storage.parked(billing, everything);
  expect(lost).toMatchObject({ state: "retrying", attempts: 1 });
  let turns = await storage.takeParked({ ...take, token: randomUUID() });
  while (turns.length === 0) {
    await new Promise((resolve) => setTimeout(resolve, 10));
    turns = await storage.takeParked({ ...take, token: randomUUID() });
  }
  expect(Date.now()).toBeGreaterThanOrEqual(lost?.nextAttemptAt ?? Number.POSITIVE_INFINITY);
  const [turn] = turns;
  if (turn === undefined) throw new Error("nothing was taken");
  expect(turn).toMatchObject({ attempts: 2, record: { offset: 7n } });
  // Whoever was overtaken can neither settle nor try: what the killed one knew is void.
  const token = String(worker.steps.find(({ step }) => step === "took")?.data?.token);
  const old = { ...turn, token, attempts: 1 };
  const error = { code: "handler-failed", text: "late" };
  const outcome = { state: "dead", counts: true, afterMs: 0, error } as const;
  expect(await storage.settleParked(old, outcome)).toBe(false);
  expect(() => storage.parkedSync(old, () => {})).toThrow(
    expect.objectContaining({ code: "claim-lost" }),
  );
  storage.parkedSync(turn, ({ tx }) => {
    tx.prepare("INSERT INTO effects VALUES (?)").run(`done ${turn.attempts}`);
  });
  expect(effectsOf(database)).toEqual(["done 2"]);
  expect(await storage.parked(billing, everything)).toEqual([]);
});

const all = Uint8Array.from({ length: 256 }, (_, n) => n);
const long = new Uint8Array(60_000).fill(0x6b);
const longToo = Uint8Array.from(long);
longToo.set([0x6c], long.length - 1);
const large = Uint8Array.from({ length: 3_000_000 }, (_, n) => (n * 7_919) % 256);
const repeated = [
  ["h", all],
  ["other", null],
  ["h", new Uint8Array(0)],
  ["h", bytes("last")],
] as const;

/** Each with a key of its own, so each is the first of its key. */
const records: readonly ToPark["record"][] = [
  { offset: 2n ** 62n, timestamp: -1n, key: null, value: null, headers: [] },
  { offset: 3n, timestamp: 2n ** 62n, key: new Uint8Array(0), value: large, headers: repeated },
  { offset: 2n, timestamp: 5n, key: long, value: new Uint8Array(0), headers: [["", all]] },
  { offset: 1n, timestamp: 5n, key: longToo, value: all, headers: [["\u0000\u{1f4e6}", null]] },
  { offset: 4n, timestamp: 5n, key: all.subarray(1, 3), value: all.subarray(250), headers: [] },
];

/** With bytes in hex: the driver gives its own kind, and a list of millions is slow to compare. */
function plain({ key, value, headers, ...record }: ToPark["record"]) {
  const hex = (given: Uint8Array | null) => given && Buffer.from(given).toString("hex");
  const each = headers.map(([name, header]) => [name, hex(header)] as const);
  return { ...record, key: hex(key), value: hex(value), headers: each };
}

// Guards the bytes: nothing is re-encoded on the way in or out, and a key is itself however long it is.
test("every byte of what was parked comes back, in each of its forms", async () => {
  await parkAll(records.map((record) => ({ ...toPark(0n), record })));
  const expected = records.map(plain);
  const seen = await storage.parked(billing, everything);
  expect(seen.map(({ record }) => plain(record))).toStrictEqual(expected);
  const turns = await storage.takeParked({ ...take, token: randomUUID() });
  const taken = turns.toSorted((a, b) => Number(a.id - b.id)).map(({ record }) => plain(record));
  expect(taken).toStrictEqual(expected);
  for (const { key, offset } of records) {
    if (key === null) continue;
    const found = await storage.parked({ ...billing, key }, everything);
    expect(found.map(({ record }) => record.offset)).toEqual([offset]);
  }
});

// Guards the look-up by a hash of the key: another key of the same length, beginning and place is not
// held up, and the same bytes in another buffer are.
test("a long key holds up its own messages and no others", async () => {
  await parkAll([toPark(0n, { key: long })]);
  const claim = await claimed();
  const keys = [longToo, Uint8Array.from(long), new Uint8Array(0), null];
  const refs = keys.map((key, n) => {
    const seen = { timestamp: 0n, source: "orders", id: null, checksum: 0 };
    return { ...seen, offset: claim.nextOffset + BigInt(n), key };
  });
  storage.chunkSync(claim, refs, ({ recorded, nextOffset }) => {
    expect(recorded).toEqual(["new", "held", "new", "new"]);
    return { nextOffset, mark };
  });
});

// Guards the driver beneath knex, which has more ways than texts of one statement to work on all.
test("what a shared handle refuses of the driver is refused before it is sent", async () => {
  const claim = await claimed();
  const knex = createKnex({
    ...{ client: "better-sqlite3", connection: { filename: file }, useNullAsDefault: true },
  });
  try {
    const chunk = await knexStorage(knex).open(claim, []);
    const shared = expect.objectContaining({ code: "transaction-shared" });
    const ways: readonly ((db: Database.Database) => unknown)[] = [
      (db) => db.exec("INSERT INTO effects VALUES ('sent'); SAVEPOINT a"),
      (db) => db.exec("SELECT 'it''s'; /* ; */ ROLLBACK"),
      (db) => db.pragma("defer_foreign_keys = ON"),
      (db) => db.transaction(() => db.exec("INSERT INTO effects VALUES ('sent')"))(),
      (db) => db.defaultSafeIntegers(),
    ];
    for (const way of ways) {
      const { tx, end, refused } = chunk.handle({ shared: true });
      const db: Database.Database = await tx.client.acquireConnection();
      expect(refused()).toBe(false);
      expect(() => way(db)).toThrow(shared);
      expect(refused(), String(way)).toBe(true);
      end();
    }
    const { tx, end, refused } = chunk.handle({ shared: true });
    const columns = await tx.raw("PRAGMA table_info(effects)");
    expect(columns).toMatchObject([{ name: "text" }]);
    await insert(tx, "one; savepoint two");
    let entered = false;
    const nested = tx.transaction(async (part) => {
      entered = true;
      await insert(part, "in a part");
    });
    expect(refused()).toBe(true);
    await expect(nested).rejects.toEqual(shared);
    expect(entered).toBe(false);
    end();
    await chunk.commit(1n, mark);
    expect(effectsOf(database)).toEqual(["one; savepoint two"]);
  } finally {
    await knex.destroy();
  }
});

async function insert(tx: Knex.Transaction, value: string): Promise<void> {
  await tx("effects").insert({ text: value });
}
