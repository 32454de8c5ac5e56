/**
 * Parked messages beside what goes on in PostgreSQL: who waits for whom, what pools that take at the
 * same time get, what an index is asked, and which statements a shared transaction refuses.
 */
import { randomUUID } from "node:crypto";
import type { ParkedTurn, RecordRef, Storage, ToPark } from "@oncebox/core";
import { postgresStorage } from "@oncebox/postgres";
import { knexStorage } from "@oncebox/postgres/knex";
import type { Knex } from "knex";
import pg, { type ClientBase, type QueryConfig } from "pg";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { openKnex } from "../conformance/knex-under-test.ts";
import type { TestDatabase } from "../fixtures/databases.ts";
import { testDatabase } from "../fixtures/servers.ts";
import { claimOf, noMark, type Place, place, recordAt } from "./postgres-place.ts";

let database: TestDatabase;
beforeAll(async () => {
  database = await testDatabase();
});
afterAll(() => database.drop());

const audit = { actor: "tests", reason: "to see it" };
const filter = { consumer: "consumer" };
const page = { limit: 1_000, above: null };
const usual = { consumer: "consumer", topics: ["topic"], limit: 100, leaseMs: 60_000 };
const failed = { code: "handler-failed", text: "the handler's own" };
const bytes = (text: string) => new TextEncoder().encode(text);

function toPark(offset: number, key: string | null, more: Partial<ToPark["record"]> = {}): ToPark {
  const record = {
    ...{ offset: BigInt(offset), timestamp: 1n, headers: [] },
    ...{ key: key === null ? null : bytes(key), value: bytes(`${offset}`), ...more },
  };
  return { record, state: "waiting", attempts: 1, afterMs: 0, error: failed };
}

function keyed(offset: number, key: string | null): RecordRef {
  return recordAt(offset, { key: key === null ? null : bytes(key) });
}

/** A chunk that parks these and nothing else, up to behind the last. */
async function park(storage: Storage<ClientBase>, rows: readonly ToPark[]): Promise<void> {
  const chunk = await storage.open(await claimOf(storage), []);
  const last = rows.at(-1)?.record.offset ?? 0n;
  await chunk.commit(last + 1n, noMark, rows);
}

const take = (storage: Storage<ClientBase>, more: Partial<typeof usual> = {}) =>
  storage.takeParked({ ...usual, token: randomUUID(), ...more });

async function takeOne(storage: Storage<ClientBase>): Promise<ParkedTurn> {
  const [turn, ...others] = await take(storage);
  expect([turn === undefined, others.length]).toEqual([false, 0]);
  return turn as ParkedTurn;
}

const offsetsOf = (turns: readonly ParkedTurn[]) =>
  turns.map(({ record }) => Number(record.offset));

/** Resolves when one session waits for a lock. */
async function untilOneWaits({ admin }: Place): Promise<void> {
  await expect
    .poll(async () => {
      const { rows } = await admin.query(
        "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
      );
      return rows.length;
    })
    .toBe(1);
}

