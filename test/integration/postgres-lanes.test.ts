/** Leases of lanes, reading and settling on the Postgres storage. */
import type { LaneLease, OutboxRow, Storage } from "@oncebox/core";
import type { ClientBase } from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { TestDatabase } from "../fixtures/databases.ts";
import { testDatabase } from "../fixtures/servers.ts";
import { entry, type Place, place } from "./postgres-place.ts";

let database: TestDatabase;
beforeAll(async () => {
  database = await testDatabase();
});
afterAll(() => database.drop());

const relay = { relay: "relay", leaseMs: 60_000, renew: [], acquireMax: 64 };
const plenty = { rows: 1_000, bytes: 10_000_000, pending: [], sweep: false };

async function write(p: Place, ...lanes: number[]): Promise<void> {
  await p.storage.transaction((tx) =>
    p.storage.enqueue(
      tx,
      lanes.map((lane) => entry(lane)),
    ),
  );
}

const lanesOf = (leases: readonly { lane: number }[]) => leases.map((lease) => lease.lane);

async function drained(storage: Storage<ClientBase>, leases: readonly LaneLease[]) {
  const { rows } = await storage.readLanes(leases, plenty);
  await storage.settleBatch(leases, rows);
  return rows;
}

describe("leases", () => {
  it("are disjoint, renewed, and given back", async () => {
    const p = await place(database);
    const a = await p.storage.leaseLanes({ ...relay, relay: "a", acquireMax: 40 });
    const b = await p.storage.leaseLanes({ ...relay, relay: "b" });
    expect([a.leases.length, a.relays, b.leases.length, b.relays]).toEqual([40, 1, 24, 2]);
    const lanes = [...lanesOf(a.leases), ...lanesOf(b.leases)].sort((x, y) => x - y);
    expect(lanes).toEqual(Array.from({ length: 64 }, (_, lane) => lane));

    const again = await p.storage.leaseLanes({ ...relay, relay: "a", renew: a.leases });
    expect([again.leases.length, again.relays]).toEqual([40, 2]);
    expect(new Set(again.leases.map((lease) => lease.token))).toEqual(
      new Set(a.leases.map((lease) => lease.token)),
    );
    await p.storage.releaseLanes("b", b.leases.slice(0, 20));
    const token = "00000000-0000-0000-0000-000000000000";
    await p.storage.releaseLanes(
      "b",
      lanesOf(a.leases).map((lane) => ({ lane, token })),
    );
    const c = await p.storage.leaseLanes({ ...relay, relay: "c" });
    expect([c.leases.length, c.relays]).toEqual([20, 3]);
    await p.storage.releaseLanes("b", b.leases.slice(20));
    const d = await p.storage.leaseLanes({ ...relay, relay: "d" });
    expect([d.leases.length, d.relays]).toEqual([4, 3]);
  });

  it("are taken over when they have expired, and only then", async () => {
    const p = await place(database);
    const old = await p.storage.leaseLanes({ ...relay, relay: "old", leaseMs: 1 });
    await expect
      .poll(() => p.storage.leaseLanes({ ...relay, relay: "new" }).then((a) => a.leases.length))
      .toBe(64);
    const renewed = await p.storage.leaseLanes({ ...relay, relay: "old", renew: old.leases });
    expect(renewed.leases).toEqual([]);
  });

  it("that nobody took over are renewed after they have expired", async () => {
    const p = await place(database);
    const { leases } = await p.storage.leaseLanes({ ...relay, leaseMs: 1 });
    await p.admin.query("SELECT pg_sleep(0.01)");
    const renewed = await p.storage.leaseLanes({ ...relay, renew: leases });
    expect(new Set(renewed.leases.map((lease) => lease.token))).toEqual(
      new Set(leases.map((lease) => lease.token)),
    );
  });

  it("are shared out without waiting when many relays start at once", async () => {
    const p = await place(database);
    const answers = await Promise.all(
      Array.from({ length: 8 }, (_, index) =>
        p.storage.leaseLanes({ ...relay, relay: `relay ${index}`, acquireMax: 8 }),
      ),
    );
    const lanes = answers.flatMap((answer) => lanesOf(answer.leases));
    expect(new Set(lanes).size).toBe(lanes.length);
  });
});

describe("settling", () => {
  it("deletes exactly what is named, whatever was committed in between", async () => {
    const p = await place(database);
    await write(p, 1, 1, 1, 2);
    const { leases } = await p.storage.leaseLanes(relay);
    const { rows } = await p.storage.readLanes(leases, plenty);
    await write(p, 1);
    const some = rows.filter((row) => row.position === 1n || row.position === 3n);
    expect(await p.storage.settleBatch(leases, some)).toEqual({ lost: [] });
    const rest = await p.admin.query(
      `SELECT position::int FROM ${p.schema}.outbox_messages ORDER BY position`,
    );
    expect(rest.rows.map((row) => row.position)).toEqual([2, 4, 5]);
    // Again, as after a lost reply.
    expect(await p.storage.settleBatch(leases, some)).toEqual({ lost: [] });
  });

  it("deletes nothing in a lane that was taken over, and says which", async () => {
    const p = await place(database);
    await write(p, 1, 2);
    const old = await p.storage.leaseLanes({ ...relay, relay: "old" });
    const { rows } = await p.storage.readLanes(old.leases, plenty);
    await p.admin.query(`UPDATE ${p.schema}.outbox_lanes SET leased_until = now() WHERE lane = 1`);
    const taken = await p.storage.leaseLanes({ ...relay, relay: "new" });
    expect(lanesOf(taken.leases)).toEqual([1]);
    expect(await p.storage.settleBatch(old.leases, rows)).toEqual({ lost: [1] });
    expect(lanesOf(await drained(p.storage, taken.leases))).toEqual([1]);
    // A lane that was never leased is no better.
    await write(p, 1);
    const [one] = (await p.storage.readLanes(taken.leases, plenty)).rows as OutboxRow[];
    expect(await p.storage.settleBatch([], [one as OutboxRow])).toEqual({ lost: [1] });
  });
});

