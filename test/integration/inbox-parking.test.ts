/** What becomes of messages that keep failing: parked by key, tried again beside, dead, redriven, skipped. */
import { randomBytes } from "node:crypto";
import { bytes, createOperator, defineTopic, PermanentError } from "@oncebox/core";
import type { ClientBase } from "pg";
import { describe, expect, it } from "vitest";
import { startPostgres } from "../fixtures/postgres.ts";
import { type Scene, scene, textTopic } from "../fixtures/scene.ts";
import { hasKafka } from "../fixtures/servers.ts";

const quick = { localAttemptsMax: 2, localBackoffMs: 1, redriveBackoffMs: 1 } as const;

const keyed = (key: string, ...values: readonly string[]) =>
  values.map((value) => ({ key, value }));

/** A consumer that writes each value, except those that are `broken` at the moment. */
function writing(s: Scene, broken: Set<string>, error: () => Error = () => new Error("no")) {
  const tries: string[] = [];
  const consumer = s.bareConsumer({ redriveIntervalMs: 20 }).handle(
    textTopic(s.topic),
    async ({ value }, tx, { attempt }) => {
      tries.push(`${value} ${attempt}`);
      await tx.query("INSERT INTO effects (value, attempt) VALUES ($1, $2)", [value, attempt]);
      if (broken.has(value)) throw error();
    },
    { retry: quick },
  );
  return { consumer, tries };
}

const operatorOf = ({ storage, broker }: Scene) =>
  createOperator({ storage, broker, actor: "a test" });

const parkedValues = async (s: Scene) =>
  (await operatorOf(s).parked({ consumer: s.name })).map(({ record, state }) => [
    Buffer.from(record.value ?? []).toString(),
    state,
  ]);

