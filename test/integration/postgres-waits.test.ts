/**
 * How long the storage's own statements wait for locks, and how long they hold them: neither without
 * limit, whatever another transaction or a frozen process does.
 */

import { setTimeout as delay } from "node:timers/promises";
import type { PartitionClaim } from "@oncebox/core";
import { postgresStorage } from "@oncebox/postgres";
import { knexStorage } from "@oncebox/postgres/knex";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { openKnex } from "../conformance/knex-under-test.ts";
import type { TestDatabase } from "../fixtures/databases.ts";
import { type FaultProxy, startProxy } from "../fixtures/proxy.ts";
import { testDatabase } from "../fixtures/servers.ts";
import { claimOf, noMark, type Place, place, recordAt } from "./postgres-place.ts";

let database: TestDatabase;
let proxy: FaultProxy;
beforeAll(async () => {
  database = await testDatabase();
});
beforeEach(async () => {
  const { port, hostname } = new URL(database.url);
  proxy = await startProxy(Number(port), hostname);
});
afterEach(() => proxy.close());
afterAll(() => database.drop());

/** Freezes the sender from the message on that contains this text, with all it has sent before. */
function frozenBefore(text: string): Promise<void> {
  return new Promise((resolve) => {
    let frozen = false;
    proxy.onChunk = (way, _, bytes) => {
      if (way !== "toServer") return "pass";
      frozen ||= bytes.includes(text);
      if (frozen) resolve();
      return frozen ? "hold" : "pass";
    };
  });
}

async function frozenAndHealthy(): Promise<{ frozen: Place; healthy: Place["storage"] }> {
  const url = new URL(database.url);
  url.host = `127.0.0.1:${proxy.port}`;
  const storage = { idleInTransactionTimeoutMs: 300 };
  const frozen = await place(database, { pool: { connectionString: url.href }, storage });
  const pool = database.pool({ max: 3 });
  return { frozen, healthy: postgresStorage({ pool, schema: frozen.schema }) };
}

// Guards the idle time-out of the storage's own transactions (partitions.ts, own-transaction.ts): a
// process that stands still between their statements and COMMIT would hold rows until it dies.
describe("a process that freezes in a transaction of the storage's own", () => {
  const moving = (claim: PartitionClaim) => ({
    ...{ consumer: claim.consumer, topic: claim.topic, topicId: null },
    ...{ moves: [{ partition: 0, to: 7n }], replay: false, expected: null },
    audit: { actor: "tests", reason: "to see it" },
  });
  const registering = {
    ...{ consumer: "consumer", groupId: "group", topic: "topic", topicId: null },
    ...{ start: new Map([[0, 0n]]), added: new Map() },
  };
  const verbs = {
    claim: (p: Place) => claimOf(p.storage),
    seek: (p: Place, claim: PartitionClaim) => p.storage.seek(moving(claim)),
    register: (p: Place) => p.storage.registerTopic(registering),
  } as const;

  it.each(["claim", "seek", "register"] as const)("%s: holds its locks no longer", async (verb) => {
    const { frozen, healthy } = await frozenAndHealthy();
    const claim = await frozen.claimed();
    const before = frozenBefore("COMMIT\0");
    const outcome = verbs[verb](frozen, claim).then(
      () => null,
      (error: unknown) => error,
    );
    await before;
    // The wait is longer than the time-out, and shorter than anything else that could end it.
    const waiting =
      verb === "register"
        ? healthy.registerTopic(registering)
        : claimOf(healthy, 0, 5_000).then(({ nextOffset }) => expect(nextOffset).toBe(0n));
    await waiting;
    proxy.onChunk = undefined;
    proxy.release();
    const error = await outcome;
    expect(error).not.toBeNull();
    expect(frozen.storage.trouble(error)).not.toBeNull();
  });
});

/** Half of it is waited for locks. A busy machine may stand still for a second. */
const answerTimeoutMs = 4_000;