describe("reading", () => {
  it("takes turns between lanes, in order within each", async () => {
    const p = await place(database);
    await write(p, ...Array<number>(500).fill(7), 3, 3, 9);
    const { leases } = await p.storage.leaseLanes(relay);
    const read = await p.storage.readLanes(leases, { ...plenty, rows: 100 });
    expect(read).toMatchObject({ more: true, belowFloor: 0 });
    const lanes = lanesOf(read.rows);
    expect([7, 3, 9].map((lane) => lanes.filter((other) => other === lane).length)).toEqual([
      97, 2, 1,
    ]);
    const seven = read.rows.filter((row) => row.lane === 7).map((row) => row.position);
    expect(seven).toEqual(Array.from({ length: 97 }, (_, index) => BigInt(index + 1)));
  });

  it("goes on behind what is pending, and sees what was committed below it", async () => {
    const p = await place(database);
    const late = await p.pool.connect();
    await late.query("BEGIN");
    await p.storage.enqueue(late, [entry(1)]);
    await write(p, 1, 1, 1, 1);
    const { leases } = await p.storage.leaseLanes(relay);
    const first = await p.storage.readLanes(leases, { ...plenty, rows: 2 });
    expect(first.rows.map((row) => row.position)).toEqual([2n, 3n]);
    await late.query("COMMIT");
    late.release();
    const second = await p.storage.readLanes(leases, { ...plenty, pending: first.rows });
    expect(second.rows.map((row) => row.position)).toEqual([1n, 4n, 5n]);
    expect(second.more).toBe(false);
    const pending = [...first.rows, ...second.rows];
    const third = await p.storage.readLanes(leases, { ...plenty, pending });
    expect(third).toEqual({ rows: [], more: false, belowFloor: 0 });
  });

  it("never starts a second look above what the first found", async () => {
    // The first look finds one row of a full lane and the limits of the others; while it is asked
    // again for the rest, a lower row of the same key may have been committed.
    const p = await place(database, { pool: { max: 2 } });
    const late = await p.admin.connect();
    await late.query("BEGIN");
    await p.storage.enqueue(late, [entry(1, { id: "before" })]);
    const { leases } = await p.storage.leaseLanes(relay);
    await write(p, ...Array<number>(50).fill(1));
    let looks = 0;
    p.pool.on("acquire", () => {
      looks += 1;
    });
    p.pool.on("release", () => {
      // After the first look, before the second.
      if (looks === 1) late.query("COMMIT").catch(() => {});
    });
    const { rows } = await p.storage.readLanes(leases, { ...plenty, rows: 40 });
    expect(rows.length).toBe(40);
    const before = rows.findIndex((row) => row.id === "before");
    const next = await p.storage.readLanes(leases, { ...plenty, pending: rows });
    // Seen by the second look or by the next read, never passed over.
    expect(before >= 0 || next.rows[0]?.id === "before").toBe(true);
    late.release();
  });

  it("keeps to its bytes, but returns one row whatever its size", async () => {
    const p = await place(database);
    const big = new Uint8Array(100_000);
    await p.storage.transaction((tx) =>
      p.storage.enqueue(
        tx,
        [1, 1, 1, 2].map((lane) => entry(lane, { value: big })),
      ),
    );
    const { leases } = await p.storage.leaseLanes(relay);
    const sizes: number[] = [];
    for (const bytes of [1, 150_000, 250_000, 350_000, 1_000_000]) {
      const read = await p.storage.readLanes(leases, { ...plenty, bytes });
      expect(read.more).toBe(read.rows.length < 4);
      sizes.push(read.rows.length);
    }
    expect(sizes).toEqual([1, 1, 2, 3, 4]);
  });

  it("finds everything whatever the limits are", async () => {
    const p = await place(database);
    const lanes = Array.from({ length: 300 }, (_, index) => (index * index) % 13);
    await write(p, ...lanes);
    for (const rows of [1, 2, 7, 64, 299, 300, 301]) {
      const { leases } = await p.storage.leaseLanes({ ...relay, relay: `relay ${rows}` });
      const found: OutboxRow[] = [];
      for (let more = true; more; ) {
        const read = await p.storage.readLanes(leases, { ...plenty, rows, pending: found });
        expect(read.rows.length).toBeLessThanOrEqual(rows);
        expect(read.rows.length > 0 || !read.more).toBe(true);
        found.push(...read.rows);
        more = read.more;
      }
      expect(new Set(found.map((row) => row.position)).size).toBe(300);
      await p.storage.releaseLanes(`relay ${rows}`, leases);
    }
  });

  it("sweeps from the start, and counts what a wrong floor has hidden", async () => {
    const p = await place(database);
    await write(p, 1, 1, 2);
    await p.admin.query(`UPDATE ${p.schema}.outbox_lanes SET floor = 1 WHERE lane = 1`);
    const { leases } = await p.storage.leaseLanes(relay);
    expect((await p.storage.readLanes(leases, plenty)).rows.length).toBe(2);
    const swept = await p.storage.readLanes(leases, { ...plenty, sweep: true });
    expect([swept.rows.length, swept.belowFloor]).toEqual([3, 1]);
    // From now on it is read without a sweep as well.
    expect((await p.storage.readLanes(leases, plenty)).rows.length).toBe(3);
  });
});
