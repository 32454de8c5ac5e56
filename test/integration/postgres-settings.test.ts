/**
 * The storage in a database whose settings change how values are read and written: a server, a
 * database or a role may have them for the sake of another application. Guards wire.ts (text forms of
 * bytes), the nulls inside of arrays, and that nothing rests on a path, a zone or a style.
 */
import { Buffer } from "node:buffer";
import type { OutboxEntry } from "@oncebox/core";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { TestDatabase } from "../fixtures/databases.ts";
import { testDatabase } from "../fixtures/servers.ts";
import { claimOf, entry, idOf, noMark, type Place, place, recordAt } from "./postgres-place.ts";

const odd: Readonly<Record<string, string>> = {
  bytea_output: "escape",
  array_nulls: "off",
  DateStyle: "SQL, DMY",
  TimeZone: "Asia/Kathmandu",
  IntervalStyle: "sql_standard",
  extra_float_digits: "-15",
  xmloption: "document",
  client_encoding: "LATIN1",
  search_path: "nowhere",
  quote_all_identifiers: "on",
  transform_null_equals: "on",
  plan_cache_mode: "force_generic_plan",
  default_transaction_isolation: "serializable",
  default_transaction_deferrable: "on",
  statement_timeout: "20s",
  lock_timeout: "20s",
};

let database: TestDatabase;
beforeAll(async () => {
  database = await testDatabase();
  const client = new pg.Client({ connectionString: database.url });
  await client.connect();
  const name = new URL(database.url).pathname.slice(1);
  for (const [setting, value] of Object.entries(odd)) {
    const list = setting === "DateStyle" ? value : `'${value}'`;
    await client.query(`ALTER DATABASE ${name} SET ${setting} = ${list}`);
  }
  // Only where it is a setting still: servers that know one way alone refuse the other.
  await client
    .query(`ALTER DATABASE ${name} SET standard_conforming_strings = off`)
    .catch(() => {});
  await client.end();
});
afterAll(() => database.drop());

const every = Uint8Array.from({ length: 256 }, (_, byte) => byte);
const bytes = (text: string) => Buffer.from(text, "latin1");

/** Contents that one text form or another could mistake. */
const contents: readonly Partial<OutboxEntry>[] = [
  { key: null, value: null },
  { key: bytes(""), value: bytes("") },
  { key: bytes("NULL"), value: bytes("null") },
  { key: bytes("\\x41"), value: bytes("\\\\x41,{}") },
  { key: every, value: every },
  {
    topic: "日本 'a\\b\"",
    headers: [
      ["none", null],
      ["", bytes("")],
      ["NULL", bytes("NULL")],
      ["日本", every],
      ['"', bytes('a,b"c\\d{}')],
      ["\\", bytes("\\x41")],
    ],
  },
];

const told = (row: Pick<OutboxEntry, "id" | "topic" | "key" | "value" | "headers">) => {
  const hex = (value: Uint8Array | null) =>
    value === null ? null : Buffer.from(value).toString("hex");
  const headers = row.headers.map(([name, value]) => [name, hex(value)]);
  return { id: row.id, topic: row.topic, key: hex(row.key), value: hex(row.value), headers };
};

async function published(p: Place): Promise<unknown[]> {
  const relay = { relay: "relay", leaseMs: 60_000, renew: [], acquireMax: 64 };
  const { leases, relays } = await p.storage.leaseLanes(relay);
  expect([leases.length, relays]).toEqual([64, 1]);
  const plenty = { rows: 1_000, bytes: 10_000_000, pending: [], sweep: false };
  const { rows } = await p.storage.readLanes(leases, plenty);
  expect(await p.storage.settleBatch(leases, rows)).toEqual({ lost: [] });
  expect((await p.storage.readLanes(leases, plenty)).rows).toEqual([]);
  await p.storage.releaseLanes("relay", leases);
  return rows.map(told);
}

