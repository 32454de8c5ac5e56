/** What handlers and callers may do with a client, and how a transaction's end is judged. */
import { setTimeout as delay } from "node:timers/promises";
import type { ClientBase } from "pg";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { TestDatabase } from "../fixtures/databases.ts";
import { testDatabase } from "../fixtures/servers.ts";
import { entry, idOf, noMark, place, recordAt } from "./postgres-place.ts";

let database: TestDatabase;
beforeAll(async () => {
  database = await testDatabase();
});
afterAll(() => database.drop());

describe.each([false, true])("on a pool with pipeline: %s", (pipeline) => {
  const here = () => place(database, { pool: { pipeline } });
  const opened = async () => {
    const p = await here();
    const claim = await p.claimed();
    const chunk = await p.storage.open(claim, [recordAt(0)]);
    return { ...p, claim, chunk, ...chunk.handle() };
  };

  describe("a handler's client", () => {
    it("refuses to end or leave the transaction, and goes on", async () => {
      const { tx, chunk, insert, effects } = await opened();
      await insert(tx, "a");
      const refusal = { code: "transaction-ended-early" };
      for (const text of ["COMMIT", " -- now\n rollback", "/* */ BEGIN", "end;", "abort"]) {
        await expect(tx.query(text)).rejects.toMatchObject(refusal);
        await expect(tx.query({ text })).rejects.toMatchObject(refusal);
      }
      const called = await new Promise((resolve) => tx.query("COMMIT", (error) => resolve(error)));
      expect(called).toMatchObject(refusal);
      const leaving = tx as ClientBase & { release(): void; end(): Promise<void> };
      expect(() => leaving.release()).toThrow(expect.objectContaining(refusal));
      expect(() => leaving.end()).toThrow(expect.objectContaining(refusal));
      expect(() => leaving.connect()).toThrow(expect.objectContaining(refusal));
      await tx.query("SAVEPOINT s");
      await insert(tx, "undone");
      await tx.query("ROLLBACK TO SAVEPOINT s");
      await chunk.commit(1n, noMark);
      expect(await effects()).toEqual(["a"]);
    });

    it("is a client in all else", async () => {
      const { tx, chunk } = await opened();
      expect(tx).toBeInstanceOf(pg.Client);
      expect(tx.escapeIdentifier("a")).toBe('"a"');
      expect(await Promise.resolve(tx)).toBe(tx);
      const notices: string[] = [];
      const listener = (notice: { message?: string | undefined }) => {
        notices.push(notice.message ?? "");
      };
      expect(tx.on("notice", listener)).toBe(tx);
      await tx.query("DO $$ BEGIN RAISE NOTICE 'heard'; END $$");
      tx.removeListener("notice", listener);
      expect(notices).toEqual(["heard"]);
      const rows = await new Promise((resolve, reject) => {
        tx.query("SELECT $1::int AS n", [1], (error, result) =>
          error ? reject(error) : resolve(result.rows),
        );
      });
      expect(rows).toEqual([{ n: 1 }]);
      const prepared = { name: "p", text: "SELECT $1::int AS n", values: [2] };
      expect((await tx.query(prepared)).rows).toEqual([{ n: 2 }]);
      await chunk.rollback();
    });

    it("is dead when its handler has ended, while those of others live", async () => {
      const { tx, end, chunk, storage, insert } = await opened();
      const other = chunk.handle();
      end();
      const dead = { code: "transaction-finished" };
      await expect(tx.query("SELECT 1")).rejects.toMatchObject(dead);
      await expect(storage.enqueue(tx, [entry(1)])).rejects.toMatchObject(dead);
      const ids = [{ source: "s", id: idOf(1), checksum: 1 }];
      await expect(storage.recordIds(tx, "c", ids)).rejects.toMatchObject(dead);
      expect(() => tx.on("notice", () => {})).toThrow(expect.objectContaining(dead));
      await insert(other.tx, "a");
      await chunk.commit(1n, noMark);
      await expect(other.tx.query("SELECT 1")).rejects.toMatchObject(dead);
    });

    it("keeps the driver's errors, which handlers look into", async () => {
      const { tx, chunk } = await opened();
      await expect(tx.query("SELECT * FROM nowhere")).rejects.toMatchObject({ code: "42P01" });
      await chunk.rollback();
    });
  });

  describe("a chunk", () => {
    it("notices a swallowed error, and names it", async () => {
      const { tx, chunk, insert, effects, nextOffset, storage } = await opened();
      await insert(tx, "a");
      await tx.query("SELECT * FROM nowhere").catch(() => {});
      const error = await chunk.commit(1n, noMark).catch((reason: unknown) => reason);
      expect(error).toMatchObject({ code: "transaction-aborted", cause: { code: "42P01" } });
      expect(storage.trouble(error)).toBeNull();
      expect([await effects(), await nextOffset()]).toEqual([[], 0n]);
    });

    // Guards the severity in postgres-errors.ts: the connection to a foreign server is not this one.
    it("stays usable after the error of a foreign table, which is its author's", async () => {
      const { tx, chunk, storage, pool } = await opened();
      const raise = "RAISE EXCEPTION USING ERRCODE = '08001', MESSAGE = 'no foreign server'";
      const error = await tx.query(`DO $$ BEGIN ${raise}; END $$`).catch((reason) => reason);
      expect([error.code, storage.trouble(error)]).toEqual(["08001", null]);
      expect(await chunk.rollback()).toBe(true);
      expect(pool.idleCount).toBe(pool.totalCount);
    });

    it.each([
      ["a commit in a text of several statements", "; COMMIT"],
      ["a commit, and another transaction", "; COMMIT; BEGIN"],
      ["a rollback", "; ROLLBACK"],
      ["a rollback, and another transaction", "; ROLLBACK; BEGIN"],
    ])("notices %s", async (_, ending) => {
      const { tx, chunk, schema, storage, claim, nextOffset, effects } = await opened();
      await tx.query(`INSERT INTO ${schema}.effects VALUES ('early')${ending}`);
      await expect(chunk.commit(1n, noMark)).rejects.toMatchObject({
        code: "transaction-ended-early",
      });
      expect(await nextOffset()).toBe(0n);
      // The ids may have stayed; they are the record's own, so the redo does not pass it over.
      const redo = await storage.open(claim, [recordAt(0)]);
      expect(redo.recorded).toEqual(["new"]);
      await redo.commit(1n, noMark);
      expect(await effects()).toEqual(ending.startsWith("; COMMIT") ? ["early"] : []);
    });

    it("fails with a constraint that is checked at COMMIT", async () => {
      const { tx, chunk, schema, nextOffset, pool } = await opened();
      await tx.query(
        `CREATE TABLE ${schema}.late (id int PRIMARY KEY,
           other int REFERENCES ${schema}.late DEFERRABLE INITIALLY DEFERRED)`,
      );
      await tx.query(`INSERT INTO ${schema}.late VALUES (1, 2)`);
      await expect(chunk.commit(1n, noMark)).rejects.toMatchObject({
        code: "storage-failed",
        details: { sqlState: "23503" },
      });
      expect(await nextOffset()).toBe(0n);
      expect(pool.idleCount).toBe(pool.totalCount);
    });

    it("leaves clean connections behind, whatever happened", async () => {
      const { chunk, storage, claim, pool } = await opened();
      await chunk.rollback();
      for (let round = 0; round < 3; round += 1) {
        const failing = await storage.open(claim, [recordAt(0)]);
        await failing
          .handle()
          .tx.query("SELECT 1/0")
          .catch(() => {});
        await failing.commit(1n, noMark).catch(() => {});
        const old = { ...claim, token: "00000000-0000-0000-0000-000000000000" };
        await storage.open(old, [recordAt(0)]).catch(() => {});
      }
      expect([pool.totalCount, pool.idleCount, pool.waitingCount]).toEqual([1, 1, 0]);
      const client = await pool.connect();
      expect(client.getTransactionStatus()).toBe("I");
      const { rows } = await client.query("SHOW idle_in_transaction_session_timeout");
      expect(rows).toEqual([{ idle_in_transaction_session_timeout: "0" }]);
      client.release();
    });
  });

  describe("a transaction", () => {
    it("answers what the work answers, committed", async () => {
      const p = await here();
      const result = await p.storage.transaction(async (tx) => {
        await p.insert(tx, "a");
        return 7;
      });
      expect([result, await p.effects()]).toEqual([7, ["a"]]);
    });

    it("rolls back, and passes on what the work threw", async () => {
      const p = await here();
      const mine = new Error("mine");
      const failing = p.storage.transaction(async (tx) => {
        await p.insert(tx, "a");
        throw mine;
      });
      await expect(failing).rejects.toBe(mine);
      expect([await p.effects(), p.pool.idleCount]).toEqual([[], 1]);
    });

    it("notices a swallowed error", async () => {
      const p = await here();
      const failing = p.storage.transaction(async (tx) => {
        await p.insert(tx, "a");
        await tx.query("SELECT 1/0").catch(() => {});
      });
      await expect(failing).rejects.toMatchObject({
        code: "transaction-aborted",
        cause: { code: "22012" },
      });
      expect(await p.effects()).toEqual([]);
    });

    it.each(["COMMIT", "COMMIT; BEGIN", "ROLLBACK", "ROLLBACK; BEGIN"])(
      "notices that the work ended it with %s",
      async (ending) => {
        const p = await here();
        const failing = p.storage.transaction((tx) => tx.query(`SELECT 1; ${ending}`));
        await expect(failing).rejects.toMatchObject({ code: "transaction-ended-early" });
        expect(p.pool.idleCount).toBe(p.pool.totalCount);
      },
    );

    // Guards the reading of 22012: it says that the work ended the transaction only where that was
    // asked.
    it("passes on a division by zero of a deferred constraint", async () => {
      const p = await here();
      await p.admin.query(`
        CREATE FUNCTION ${p.schema}.fails() RETURNS trigger LANGUAGE plpgsql
          AS $$ BEGIN PERFORM 1 / 0; RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER late AFTER INSERT ON ${p.schema}.effects
          DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ${p.schema}.fails()`);
      const failing = p.storage.transaction((tx) => p.insert(tx, "a"));
      await expect(failing).rejects.toMatchObject({
        code: "storage-failed",
        details: { sqlState: "22012" },
      });
      expect(await p.effects()).toEqual([]);
    });

    it("lets nothing through afterwards", async () => {
      const p = await here();
      let late: ClientBase | undefined;
      await p.storage.transaction(async (tx) => {
        late = tx;
      });
      await expect(late?.query("SELECT 1")).rejects.toMatchObject({
        code: "transaction-finished",
      });
    });
  });

  describe("enqueue", () => {
    it("takes a client or a pool's client inside a transaction, and commits with it", async () => {
      const p = await here();
      const client = new pg.Client({ connectionString: database.url, pipeline });
      await client.connect();
      const pooled = await p.pool.connect();
      for (const tx of [client, pooled]) {
        await tx.query("BEGIN");
        await p.storage.enqueue(tx, [entry(1), entry(2)]);
        await tx.query("COMMIT");
        await tx.query("BEGIN");
        await p.storage.enqueue(tx, [entry(3)]);
        await tx.query("ROLLBACK");
      }
      await client.end();
      pooled.release();
      const { rows } = await p.admin.query(
        `SELECT lane FROM ${p.schema}.outbox_messages ORDER BY position`,
      );
      expect(rows.map((row) => row.lane)).toEqual([1, 2, 1, 2]);
    });

    it("goes out behind a BEGIN that is not answered yet", async () => {
      const p = await here();
      const tx = await p.pool.connect();
      const begun = tx.query("BEGIN");
      const enqueued = p.storage.enqueue(tx, [entry(1)]);
      await Promise.all([begun, enqueued]);
      await tx.query("ROLLBACK");
      tx.release();
    });

    it("refuses what holds no transaction, and says why", async () => {
      const p = await here();
      const released = await p.pool.connect();
      released.release();
      const idle = await p.pool.connect();
      const cases: [unknown, RegExp][] = [
        [p.pool, /a pool/],
        [idle, /without an open transaction/],
        [released, /without an open transaction/],
        [() => {}, /knex/],
        [{}, /without query/],
        [null, /without query/],
        [undefined, /without query/],
      ];
      for (const [tx, why] of cases) {
        const error = { code: "invalid-handle", message: expect.stringMatching(why) };
        await expect(p.storage.enqueue(tx as ClientBase, [entry(1)])).rejects.toMatchObject(error);
        const ids = [{ source: "s", id: idOf(1), checksum: 1 }];
        await expect(p.storage.recordIds(tx as ClientBase, "c", ids)).rejects.toMatchObject(error);
      }
      idle.release();
    });

    it("keeps every byte", async () => {
      const p = await here();
      const bytes = Uint8Array.from({ length: 256 }, (_, index) => index);
      const awkward = "a\"b\\c{},'NULL \n\u{1F600}";
      const entries = [
        entry(1, { id: awkward, key: bytes, value: bytes, headers: [[awkward, bytes]] }),
        entry(1, { key: new Uint8Array(), value: new Uint8Array() }),
        entry(1, { key: null, value: null }),
        entry(1, {
          headers: [
            ["a", null],
            ["", new Uint8Array()],
            ["a", bytes.subarray(3, 9)],
            ["NULL", null],
          ],
        }),
        entry(1, { id: "x".repeat(512), value: new Uint8Array(10_000).fill(7) }),
      ];
      await p.storage.transaction((tx) => p.storage.enqueue(tx, entries));
      const relay = { relay: "r", leaseMs: 10_000, renew: [], acquireMax: 64 };
      const { leases } = await p.storage.leaseLanes(relay);
      const request = { rows: 10, bytes: 10_000_000, pending: [], sweep: false };
      const { rows } = await p.storage.readLanes(leases, request);
      expect(rows.map(({ position, ...row }) => row)).toEqual(
        entries.map((row) => ({
          ...row,
          key: row.key && Buffer.from(row.key),
          value: row.value && Buffer.from(row.value),
          headers: row.headers.map(([name, value]) => [name, value && Buffer.from(value)]),
        })),
      );
    });

    it("shares a client with a user's own parsers and another schema", async () => {
      const p = await here();
      const q = await here();
      const tx = await p.pool.connect();
      tx.setTypeParser(20, "text", () => "spoiled");
      await tx.query("BEGIN");
      await p.storage.enqueue(tx, [entry(1)]);
      await q.storage.enqueue(tx, [entry(2), entry(3)]);
      const ids = [{ source: "s", id: idOf(1), checksum: 1 }];
      expect(await p.storage.recordIds(tx, "c", ids)).toEqual(["new"]);
      expect(await q.storage.recordIds(tx, "c", ids)).toEqual(["new"]);
      await tx.query("COMMIT");
      tx.release(true);
    });
  });
});

