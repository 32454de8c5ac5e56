/**
 * Seeks beside what goes on in the database: who waits for whom, what a lost reply leaves behind,
 * and which rights the verbs of an operator need.
 */
import { readFileSync } from "node:fs";
import { createInbox, type PartitionClaim, type Storage } from "@oncebox/core";
import { postgresStorage } from "@oncebox/postgres";
import type { ClientBase, Pool, PoolConfig } from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { TestDatabase } from "../fixtures/databases.ts";
import { testDatabase, uniqueName } from "../fixtures/servers.ts";
import { claimOf, noMark, type Place, place, recordAt } from "./postgres-place.ts";

let database: TestDatabase;
beforeAll(async () => {
  database = await testDatabase();
});
afterAll(() => database.drop());

const audit = { actor: "tests", reason: "to see it" };
const usual = { consumer: "consumer", topic: "topic", topicId: null, replay: false, audit };

function seek(
  storage: Storage<ClientBase>,
  moves: readonly { readonly partition: number; readonly to: bigint }[],
  expected: PartitionClaim | null = null,
) {
  return storage.seek({ ...usual, moves, expected });
}

/** Resolves when this many sessions wait for a lock. */
async function untilWaiting({ admin }: Place, sessions: number): Promise<void> {
  await expect
    .poll(async () => {
      const { rows } = await admin.query<{ count: number }>(
        `SELECT count(*)::int FROM pg_stat_activity
         WHERE datname = current_database() AND wait_event_type = 'Lock'`,
      );
      return rows[0]?.count;
    })
    .toBe(sessions);
}

/** Sends statements with this changed; everything else stays. */
function changing(pool: Pool, place: string, by: string): { readonly times: () => number } {
  let times = 0;
  pool.on("connect", (client) => {
    const query = client.query.bind(client) as (...args: unknown[]) => unknown;
    client.query = ((text: unknown, ...rest: unknown[]) => {
      if (typeof text !== "string" || !text.includes(place)) return query(text, ...rest);
      times += 1;
      return query(text.replace(place, by), ...rest);
    }) as typeof client.query;
  });
  return { times: () => times };
}

describe.each([false, true])("a seek, on a pool with pipeline: %s", (pipeline) => {
  const here = (config: PoolConfig = {}) => place(database, { pool: { pipeline, ...config } });

  // Guards the wait's bound and the words of its error.
  it("waits for a lock for a bounded time, says who holds it, and leaves all as it was", async () => {
    const p = await here();
    await p.claimed(0);
    const claim = await p.claimed(1);
    const chunk = await p.storage.open(claim, [recordAt(0)]);
    const { rows } = await chunk
      .handle()
      .tx.query<{ pid: number }>("SELECT pg_backend_pid() AS pid");
    const pool = database.pool({ pipeline });
    const shorter = changing(pool, "lock_timeout = 10000", "lock_timeout = 50");
    const moves = [0, 1].map((partition) => ({ partition, to: 7n }));
    const seeking = seek(postgresStorage({ pool, schema: p.schema }), moves);
    await expect(seeking).rejects.toMatchObject({
      code: "claim-timeout",
      retryable: true,
      message: expect.stringContaining("topic/1 for consumer could not be moved"),
      details: { blockingPid: rows[0]?.pid, blockingState: "idle in transaction" },
    });
    expect(shorter.times()).toBe(1);
    await chunk.commit(1n, noMark);
    expect([await p.nextOffset(0), await p.nextOffset(1)]).toEqual([0n, 1n]);
    expect(await p.storage.auditLog("consumer", { limit: 1, below: null })).toEqual([]);
    expect(pool.totalCount).toBe(pool.idleCount);
  });

  // Guards the lock before the look, and the new token: one chunk after another, without a pause.
  it("comes between two chunks of a busy consumer, and none comes after it", async () => {
    const p = await here();
    const claim = await p.claimed();
    let committed = 0n;
    const working = (async () => {
      for (let n = 0; ; n += 1) {
        const chunk = await p.storage.open(claim, [recordAt(n)]);
        const { tx, end } = chunk.handle();
        await p.insert(tx, String(n));
        end();
        await chunk.commit(BigInt(n + 1), noMark);
        committed = BigInt(n + 1);
      }
    })().catch((error: unknown) => error);
    await expect.poll(() => committed > 5n).toBe(true);
    const moved = await seek(p.storage, [{ partition: 0, to: 3n }]);
    expect(await working).toMatchObject({ code: "claim-lost" });
    expect(moved).toEqual([{ partition: 0, to: 3n, from: committed }]);
    expect(await p.nextOffset()).toBe(3n);
    expect((await p.effects()).length).toBe(Number(committed));
    const again = await claimOf(p.storage);
    expect(again.replay).toEqual({ number: 0, until: committed });
  });

  // Guards the order of the locks, where two servers' plans read the rows in two orders.
  it("does not deadlock with another that would read the rows the other way round", async () => {
    const p = await here();
    for (const partition of [0, 1, 2]) await p.claimed(partition);
    const table = `${p.schema}.inbox_partitions`;
    await p.admin.query(
      `CREATE TABLE ${p.schema}.old AS TABLE ${table}; DELETE FROM ${table};
       INSERT INTO ${table} SELECT * FROM ${p.schema}.old ORDER BY partition DESC`,
    );
    const off = (...plans: string[]) => plans.map((plan) => `-c enable_${plan}=off`).join(" ");
    const [byIndex, byTable] = [
      off("seqscan", "bitmapscan", "hashjoin", "mergejoin"),
      off("indexscan", "bitmapscan", "indexonlyscan", "hashjoin", "mergejoin"),
    ].map((options) =>
      postgresStorage({ pool: database.pool({ pipeline, options }), schema: p.schema }),
    ) as [Storage<ClientBase>, Storage<ClientBase>];
    const gate = await p.admin.connect();
    await gate.query(`BEGIN; SELECT FROM ${table} WHERE partition = 1 FOR UPDATE`);
    const moves = [0, 1, 2].map((partition) => ({ partition, to: 5n }));
    const both = Promise.all([seek(byIndex, moves), seek(byTable, moves)]);
    await untilWaiting(p, 2);
    await gate.query("COMMIT");
    gate.release();
    const froms = (await both).map((moved) => moved?.map(({ from }) => from));
    expect(froms.sort()).toEqual([
      [0n, 0n, 0n],
      [5n, 5n, 5n],
    ]);
  });
});

