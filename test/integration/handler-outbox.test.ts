/**
 * What handlers enqueue on PostgreSQL: it waits for the commit of the chunk where the connection is
 * pipelined, and nobody can tell but by the number of statements. What holds on any storage is promise
 * O1 of the conformance suite.
 */
import { createOutbox, type HandlerContext } from "@oncebox/core";
import { knexStorage } from "@oncebox/postgres/knex";
import type { Client, ClientBase } from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openKnex } from "../conformance/knex-under-test.ts";
import type { TestDatabase } from "../fixtures/databases.ts";
import { type Scene, scene, textTopic } from "../fixtures/scene.ts";
import { hasKafka, testDatabase } from "../fixtures/servers.ts";
import { entry, noMark, place, recordAt } from "./postgres-place.ts";

let database: TestDatabase;
beforeAll(async () => {
  database = await testDatabase();
});
afterAll(() => database.drop());

/** A schema of its own; what is sent on its pool is noted. */
async function here(pipeline: boolean) {
  const p = await place(database, { pool: { pipeline } });
  const sent: string[] = [];
  p.pool.on("connect", (client) => note(client as Client, sent));
  const opened = async () => {
    const chunk = await p.storage.open(await p.claimed(), [recordAt(0), recordAt(1)]);
    return { chunk, ...chunk.handle() };
  };
  const ids = async () => {
    const { rows } = await p.admin.query<{ id: string }>(
      `SELECT message_id AS id FROM ${p.schema}.outbox_messages ORDER BY position`,
    );
    return rows.map(({ id }) => id);
  };
  const writes = () => sent.filter((text) => text.includes("oncebox_enqueue")).length;
  return { ...p, opened, ids, writes };
}

function note(client: Client, sent: string[]): void {
  const query = client.query.bind(client) as (...args: unknown[]) => unknown;
  Object.assign(client, {
    query: (...args: unknown[]) => {
      const [first] = args as [string | { readonly text: string }];
      sent.push(typeof first === "string" ? first : first.text);
      return query(...args);
    },
  });
}

const named = (id: string) => [entry(0, { id })];

