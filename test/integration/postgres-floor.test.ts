/**
 * The floor of a lane: rows become visible out of the order of their positions, so where a relay
 * starts to read is a proof, not a cursor. Each wrong rule that looks right is shown to lose a row
 * here, in the same events that the storage comes through. A server of its own: transaction ids are
 * counted for all of its databases, and these events need them without gaps.
 */
import type { LaneLease, OutboxRow } from "@oncebox/core";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createDatabase, type TestDatabase } from "../fixtures/databases.ts";
import { type PostgresServer, startPostgres } from "../fixtures/postgres.ts";
import { entry, type Place, place } from "./postgres-place.ts";

let server: PostgresServer;
let database: TestDatabase;
beforeAll(async () => {
  server = await startPostgres({ settings: { autovacuum: "off" } });
  database = await createDatabase(server.url);
});
afterAll(async () => {
  await database.drop();
  await server.stop();
});

const relay = { relay: "relay", leaseMs: 600_000, renew: [], acquireMax: 64 };
const plenty = { rows: 1_000, bytes: 10_000_000, pending: [], sweep: false };
const lane = 5;

/** Transactions that take their ids and positions when they are told. */
class Writer {
  readonly #client: pg.Client;
  xid = 0n;

  constructor() {
    this.#client = new pg.Client({ connectionString: database.url });
  }

  static async begin(): Promise<Writer> {
    const writer = new Writer();
    await writer.#client.connect();
    await writer.#client.query("BEGIN");
    const { rows } = await writer.#client.query("SELECT pg_current_xact_id()::text AS xid");
    writer.xid = BigInt(rows[0].xid);
    return writer;
  }

  async write(p: Place, id: string): Promise<bigint> {
    await p.storage.enqueue(this.#client, [entry(lane, { id })]);
    const { rows } = await this.#client.query(
      `SELECT position FROM ${p.schema}.outbox_messages WHERE message_id = $1`,
      [id],
    );
    return BigInt(rows[0].position);
  }

  async end(how: "COMMIT" | "ROLLBACK"): Promise<void> {
    await this.#client.query(how);
    await this.#client.end();
  }
}

interface Snapshot {
  readonly xmin: bigint;
  readonly xmax: bigint;
}

async function snapshot(p: Place): Promise<Snapshot> {
  const { rows } = await p.admin.query(
    `SELECT pg_snapshot_xmin(s)::text AS xmin, pg_snapshot_xmax(s)::text AS xmax
     FROM pg_current_snapshot() AS s`,
  );
  return { xmin: BigInt(rows[0].xmin), xmax: BigInt(rows[0].xmax) };
}

/** One turn of a relay: reads, settles, and says what it published. */
async function turn(p: Place, leases: readonly LaneLease[]): Promise<string[]> {
  const { rows } = await p.storage.readLanes(leases, plenty);
  await p.storage.settleBatch(leases, rows);
  return rows.map((row) => row.id);
}

/** Gives the lanes back, which stores their floors. */
async function floorOf(p: Place, leases: readonly LaneLease[]): Promise<bigint> {
  await p.storage.releaseLanes(relay.relay, leases);
  const { rows } = await p.admin.query(
    `SELECT floor FROM ${p.schema}.outbox_lanes WHERE lane = $1`,
    [lane],
  );
  return BigInt(rows[0].floor);
}