describe("positions", () => {
  // Guards HOT updates: every commit changes these columns.
  it("have no index on a column that a commit or a seek changes", async () => {
    const p = await place(database);
    const { rows } = await p.admin.query<{ column: string }>(
      `SELECT DISTINCT a.attname AS column FROM pg_index i
       JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
       WHERE i.indrelid = '${p.schema}.inbox_partitions'::regclass ORDER BY 1`,
    );
    expect(rows.map((row) => row.column)).toEqual(["consumer", "partition", "topic"]);
  });

  const positionsOf = (topics: readonly string[], offset: bigint) =>
    topics.map((topic) => ({ topic, topicId: null, start: new Map([[0, offset]]) }));
  const adoption = { consumer: "consumer", groupId: "group", audit };

  // Guards the lock of the registration: an adoption looks first, and inserts what it did not see.
  it("are adopted by one of two at once, and the other is told", async () => {
    const p = await place(database);
    await p.claimed();
    const gate = await p.admin.connect();
    // Lets everybody look, and nobody insert.
    await gate.query(`BEGIN; LOCK TABLE ${p.schema}.inbox_partitions IN SHARE MODE`);
    const both = Promise.allSettled(
      [5n, 6n].map((at) => p.storage.adopt({ ...adoption, topics: positionsOf(["a"], at) })),
    );
    await untilWaiting(p, 2);
    await gate.query("COMMIT");
    gate.release();
    const results = await both;
    expect(results.map(({ status }) => status).sort()).toEqual(["fulfilled", "rejected"]);
    const refused = results.find((result) => result.status === "rejected");
    expect(refused?.reason).toMatchObject({ code: "already-registered" });
    expect((await p.storage.auditLog("consumer", { limit: 9, below: null })).length).toBe(1);
  });

  // Guards the order of those locks.
  it("are adopted in opposite orders at once without a deadlock", async () => {
    const p = await place(database);
    await p.claimed();
    const topics = Array.from({ length: 20 }, (_, n) => `topic ${n + 10}`);
    for (let round = 0; round < 5; round += 1) {
      const names = topics.map((topic) => `${topic} of round ${round}`);
      const results = await Promise.allSettled(
        [names, [...names].reverse()].map((some) =>
          p.storage.adopt({ ...adoption, topics: positionsOf(some, 5n) }),
        ),
      );
      const refused = results.flatMap((result) =>
        result.status === "rejected" ? [result.reason.code] : [],
      );
      expect(refused).toEqual(["already-registered"]);
    }
  });
});

