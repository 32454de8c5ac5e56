/** Handlers of different keys in one transaction at the same time, and what must not come of it. */
import { setImmediate as turn } from "node:timers/promises";
import type { HandlerContext } from "@oncebox/core";
import type { ClientBase } from "pg";
import { describe, expect, it } from "vitest";
import { type Scene, scene, textTopic } from "../fixtures/scene.ts";
import { hasKafka } from "../fixtures/servers.ts";

const keyed = (key: string, ...values: readonly string[]) =>
  values.map((value) => ({ key, value }));

type Run = (value: string, tx: ClientBase, context: HandlerContext) => Promise<unknown>;

/** A consumer with `ordering: "key"` whose handlers write their values, and count how many run at once. */
function atOnce(s: Scene, more: Run = async () => {}, options = {}) {
  const seen = { now: 0, most: 0 };
  const consumer = s.bareConsumer(options).handle(
    textTopic(s.topic),
    async ({ value }, tx, context) => {
      seen.now += 1;
      seen.most = Math.max(seen.most, seen.now);
      try {
        await tx.query("INSERT INTO effects (value, attempt) VALUES ($1, $2)", [
          value,
          context.attempt,
        ]);
        await more(value, tx, context);
      } finally {
        seen.now -= 1;
      }
    },
    { ordering: "key", onFailure: "block" },
  );
  return { consumer, seen };
}

describe.skipIf(!hasKafka())("ordering by key", () => {
  it("A12: runs different keys at once and each key in order, in one transaction a chunk", async () => {
    // Guards: a later message of a key that overtakes; a position past a message still open.
    await using s = await scene();
    let open = () => {};
    const gate = new Promise<void>((resolve) => {
      open = resolve;
    });
    const { consumer, seen } = atOnce(s, async (value) => {
      // The first of key a is slow: all of key b pass it, the second of its own key does not.
      if (value === "b2") open();
      if (value === "a1") await gate;
    });
    await s.produce(0, ...keyed("a", "a1", "a2"), ...keyed("b", "b1", "b2"), "x", "y");
    await consumer.start();
    const effects = await s.effectsReach(6);
    expect(effects.indexOf("a1")).toBeLessThan(effects.indexOf("a2"));
    expect(effects.indexOf("b2")).toBeLessThan(effects.indexOf("a2"));
    expect(seen.most).toBeGreaterThan(2);
    const { rows } = await s.pool.query("SELECT DISTINCT xmin::text FROM effects");
    const chunks = s.ear.heard.filter(({ type }) => type === "inbox.chunk-committed");
    expect(rows).toHaveLength(chunks.length);
  });

  it("holds to handlersAtOnceMax", async () => {
    await using s = await scene();
    const { consumer, seen } = atOnce(s, () => turn(), { handlersAtOnceMax: 2 });
    await s.produce(0, ..."abcdef".split(""));
    await consumer.start();
    await s.effectsReach(6);
    expect(seen.most).toBe(2);
  });

  it("runs a chunk in order after a failure, which tells the message that fails", async () => {
    await using s = await scene();
    let broken = true;
    const { consumer } = atOnce(s, async (value) => {
      if (value === "b1" && broken) throw new Error("no");
    });
    await s.produce(0, ...keyed("a", "a1"), ...keyed("b", "b1"), ...keyed("c", "c1"));
    await consumer.start();
    const { offset } = await s.ear.waitFor("inbox.blocked");
    expect(offset).toBe(1n);
    expect(await s.effectsReach(1)).toEqual(["a1"]);
    broken = false;
    expect(await s.effectsReach(3)).toEqual(["a1", "b1", "c1"]);
  });

  it.each([
    ["SAVEPOINT", "SAVEPOINT mine"],
    ["ROLLBACK TO", "ROLLBACK TO mine"],
    ["SET LOCAL", "SET LOCAL work_mem = '4MB'"],
    ["several statements", "SELECT 1; SET LOCAL work_mem = '4MB'"],
  ])("B18: refuses %s, redoes the chunk in order and stays with it", async (what, sql) => {
    // Guards: one handler's ROLLBACK TO erases what another wrote, and the chunk commits without it.
    await using s = await scene();
    const trick: Run = async (_, tx) => {
      const statement = what === "ROLLBACK TO" ? `SAVEPOINT mine; ${sql}` : sql;
      // It goes on as if nothing had happened.
      await tx.query(statement).catch(() => undefined);
    };
    const { consumer, seen } = atOnce(s, trick);
    await s.produce(0, "a", "b", "c");
    await consumer.start();
    expect(await s.effectsReach(3)).toEqual(["a", "b", "c"]);
    const kept = await s.ear.waitFor("inbox.ordering-kept");
    expect(kept.why).toBe("refused");
    seen.most = 0;
    await s.produce(0, "d", "e", "f");
    expect((await s.effectsReach(6)).slice(3)).toEqual(["d", "e", "f"]);
    expect(seen.most).toBe(1);
    expect(s.ear.heard.filter(({ type }) => type === "inbox.ordering-kept")).toHaveLength(1);
  });

  it("runs in order where the connection does not pipeline, and says so", async () => {
    await using s = await scene({ pipelined: false });
    const { consumer, seen } = atOnce(s);
    await s.produce(0, "a", "b", "c");
    await consumer.start();
    await s.effectsReach(3);
    expect(seen.most).toBe(1);
    expect(await s.ear.waitFor("inbox.ordering-kept")).toMatchObject({ why: "not-pipelined" });
  });

  it("A10: a handler that never returns is told by its own offset, among those beside it", async () => {
    // At once nobody knows whom the others wait for; in order it shows.
    await using s = await scene();
    let hangs = 2;
    const { consumer } = atOnce(
      s,
      async (value, _, { signal }) => {
        if (value !== "b" || hangs === 0) return;
        hangs -= 1;
        await new Promise((resolve) => signal.addEventListener("abort", resolve));
      },
      { handlerTimeoutMs: 500 },
    );
    await s.produce(0, "a", "b", "c");
    await consumer.start();
    const { offset, error } = await s.ear.waitFor("inbox.blocked");
    expect([offset, error.code]).toEqual([1n, "handler-timed-out"]);
    expect((await s.effectsReach(3)).sort()).toEqual(["a", "b", "c"]);
  });
});

