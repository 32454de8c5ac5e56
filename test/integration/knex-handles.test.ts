/** What handlers and callers may do with a transaction of knex, and what knex is left alone with. */
import { createInbox, createOutbox, type Storage } from "@oncebox/core";
import { knexStorage } from "@oncebox/postgres/knex";
import createKnex, { type Knex } from "knex";
import type { Client, PoolConfig } from "pg";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { openKnex } from "../conformance/knex-under-test.ts";
import type { TestDatabase } from "../fixtures/databases.ts";
import { testDatabase } from "../fixtures/servers.ts";
import { entry, idOf, noMark, place, recordAt } from "./postgres-place.ts";

let database: TestDatabase;
const storages: Storage<Knex.Transaction>[] = [];
const knexes: Knex[] = [];
beforeAll(async () => {
  database = await testDatabase();
});
afterAll(async () => {
  for (const storage of storages) await storage.close();
  for (const knex of knexes) await knex.destroy();
  await database.drop();
});

/** A schema of its own, and on it a storage over a plain knex, or one with settings of a user's. */
async function here({ max = 5, config = {}, ...more }: Here = {}) {
  const { pipeline = false, ...options } = more;
  const p = await place(database);
  const knex = open({ connectionString: database.url, pipeline, max }, config);
  const storage = knexStorage(knex, { schema: p.schema, ...options });
  storages.push(storage);
  const opened = async () => {
    const chunk = await storage.open(await p.claimed(), [recordAt(0)]);
    const { tx: trx, end } = chunk.handle();
    return { chunk, trx, end };
  };
  const insert = (trx: Knex.Transaction, text: string) =>
    trx(`${p.schema}.effects`).insert({ text });
  return { ...p, knex, storage, opened, insert };
}

interface Here {
  readonly max?: number;
  readonly pipeline?: boolean;
  readonly config?: Knex.Config;
  readonly acquireTimeoutMs?: number;
}

const plain: Knex.Config = {
  wrapIdentifier: (name, wrap) => wrap(name),
  postProcessResponse: (result) => result,
  searchPath: ["public"],
};

function open(connection: PoolConfig, config: Knex.Config): Knex {
  const knex = openKnex(connection, { ...plain, ...config });
  knexes.push(knex);
  return knex;
}

/** How often relays were woken so far. */
async function bell(storage: Storage<Knex.Transaction>) {
  const rung = { woken: 0, expected: 0 };
  await storage.wake.listen({
    woken: () => {
      rung.woken += 1;
    },
    expected: () => {
      rung.expected += 1;
    },
  });
  rung.woken = 0;
  return rung;
}

