/** Claims and chunks of the Postgres storage: fence, ids, position, and how a chunk ends. */
import type { ChunkTransaction } from "@oncebox/core";
import { postgresStorage } from "@oncebox/postgres";
import pg, { type ClientBase } from "pg";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import type { TestDatabase } from "../fixtures/databases.ts";
import { testDatabase } from "../fixtures/servers.ts";
import { claimOf, idOf, noMark, place, recordAt } from "./postgres-place.ts";

let database: TestDatabase;
beforeAll(async () => {
  database = await testDatabase();
});
afterAll(() => database.drop());

describe.each([false, true])("on a pool with pipeline: %s", (pipeline) => {
  const here = (storage = {}) => place(database, { pool: { pipeline }, storage });
  type Chunk = ChunkTransaction<ClientBase>;
  const apply = async (of: Awaited<ReturnType<typeof here>>, chunk: Chunk, text: string) => {
    const { tx, end } = chunk.handle();
    await of.insert(tx, text);
    end();
  };

  it("says what it found", async () => {
    const { storage } = await here({ idleInTransactionTimeoutMs: null });
    expect(await storage.check()).toEqual({
      pipelined: pipeline,
      poolSize: 5,
      idleInTransactionTimeoutMs: null,
    });
  });

  it("commits ids, effects and position together", async () => {
    const p = await here();
    const claim = await p.claimed();
    const chunk = await p.storage.open(claim, [recordAt(0), recordAt(1, { id: null })]);
    expect([chunk.nextOffset, chunk.recorded]).toEqual([0n, ["new", "new"]]);
    await apply(p, chunk, "a");
    expect([await p.effects(), await p.nextOffset()]).toEqual([[], 0n]);
    await chunk.commit(7n, noMark);
    expect([await p.effects(), await p.nextOffset()]).toEqual([["a"], 7n]);
  });

  it("rolls all of it back", async () => {
    const p = await here();
    const claim = await p.claimed();
    const chunk = await p.storage.open(claim, [recordAt(0)]);
    await apply(p, chunk, "a");
    expect(await chunk.rollback()).toBe(true);
    expect(await chunk.rollback()).toBe(true);
    await expect(chunk.commit(1n, noMark)).rejects.toMatchObject({ code: "transaction-finished" });
    const again = await p.storage.open(claim, [recordAt(0)]);
    expect([again.nextOffset, again.recorded]).toEqual([0n, ["new"]]);
    await again.rollback();
    expect(await p.effects()).toEqual([]);
  });

  it("tells duplicates, conflicts and what is done apart", async () => {
    const p = await here();
    const claim = await p.claimed();
    const first = await p.storage.open(
      claim,
      [0, 1, 2].map((offset) => recordAt(offset)),
    );
    await first.commit(3n, noMark);
    const records = [
      recordAt(2),
      recordAt(3, { id: idOf(0) }),
      recordAt(4, { id: idOf(1), checksum: 2 }),
      recordAt(5, { id: idOf(1), source: "another" }),
      recordAt(6),
      recordAt(7, { id: idOf(6) }),
      recordAt(8, { id: idOf(6), checksum: -5 }),
      recordAt(9, { id: null }),
      recordAt(1, { id: null }),
    ];
    const chunk = await p.storage.open(claim, records);
    expect(chunk.recorded).toEqual([
      ...["done", "duplicate", "conflict", "new", "new", "duplicate", "conflict", "new", "done"],
    ]);
    await chunk.rollback();
  });

  it("keeps offsets, sources and topics exact beyond the usual", async () => {
    const p = await here();
    const big = 2n ** 62n;
    const start = new Map([[2 ** 31 - 1, big]]);
    const topic = 'a\\b"c';
    const [consumer, groupId] = ["c", "g"];
    await p.storage.registerTopic({
      consumer,
      groupId,
      topic,
      topicId: null,
      start,
      added: new Map(),
    });
    const ref = { consumer, topic, partition: 2 ** 31 - 1, owner: "o'x" };
    const claim = await p.storage.claim(ref, 1_000);
    if (claim === null) throw new Error("not registered");
    const sources = ["a\0b", "a\\0b", "a\\\\0b", "{,}", "NULL", " "];
    const records = sources.map((source, index) =>
      recordAt(0, { source, offset: big + BigInt(index), id: idOf(1), timestamp: -1n }),
    );
    const chunk = await p.storage.open(claim, records);
    expect(chunk.nextOffset).toBe(big);
    expect(chunk.recorded).toEqual(sources.map(() => "new"));
    await chunk.commit(big + 9n, noMark);
    const again = await p.storage.claim(ref, 1_000);
    expect(again).toMatchObject({ nextOffset: big + 9n, epoch: 2n });
  });

  it("fences an old claim at open, and a chunk that it still had open", async () => {
    const p = await here();
    const old = await p.claimed();
    const claim = await claimOf(p.storage);
    expect(claim).toMatchObject({ epoch: old.epoch + 1n, incarnation: old.incarnation });
    expect(claim.token).not.toBe(old.token);
    await expect(p.storage.open(old, [recordAt(0)])).rejects.toMatchObject({ code: "claim-lost" });
    const unknown = { ...claim, consumer: "nobody" };
    await expect(p.storage.open(unknown, [])).rejects.toMatchObject({ code: "claim-lost" });

    const chunk = await p.storage.open(claim, [recordAt(0)]);
    await apply(p, chunk, "a");
    // As if the lock had not held: the row is changed under it by the transaction's own handler.
    const { tx } = chunk.handle();
    await tx.query(`UPDATE ${p.schema}.inbox_partitions SET token = gen_random_uuid()`);
    await expect(chunk.commit(1n, noMark)).rejects.toMatchObject({ code: "claim-lost" });
    expect([await p.effects(), await p.nextOffset()]).toEqual([[], 0n]);
  });

  it("does not move a position that is not where it was", async () => {
    const p = await here();
    const chunk = await p.storage.open(await p.claimed(), []);
    const { tx } = chunk.handle();
    await tx.query(`UPDATE ${p.schema}.inbox_partitions SET next_offset = 5`);
    await expect(chunk.commit(1n, noMark)).rejects.toMatchObject({ code: "claim-lost" });
    expect(await p.nextOffset()).toBe(0n);
  });

  it("waits for the chunk of the previous holder, and says who keeps it waiting", async () => {
    const p = await here();
    const claim = await p.claimed();
    const chunk = await p.storage.open(claim, [recordAt(0)]);
    const { rows } = await chunk
      .handle()
      .tx.query<{ pid: number }>("SELECT pg_backend_pid() AS pid");
    await expect(claimOf(p.storage, 0, 50)).rejects.toMatchObject({
      code: "claim-timeout",
      retryable: true,
      details: { blockingPid: rows[0]?.pid, blockingState: "idle in transaction" },
    });
    await expect(claimOf(p.storage, 0, 0)).rejects.toMatchObject({ code: "claim-timeout" });
    const next = claimOf(p.storage);
    await chunk.commit(4n, noMark);
    expect(await next).toMatchObject({ nextOffset: 4n });
    await expect(p.storage.open(claim, [])).rejects.toMatchObject({ code: "claim-lost" });
  });

  it("gives each of many claims another token and epoch", async () => {
    const p = await here();
    await p.claimed();
    const claims = await Promise.all(Array.from({ length: 12 }, () => claimOf(p.storage)));
    expect(new Set(claims.map((claim) => claim.token)).size).toBe(12);
    expect(claims.map((claim) => Number(claim.epoch)).sort((a, b) => a - b)).toEqual(
      Array.from({ length: 12 }, (_, index) => index + 2),
    );
  });

  it("records one id once, whatever the number of partitions that bring it", async () => {
    const p = await here();
    const claims = [];
    for (const partition of [0, 1, 2, 3]) claims.push(await p.claimed(partition));
    // Opposite orders: unsorted inserts would deadlock.
    const offsets = Array.from({ length: 200 }, (_, index) => index);
    const outcomes = await Promise.all(
      claims.map(async (claim, index) => {
        const ids = index % 2 === 0 ? offsets : [...offsets].reverse();
        const records = offsets.map((offset, at) => recordAt(offset, { id: idOf(ids[at] ?? 0) }));
        const chunk = await p.storage.open(claim, records);
        await chunk.commit(200n, noMark);
        return chunk.recorded;
      }),
    );
    const counts = (what: string) => outcomes.flat().filter((outcome) => outcome === what).length;
    expect([counts("new"), counts("duplicate")]).toEqual([200, 600]);
  });

  it("ends a transaction that idles too long, and frees its partition", async () => {
    const p = await here({ idleInTransactionTimeoutMs: 100 });
    const claim = await p.claimed();
    const chunk = await p.storage.open(claim, [recordAt(0)]);
    await apply(p, chunk, "a");
    await claimOf(p.storage);
    const error = await chunk.commit(1n, noMark).catch((reason: unknown) => reason);
    // Guards `limited`: as an outage it would be done again for ever, by a handler that is too slow.
    expect(p.storage.trouble(error)).toBe("local");
    expect(await p.effects()).toEqual([]);
  });

  it("tells a handler that idled too long by its next statement", async () => {
    // Guards `limited`: the driver says no more than that the connection is gone.
    const p = await here({ idleInTransactionTimeoutMs: 100 });
    const chunk = await p.storage.open(await p.claimed(), [recordAt(0)]);
    const { tx } = chunk.handle();
    await claimOf(p.storage);
    const error = await tx.query("SELECT 1").catch((reason: unknown) => reason);
    expect(p.storage.trouble(error)).toBe("local");
    expect(await chunk.rollback()).toBe(false);
  });

  it("destroys at once, whatever runs, and frees the partition", async () => {
    const p = await here();
    const chunk = await p.storage.open(await p.claimed(), [recordAt(0)]);
    const { tx } = chunk.handle();
    const hanging = tx.query("SELECT pg_sleep(60)").catch((error: unknown) => error);
    chunk.destroy();
    expect(p.storage.trouble(await hanging)).toBe("global");
    expect(await chunk.rollback()).toBe(false);
    // Well before the sleep, and before any time-out: the backend itself was ended.
    await claimOf(p.storage, 0, 10_000);
    await expect(tx.query("SELECT 1")).rejects.toMatchObject({ code: "transaction-finished" });
  });

  it("survives the death of a connection that is checked out", async () => {
    const p = await here();
    const claim = await p.claimed();
    const chunk = await p.storage.open(claim, [recordAt(0)]);
    const { rows } = await chunk
      .handle()
      .tx.query<{ pid: number }>("SELECT pg_backend_pid() AS pid");
    await p.admin.query("SELECT pg_terminate_backend($1)", [rows[0]?.pid]);
    const lost = await chunk
      .handle()
      .tx.query("SELECT 1")
      .catch((error: unknown) => error);
    expect(p.storage.trouble(lost)).toBe("global");
    expect(await chunk.rollback()).toBe(false);
    const again = await p.storage.open(claim, [recordAt(0)]);
    await again.commit(1n, noMark);
  });

  it("survives the death of idle connections, though nobody else listens to the pool", async () => {
    const p = await here();
    const pool = new pg.Pool({ connectionString: database.url, pipeline });
    const storage = postgresStorage({ pool, schema: p.schema });
    const { rows } = await pool.query<{ pid: number }>("SELECT pg_backend_pid() AS pid");
    const removed = new Promise((resolve) => pool.once("remove", resolve));
    await p.admin.query("SELECT pg_terminate_backend($1)", [rows[0]?.pid]);
    await removed;
    await storage.check();
    expect(pool.listenerCount("error")).toBe(1);
    await storage.close();
    expect(pool.listenerCount("error")).toBe(0);
    await pool.end();
  });
});

