/** The door bell between storages of several processes, which may break and only costs latency. */
import { postgresStorage } from "@oncebox/postgres";
import { afterAll, beforeAll, expect, it } from "vitest";
import type { TestDatabase } from "../fixtures/databases.ts";
import { testDatabase } from "../fixtures/servers.ts";
import { entry, type Place, place } from "./postgres-place.ts";

let database: TestDatabase;
beforeAll(async () => {
  database = await testDatabase();
});
afterAll(() => database.drop());

/** Counts what it hears. */
function ear() {
  const heard = { woken: 0, expected: 0 };
  return {
    heard,
    woken: () => {
      heard.woken += 1;
    },
    expected: () => {
      heard.expected += 1;
    },
  };
}

/** A storage on a pool of its own, as another process has it. */
function another(p: Place, options = {}) {
  const pool = database.pool({ max: 3, ...options });
  return { pool, storage: postgresStorage({ pool, schema: p.schema }) };
}

it("rings here at once, and in other processes soon", async () => {
  const p = await place(database);
  const q = another(p);
  const [here, there] = [ear(), ear()];
  const stopHere = await p.storage.wake.listen(here);
  const stopThere = await q.storage.wake.listen(there);
  // Each hears itself begin: something may have been sent before.
  expect([here.heard.woken, there.heard.woken]).toEqual([1, 1]);
  p.storage.wake.send();
  expect(here.heard.woken).toBe(2);
  await expect.poll(() => there.heard.woken).toBe(2);
  p.storage.wake.expect();
  expect(here.heard.expected).toBe(1);
  await expect.poll(() => there.heard.expected).toBe(1);
  // What it sent itself does not come back to it.
  expect(here.heard).toEqual({ woken: 2, expected: 1 });
  await stopHere();
  await stopThere();
  p.storage.wake.send();
  expect(here.heard.woken).toBe(2);
});

it("makes one message of many, and does not ring in another schema", async () => {
  const p = await place(database);
  const q = another(p);
  const other = await place(database);
  const [there, elsewhere] = [ear(), ear()];
  const stop = await q.storage.wake.listen(there);
  const stopElsewhere = await other.storage.wake.listen(elsewhere);
  for (let ring = 0; ring < 1_000; ring += 1) p.storage.wake.send();
  for (let ring = 0; ring < 1_000; ring += 1) p.storage.wake.expect();
  await expect.poll(() => there.heard.woken).toBeGreaterThan(2);
  await p.storage.close();
  expect(there.heard.woken).toBeLessThan(5);
  expect(there.heard.expected).toBeLessThan(2);
  expect(elsewhere.heard).toEqual({ woken: 1, expected: 0 });
  await stop();
  await stopElsewhere();
});

it("rings after a transaction that enqueued, and not after any other", async () => {
  const p = await place(database);
  const here = ear();
  const stop = await p.storage.wake.listen(here);
  const before = here.heard.woken;
  await p.storage.transaction((tx) => p.insert(tx, "a"));
  expect(here.heard.woken).toBe(before);
  await p.storage.transaction((tx) => p.storage.enqueue(tx, [entry(1)]));
  expect(here.heard.woken).toBe(before + 1);
  const failing = p.storage.transaction(async (tx) => {
    await p.storage.enqueue(tx, [entry(1)]);
    throw new Error("mine");
  });
  await failing.catch(() => {});
  expect(here.heard.woken).toBe(before + 1);
  await stop();
});

it("listens again when its connection is lost", async () => {
  const p = await place(database);
  const q = another(p);
  const there = ear();
  const stop = await q.storage.wake.listen(there);
  await p.admin.query(
    `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
     WHERE datname = current_database() AND query LIKE 'LISTEN "oncebox_${p.schema}%'`,
  );
  // It rings by itself when it is back.
  await expect.poll(() => there.heard.woken, { timeout: 10_000 }).toBe(2);
  p.storage.wake.send();
  await expect.poll(() => there.heard.woken).toBe(3);
  await stop();
  await q.storage.close();
  expect(q.pool.idleCount).toBe(q.pool.totalCount);
});

it("shares one connection between listeners", async () => {
  const p = await place(database);
  const q = another(p);
  const stops = await Promise.all([1, 2, 3].map(() => q.storage.wake.listen(ear())));
  expect(q.pool.totalCount - q.pool.idleCount).toBe(1);
  for (const stop of stops) await stop();
  expect(q.pool.totalCount - q.pool.idleCount).toBe(0);
});

it("never fails anyone, with no database there", async () => {
  const p = await place(database);
  const nowhere = new URL(database.url);
  nowhere.port = "1";
  const q = another(p, { connectionString: nowhere.href });
  const there = ear();
  const stop = await q.storage.wake.listen(there);
  q.storage.wake.send();
  q.storage.wake.expect();
  expect(there.heard).toEqual({ woken: 1, expected: 1 });
  await stop();
  await q.storage.close();
});