describe("a row whose transaction commits late", () => {
  it("is published, when it has the lower id as well", async () => {
    const p = await place(database);
    const { leases } = await p.storage.leaseLanes(relay);
    const late = await Writer.begin();
    const other = await Writer.begin();
    await late.write(p, "late");
    await other.write(p, "other");
    await other.end("COMMIT");
    for (const expected of [["other"], [], []]) expect(await turn(p, leases)).toEqual(expected);
    await late.end("COMMIT");
    expect(await turn(p, leases)).toEqual(["late"]);
    await turn(p, leases);
    await turn(p, leases);
    expect(await floorOf(p, leases)).toBe(2n);
  });

  it("is published, when it has the higher id, where the row's own id proves nothing", async () => {
    const p = await place(database);
    const { leases } = await p.storage.leaseLanes(relay);
    const other = await Writer.begin();
    const late = await Writer.begin();
    const hidden = await late.write(p, "late");
    const position = await other.write(p, "other");
    await other.end("COMMIT");
    for (const expected of [["other"], [], []]) expect(await turn(p, leases)).toEqual(expected);

    // The wrong rule: "a row whose own id is below xmin has nothing below it any more".
    const { xmin } = await snapshot(p);
    expect(other.xid).toBeLessThan(xmin);
    const wrongFloor = position;
    await late.end("COMMIT");
    expect(hidden).toBeLessThanOrEqual(wrongFloor);
    expect(await turn(p, leases)).toEqual(["late"]);
  });

  it("is published, where the snapshot's xmax as the mark would pass it over", async () => {
    const p = await place(database);
    const { leases } = await p.storage.leaseLanes(relay);
    const first = await Writer.begin();
    const second = await Writer.begin();
    const late = await Writer.begin();
    const hidden = await late.write(p, "late");
    const position = await first.write(p, "first");
    await first.end("COMMIT");
    // The wrong rule: the mark is xmax of the snapshot that read the highest position.
    const read = await snapshot(p);
    expect(await turn(p, leases)).toEqual(["first"]);
    await second.end("ROLLBACK");
    const later = await snapshot(p);
    expect(read.xmax).toBeLessThanOrEqual(late.xid);
    expect(later.xmin).toBeGreaterThan(read.xmax);
    const wrongFloor = position;

    for (let again = 0; again < 3; again += 1) expect(await turn(p, leases)).toEqual([]);
    await late.end("COMMIT");
    expect(hidden).toBeLessThanOrEqual(wrongFloor);
    expect(await turn(p, leases)).toEqual(["late"]);
  });

  it("is published, where sequence and snapshot read in one statement would pass it over", async () => {
    const p = await place(database);
    const { leases } = await p.storage.leaseLanes(relay);
    const gate = await p.admin.connect();
    const reader = await p.admin.connect();
    await gate.query("SELECT pg_advisory_lock(1)");
    // The wrong rule: the sequence's value is covered by the snapshot it was read with. The gate
    // stands for the moment between the two.
    const reading = reader.query(
      `SELECT pg_snapshot_xmax(pg_current_snapshot())::text AS xmax, pg_advisory_lock_shared(1),
         (SELECT last_value FROM ${p.schema}.outbox_messages_position_seq) AS position`,
    );
    await expect
      .poll(async () => {
        const { rows } = await gate.query(
          "SELECT count(*)::int AS waiting FROM pg_locks WHERE locktype = 'advisory' AND NOT granted",
        );
        return rows[0].waiting;
      })
      .toBe(1);
    const first = await Writer.begin();
    const late = await Writer.begin();
    const hidden = await late.write(p, "late");
    await gate.query("SELECT pg_advisory_unlock_all()");
    const { rows } = await reading;
    await first.end("ROLLBACK");
    const { xmin } = await snapshot(p);
    expect(xmin).toBeGreaterThan(BigInt(rows[0].xmax));
    const wrongFloor = BigInt(rows[0].position);

    expect(await turn(p, leases)).toEqual([]);
    await late.end("COMMIT");
    expect(hidden).toBeLessThanOrEqual(wrongFloor);
    expect(await turn(p, leases)).toEqual(["late"]);
    for (const client of [gate, reader]) client.release(true);
  });

  it("holds the floor, not the publishing, and the floor follows when it has ended", async () => {
    const p = await place(database);
    const { leases } = await p.storage.leaseLanes(relay);
    const elsewhere = await Writer.begin();
    for (let round = 0; round < 5; round += 1) {
      const writer = await Writer.begin();
      await writer.write(p, `row ${round}`);
      await writer.end("COMMIT");
      expect(await turn(p, leases)).toEqual([`row ${round}`]);
    }
    const held = await p.storage.leaseLanes({ ...relay, renew: leases });
    await elsewhere.end("ROLLBACK");
    await turn(p, held.leases);
    await turn(p, held.leases);
    expect(await floorOf(p, held.leases)).toBe(5n);
  });
});