describe("topics", () => {
  it("are registered once, whole, and under one group", async () => {
    const p = await place(database);
    const start = new Map([
      [0, 5n],
      [1, 6n],
    ]);
    const more = new Map([...start, [2, 0n]]);
    const both = { consumer: "c", groupId: "g", topic: "t", topicId: null };
    await Promise.all(
      Array.from({ length: 5 }, () =>
        p.storage.registerTopic({ ...both, start, added: new Map([[0, 99n]]) }),
      ),
    );
    await p.storage.registerTopic({ ...both, start: new Map([[7, 0n]]), added: more });
    const { rows } = await p.admin.query(
      `SELECT partition, next_offset FROM ${p.schema}.inbox_partitions ORDER BY partition`,
    );
    expect(rows).toEqual([
      { partition: 0, next_offset: "5" },
      { partition: 1, next_offset: "6" },
      { partition: 2, next_offset: "0" },
    ]);
    await expect(
      p.storage.registerTopic({ ...both, groupId: "other", start, added: start }),
    ).rejects.toMatchObject({ code: "group-mismatch" });
    const unknown = { consumer: "c", topic: "t", partition: 9, owner: "o" };
    expect(await p.storage.claim(unknown, 1_000)).toBeNull();
  });
});

// Guards the one statement of oncebox_register_consumer: a row that was committed while it waited is
// not in its snapshot, and would be left without a group for good.
it("binds a name to its group that inbox.once made known at the same time", async () => {
  const p = await place(database);
  const ids = [{ source: "s", id: idOf(1), checksum: 1 }];
  const begun = await p.pool.connect();
  await begun.query("BEGIN");
  await p.storage.recordIds(begun, "both", ids);
  const start = new Map([[0, 0n]]);
  const both = { consumer: "both", groupId: "g", topic: "t", topicId: null, start, added: start };
  const registering = p.storage.registerTopic(both).then(
    () => "registered",
    (error: { readonly code?: unknown }) => error.code,
  );
  await vi.waitFor(async () => {
    const { rows } = await p.admin.query(
      "SELECT FROM pg_stat_activity WHERE query LIKE '%oncebox_register_consumer%' AND wait_event_type = 'Lock'",
    );
    expect(rows.length).toBe(1);
  });
  await begun.query("COMMIT");
  begun.release();
  expect(await registering).toBe("registered");
  expect((await p.storage.positions("both")).groupId).toBe("g");
  // Bound once, whoever asks next.
  await expect(p.storage.registerTopic({ ...both, groupId: "h" })).rejects.toMatchObject({
    code: "group-mismatch",
    details: { boundTo: "g" },
  });
});

