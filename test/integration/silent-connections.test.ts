/**
 * B17: connections on which nothing is answered any more, and nobody says so. Guards answerTimeoutMs
 * (postgres/answer-watch.ts and connections.ts): without it each of these waits for ever.
 */

import { postgresStorage } from "@oncebox/postgres";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { type BlackHole, startBlackHole } from "../fixtures/black-hole.ts";
import { spawnWorker } from "../fixtures/child.ts";
import type { TestDatabase } from "../fixtures/databases.ts";
import { message, outboxScene } from "../fixtures/outbox-scene.ts";
import { type Scene, scene } from "../fixtures/scene.ts";
import { hasKafka, testDatabase } from "../fixtures/servers.ts";
import { claimOf, noMark, type PlaceOptions, place, recordAt } from "./postgres-place.ts";

const answerTimeoutMs = 600;
/** For a busy machine, on top of what is promised. */
const marginMs = 1_500;

const codeOf = (work: Promise<unknown>) =>
  work.then(
    () => "resolved",
    (error: { readonly code?: unknown }) => error.code,
  );

async function timed<T>(work: Promise<T>): Promise<{ result: T; ms: number }> {
  const began = performance.now();
  return { result: await work, ms: performance.now() - began };
}

/** Asks again for as long as another transaction is in the way. */
async function openedAtLast<T>(open: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await open();
    } catch (error) {
      if ((error as { readonly code?: unknown }).code !== "storage-conflict") throw error;
    }
  }
}

describe.each([false, true])("B17: the storage on a pool with pipeline: %s", (pipeline) => {
  let database: TestDatabase;
  let hole: BlackHole;
  beforeAll(async () => {
    database = await testDatabase();
  });
  beforeEach(async () => {
    hole = await startBlackHole(database.url);
  });
  afterEach(() => hole.close());
  afterAll(() => database.drop());

  const here = (pool: PlaceOptions["pool"] = {}) =>
    place(database, {
      pool: { pipeline, connectionString: hole.url, ...pool },
      storage: { answerTimeoutMs, acquireTimeoutMs: 1_000, idleInTransactionTimeoutMs: 1_000 },
    });

  it("says that a COMMIT is unknown, and of all else that the database is not there", async () => {
    const p = await here();
    const claim = await p.claimed();
    const chunk = await p.storage.open(claim, [recordAt(0)]);
    await p.insert(chunk.handle().tx, "a");
    void hole.begin("COMMIT\0");
    const { result: error, ms } = await timed(
      chunk.commit(1n, noMark).catch((reason: unknown) => reason),
    );
    expect(error).toMatchObject({ code: "commit-unknown" });
    expect(p.storage.trouble(error)).toBe("global");
    expect(ms).toBeGreaterThanOrEqual(answerTimeoutMs - 50);
    expect(ms).toBeLessThan(answerTimeoutMs + marginMs);
    const others = [
      () => p.storage.open(claim, [recordAt(0)]),
      () => claimOf(p.storage, 0, 100),
      () => p.storage.check(),
      () => p.storage.positions("consumer"),
      () => p.storage.leaseLanes({ relay: "r", leaseMs: 1_000, renew: [], acquireMax: 1 }),
    ];
    const answers = await Promise.all(others.map((other) => timed(codeOf(other()))));
    expect(answers.map(({ result }) => result)).toEqual(others.map(() => "storage-unavailable"));
    for (const { ms: took } of answers) expect(took).toBeLessThan(answerTimeoutMs + marginMs);
    hole.end();
    // COMMIT never came through: the server ends the transaction when it was idle for too long.
    expect(await claimOf(p.storage, 0, 20_000)).toMatchObject({ nextOffset: 0n });
    expect(await p.effects()).toEqual([]);
  });

  // Guards the suspicion in `acquire`: a pool of ten dead connections would cost ten time-outs.
  it("uses no connection again that was idle when another fell silent", async () => {
    const p = await here({ max: 4 });
    await p.claimed();
    await Promise.all([1, 2, 3, 4].map(() => p.storage.check()));
    expect(p.pool.idleCount).toBe(4);
    await hole.begin();
    const silent = codeOf(p.storage.check());
    hole.end();
    expect(await silent).toBe("storage-unavailable");
    const before = hole.seen;
    const { ms } = await timed(p.storage.check());
    expect(ms).toBeLessThan(answerTimeoutMs);
    expect(hole.seen).toBe(before + 1);
  });

  // Guards the watch over connections that are made: each would keep a place of the pool for ever.
  it("has its whole pool again when servers that said nothing have gone", async () => {
    const p = await here({ max: 2 });
    await p.claimed();
    await hole.begin();
    // One of them has to wait for its place in the pool.
    const three = [1, 2, 3].map(() => codeOf(p.storage.check()));
    expect(await Promise.all(three)).toEqual(three.map(() => "storage-unavailable"));
    hole.end();
    await Promise.all([p.storage.check(), p.storage.check()]);
    expect(p.pool.totalCount).toBe(2);
  });

  // `open` may wait for another chunk's handlers, which have no limit in sum: it is asked again.
  it("asks again for ids that another transaction is recording", async () => {
    const p = await here();
    const [first, second] = [await p.claimed(0), await p.claimed(1)];
    const holder = await p.storage.open(first, [recordAt(0)]);
    const keepAlive = setInterval(() => void holder.handle().tx.query("SELECT 1"), 200);
    expect(await codeOf(p.storage.open(second, [recordAt(0)]))).toBe("storage-conflict");
    clearInterval(keepAlive);
    const [, chunk] = await Promise.all([
      holder.commit(1n, noMark),
      // The commit may take longer than one wait for its lock.
      openedAtLast(() => p.storage.open(second, [recordAt(0)])),
    ]);
    expect(chunk.recorded).toEqual(["duplicate"]);
    await chunk.rollback();
  });

  // Guards `mayWait`: a claim waits for its lock as long as it was told to, whatever the time-out.
  it("lets a claim wait for its lock for longer", async () => {
    const p = await here();
    const claim = await p.claimed();
    const chunk = await p.storage.open(claim, [recordAt(0)]);
    const keepAlive = setInterval(() => void chunk.handle().tx.query("SELECT 1"), 200);
    const { result, ms } = await timed(codeOf(claimOf(p.storage, 0, answerTimeoutMs * 3)));
    clearInterval(keepAlive);
    expect(result).toBe("claim-timeout");
    expect(ms).toBeGreaterThan(answerTimeoutMs * 2);
    await chunk.rollback();
  });

  // Guards the questions of the ear (wake.ts): a relay would be woken no more, and only poll.
  it("listens again on another connection", async () => {
    const p = await here();
    let woken = 0;
    let wake = () => {};
    const stop = await p.storage.wake.listen({
      expected: () => {},
      woken: () => {
        woken += 1;
        wake();
      },
    });
    expect(woken).toBe(1);
    const again = new Promise<void>((resolve) => {
      wake = resolve;
    });
    await hole.begin();
    hole.end();
    const { ms } = await timed(again);
    expect(ms).toBeLessThan(2 * answerTimeoutMs + marginMs);
    await stop();
  });

  it("leaves nothing behind that keeps a process alive", async () => {
    await hole.begin();
    const file = new URL("../fixtures/workers/silent.ts", import.meta.url);
    const worker = spawnWorker(file, { args: [hole.url] });
    expect((await worker.waitFor("failed")).data).toEqual({ code: "storage-unavailable" });
    expect(await worker.exited).toMatchObject({ code: 0 });
  });
});

