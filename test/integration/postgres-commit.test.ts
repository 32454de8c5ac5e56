/** What is known of a COMMIT whose connection was cut, through a proxy that cuts where it is told. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import type { TestDatabase } from "../fixtures/databases.ts";
import { type Direction, type FaultProxy, startProxy } from "../fixtures/proxy.ts";
import { testDatabase } from "../fixtures/servers.ts";
import { claimOf, noMark, place, recordAt } from "./postgres-place.ts";

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

/** Cuts the first chunk that goes in this direction from the moment that COMMIT is seen. */
function cutAtCommit(direction: Direction): void {
  let seen = false;
  proxy.onChunk = (way, _, bytes) => {
    seen ||= way === "toServer" && bytes.includes("COMMIT\0");
    return seen && way === direction ? "cut" : "pass";
  };
}

describe.each([false, true])("on a pool with pipeline: %s", (pipeline) => {
  const here = async () => {
    const url = new URL(database.url);
    url.host = `127.0.0.1:${proxy.port}`;
    return place(database, { pool: { pipeline, connectionString: url.href } });
  };
  const opened = async () => {
    const p = await here();
    const claim = await p.claimed();
    const chunk = await p.storage.open(claim, [recordAt(0)]);
    await p.insert(chunk.handle().tx, "a");
    return { ...p, claim, chunk };
  };

  describe("a chunk's outcome", () => {
    it("is unknown when the reply is cut, and committed", async () => {
      const { storage, chunk, effects, pool } = await opened();
      cutAtCommit("toClient");
      await expect(chunk.commit(1n, noMark)).rejects.toMatchObject({ code: "commit-unknown" });
      proxy.onChunk = undefined;
      // The lock waits for whatever the old backend still does; then the row tells.
      expect(await claimOf(storage)).toMatchObject({ nextOffset: 1n });
      expect(await effects()).toEqual(["a"]);
      expect(await chunk.rollback()).toBe(false);
      expect(pool.totalCount).toBe(pool.idleCount);
    });

    it("is unknown when the request is cut, and not committed", async () => {
      const { storage, chunk, effects } = await opened();
      cutAtCommit("toServer");
      await expect(chunk.commit(1n, noMark)).rejects.toMatchObject({ code: "commit-unknown" });
      proxy.onChunk = undefined;
      expect(await claimOf(storage)).toMatchObject({ nextOffset: 0n });
      expect(await effects()).toEqual([]);
    });

    it("is unknown while COMMIT is under way, and a claim waits until it is known", async () => {
      const { storage, chunk, effects } = await opened();
      const held = new Promise<void>((resolve) => {
        proxy.onChunk = (way, _, bytes) => {
          if (way !== "toServer" || !bytes.includes("COMMIT\0")) return "pass";
          resolve();
          return "hold";
        };
      });
      const outcome = chunk.commit(1n, noMark).catch((error: unknown) => error);
      await held;
      proxy.cutClients();
      expect(await outcome).toMatchObject({ code: "commit-unknown" });
      proxy.onChunk = undefined;
      const claiming = claimOf(storage, 0, 20_000);
      // Without the lock the row would say 0 here.
      proxy.release();
      expect(await claiming).toMatchObject({ nextOffset: 1n });
      expect(await effects()).toEqual(["a"]);
    });

    it("is a plain failure when the connection was lost before", async () => {
      const { storage, claim, chunk, effects, admin, schema } = await opened();
      const { tx } = chunk.handle();
      const { rows } = await tx.query<{ pid: number }>("SELECT pg_backend_pid() AS pid");
      await admin.query("SELECT pg_terminate_backend($1)", [rows[0]?.pid]);
      await tx.query("SELECT 1").catch(() => {});
      const error = await chunk.commit(1n, noMark).catch((reason: unknown) => reason);
      expect(error).toMatchObject({ code: "storage-unavailable", retryable: true });
      expect(storage.trouble(error)).toBe("global");
      expect(await effects()).toEqual([]);
      const again = await storage.open(claim, [recordAt(0)]);
      await again.commit(1n, noMark);
      const { rows: ids } = await admin.query(`SELECT FROM ${schema}.inbox_messages`);
      expect(ids.length).toBe(1);
    });

    it("is unknown when a deadline cuts it, unless COMMIT was not sent yet", async () => {
      const { storage, chunk } = await opened();
      proxy.onChunk = (way) => (way === "toClient" ? "hold" : "pass");
      const outcome = chunk.commit(1n, noMark).catch((error: unknown) => error);
      chunk.destroy();
      // Not pipelined, the advance is waited for before COMMIT is sent.
      const code = pipeline ? "commit-unknown" : "storage-unavailable";
      expect(await outcome).toMatchObject({ code });
      proxy.onChunk = undefined;
      proxy.release();
      const { nextOffset } = await claimOf(storage);
      expect([0n, 1n]).toContain(nextOffset);
    });
  });

  describe("a transaction's outcome", () => {
    it.each(["toClient", "toServer"] as const)("is unknown when cut %s", async (direction) => {
      const p = await here();
      const outcome = p.storage.transaction(async (tx) => {
        await p.insert(tx, "a");
        cutAtCommit(direction);
      });
      await expect(outcome).rejects.toMatchObject({ code: "commit-unknown" });
      // The backend may still be at it: its locks tell when it has ended.
      proxy.onChunk = undefined;
      await p.admin.query(`BEGIN; LOCK TABLE ${p.schema}.effects; COMMIT`);
      expect(await p.effects()).toEqual(direction === "toClient" ? ["a"] : []);
    });

    it("is a plain failure when the connection is lost inside the work", async () => {
      const p = await here();
      const outcome = p.storage.transaction(async (tx) => {
        await p.insert(tx, "a");
        proxy.cutAll();
        await p.insert(tx, "b");
      });
      const error = await outcome.catch((reason: unknown) => reason);
      expect(p.storage.trouble(error)).toBe("global");
      expect(error).not.toMatchObject({ code: "commit-unknown" });
    });
  });

  // Guards the words about a seek: "failed" would have an operator repeat what was done.
  it.each(["toClient", "toServer"] as const)("leaves a seek unknown, cut %s", async (direction) => {
    const p = await here();
    const claim = await p.claimed();
    const audit = { actor: "tests", reason: "to see it" };
    const where = { consumer: claim.consumer, topic: claim.topic, topicId: null };
    const moves = [{ partition: 0, to: 7n }];
    cutAtCommit(direction);
    const seeking = p.storage.seek({ ...where, moves, replay: false, expected: null, audit });
    const error = await seeking.catch((reason: unknown) => reason);
    expect(error).toMatchObject({ code: "commit-unknown" });
    expect(p.storage.trouble(error)).toBe("global");
    proxy.onChunk = undefined;
    const done = direction === "toClient";
    // The lock waits for whatever the old backend still does.
    expect(await claimOf(p.storage)).toMatchObject({ nextOffset: done ? 7n : 0n });
    expect(await p.storage.lostClaims([claim])).toEqual([claim]);
    const lines = await p.storage.auditLog(claim.consumer, { limit: 9, below: null });
    expect(lines.length).toBe(done ? 1 : 0);
  });

  it("goes on by itself when connections were cut while nobody used them", async () => {
    const p = await here();
    await p.claimed();
    await p.storage.check();
    proxy.cutAll();
    // Whichever comes first: the pool hears of the cut, or a statement does.
    const error = await claimOf(p.storage).catch((reason: unknown) => reason);
    if (error instanceof Error) expect(p.storage.trouble(error)).toBe("global");
    await claimOf(p.storage);
  });
});