describe.skipIf(!hasKafka())("a message that keeps failing", () => {
  it("E8: is parked with those of its key behind it, other keys go on, and all is done in order", async () => {
    // Guards: A handled after A+1; a partition that waits for one message.
    await using s = await scene();
    const broken = new Set(["a1"]);
    const { consumer, tries } = writing(s, broken);
    await s.produce(0, ...keyed("a", "a1"), ...keyed("b", "b1"), ...keyed("a", "a2"));
    await s.produce(0, ...keyed("c", "c1"), "no key");
    await consumer.start();
    expect(await s.effectsReach(3)).toEqual(["b1", "c1", "no key"]);
    const parked = await s.ear.waitFor("inbox.parked");
    expect(parked).toMatchObject({ offset: 0n, state: "waiting", attempts: 2 });
    // The redrive worker has tried it meanwhile, and nothing else of its key.
    await s.ear.waitFor("inbox.redrive-failed", ({ attempts }) => attempts === 4);
    await s.produce(0, ...keyed("a", "a3"), ...keyed("b", "b2"));
    expect(await s.effectsReach(4)).toEqual(["b1", "c1", "no key", "b2"]);
    expect(tries.filter((each) => /^a[23]/.test(each))).toEqual([]);
    broken.clear();
    expect((await s.effectsReach(7)).slice(4)).toEqual(["a1", "a2", "a3"]);
    expect(await parkedValues(s)).toEqual([]);
    // What is not parked any more is not held either.
    await s.produce(0, ...keyed("a", "a4"));
    await s.effectsReach(8);
    expect(tries.at(-1)).toBe("a4 1");
    expect(await s.nextOffset(0)).toBe(8n);
  });

  it("E6, E3: bytes that do not decode and an id used again are dead at once", async () => {
    await using s = await scene();
    const { consumer } = writing(s, new Set());
    const again = { key: "k", headers: { id: "1" } };
    await s.produce(0, { value: Buffer.from([0xff, 0xfe]) }, { ...again, value: "one" });
    await s.produce(0, { ...again, value: "other" }, "fine");
    await consumer.start();
    expect(await s.effectsReach(2)).toEqual(["one", "fine"]);
    const found = await operatorOf(s).parked({ consumer: s.name });
    expect(found.map(({ state, error, record }) => [record.offset, state, error?.code])).toEqual([
      [0n, "dead", "value-not-decodable"],
      [2n, "dead", "message-id-conflict"],
    ]);
    // Not in the text of the error, but as they were.
    expect(Buffer.from(found[0]?.record.value ?? [])).toEqual(Buffer.from([0xff, 0xfe]));
  });

  it("E7: is parked as it was, however large or odd, with as much of its error as fits", async () => {
    // Guards: a value that is no text, and an error that no column takes, fail the parking itself.
    await using s = await scene();
    const value = randomBytes(900_000);
    const headers = { odd: Buffer.from([0x00, 0xff]), empty: "" };
    let broken = true;
    const seen: Uint8Array[] = [];
    const consumer = s.bareConsumer({ redriveIntervalMs: 20 }).handle(
      defineTopic({ name: s.topic, value: bytes() }),
      async (message, tx) => {
        if (message.offset === 0n && broken)
          throw new Error(`\u0000\ud800${"x".repeat(1_000_000)}`);
        seen.push(message.value);
        await tx.query("INSERT INTO effects (value) VALUES ($1)", [String(message.offset)]);
      },
      { retry: { ...quick, redriveBackoffMaxMs: 20, attemptsMax: 1_000 } },
    );
    await s.produce(0, { key: Buffer.from([0x00, 0xfe]), value, headers } as never, "next");
    await consumer.start();
    expect(await s.effectsReach(1)).toEqual(["1"]);
    await s.ear.waitFor("inbox.redrive-failed");
    const [parked] = await operatorOf(s).parked({ consumer: s.name });
    expect(Buffer.from(parked?.record.key ?? [])).toEqual(Buffer.from([0x00, 0xfe]));
    expect(parked?.record.headers.map(([name, each]) => [name, Buffer.from(each ?? [])])).toEqual([
      ["odd", Buffer.from([0x00, 0xff])],
      ["empty", Buffer.alloc(0)],
    ]);
    expect(parked?.error?.text.length).toBeLessThan(10_000);
    broken = false;
    expect(await s.effectsReach(2)).toEqual(["1", "0"]);
    expect(value.equals(seen.at(-1) ?? Buffer.alloc(0))).toBe(true);
  });

  it("is dead when its tries are spent or cannot help, holds its key, and waits for a person", async () => {
    await using s = await scene();
    const broken = new Set(["a1", "b1"]);
    const { consumer } = writing(s, broken, () => new PermanentError("never"));
    await s.produce(0, ...keyed("a", "a1", "a2"), ...keyed("b", "b1", "b2"), ...keyed("c", "c1"));
    await consumer.start();
    expect(await s.effectsReach(1)).toEqual(["c1"]);
    expect(await parkedValues(s)).toEqual([
      ["a1", "dead"],
      ["a2", "waiting"],
      ["b1", "dead"],
      ["b2", "waiting"],
    ]);
    const operator = operatorOf(s);
    const a = { consumer: s.name, key: "a", state: "dead" } as const;
    expect(await operator.skip({ ...a, reason: "looks wrong", dryRun: true })).toBe(1);
    expect(await operator.skip({ ...a, reason: "a test order" })).toBe(1);
    expect((await s.effectsReach(2)).at(-1)).toBe("a2");
    broken.clear();
    expect(await operator.redrive({ consumer: s.name, state: "dead", reason: "fixed" })).toBe(1);
    expect((await s.effectsReach(4)).slice(2)).toEqual(["b1", "b2"]);
    const history = await operator.history({ consumer: s.name });
    expect(history.map(({ action, reason, actor }) => [action, reason, actor])).toEqual([
      ["redrive", "fixed", "a test"],
      ["skip", "a test order", "a test"],
    ]);
  });

  it("with onFailure drop is given up for good and told", async () => {
    await using s = await scene();
    const consumer = s.bareConsumer().handle(
      textTopic(s.topic),
      async ({ value }, tx) => {
        if (value === "bad") throw new Error("no");
        await tx.query("INSERT INTO effects (value) VALUES ($1)", [value]);
      },
      { onFailure: "drop", retry: quick },
    );
    await s.produce(0, ...keyed("a", "bad", "good"));
    await consumer.start();
    expect(await s.effectsReach(1)).toEqual(["good"]);
    const dropped = await s.ear.waitFor("inbox.dropped");
    expect(dropped).toMatchObject({ offset: 0n, attempts: 2, error: { code: "handler-failed" } });
    expect(await parkedValues(s)).toEqual([]);
  });

  it("E1: is no duplicate of itself, and its producer's repeat has no second effect", async () => {
    await using s = await scene();
    const broken = new Set(["a1"]);
    const { consumer } = writing(s, broken);
    const message = { key: "a", value: "a1", headers: { id: "1" } };
    await s.produce(0, message);
    await consumer.start();
    await s.ear.waitFor("inbox.parked");
    await s.produce(0, message, "after");
    expect(await s.effectsReach(1)).toEqual(["after"]);
    broken.clear();
    expect(await s.effectsReach(2)).toEqual(["after", "a1"]);
    await s.produce(0, message, "last");
    expect(await s.effectsReach(3)).toEqual(["after", "a1", "last"]);
  });
});