describe("a floor", () => {
  it("is taken from the lane by its next holder, who goes on above it", async () => {
    const p = await place(database);
    const { leases } = await p.storage.leaseLanes(relay);
    for (const id of ["a", "b"]) {
      const writer = await Writer.begin();
      await writer.write(p, id);
      await writer.end("COMMIT");
      await turn(p, leases);
    }
    await turn(p, leases);
    expect(await floorOf(p, leases)).toBe(2n);
    const next = await p.storage.leaseLanes({ ...relay, relay: "next" });
    const writer = await Writer.begin();
    await writer.write(p, "c");
    await writer.end("COMMIT");
    expect(await turn(p, next.leases)).toEqual(["c"]);
    const swept = await p.storage.readLanes(next.leases, { ...plenty, sweep: true });
    expect(swept).toMatchObject({ belowFloor: 0 });
  });

  it("is void when another server answers, where positions may come again", async () => {
    const p = await place(database);
    const { leases } = await p.storage.leaseLanes(relay);
    for (const id of ["a", "b", "c"]) {
      const writer = await Writer.begin();
      await writer.write(p, id);
      await writer.end("COMMIT");
      await turn(p, leases);
    }
    await turn(p, leases);
    // As after a fail-over to a replica that lagged: leases are there, later positions are not.
    await p.admin.query(
      `ALTER TABLE ${p.schema}.outbox_messages ALTER COLUMN position RESTART WITH 1`,
    );
    await server.restart();
    const writer = await Writer.begin();
    expect(await writer.write(p, "again")).toBe(1n);
    await writer.end("COMMIT");
    expect(await turn(p, leases)).toEqual(["again"]);
  });

  it("does not rise by what was read while the settling ran", async () => {
    const p = await place(database);
    const { leases } = await p.storage.leaseLanes(relay);
    const early = await Writer.begin();
    await early.write(p, "early");
    await early.end("COMMIT");
    const { rows } = await p.storage.readLanes(leases, plenty);
    // Locks the lane, so that the settling has its id and waits for the answer.
    const lock = await p.admin.connect();
    await lock.query(
      `BEGIN; SELECT FROM ${p.schema}.outbox_messages WHERE lane = ${lane} FOR UPDATE`,
    );
    const settling = p.storage.settleBatch(leases, rows);
    await expect
      .poll(async () => {
        const { rows: waiting } = await p.admin.query(
          "SELECT count(*)::int AS n FROM pg_stat_activity WHERE wait_event_type = 'Lock'",
        );
        return waiting[0].n;
      })
      .toBe(1);
    // Younger than the settling transaction, in reverse order of position.
    const late = await Writer.begin();
    const other = await Writer.begin();
    await late.write(p, "late");
    await other.write(p, "other");
    await other.end("COMMIT");
    const meanwhile = await p.storage.readLanes(leases, { ...plenty, pending: rows });
    expect(meanwhile.rows.map((row) => row.id)).toEqual(["other"]);
    await lock.query("ROLLBACK");
    lock.release();
    await settling;
    await p.storage.readLanes(leases, { ...plenty, pending: meanwhile.rows });
    await late.end("COMMIT");
    const last = await p.storage.readLanes(leases, { ...plenty, pending: meanwhile.rows });
    expect(last.rows.map((row) => row.id)).toEqual(["late"]);
  });
});

it("misses and repeats nothing, and inverts no key, with many writers and overlapped settling", async () => {
  const p = await place(database, { pool: { max: 8, pipeline: true } });
  await p.admin.query(`CREATE TABLE ${p.schema}.keys (key int PRIMARY KEY, n int NOT NULL)`);
  await p.admin.query(`INSERT INTO ${p.schema}.keys SELECT g, 0 FROM generate_series(0, 9) g`);
  const committed = new Set<string>();
  let writing = 6;
  const write = async (writer: number) => {
    const client = new pg.Client({ connectionString: database.url });
    await client.connect();
    for (let round = 0; round < 60; round += 1) {
      const key = (writer * 7 + round * 3) % 10;
      await client.query("BEGIN");
      // Sometimes the id long before the lock, sometimes after it.
      if (round % 3 === 0) await client.query("SELECT pg_current_xact_id(), pg_sleep(0.002)");
      const { rows } = await client.query(
        `UPDATE ${p.schema}.keys SET n = n + 1 WHERE key = $1 RETURNING n`,
        [key],
      );
      const id = `${key}/${rows[0].n}`;
      await p.storage.enqueue(client, [entry(key, { id })]);
      if (round % 4 === 0) await client.query("SELECT pg_sleep(0.003)");
      const rollback = round % 10 === 9;
      await client.query(rollback ? "ROLLBACK" : "COMMIT");
      if (!rollback) committed.add(id);
    }
    await client.end();
    writing -= 1;
  };
  const published: OutboxRow[] = [];
  const publish = async () => {
    const { leases } = await p.storage.leaseLanes(relay);
    let pending: readonly OutboxRow[] = [];
    let settling: Promise<unknown> = Promise.resolve();
    for (;;) {
      const last = writing === 0;
      const { rows } = await p.storage.readLanes(leases, { ...plenty, rows: 7, pending });
      await settling;
      published.push(...rows);
      pending = rows;
      settling = p.storage.settleBatch(leases, rows);
      if (last && rows.length === 0) break;
    }
    await settling;
    const swept = await p.storage.readLanes(leases, { ...plenty, sweep: true });
    expect(swept).toMatchObject({ rows: [], belowFloor: 0 });
    await p.storage.readLanes(leases, plenty);
    await p.storage.releaseLanes(relay.relay, leases);
  };
  await Promise.all([publish(), ...Array.from({ length: 6 }, (_, writer) => write(writer))]);
  expect(published.length).toBe(committed.size);
  expect(new Set(published.map((row) => row.id))).toEqual(committed);
  for (let key = 0; key < 10; key += 1) {
    const order = published.filter((row) => row.lane === key).map((row) => Number(row.id.slice(2)));
    expect(order).toEqual([...order].sort((a, b) => a - b));
  }
  const { rows } = await p.admin.query(
    `SELECT max(floor)::int AS floor FROM ${p.schema}.outbox_lanes`,
  );
  expect(rows[0].floor).toBeGreaterThan(300);
});