describe("what handlers of a chunk enqueue", () => {
  it("is one statement for all of them, sent with the commit", async () => {
    const p = await here(true);
    const { chunk, tx } = await p.opened();
    const other = chunk.handle({ shared: true });
    for (const id of ["a", "b"]) await p.storage.enqueue(tx, named(id));
    await p.storage.enqueue(other.tx, named("c"));
    expect(p.writes()).toBe(0);
    await chunk.commit(2n, noMark);
    expect(p.writes()).toBe(1);
    expect(await p.ids()).toEqual(["a", "b", "c"]);
  });

  it("is kept as it was, also where it was given as a Buffer that is used again", async () => {
    // Guards: `slice` of a Buffer is a view of the same bytes.
    const p = await here(true);
    const { chunk, tx } = await p.opened();
    const value = Buffer.from("first");
    await p.storage.enqueue(tx, [entry(0, { id: "a", value })]);
    value.write("other");
    await chunk.commit(2n, noMark);
    const { rows } = await p.admin.query(`SELECT value FROM ${p.schema}.outbox_messages`);
    expect(rows.map((row) => String(row.value))).toEqual(["first"]);
  });

  it("keeps its order through a client that somebody has wrapped", async () => {
    // Guards the flush before an enqueue that passes by what is kept.
    const p = await here(true);
    const { chunk, tx } = await p.opened();
    const query = (...args: unknown[]) => (tx.query as (...args: unknown[]) => unknown)(...args);
    await p.storage.enqueue(tx, named("a"));
    await p.storage.enqueue({ query } as unknown as ClientBase, named("b"));
    await p.storage.enqueue(tx, named("c"));
    await chunk.commit(2n, noMark);
    expect(await p.ids()).toEqual(["a", "b", "c"]);
  });

  it("is sent at once where the connection does not pipeline", async () => {
    const p = await here(false);
    const { chunk, tx } = await p.opened();
    for (const id of ["a", "b"]) await p.storage.enqueue(tx, named(id));
    expect(p.writes()).toBe(2);
    await chunk.commit(2n, noMark);
    expect(await p.ids()).toEqual(["a", "b"]);
  });

  it.each([
    ["plain", "SAVEPOINT s", "ROLLBACK TO s"],
    ["in any case, behind a comment", "/* s */ SavePoint s", "rollback to savepoint s"],
    ["behind another statement", "SELECT 1; SAVEPOINT s", "SELECT 1; ROLLBACK TO s"],
  ])("is not taken back with a savepoint behind it, %s", async (_, begin, end) => {
    // Guards: what was kept is sent ahead of a savepoint, and what comes behind that is not kept.
    const p = await here(true);
    const { chunk, tx } = await p.opened();
    await p.storage.enqueue(tx, named("before"));
    await tx.query({ text: begin });
    await p.storage.enqueue(tx, named("behind"));
    await tx.query(end);
    await p.storage.enqueue(tx, named("after"));
    await chunk.commit(2n, noMark);
    expect(await p.ids()).toEqual(["before", "after"]);
  });

  it("is not written where a handler has ended the transaction", async () => {
    // Guards: the proof of the transaction in the statement, which else writes outside of any.
    const p = await here(true);
    for (const ending of ["COMMIT", "COMMIT; BEGIN"]) {
      const { chunk, tx } = await p.opened();
      await p.storage.enqueue(tx, named("never"));
      await tx.query(`SELECT 1; ${ending}`);
      const committing = chunk.commit(2n, noMark);
      await expect(committing).rejects.toMatchObject({ code: "transaction-ended-early" });
    }
    expect(await p.ids()).toEqual([]);
    expect(p.pool.idleCount).toBe(p.pool.totalCount);
  });

  it("that cannot be written fails the commit as it would have failed the handler", async () => {
    const p = await here(true);
    await p.admin.query(`
      CREATE FUNCTION ${p.schema}.refuses() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN PERFORM 1 / 0; RETURN NEW; END $$;
      CREATE TRIGGER refuses BEFORE INSERT ON ${p.schema}.outbox_messages
        FOR EACH ROW EXECUTE FUNCTION ${p.schema}.refuses()`);
    const { chunk, tx } = await p.opened();
    await p.storage.enqueue(tx, named("a"));
    // Not the division by zero by which a lost claim is told.
    const failed = { code: "storage-failed", details: { sqlState: "22012" } };
    await expect(chunk.commit(2n, noMark)).rejects.toMatchObject(failed);
    const redo = await p.opened();
    const at = redo.chunk.handle({ shared: false, immediate: true });
    await expect(p.storage.enqueue(at.tx, named("b"))).rejects.toMatchObject(failed);
    await redo.chunk.rollback();
    expect(p.pool.idleCount).toBe(p.pool.totalCount);
  });

  it("keeps its order through the outbox of the context, one of your own, and nested transactions", async () => {
    const p = await here(true);
    const knex = openKnex({ connectionString: database.url, pipeline: true, max: 3 });
    const storage = knexStorage(knex, { schema: p.schema });
    const outbox = createOutbox({ storage });
    const chunk = await storage.open(await p.claimed(), [recordAt(0)]);
    const { tx } = chunk.handle();
    const message = (id: string) => {
      return { id, topic: "t", key: "k", value: new Uint8Array(), headers: [] };
    };
    await outbox.enqueue(tx, message("first"));
    await storage.enqueue(tx, named("second"));
    const nested = tx.transaction(async (within) => {
      await outbox.enqueue(within, message("gone"));
      await outbox.enqueue(tx, message("gone as well"));
      throw new Error("only this part");
    });
    await expect(nested).rejects.toThrow("only this part");
    await tx.transaction((within) => outbox.enqueue(within, message("third")));
    await outbox.enqueue(tx, message("fourth"));
    await chunk.commit(1n, noMark);
    expect(await p.ids()).toEqual(["first", "second", "third", "fourth"]);
    await storage.close();
    await knex.destroy();
  });
});

describe.skipIf(!hasKafka())("a handler whose message cannot be written", () => {
  const refusing = `
    CREATE FUNCTION refuses() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      IF convert_from(NEW.value, 'UTF8') LIKE 'bad%' THEN RAISE 'refused' USING ERRCODE = '23514'; END IF;
      RETURN NEW;
    END $$;
    CREATE TRIGGER refuses BEFORE INSERT ON oncebox.outbox_messages
      FOR EACH ROW EXECUTE FUNCTION refuses()`;
  const copying =
    (s: Scene) =>
    async ({ value }: { readonly value: string }, tx: ClientBase, { outbox }: HandlerContext) => {
      await outbox.enqueue(textTopic(`${s.topic}.copies`).message({ key: "k", value }));
      await tx.query("INSERT INTO effects (value) VALUES ($1)", [value]);
    };

  it.each(["partition", "key"] as const)(
    "is found among the others: ordering %s",
    async (ordering) => {
      // Guards: a failure at the commit, of which nobody knows the message, is led back to one.
      await using s = await scene();
      await s.pool.query(refusing);
      const consumer = s.bareConsumer().handle(textTopic(s.topic), copying(s), {
        ...{ ordering, retry: { localAttemptsMax: 2, localBackoffMs: 1 } },
      });
      await s.produce(0, ...["a", "bad", "c", "d"].map((value) => ({ key: value, value })));
      await consumer.start();
      const { offset } = await s.ear.waitFor("inbox.parked");
      expect(offset).toBe(1n);
      expect((await s.effectsReach(3)).sort()).toEqual(["a", "c", "d"]);
      const { rows } = await s.pool.query(
        "SELECT value FROM oncebox.outbox_messages ORDER BY position",
      );
      expect(rows.map((row) => String(row.value))).toEqual(["a", "c", "d"]);
    },
  );
});