describe.each([false, true])("parked messages, on a pool with pipeline: %s", (pipeline) => {
  const here = async () => {
    const p = await place(database, { pool: { pipeline } });
    const claim = await p.claimed();
    const pool = database.pool({ pipeline, max: 5 });
    return { ...p, claim, other: postgresStorage({ pool, schema: p.schema }) };
  };

  // Guards FOR UPDATE SKIP LOCKED with the comparison behind the lock, and the head that is asked of
  // all rows: pools that take at once, and turns of which one in three fails.
  it("are tried in the order of their keys, each by one pool at a time", async () => {
    const p = await here();
    const keys = Array.from({ length: 120 }, (_, n) => (n % 6 === 5 ? null : `key ${n % 6}`));
    await park(
      p.storage,
      keys.map((key, offset) => toPark(offset, key)),
    );
    const trying = new Set<string>();
    let tries = 0;
    const tryOne = async (storage: Storage<ClientBase>, turn: ParkedTurn) => {
      const name = String(keys[Number(turn.record.offset)] ?? turn.id);
      expect(trying.has(name)).toBe(false);
      trying.add(name);
      tries += 1;
      const transaction = await storage.openParked(turn);
      await p.insert(transaction.handle().tx, `${turn.record.offset}`.padStart(3, "0"));
      const fails = turn.attempts === 2 && turn.record.offset % 3n === 0n;
      if (fails) await transaction.rollback();
      trying.delete(name);
      if (!fails) return transaction.commit();
      const settled = { state: "waiting", counts: true, afterMs: 0, error: failed } as const;
      expect(await storage.settleParked(turn, settled)).toBe(true);
    };
    let over = false;
    const run = async (storage: Storage<ClientBase>) => {
      while (!over && (await storage.parked(filter, page)).length > 0) {
        const turns = await take(storage, { limit: 3 });
        await Promise.all(turns.map((turn) => tryOne(storage, turn))).catch((error: unknown) => {
          over = true;
          throw error;
        });
      }
    };
    await Promise.all([run(p.storage), run(p.other), run(p.storage), run(p.other)]);
    const { rows } = await p.admin.query<{ text: string }>(
      `SELECT text FROM ${p.schema}.effects ORDER BY ctid`,
    );
    const applied = rows.map((row) => Number(row.text));
    expect([...applied].sort((a, b) => a - b)).toEqual(keys.map((_, offset) => offset));
    expect(tries).toBe(120 + 40);
    for (let key = 0; key < 5; key += 1) {
      const ofKey = applied.filter((offset) => offset % 6 === key);
      expect(ofKey).toEqual([...ofKey].sort((a, b) => a - b));
    }
  });

  it("are passed by while somebody has them locked, and so is what stands behind them", async () => {
    const p = await here();
    await park(p.storage, [toPark(0, "a"), toPark(1, "a"), toPark(2, "b")]);
    const holder = await p.admin.connect();
    await holder.query("BEGIN");
    const [id] = await p.storage.parked(filter, page);
    const lock = `SELECT FROM ${p.schema}.parked_messages WHERE id = $1 FOR UPDATE`;
    await holder.query(lock, [id?.id]);
    expect(offsetsOf(await take(p.storage))).toEqual([2]);
    await holder.query("ROLLBACK");
    holder.release();
    expect(offsetsOf(await take(p.other))).toEqual([0]);
  });

  // Guards that a chunk looks in a statement of its own, and that a turn's row stays to be seen.
  it("hold up a chunk that looks while a turn is open: it parks behind it", async () => {
    const p = await here();
    await park(p.storage, [toPark(0, "a")]);
    const turn = await p.storage.openParked(await takeOne(p.storage));
    const claim = await claimOf(p.other);
    const chunk = await p.other.open(claim, [keyed(1, "a"), keyed(2, "b")]);
    expect(chunk.recorded).toEqual(["held", "new"]);
    await turn.commit();
    await chunk.commit(3n, noMark, [toPark(1, "a")]);
    expect(offsetsOf(await take(p.storage))).toEqual([1]);
  });

  // Guards the hint, which has to come from the row behind its lock, and the look behind it: both are
  // younger than the snapshot of the statement that waited.
  it("are seen by a chunk that waited for the one that parked them", async () => {
    const p = await here();
    const first = await p.storage.open(p.claim, [keyed(0, "a")]);
    const waiting = p.other.open(p.claim, [keyed(0, "a"), keyed(1, "a"), keyed(2, "b")]);
    await untilOneWaits(p);
    await first.commit(1n, noMark, [toPark(0, "a")]);
    const chunk = await waiting;
    expect(chunk.recorded).toEqual(["done", "held", "new"]);
    await chunk.rollback();
  });

  it("are looked for only while there may be some", async () => {
    const p = await here();
    const hint = async () => {
      const { rows } = await p.admin.query(`SELECT parked FROM ${p.schema}.inbox_partitions`);
      return rows[0]?.parked;
    };
    expect(await hint()).toBe(false);
    await park(p.storage, [toPark(0, "a")]);
    expect(await hint()).toBe(true);
    await (await p.storage.openParked(await takeOne(p.storage))).commit();
    expect(await hint()).toBe(true);
    await park(p.storage, []);
    expect(await hint()).toBe(false);
  });

  it.each(["commit", "rollback"] as const)(
    "are skipped behind the %s of their turn",
    async (end) => {
      const p = await here();
      await park(p.storage, [toPark(0, "a")]);
      const turn = await takeOne(p.storage);
      const transaction = await p.storage.openParked(turn);
      const skipping = p.other.changeParked({ action: "skip", filter, page, audit });
      await untilOneWaits(p);
      await transaction[end]();
      const skipped = end === "commit" ? 0 : 1;
      expect(await skipping).toEqual({ changed: skipped, next: null });
      expect(await p.storage.parked(filter, page)).toEqual([]);
      const log = await p.storage.auditLog("consumer", { limit: 10, below: null });
      expect(log.map(({ action }) => action)).toEqual(end === "commit" ? [] : ["skip"]);
      await expect(p.storage.openParked(turn)).rejects.toMatchObject({ code: "claim-lost" });
      const dead = { state: "dead", counts: true, afterMs: 0, error: failed } as const;
      expect(await p.storage.settleParked(turn, dead)).toBe(false);
    },
  );

  it("are left alone by a redrive while they are tried, without waiting", async () => {
    const p = await here();
    await park(p.storage, [toPark(0, "a"), toPark(1, "a")]);
    const turn = await takeOne(p.storage);
    const transaction = await p.storage.openParked(turn);
    const redriven = await p.other.changeParked({ action: "redrive", filter, page, audit });
    expect(redriven).toEqual({ changed: 1, next: null });
    await transaction.commit();
    expect(await p.storage.parked(filter, page)).toMatchObject([{ attempts: 0, error: failed }]);
  });

  // Guards the statement that removes the row: it is the last of a turn, not the first.
  it("stay parked where a handler ends the transaction of its turn", async () => {
    const p = await here();
    await park(p.storage, [toPark(0, "a")]);
    const turn = await takeOne(p.storage);
    const transaction = await p.storage.openParked(turn);
    const { tx } = transaction.handle();
    await tx.query("SELECT 1; COMMIT");
    const ended = { code: "transaction-ended-early" };
    await expect(transaction.commit()).rejects.toMatchObject(ended);
    expect(await p.storage.parked(filter, page)).toMatchObject([{ state: "retrying" }]);
    await (await p.storage.openParked(turn)).commit();
    expect(await p.storage.parked(filter, page)).toEqual([]);
  });

  // Guards the pipelined commit: what failed first says why, not the statements behind it.
  it("tell why they could not be parked, and the chunk leaves nothing", async () => {
    const p = await here();
    const chunk = await p.storage.open(p.claim, [keyed(0, "a")]);
    const tooMany = { ...toPark(0, "a"), attempts: 2 ** 40 };
    const outcome = chunk.commit(1n, noMark, [tooMany]);
    await expect(outcome).rejects.toMatchObject({
      code: "storage-failed",
      cause: { code: "22003" },
    });
    expect([await p.nextOffset(), await p.storage.parked(filter, page)]).toEqual([0n, []]);
    await park(p.storage, [toPark(0, "a")]);
    expect(p.pool.totalCount - p.pool.idleCount).toBe(0);
  });

  it("keep every byte, keys that no index could hold, and headers as they were", async () => {
    const p = await here();
    const every = Uint8Array.from({ length: 256 }, (_, n) => n);
    // Random, so that compression cannot make them fit.
    const long = Uint8Array.from({ length: 10_000 }, (_, n) => (n * n * 31 + (n >> 3) * 17) % 251);
    const longer = Uint8Array.of(...long, 0);
    const headers = [
      ["a", every],
      ["\0\\0\\", null],
      ["a", new Uint8Array(0)],
      ["", bytes('{"NULL"}')],
    ] as const;
    const rows = [
      toPark(0, null, { key: long, value: every, headers }),
      toPark(1, null, { key: longer, value: null }),
      toPark(2, null, { key: every, value: new Uint8Array(0) }),
      toPark(3, null, { key: new Uint8Array(0) }),
      toPark(4, null, { key: null }),
    ];
    await park(p.storage, rows);
    const records = rows.map(({ record }) => record);
    const found = await p.storage.parked(filter, page);
    expect(found.map(({ record }) => plain(record))).toEqual(records.map(plain));
    const turns = await take(p.storage);
    expect(turns.map(({ record }) => plain(record))).toEqual(records.map(plain));
    const ofLong = await p.storage.parked({ ...filter, key: long }, page);
    expect(ofLong.map(({ record }) => record.offset)).toEqual([0n]);
    const chunk = await p.storage.open(await claimOf(p.storage), [
      recordAt(5, { key: long }),
      recordAt(6, { key: longer }),
      recordAt(7, { key: long.subarray(1) }),
    ]);
    expect(chunk.recorded).toEqual(["held", "held", "new"]);
    await chunk.rollback();
  });
});