describe("ids recorded in a caller's transaction", () => {
  it("are new once, in whichever transaction commits first", async () => {
    const p = await place(database);
    const ids = [
      { source: "s", id: idOf(1), checksum: 1 },
      { source: "s", id: idOf(2), checksum: null },
      { source: "s", id: idOf(1), checksum: 2 },
      { source: "s\0", id: idOf(1), checksum: 1 },
    ];
    const first = await p.storage.transaction((tx) => p.storage.recordIds(tx, "hook", ids));
    expect(first).toEqual(["new", "new", "conflict", "new"]);
    const second = await p.storage.transaction((tx) => p.storage.recordIds(tx, "hook", ids));
    expect(second).toEqual(["duplicate", "duplicate", "conflict", "duplicate"]);
    const other = await p.storage.transaction((tx) => p.storage.recordIds(tx, "another", ids));
    expect(other).toEqual(first);
  });

  it("are free again after a rollback, names and all", async () => {
    const p = await place(database);
    const ids = [{ source: "s", id: idOf(1), checksum: 1 }];
    const failing = p.storage.transaction(async (tx) => {
      await p.storage.recordIds(tx, "hook", ids);
      throw new Error("mine");
    });
    await expect(failing).rejects.toThrow("mine");
    const again = await p.storage.transaction((tx) => p.storage.recordIds(tx, "hook", ids));
    expect(again).toEqual(["new"]);
  });

  it("wait for another transaction that records the same", async () => {
    const p = await place(database);
    const ids = [{ source: "s", id: idOf(1), checksum: 1 }];
    // The names are known before, so that only the id is waited for.
    const known = [{ source: "s", id: idOf(9), checksum: 1 }];
    await p.storage.transaction((tx) => p.storage.recordIds(tx, "hook", known));
    let recorded = () => {};
    const holding = new Promise<void>((resolve) => {
      recorded = resolve;
    });
    let letGo = () => {};
    const released = new Promise<void>((resolve) => {
      letGo = resolve;
    });
    const first = p.storage.transaction(async (tx) => {
      const outcome = await p.storage.recordIds(tx, "hook", ids);
      recorded();
      await released;
      return outcome;
    });
    await holding;
    const second = p.storage.transaction((tx) => p.storage.recordIds(tx, "hook", ids));
    letGo();
    expect([await first, await second]).toEqual([["new"], ["duplicate"]]);
  });
});