describe.skipIf(!hasKafka())("the redrive worker", () => {
  /** One message of a key is parked, one of its key stands behind it. */
  async function parked(s: Scene, run: (tx: ClientBase, attempt: number) => Promise<void>) {
    const consumer = s.bareConsumer({ redriveIntervalMs: 20 }).handle(
      textTopic(s.topic),
      async ({ value }, tx, { attempt }) => {
        await tx.query("INSERT INTO effects (value, attempt) VALUES ($1, $2)", [value, attempt]);
        if (attempt <= 2 && value === "a1") throw new Error("no");
        if (value === "a1") await run(tx, attempt);
      },
      { retry: quick },
    );
    await s.produce(0, ...keyed("a", "a1", "a2"));
    await consumer.start();
    return consumer;
  }

  it("B5: spends no attempt on a connection that dies, nor on trouble of one transaction", async () => {
    // Guards: an outage that makes dead messages of good ones.
    await using s = await scene();
    let troubles = 4;
    await parked(s, async (tx) => {
      troubles -= 1;
      if (troubles >= 2) await tx.query("SELECT pg_terminate_backend(pg_backend_pid())");
      if (troubles >= 0) {
        await tx.query("DO $$ BEGIN RAISE SQLSTATE '40001'; END $$");
      }
    });
    expect(await s.effectsReach(2)).toEqual(["a1", "a2"]);
    const redriven = await s.ear.waitFor("inbox.redriven");
    expect(redriven).toMatchObject({ attempts: 3 });
    const { rows } = await s.pool.query("SELECT attempt FROM effects ORDER BY n");
    expect(rows.map(({ attempt }) => attempt)).toEqual([3, 1]);
  });

  it("B5: spends none while the server is gone, in the log or parked", async () => {
    // Guards: mass dead letters. Two tries here, then one for each time the handler really failed.
    const server = await startPostgres();
    try {
      await using s = await scene({ server: server.url });
      const failures = new Map<string, number>();
      let broken = true;
      const consumer = s.bareConsumer({ redriveIntervalMs: 20 }).handle(
        textTopic(s.topic),
        async ({ value }, tx, { attempt }) => {
          await tx.query("INSERT INTO effects (value, attempt) VALUES ($1, $2)", [value, attempt]);
          if (!value.startsWith("bad") || !broken) return;
          failures.set(value, (failures.get(value) ?? 0) + 1);
          throw new Error("no");
        },
        { retry: { ...quick, redriveBackoffMaxMs: 20, attemptsMax: 1_000 } },
      );
      await s.produce(0, ...keyed("a", "bad a"), ...keyed("b", "b1"));
      await consumer.start();
      await s.ear.waitFor("inbox.redrive-failed", ({ attempts }) => attempts >= 4);
      await server.stopAbruptly();
      await s.produce(0, ...keyed("c", "bad c"), ...keyed("b", "b2"));
      await s.ear.waitFor("inbox.chunk-rerun", ({ rerun }) => rerun >= 3);
      await s.ear.waitFor("inbox.redrive-troubled");
      await server.restart();
      const since = s.ear.heard.length;
      await s.ear.waitFor("inbox.redrive-failed", ({ offset }) => offset === 2n, since);
      await s.ear.waitFor("inbox.redrive-failed", ({ offset }) => offset === 0n, since);
      broken = false;
      await s.effectsReach(4);
      const { rows } = await s.pool.query("SELECT value, attempt FROM effects WHERE value ~ 'bad'");
      // Each failed try was counted, and none but those.
      for (const { value, attempt } of rows) expect(attempt).toBe((failures.get(value) ?? 0) + 1);
      expect(rows).toHaveLength(2);
    } finally {
      await server.stop();
    }
  });

  it("never waits for the partition's lock, nor makes a chunk wait for its own", async () => {
    // Guards: redrive that touches the partition's row deadlocks with the chunk; the chunk loses.
    await using s = await scene();
    let release = () => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    let began = () => {};
    const inside = new Promise<void>((resolve) => {
      began = resolve;
    });
    await parked(s, async () => {
      began();
      await held;
    });
    await inside;
    await s.produce(0, ...keyed("b", "b1"), ...keyed("a", "a3"));
    expect(await s.effectsReach(1)).toEqual(["b1"]);
    expect(await s.nextOffset(0)).toBe(4n);
    release();
    const effects = await s.effectsReach(4);
    expect(effects.filter((value) => value.startsWith("a"))).toEqual(["a1", "a2", "a3"]);
  });

  it("of the next process goes on where a stop has ended the first", async () => {
    await using s = await scene();
    const broken = new Set(["a1"]);
    const first = writing(s, broken);
    await s.produce(0, ...keyed("a", "a1", "a2"));
    await first.consumer.start();
    await s.ear.waitFor("inbox.redrive-failed");
    await first.consumer.stop();
    broken.clear();
    await writing(s, broken).consumer.start();
    expect(await s.effectsReach(2)).toEqual(["a1", "a2"]);
  });
});