/** With bytes as hex: the driver's are a kind of its own. */
function plain(record: ToPark["record"]): unknown {
  const hex = (value: Uint8Array | null) => value && Buffer.from(value).toString("hex");
  const { key, value, headers, ...rest } = record;
  const list = headers.map(([name, of]) => [name, hex(of)]);
  return { ...rest, key: hex(key), value: hex(value), headers: list };
}

// Guards the indexes of 0004_parked.sql: no statement that runs by itself may read the whole table.
it("taking, and a chunk's look, read by index among 10,000 rows", async () => {
  const sent: QueryConfig[] = [];
  class Recording extends pg.Client {
    // biome-ignore lint/suspicious/noExplicitAny: the original has a dozen overloads
    override query(config: any, ...rest: any[]): any {
      if (typeof config !== "string") sent.push(config);
      return (super.query as (...args: unknown[]) => unknown).call(this, config, ...rest);
    }
  }
  const p = await place(database, { pool: { Client: Recording } });
  await p.claimed();
  for (let from = 0; from < 10_000; from += 1_000) {
    const rows = Array.from({ length: 1_000 }, (_, n) =>
      toPark(from + n, `key ${(from + n) % 500}`),
    );
    await park(p.storage, rows);
  }
  await p.admin.query(`ANALYZE ${p.schema}.parked_messages`);
  const plansOf = async (verb: string): Promise<string> => {
    const query = sent.findLast(({ text }) => text.startsWith(`/* oncebox_${verb} */`));
    if (query === undefined) throw new Error(`oncebox_${verb} was not sent`);
    const explained = await p.admin.query<{ "QUERY PLAN": string }>(
      `EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) ${query.text}`,
      query.values,
    );
    return explained.rows.map((row) => row["QUERY PLAN"]).join("\n");
  };
  expect(offsetsOf(await take(p.storage, { limit: 20 }))).toEqual(
    Array.from({ length: 20 }, (_, n) => n),
  );
  const taking = await plansOf("take_parked");
  expect(taking).toMatch(/Index Scan using parked_messages_due/);
  expect(taking).toMatch(/Index (Only )?Scan using parked_messages_key/);
  expect(taking).toMatch(/Index Scan using parked_messages_pkey/);
  expect(taking).not.toMatch(/Seq Scan on parked_messages/);
  const keys = Array.from({ length: 200 }, (_, n) => keyed(10_000 + n, `key ${n * 5}`));
  const chunk = await p.storage.open(await claimOf(p.storage), keys);
  expect(chunk.recorded.filter((each) => each === "held")).toHaveLength(100);
  await chunk.rollback();
  const looking = await plansOf("among_parked");
  expect(looking).toMatch(/using parked_messages_key/);
  expect(looking).toMatch(/using parked_messages_place/);
  expect(looking).not.toMatch(/Seq Scan on parked_messages/);
});