describe("an exhausted pool", () => {
  it("is local trouble while the database answers, global when it does not", async () => {
    const p = await place(database, { pool: { max: 1 }, storage: { acquireTimeoutMs: 100 } });
    const taken = await p.pool.connect();
    const error = await p.storage.check().catch((reason: unknown) => reason);
    expect(error).toMatchObject({ code: "storage-conflict", details: { poolSize: 1 } });
    expect(p.storage.trouble(error)).toBe("local");
    taken.release();
    await p.storage.check();

    const nowhere = new URL(database.url);
    nowhere.port = "1";
    const q = await place(database, { pool: { connectionString: nowhere.href } });
    const gone = await q.storage.check().catch((reason: unknown) => reason);
    expect(gone).toMatchObject({ code: "storage-unavailable", retryable: true });
    expect(q.storage.trouble(gone)).toBe("global");
  });

  it("gives a connection that comes too late back to the pool", async () => {
    const p = await place(database, { pool: { max: 1 }, storage: { acquireTimeoutMs: 50 } });
    const taken = await p.pool.connect();
    await expect(p.storage.check()).rejects.toMatchObject({ code: "storage-conflict" });
    const released = new Promise((resolve) => p.pool.once("release", resolve));
    taken.release();
    await released;
    await delay(0);
    await p.storage.check();
  });
});
