/** Who owns a partition, and what becomes of it when the owner hangs, is robbed, or falls silent. */
import type { Broker, ConsumerCallbacks, RecordBatch } from "@oncebox/core";
import { PermanentError } from "@oncebox/core";
import { describe, expect, it } from "vitest";
import { scene, textTopic } from "../fixtures/scene.ts";
import { hasKafka } from "../fixtures/servers.ts";

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** The same broker, but each consumer's callbacks pass through `change`. */
function listening(broker: Broker, change: (callbacks: ConsumerCallbacks) => ConsumerCallbacks) {
  return {
    ...broker,
    consumer: (options, callbacks) => broker.consumer(options, change(callbacks)),
  } satisfies Broker;
}

describe.skipIf(!hasKafka())("a partition changes hands", () => {
  // Guards the idle time-out that a chunk sets (postgres/chunk.ts) and the bounded wait of a claim. A
  // frozen process runs no timers either: here nobody but the database can end the transaction.
  it("A3: the owner freezes inside its transaction: the next one says who blocks, then goes on", async () => {
    await using s = await scene();
    await s.produce(0, "a", "b");
    const first = s.consumer();
    await first.start();
    await s.effectsReach(2);
    await first.stop();
    const ref = { consumer: s.name, topic: s.topic, partition: 0 };
    const claim = await s.storage.claim({ ...ref, owner: "frozen" }, 1_000);
    if (claim === null) throw new Error("there is no row");
    const frozen = await s.storage.open(claim, []);
    await s.produce(0, "c");
    await s.consumer().start();
    const waiting = await s.ear.waitFor("inbox.claim-waiting");
    expect(waiting.error.code).toBe("claim-timeout");
    expect(waiting.error.details.blockingPid).toEqual(expect.any(Number));
    expect(waiting.error.details.blockingState).toBe("idle in transaction");
    expect(await s.effectsReach(3)).toEqual(["a", "b", "c"]);
    await frozen.rollback();
  });

  // Guards #voidAssignment (consumer.ts): a claim or buffer that outlives a rebalance.
  it("A4: a partition taken away and given back is claimed anew: nothing is lost or doubled", async () => {
    await using s = await scene({ partitions: 2 });
    const values = Array.from({ length: 200 }, (_, i) => `m${i}`);
    const slow = (name: string) =>
      s.bareConsumer({ chunkSizeMax: 2 }).handle(textTopic(s.topic), async ({ value }, tx) => {
        await pause(5);
        await tx.query("INSERT INTO effects (value, attempt) VALUES ($1, 1)", [`${value} ${name}`]);
      });
    await s.produce(0, ...values.slice(0, 100));
    await s.produce(1, ...values.slice(100));
    await slow("first").start();
    await s.effectsReach(10);
    const second = slow("second");
    await second.start();
    await s.ear.waitFor("inbox.assigned", ({ partitions }) => partitions.length === 1);
    await s.effectsReach(40);
    await second.stop();
    const effects = (await s.effectsReach(200)).map((effect) => effect.split(" ")[0]);
    expect([...effects].sort()).toEqual([...values].sort());
    const claims = s.ear.heard.filter(({ type }) => type === "inbox.claimed");
    const assigned = s.ear.heard.flatMap((event) =>
      event.type === "inbox.assigned" ? event.partitions : [],
    );
    // One for each partition of each assignment: a worker that outlives its assignment is fenced by
    // the next one, and would claim again behind its back.
    expect(claims.length).toBeGreaterThanOrEqual(5);
    expect(claims.length).toBeLessThanOrEqual(assigned.length);
  });

  // Guards the check of the assignment's number (consumer.ts, #deliver).
  it("a batch left over from an earlier assignment is dropped, and claims nothing", async () => {
    await using s = await scene();
    const held: RecordBatch[] = [];
    let callbacks: ConsumerCallbacks | null = null;
    const broker = listening(s.broker, (given) => {
      callbacks = given;
      return {
        ...given,
        deliver: (batch) => (held.length === 0 ? held.push(batch) : given.deliver(batch)),
      };
    });
    await s.produce(0, "a");
    await s.consumer({ broker }).start();
    while (held.length === 0) await pause(20);
    const { epoch } = await s.ear.waitFor("inbox.claimed");
    const second = s.consumer();
    let since = s.ear.heard.length;
    await second.start();
    await s.ear.waitFor("inbox.assigned", ({ partitions }) => partitions.length === 0, since);
    since = s.ear.heard.length;
    await second.stop();
    await s.ear.waitFor("inbox.assigned", ({ partitions }) => partitions.length === 1, since);
    const [left] = held as [RecordBatch];
    (callbacks as unknown as ConsumerCallbacks).deliver(left);
    await s.ear.waitFor("inbox.batch-dropped", ({ reason }) => reason === "stale-assignment");
    expect(await s.effectsReach(1)).toEqual(["a"]);
    await s.ear.waitFor("inbox.claimed", (claim) => claim.epoch > epoch);
    const claims = s.ear.heard.filter((event) => event.type === "inbox.claimed");
    expect(new Set(claims.map((claim) => claim.epoch)).size).toBe(claims.length);
  });

  // Guards the watchdog's look at idle claims: nobody would notice without a message.
  it("a claim taken while there is nothing to do is noticed, and taken again", async () => {
    await using s = await scene();
    await s.consumer().start();
    const { epoch } = await s.ear.waitFor("inbox.claimed");
    await s.storage.claim(
      { consumer: s.name, topic: s.topic, partition: 0, owner: "a thief" },
      1_000,
    );
    expect((await s.ear.waitFor("inbox.fenced")).epoch).toBe(epoch);
    const again = await s.ear.waitFor("inbox.claimed", (claim) => claim.epoch > epoch + 1n);
    expect(again.epoch).toBe(epoch + 2n);
    await s.produce(0, "a");
    expect(await s.effectsReach(1)).toEqual(["a"]);
  });
});