/** A storage of the scene's database that lies behind the black hole. */
function storageBehind(s: Pick<Scene, "morePool">, hole: BlackHole, pipeline = true) {
  const pool = s.morePool({ connectionString: hole.url, pipeline, max: 7 } as object);
  const times = { answerTimeoutMs, idleInTransactionTimeoutMs: 2_000, acquireTimeoutMs: 3_000 };
  return postgresStorage({ pool, ...times });
}

describe.skipIf(!hasKafka())("B17: a consumer", () => {
  const values = Array.from({ length: 60 }, (_, i) => `m${i}`);
  // Named as they go over the wire: the text of COMMIT, the names of prepared statements.
  it.each(["COMMIT\0", "oncebox_open", "oncebox_advance"])(
    "whose database falls silent at %j keeps trying, and goes on by itself",
    async (text) => {
      await using s = await scene();
      const hole = await startBlackHole(s.databaseUrl);
      const storage = storageBehind(s, hole, false);
      try {
        await s.produce(0, ...values.slice(0, 30));
        await s.consumer({ storage, chunkSizeMax: 5 }).start();
        await s.effectsReach(10);
        const begun = hole.begin(text);
        await s.produce(0, ...values.slice(30));
        await begun;
        let since = s.ear.heard.length;
        const troubles: string[] = [];
        for (let began = performance.now(); troubles.length < 4; began = performance.now()) {
          const { type } = await Promise.any([
            s.ear.waitFor("inbox.commit-unknown", () => true, since),
            s.ear.waitFor("inbox.chunk-rerun", ({ trouble }) => trouble === "global", since),
            s.ear.waitFor("inbox.claim-waiting", () => true, since),
          ]);
          since = s.ear.heard.length;
          troubles.push(type);
          // Never stuck for longer than a claim's wait, the time for an answer and a back-off.
          expect(performance.now() - began).toBeLessThan(1_000 + answerTimeoutMs + marginMs);
        }
        if (text === "COMMIT\0") expect(troubles[0]).toBe("inbox.commit-unknown");
        else expect(troubles[0]).toBe("inbox.chunk-rerun");
        hole.end();
        expect(await s.effectsReach(values.length)).toEqual(values);
        expect(await s.nextOffset(0)).toBe(BigInt(values.length));
        // No attempt was spent.
        expect(s.ear.heard.map(({ type }) => type)).not.toContain("inbox.blocked");
      } finally {
        await storage.close();
        await hole.close();
      }
    },
  );
});

it.skipIf(!hasKafka())(
  "B17: a relay whose database falls silent keeps trying, and goes on by itself",
  async () => {
    await using s = await outboxScene();
    const topic = await s.topic();
    const hole = await startBlackHole(s.databaseUrl);
    const storage = storageBehind(s, hole);
    try {
      const relay = s.relay({ storage });
      await relay.start();
      const send = (from: number) =>
        s.enqueue(...[0, 1, 2].map((i) => message(topic, "k", String(from + i))));
      await send(0);
      await s.published(3);
      await hole.begin();
      await send(3);
      const trouble = await s.ear.waitFor("outbox.trouble");
      const since = s.ear.heard.length;
      await s.ear.waitFor("outbox.trouble", () => true, since);
      expect(String(trouble.error)).toContain("did not answer");
      hole.end();
      await s.drained();
      const log = await s.log(topic);
      expect([...new Set(log.map(({ value }) => value))]).toEqual(["0", "1", "2", "3", "4", "5"]);
      await relay.stop();
    } finally {
      await storage.close();
      await hole.close();
    }
  },
);