describe.each([false, true])("with pipeline: %s", (pipeline) => {
  describe("a handler's transaction", () => {
    it("builds, nests and streams as any other, and all of it commits with the chunk", async () => {
      const p = await here({ pipeline });
      const { chunk, trx, end } = await p.opened();
      await p.insert(trx, "built");
      await trx.into(`${p.schema}.effects`).insert({ text: "by method" });
      await trx.raw(`INSERT INTO ${p.schema}.effects VALUES (?)`, ["raw"]);
      await trx.batchInsert(`${p.schema}.effects`, [{ text: "b1" }, { text: "b2" }], 1);
      await p.knex(`${p.schema}.effects`).insert({ text: "transacting" }).transacting(trx);
      await trx.transaction((inner) => p.insert(inner, "inner"));
      const lost = trx.savepoint(async (inner) => {
        await p.insert(inner, "undone");
        throw new Error("mine");
      });
      await expect(lost).rejects.toThrow("mine");
      expect(await trx.schema.hasTable("nowhere")).toBe(false);
      expect([trx.isTransaction, trx.isCompleted()]).toEqual([true, false]);
      end();
      expect(trx.isCompleted()).toBe(true);
      await chunk.commit(1n, noMark);
      const expected = ["b1", "b2", "built", "by method", "inner", "raw", "transacting"];
      expect(await p.effects()).toEqual(expected);
    });

    it("refuses to end the transaction in any way, and goes on", async () => {
      const p = await here({ pipeline });
      const { chunk, trx, end } = await p.opened();
      const refusal = { code: "transaction-ended-early" };
      await expect(trx.commit()).rejects.toMatchObject(refusal);
      await expect(trx.rollback()).rejects.toMatchObject(refusal);
      for (const text of ["COMMIT", " rollback", "BEGIN", "end;"]) {
        await expect(trx.raw(text)).rejects.toMatchObject(refusal);
      }
      const inner = trx.transaction((nested) => nested.raw("COMMIT"));
      await expect(inner).rejects.toMatchObject(refusal);
      await p.insert(trx, "a");
      end();
      await chunk.commit(1n, noMark);
      expect(await p.effects()).toEqual(["a"]);
    });

    it("is dead once its handler has ended, nested ones too, while others live", async () => {
      const p = await here({ pipeline });
      const { chunk, trx, end } = await p.opened();
      const nested = await trx.transaction();
      const other = chunk.handle();
      const built = p.insert(trx, "late");
      end();
      const dead = { code: "transaction-finished" };
      await expect(built).rejects.toMatchObject(dead);
      await expect(p.insert(nested, "late")).rejects.toMatchObject(dead);
      await expect(trx.commit()).rejects.toMatchObject(dead);
      await expect(p.storage.enqueue(trx, [entry(1)])).rejects.toMatchObject(dead);
      await p.insert(other.tx, "a");
      await chunk.commit(1n, noMark);
      await expect(p.insert(other.tx, "late")).rejects.toMatchObject(dead);
      expect(await p.effects()).toEqual(["a"]);
    });

    it("tells by executionPromise how it ended", async () => {
      const p = await here({ pipeline });
      const first = await p.opened();
      const committed = first.trx.executionPromise.then(() => p.effects());
      await p.insert(first.trx, "a");
      await first.chunk.commit(1n, noMark);
      expect(await committed).toEqual(["a"]);
      const second = await p.storage.open(await p.claimed(), [recordAt(1)]);
      const { executionPromise } = second.handle().tx;
      await second.rollback();
      await expect(executionPromise).rejects.toMatchObject({ code: "transaction-finished" });
    });

    it("of which a statement failed and was swallowed fails the chunk, and names it", async () => {
      const p = await here({ pipeline });
      const { chunk, trx } = await p.opened();
      await p.insert(trx, "a");
      await trx("nowhere").catch(() => {});
      await expect(chunk.commit(1n, noMark)).rejects.toMatchObject({
        code: "transaction-aborted",
        cause: { code: "42P01" },
      });
      expect(await p.effects()).toEqual([]);
    });
  });

  it("the bell rings after the commit of a user's transaction, and for nothing else", async () => {
    const p = await here({ pipeline });
    const outbox = createOutbox({ storage: p.storage });
    const message = { topic: "t", key: null, value: null, headers: [] };
    const rung = await bell(p.storage);
    await p.knex.transaction(async (trx) => {
      await trx.transaction((inner) => outbox.enqueue(inner, message));
      await outbox.enqueue(trx, [message, message]);
      expect(rung).toEqual({ woken: 0, expected: 0 });
    });
    await vi.waitFor(() => expect(rung).toEqual({ woken: 1, expected: 0 }));

    const refused = p.knex.transaction(async (trx) => {
      await outbox.enqueue(trx, message);
      throw new Error("mine");
    });
    await expect(refused).rejects.toThrow("mine");
    for (const end of ["rollback", "raw", "swallowed"] as const) {
      const trx = await p.knex.transaction();
      await outbox.enqueue(trx, message);
      if (end === "raw") await trx.raw("rollback");
      if (end === "swallowed") await trx.raw("SELECT 1/0").catch(() => {});
      await (end === "rollback" ? trx.rollback() : trx.commit());
      await trx.executionPromise;
    }
    expect(rung).toEqual({ woken: 1, expected: 0 });
    await p.storage.transaction((trx) => outbox.enqueue(trx, message));
    await vi.waitFor(() => expect(rung).toEqual({ woken: 2, expected: 0 }));
    const { chunk, trx } = await p.opened();
    await trx.transaction((inner) => outbox.enqueue(inner, message));
    await chunk.commit(1n, noMark);
    await vi.waitFor(() => expect(rung).toEqual({ woken: 3, expected: 0 }));
    const { rows } = await p.admin.query(`SELECT FROM ${p.schema}.outbox_messages`);
    expect(rows).toHaveLength(5);
  });
});