// Guards the lock waits of oncebox_open and oncebox_add_names: without one the wait ends when the
// connection is destroyed for its silence, which counts as a database that is gone, and leaves a
// backend behind that waits on.
describe.each([false, true])("with pipeline: %s, a chunk that waits for another", (pipeline) => {
  const here = () => place(database, { pool: { pipeline }, storage: { answerTimeoutMs } });
  const waiting = async ({ admin }: Place) => {
    const { rows } = await admin.query(
      "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
    );
    return rows.length;
  };

  it("for an id gives up in time, as trouble of its own, and comes through later", async () => {
    const p = await here();
    const [first, second] = [await p.claimed(0), await p.claimed(1)];
    const holder = await p.storage.open(first, [recordAt(0)]);
    const connections = p.pool.totalCount;
    const error = await p.storage.open(second, [recordAt(0)]).catch((reason: unknown) => reason);
    expect(error).toMatchObject({ code: "storage-conflict", details: { sqlState: "55P03" } });
    expect(p.storage.trouble(error)).toBe("local");
    expect(await waiting(p)).toBe(0);
    expect(p.pool.totalCount).toBeLessThanOrEqual(connections + 1);
    expect(p.pool.idleCount).toBe(p.pool.totalCount - 1);
    await holder.commit(1n, noMark);
    const chunk = await p.storage.open(second, [recordAt(0)]);
    expect(chunk.recorded).toEqual(["duplicate"]);
    await chunk.rollback();
  });

  it("for a name gives up in time, as trouble of its own, and comes through later", async () => {
    const p = await here();
    const claim = await p.claimed();
    const other = await p.admin.connect();
    await other.query(`BEGIN; INSERT INTO ${p.schema}.sources (name) VALUES ('topic')`);
    const error = await p.storage.open(claim, [recordAt(0)]).catch((reason: unknown) => reason);
    expect(error).toMatchObject({ code: "storage-conflict", details: { sqlState: "55P03" } });
    expect(await waiting(p)).toBe(0);
    await other.query("ROLLBACK");
    other.release();
    const chunk = await p.storage.open(claim, [recordAt(0)]);
    await chunk.commit(1n, noMark);
    expect(await p.nextOffset()).toBe(1n);
  });

  // Set by SET, not by an option: a reset to the default would lose it.
  it("leaves a lock_timeout of the session to its handlers and to whoever comes after", async () => {
    const p = await here();
    p.pool.on("connect", (client) => void client.query("SET lock_timeout = '4321ms'"));
    const chunk = await p.storage.open(await p.claimed(), [recordAt(0)]);
    const { tx } = chunk.handle();
    const { rows } = await tx.query("SHOW lock_timeout");
    expect(rows).toEqual([{ lock_timeout: "4321ms" }]);
    await chunk.commit(1n, noMark);
    const after = await p.pool.query("SHOW lock_timeout");
    expect(after.rows).toEqual([{ lock_timeout: "4321ms" }]);
  });
});

it("gives up the same way on connections of knex", async () => {
  const p = await place(database);
  const [first, second] = [await p.claimed(0), await p.claimed(1)];
  const knex = openKnex({ connectionString: database.url, max: 5 });
  const storage = knexStorage(knex, { schema: p.schema, answerTimeoutMs });
  const holder = await p.storage.open(first, [recordAt(0)]);
  const error = await storage.open(second, [recordAt(0)]).catch((reason: unknown) => reason);
  expect(error).toMatchObject({ code: "storage-conflict", details: { sqlState: "55P03" } });
  await holder.rollback();
  const chunk = await storage.open(second, [recordAt(0)]);
  const trx = chunk.handle().tx;
  const { rows } = await new Promise<{ rows: unknown[] }>((resolve, reject) => {
    trx
      .raw("SHOW lock_timeout")
      .on("query-response", (_: unknown, query: { response: { rows: unknown[] } }) => {
        resolve(query.response);
      })
      .then(() => {}, reject);
  });
  expect(rows).toEqual([{ lock_timeout: "0" }]);
  await chunk.rollback();
  await storage.close();
  await delay(0);
  await knex.destroy();
});