describe("the audit log", () => {
  // Guards the closed list, for readers of other versions and languages.
  it("takes no action that it does not know", async () => {
    const { storage } = await place(database);
    const unknown = { ...audit, consumer: "consumer", action: "delete" as "seek", details: {} };
    await expect(storage.audit(unknown)).rejects.toMatchObject({ details: { sqlState: "23514" } });
  });
});

describe("the grants of docs/database.md", () => {
  /** A storage for each role, with what the document grants it and nothing else. */
  async function roles(p: Place) {
    const text = readFileSync(new URL("../../docs/database.md", import.meta.url), "utf8");
    const block = /```sql\n(-- All\.\nGRANT[\s\S]*?)```/.exec(text)?.[1] ?? "";
    const prefix = uniqueName("role");
    const names = [...new Set(block.match(/\bapp_\w+/g))];
    expect(names).toContain("app_operator");
    for (const name of names) await p.admin.query(`CREATE ROLE ${prefix}_${name} LOGIN`);
    await p.admin.query(
      block.replaceAll("oncebox", p.schema).replaceAll(/\bapp_/g, `${prefix}_app_`),
    );
    return {
      storageOf: (name: string) => {
        const url = new URL(database.url);
        url.username = `${prefix}_${name}`;
        const pool = database.pool({ connectionString: url.href, user: url.username });
        return postgresStorage({ pool, schema: p.schema });
      },
      drop: async () => {
        for (const name of names) {
          await p.admin.query(`DROP OWNED BY ${prefix}_${name}; DROP ROLE ${prefix}_${name}`);
        }
      },
    };
  }

  // Guards the document: a right that it forgets, or a statement that needs more than it did.
  it("suffice for a consumer and for an operator, who cannot change the audit log", async () => {
    const p = await place(database);
    const { storageOf, drop } = await roles(p);
    const consumer = storageOf("app_consumer");
    const start = new Map([[0, 4n]]);
    const added = new Map<number, bigint>();
    const { topic, topicId } = usual;
    const names = { consumer: "consumer", groupId: "group" };
    await consumer.registerTopic({ ...names, topic, topicId, start, added });
    const claim = await claimOf(consumer);
    await (await consumer.open(claim, [recordAt(4)])).commit(5n, noMark);
    expect(await consumer.lostClaims([{ ...claim, nextOffset: 5n }])).toEqual([]);
    expect((await seek(consumer, [{ partition: 0, to: 2n }], claim))?.length).toBe(1);
    const log = consumer.auditLog("consumer", { limit: 1, below: null });
    await expect(log).rejects.toMatchObject({ details: { sqlState: "42501" } });

    const operator = storageOf("app_operator");
    await operator.check();
    expect(await operator.isRegistered("consumer", topic)).toBe(true);
    expect((await operator.positions("consumer")).positions.length).toBe(1);
    await seek(operator, [{ partition: 0, to: 1n }]);
    await operator.adopt({ ...names, topics: [{ topic: "other", topicId, start }], audit });
    await operator.audit({ ...audit, consumer: "consumer", action: "sync-offsets", details: {} });
    const lines = await operator.auditLog("consumer", { limit: 9, below: null });
    expect(lines.map((line) => line.action)).toEqual(["sync-offsets", "adopt", "seek", "seek"]);
    await drop();
  });

  it("suffice for an inbox without a consumer that prunes its ids", async () => {
    const p = await place(database);
    const { storageOf, drop } = await roles(p);
    const storage = storageOf("app_inbox");
    const inbox = createInbox({ name: "hooks", storage });
    const once = () => storage.transaction((tx) => inbox.once(tx, { source: "/", id: "1" }));
    expect([await once(), await once()]).toEqual(["new", "duplicate"]);
    const older = "UPDATE inbox_messages SET record_time = record_time - 86400000";
    await p.admin.query(older.replace("inbox_messages", `${p.schema}.inbox_messages`));
    expect(await inbox.prune({ windowMs: 60_000 })).toEqual({ ids: 1 });
    await drop();
  });
});