describe("a user's own transaction", () => {
  it("records ids once, at the top and in savepoints", async () => {
    const p = await here();
    const inbox = createInbox({ name: "hook", storage: p.storage });
    const once = (trx: Knex.Transaction) => inbox.once(trx, { source: "s", id: "1" });
    const undone = p.knex.transaction(async (trx) => {
      expect(await once(trx)).toBe("new");
      throw new Error("mine");
    });
    await expect(undone).rejects.toThrow("mine");
    await p.knex.transaction(async (trx) => {
      const inner = await trx.transaction();
      expect(await once(inner)).toBe("new");
      await inner.rollback();
      expect(await once(trx)).toBe("new");
    });
    expect(await p.knex.transaction(once)).toBe("duplicate");
  });

  it("is told from what is none, and from one that has ended", async () => {
    const p = await here();
    const client = await p.pool.connect();
    const finished = await p.knex.transaction();
    await finished.commit();
    const ended = await p.knex.transaction();
    await ended.raw("COMMIT");
    const postgres = open({ connectionString: new URL("/postgres", database.url).href }, {});
    const elsewhere = await postgres.transaction();
    const cases: [unknown, string, RegExp][] = [
      [p.knex, "invalid-handle", /knex itself/],
      [client, "invalid-handle", /a pg client/],
      [p.pool, "invalid-handle", /a pg client or pool/],
      [undefined, "invalid-handle", /got undefined/],
      [() => {}, "invalid-handle", /knex itself/],
      [finished, "transaction-finished", /had ended/],
      [ended, "invalid-handle", /without an open transaction/],
      [elsewhere, "invalid-handle", /another database \(postgres/],
    ];
    for (const [tx, code, why] of cases) {
      const error = { code, message: expect.stringMatching(why) };
      const given = tx as Knex.Transaction;
      await expect(p.storage.enqueue(given, [entry(1)])).rejects.toMatchObject(error);
      const ids = [{ source: "s", id: idOf(1), checksum: 1 }];
      await expect(p.storage.recordIds(given, "c", ids)).rejects.toMatchObject(error);
    }
    client.release();
    await ended.commit();
    await elsewhere.rollback();
  });
});

describe("a knex of a user's", () => {
  it("is refused where it is a transaction, or of another database's kind", async () => {
    const p = await here();
    const trx = await p.knex.transaction();
    for (const wrong of [trx, p.pool, undefined]) {
      const error = expect.objectContaining({ code: "invalid-options" });
      expect(() => knexStorage(wrong as unknown as Knex)).toThrow(error);
    }
    await trx.rollback();
  });

  it("shapes the handlers' rows and names as ever, and none of ours", async () => {
    const config: Knex.Config = {
      wrapIdentifier: (name, wrap) => wrap(name.replace(/[A-Z]/g, (x) => `_${x.toLowerCase()}`)),
      postProcessResponse: (rows) => (Array.isArray(rows) ? rows.map(Object.values) : rows),
      searchPath: ["pg_catalog"],
      pool: {
        max: 5,
        afterCreate: (client: Client, done: (error: null, client: Client) => void) => {
          client.setTypeParser(20, "text", () => "spoiled");
          done(null, client);
        },
      },
    };
    const p = await here({ config });
    const claim = await p.claimed();
    const chunk = await p.storage.open(claim, [recordAt(0), recordAt(1)]);
    expect([chunk.nextOffset, chunk.recorded]).toEqual([0n, ["new", "new"]]);
    const { tx: trx } = chunk.handle();
    await trx.raw(`CREATE TABLE ${p.schema}.own (my_name text)`);
    await trx(`${p.schema}.own`).insert({ myName: "x" });
    expect(await trx(`${p.schema}.own`).select("myName")).toEqual([["x"]]);
    await p.storage.enqueue(trx, [entry(1)]);
    await chunk.commit(2n, noMark);
    expect(await p.nextOffset()).toBe(2n);
  });

  it("with too small a pool is told so, and takes connections back that came too late", async () => {
    const p = await here({ max: 1, acquireTimeoutMs: 100 });
    const { chunk, end } = await p.opened();
    const error = await p.storage.check().catch((reason: unknown) => reason);
    expect(error).toMatchObject({
      code: "storage-conflict",
      message: expect.stringMatching(/all 1 connections of the pool were in use/),
      details: { poolSize: 1 },
    });
    expect(p.storage.trouble(error)).toBe("local");
    end();
    await chunk.rollback();
    expect((await p.storage.check()).poolSize).toBe(1);
  });

  it("says of a second connection inside a handler that the pool is empty: local trouble", async () => {
    const p = await here({ max: 1, config: { acquireConnectionTimeout: 1_000 } });
    const { chunk } = await p.opened();
    const error = await p.knex.raw("SELECT 1").catch((reason: unknown) => reason);
    expect(p.storage.trouble(error)).toBe("local");
    await chunk.rollback();
  });

  // Guards the connection of `transaction` until it has handles: each failure would keep one.
  it("gets its connections back where something around it throws", async () => {
    const p = await here({ max: 1, acquireTimeoutMs: 500 });
    const mine = new Error("mine");
    // As whoever measures transactions may have put it there.
    const around = vi.spyOn(p.knex.client, "transaction").mockImplementation(() => {
      throw mine;
    });
    for (let time = 0; time < 2; time += 1) {
      await expect(p.storage.transaction(async () => {})).rejects.toBe(mine);
    }
    around.mockRestore();
    await p.storage.transaction((trx) => p.insert(trx, "a"));
    expect(await p.effects()).toEqual(["a"]);
  });

  it("that was destroyed, or has no server, is trouble of the whole database", async () => {
    const p = await here();
    await p.knex.destroy();
    const gone = await p.storage.check().catch((reason: unknown) => reason);
    expect([gone, p.storage.trouble(gone)]).toMatchObject([{ retryable: true }, "global"]);
    const knex = open({ host: "127.0.0.1", port: 1 }, {});
    const storage = knexStorage(knex);
    const refused = await storage.check().catch((reason: unknown) => reason);
    expect([refused, storage.trouble(refused)]).toMatchObject([{ retryable: true }, "global"]);
  });

  it("may stand on a pool of the driver, or take its settings from a function", async () => {
    const p = await here();
    const onPool = createKnex({ client: "pg", connectionPool: p.pool } as Knex.Config);
    const connection = async () => ({ connectionString: database.url });
    const asked = open({}, { connection, pool: { max: 5 } });
    for (const knex of [onPool, asked]) {
      const storage = knexStorage(knex, { schema: p.schema });
      expect((await storage.check()).poolSize).toBe(5);
      await knex.transaction((trx) => storage.enqueue(trx, [entry(1)]));
      await storage.close();
    }
  });
});