// Guards the limits of the buffer (buffer.ts): a partition that is full is left out of the fetch.
it.skipIf(!hasKafka())(
  "A13: what waits for a slow handler is bounded by bytes, whatever the backlog",
  async () => {
    await using s = await scene();
    const big = "x".repeat(256 * 1024);
    const count = 48;
    for (let sent = 0; sent < count; sent += 3) {
      await s.produce(0, ...Array.from({ length: 3 }, (_, i) => `${sent + i} ${big}`));
    }
    let fetched = 0;
    let handled = 0;
    let most = 0;
    const size = (batch: RecordBatch) =>
      batch.records.reduce((sum, { value }) => sum + (value?.length ?? 0), 0);
    const broker = listening(s.broker, (given) => ({
      ...given,
      deliver: (batch) => {
        fetched += size(batch);
        most = Math.max(most, fetched - handled);
        given.deliver(batch);
      },
    }));
    const bufferBytesMax = 2 * 2 ** 20;
    const consumer = s
      .bareConsumer({ broker, bufferBytesMax, chunkSizeMax: 1 })
      .handle(textTopic(s.topic), async ({ value }, tx) => {
        await pause(20);
        await tx.query("INSERT INTO effects (value) VALUES ($1)", [value.split(" ")[0]]);
        handled += value.length;
      });
    await consumer.start();
    await s.effectsReach(count);
    // One batch may go over it, and a fetch of one partition brings at most 1 MiB.
    expect(most).toBeLessThanOrEqual(bufferBytesMax + 2 ** 20 + big.length);
    expect(most).toBeGreaterThan(bufferBytesMax / 2);
  },
);

// Guards the one place where a handler's error is caught (chunk.ts): kafkajs would end a consumer for
// good on a TypeError, a RangeError or anything with `retriable: false`.
it.skipIf(!hasKafka())("whatever a handler throws, the client never hears of it", async () => {
  await using s = await scene();
  const named = (name: string, more: object) => Object.assign(new Error(name), { name }, more);
  const thrown: unknown[] = [
    new TypeError("type"),
    new RangeError("range"),
    named("KafkaJSNonRetriableError", { retriable: false }),
    named("KafkaJSNumberOfRetriesExceeded", { retriable: false, retryCount: 9 }),
    named("AbortError", { code: "ABORT_ERR" }),
    named("DatabaseError", { code: "22012" }),
    new PermanentError("for good"),
    "a text",
    42,
    null,
    undefined,
    Symbol("a symbol"),
    Object.create(null),
    Promise.reject(new Error("a promise")).catch(() => undefined),
    {
      get message() {
        throw new Error("cannot be read");
      },
    },
  ];
  const values = thrown.map((_, i) => `m${i}`);
  const consumer = s.bareConsumer().handle(
    textTopic(s.topic),
    async ({ value, offset }, tx, { attempt }) => {
      await tx.query("INSERT INTO effects (value) VALUES ($1)", [value]);
      if (attempt === 1) throw thrown[Number(offset)];
    },
    { onFailure: "block" },
  );
  await s.produce(0, ...values);
  await consumer.start();
  expect(await s.effectsReach(values.length)).toEqual(values);
  const types = s.ear.heard.map(({ type }) => type);
  expect(types.filter((type) => type === "inbox.unblocked")).toHaveLength(thrown.length);
  expect(types).not.toContain("inbox.client-rebuilt");
  expect(types.filter((type) => type === "inbox.assigned")).toHaveLength(1);
});

// Guards handlerTimeoutMs (handler-time.ts).
it.skipIf(!hasKafka())(
  "A10: a handler that hangs is cut, and its message tried again, without a rebalance",
  async () => {
    await using s = await scene();
    const signals: AbortSignal[] = [];
    const consumer = s
      .bareConsumer({ handlerTimeoutMs: 300 })
      .handle(textTopic(s.topic), async ({ value }, tx, { attempt, signal }) => {
        await tx.query("INSERT INTO effects (value, attempt) VALUES ($1, $2)", [value, attempt]);
        signals.push(signal);
        if (attempt === 1 && value === "hangs") await new Promise(() => {});
      });
    await s.produce(0, "fine", "hangs", "behind");
    await consumer.start();
    const { error, offset } = await s.ear.waitFor("inbox.blocked");
    expect({ code: error.code, offset }).toEqual({ code: "handler-timed-out", offset: 1n });
    expect(await s.effectsReach(3)).toEqual(["fine", "hangs", "behind"]);
    expect(signals[1]?.aborted).toBe(true);
    expect(s.ear.heard.filter(({ type }) => type === "inbox.assigned")).toHaveLength(1);
  },
);