describe.each([false, true])("on a pool with pipeline: %s, in odd settings", (pipeline) => {
  const here = () => place(database, { pool: { pipeline } });

  it("has them", async () => {
    const p = await here();
    for (const [setting, value] of Object.entries(odd)) {
      const { rows } = await p.pool.query(`SHOW ${setting}`);
      // The driver asks for its own encoding when it connects.
      const expected = setting === "client_encoding" ? "UTF8" : value;
      expect([setting, ...Object.values(rows[0])]).toEqual([setting, expected]);
    }
  });

  it.each(["one by one", "in one statement"])("publishes what was written %s", async (how) => {
    const p = await here();
    const rows = contents.map((content) => entry(3, content));
    await p.storage.transaction(async (tx) => {
      if (how === "in one statement") return p.storage.enqueue(tx, rows);
      for (const row of rows) await p.storage.enqueue(tx, [row]);
    });
    expect(await published(p)).toEqual(rows.map(told));
  });

  it("records, claims, handles and moves as anywhere", async () => {
    const p = await here();
    await p.storage.check();
    const claim = await p.claimed();
    const records = [0, 1].map((offset) => recordAt(offset, { source: 'a\0\\"日' }));
    const chunk = await p.storage.open(claim, records);
    expect(chunk.recorded).toEqual(["new", "new"]);
    await p.insert(chunk.handle().tx, "a");
    const last = { offset: 1n, timestamp: -7n, checksum: -1 };
    const mark = { topicId: "x_-9", leaderEpoch: 4, last };
    await chunk.commit(2n, mark);
    const next = await claimOf(p.storage);
    expect(next).toMatchObject({ nextOffset: 2n, epoch: claim.epoch + 1n, log: mark });
    expect(await p.storage.lostClaims([claim, next])).toEqual([claim]);
    const again = await p.storage.open(next, [recordAt(2, { source: 'a\0\\"日', id: idOf(0) })]);
    expect(again.recorded).toEqual(["duplicate"]);
    await again.commit(3n, noMark);
    const before = Date.now();
    const { consumer, topic } = claim;
    const audit = { actor: "tests \\", reason: "日本" };
    const moves = [{ partition: 0, to: 1n }];
    await p.storage.seek({
      ...{ consumer, topic, topicId: null, moves },
      ...{ replay: true, expected: null, audit },
    });
    const [line] = await p.storage.auditLog(consumer, { limit: 9, below: null });
    expect(line).toMatchObject({ ...audit, action: "seek" });
    expect(Math.abs((line?.at ?? 0) - before)).toBeLessThan(60_000);
    const { positions } = await p.storage.positions(consumer);
    expect(positions).toMatchObject([{ topic, partition: 0, nextOffset: 1n }]);
  });

  it("names who holds a claim up", async () => {
    const p = await here();
    const chunk = await p.storage.open(await p.claimed(), [recordAt(0)]);
    await expect(claimOf(p.storage, 0, 50)).rejects.toMatchObject({
      code: "claim-timeout",
      details: {
        blockingState: "idle in transaction",
        blockingTransactionAgeMs: expect.any(Number),
      },
    });
    await chunk.rollback();
  });

  it("knows ids with and without a checksum in a caller's transaction", async () => {
    const p = await here();
    const ids = [
      { source: "日\0", id: idOf(1), checksum: null },
      { source: "s", id: idOf(2), checksum: -1 },
      { source: "s", id: idOf(3), checksum: 2 ** 31 - 1 },
      { source: "s", id: idOf(4), checksum: -(2 ** 31) },
    ];
    const record = () => p.storage.transaction((tx) => p.storage.recordIds(tx, "hook", ids));
    expect(await record()).toEqual(ids.map(() => "new"));
    expect(await record()).toEqual(ids.map(() => "duplicate"));
    const { rows } = await p.admin.query(
      `SELECT checksum FROM ${p.schema}.inbox_messages ORDER BY id`,
    );
    expect(rows.map((row) => row.checksum)).toEqual(ids.map((id) => id.checksum));
  });
});