describe("a handle that is shared", () => {
  const refusal = { code: "transaction-shared" };

  // Guards that each form of a query is looked at, before anything is sent.
  it("refuses what reaches others, however it is asked", async () => {
    const p = await place(database);
    const chunk = await p.storage.open(await p.claimed(), [keyed(0, null)]);
    const { tx, refused } = chunk.handle({ shared: true });
    await p.insert(tx, "one");
    await tx.query("LOCK TABLE pg_class IN ACCESS SHARE MODE");
    expect(refused()).toBe(false);
    await expect(tx.query("SAVEPOINT a")).rejects.toMatchObject(refusal);
    expect(refused()).toBe(true);
    await expect(tx.query({ text: "SELECT 1; SET LOCAL x.y = 1" })).rejects.toMatchObject(refusal);
    await expect(tx.query({ name: "prepared before", text: "" })).resolves.toBeDefined();
    const unknown = { name: "prepared before" } as unknown as QueryConfig;
    await expect(tx.query(unknown)).rejects.toMatchObject(refusal);
    const byCallback = await new Promise((resolve) => tx.query("ROLLBACK TO a", resolve));
    expect(byCallback).toMatchObject(refusal);
    expect(() => tx.query(new pg.Query("DISCARD ALL"))).toThrow(expect.objectContaining(refusal));
    const next = chunk.handle();
    await next.tx.query("SAVEPOINT a; SET LOCAL x.y = 1; ROLLBACK TO a; RELEASE a");
    expect(next.refused()).toBe(false);
    await chunk.commit(1n, noMark);
    expect(await p.effects()).toEqual(["one"]);
  });

  it("refuses a nested transaction of knex, which is a savepoint", async () => {
    const p = await place(database);
    const names: Knex.Config = { wrapIdentifier: (name, wrap) => wrap(name) };
    const knex = openKnex({ connectionString: database.url, max: 2 }, names);
    const storage = knexStorage(knex, { schema: p.schema });
    const chunk = await storage.open(await p.claimed(), [keyed(0, null)]);
    const { tx, refused } = chunk.handle({ shared: true });
    await tx(`${p.schema}.effects`).insert({ text: "one" });
    expect(refused()).toBe(false);
    const called = vi.fn(async () => {});
    await expect(tx.transaction(called)).rejects.toMatchObject(refusal);
    // knex asks for a transaction by itself here.
    const batch = tx.batchInsert(`${p.schema}.effects`, [{ text: "two" }]);
    await expect(batch).rejects.toMatchObject(refusal);
    await expect(tx.transaction()).rejects.toMatchObject(refusal);
    await expect(tx.savepoint(called)).rejects.toMatchObject(refusal);
    await expect(tx.raw("set local x.y = 1")).rejects.toMatchObject(refusal);
    expect([refused(), called.mock.calls]).toEqual([true, []]);
    await chunk.handle().tx.transaction((trx) => trx.raw("select 1"));
    await chunk.commit(1n, noMark);
    expect(await p.effects()).toEqual(["one"]);
    await storage.close();
    await knex.destroy();
  });
});