describe.skipIf(!hasKafka())("a handler of batches", () => {
  it("gets the new messages of a chunk at once, and publishes with ids of each", async () => {
    await using s = await scene();
    const ids: (readonly string[])[] = [];
    const sizes: number[] = [];
    const consumer = s
      .bareConsumer()
      .handleBatch(textTopic(s.topic), async (messages, tx, { of }) => {
        sizes.push(messages.length);
        await tx.query("INSERT INTO effects (value, attempt) SELECT unnest($1::text[]), 1", [
          messages.map(({ value }) => value),
        ]);
        const echo = { topic: "echoes", key: null, value: null, headers: [] };
        for (const message of messages) ids.push(await of(message).outbox.enqueue([echo, echo]));
        if (ids.length <= 3) throw new Error("once more");
      });
    const again = { value: "b", headers: { id: "1" } };
    await s.produce(0, "a", again, again, "c");
    await consumer.start();
    expect(await s.effectsReach(3)).toEqual(["a", "b", "c"]);
    expect(sizes[0]).toBe(3);
    // The redo publishes the same, whatever the size of its batch.
    expect(ids.slice(3)).toEqual(ids.slice(0, 3));
    expect(new Set(ids.flat()).size).toBe(6);
    const { rows } = await s.pool.query("SELECT count(*)::int AS n FROM oncebox.outbox_messages");
    expect(rows[0].n).toBe(6);
  });

  it("is given halves down to the messages that fail, which are parked; all others are applied", async () => {
    await using s = await scene();
    const sizes: number[] = [];
    const consumer = s.bareConsumer({ redriveIntervalMs: 20 }).handleBatch(
      textTopic(s.topic),
      async (messages, tx, { attempt }) => {
        sizes.push(messages.length);
        const values = messages.map(({ value }) => value);
        await tx.query("INSERT INTO effects (value, attempt) SELECT unnest($1::text[]), $2", [
          values,
          attempt,
        ]);
        if (attempt < 5 && values.some((value) => value === "7" || value === "20")) {
          throw new Error("no");
        }
      },
      { retry: { localAttemptsMax: 2, localBackoffMs: 1, redriveBackoffMs: 1 } },
    );
    const values = Array.from({ length: 96 }, (_, i) => String(i));
    await s.produce(0, ...values);
    await consumer.start();
    const effects = await s.effectsReach(96);
    expect([...effects].sort()).toEqual([...values].sort());
    expect(s.ear.heard.filter(({ type }) => type === "inbox.parked")).toHaveLength(2);
    // Not one by one.
    expect(sizes.length).toBeLessThan(60);
  });

  it("E6: has no part in one that does not decode", async () => {
    await using s = await scene();
    const consumer = s.bareConsumer().handleBatch(textTopic(s.topic), async (messages, tx) => {
      await tx.query("INSERT INTO effects (value) SELECT unnest($1::text[])", [
        messages.map(({ value }) => value),
      ]);
    });
    await s.produce(0, "a", { value: Buffer.from([0xff]) }, "b");
    await consumer.start();
    expect(await s.effectsReach(2)).toEqual(["a", "b"]);
    expect(await s.ear.waitFor("inbox.parked")).toMatchObject({ offset: 1n, state: "dead" });
  });
});
