/** Bad input: a clear error, and nothing is lost. */
import { createConsumer, createOutbox, createOutboxRelay } from "@oncebox/core";
import { postgresStorage } from "@oncebox/postgres";
import { describe, expect, it } from "vitest";
import { scene, textTopic } from "../fixtures/scene.ts";
import { hasKafka } from "../fixtures/servers.ts";

const message = textTopic("orders").message({ key: "k", value: "v" });

describe.skipIf(!hasKafka())("set-up", () => {
  it("unknown, missing and impossible options come in one list", async () => {
    await using s = await scene();
    const wrong = {
      name: "",
      storage: {},
      broker: s.broker,
      chunkSizeMax: Number.NaN,
      chunksize: 3,
    };
    expect(() => createConsumer(wrong as never)).toThrow(
      expect.objectContaining({
        name: "ConfigurationError",
        details: {
          problems: [
            expect.stringContaining("chunksize is unknown"),
            expect.stringContaining("name must be"),
            expect.stringContaining("storage must be a storage"),
            expect.stringContaining("chunkSizeMax must be a whole number from 1 to 10000, not NaN"),
          ],
        },
      }),
    );
  });

  it("wrong options of a handler are refused, two handlers of a topic, and late ones", async () => {
    await using s = await scene();
    const topic = textTopic(s.topic);
    const run = async () => {};
    const consumer = s.bareConsumer();
    expect(() => consumer.handle(topic, run, { onFailure: "forget" } as never)).toThrow(
      /onFailure/,
    );
    expect(() => consumer.handle(topic, run, { retry: { attemptsMax: 0 } })).toThrow(/attemptsMax/);
    expect(() => consumer.handle(topic, run, { retry: { tries: 1 } as never })).toThrow(/tries/);
    const waits = { onFailure: "block", retry: { attemptsMax: 3 } } as const;
    expect(() => consumer.handle(topic, run, waits)).toThrow(/retry has no meaning/);
    const letters = (deadLetter: object, more = {}) =>
      consumer.handle(topic, run, { deadLetter, ...more } as never);
    expect(() => letters({})).toThrow(/deadLetter: topic is missing/);
    expect(() => letters({ topic: "no topic" })).toThrow(/topic must be a Kafka topic name/);
    // It would feed itself.
    expect(() => letters({ topic: s.topic })).toThrow(/other than the handler's own/);
    expect(() => letters({ topic: "dead", headers: "own" })).toThrow(/headers must be one of/);
    const never = { onFailure: "block" };
    expect(() => letters({ topic: "dead" }, never)).toThrow(/deadLetter has no meaning/);
    const ordered = { ordering: "key" } as never;
    expect(() => consumer.handleBatch(topic, run, ordered)).toThrow(/ordering is unknown/);
    expect(() => consumer.handle(topic, undefined as never)).toThrow(/must be a function/);
    consumer.handle(topic, run);
    expect(() => consumer.handle(topic, run)).toThrow(/one handler per topic/);
    await consumer.start();
    expect(() => consumer.handle(textTopic("later"), run)).toThrow(/has started/);
    await expect(s.bareConsumer().start()).rejects.toThrow(/has no handler/);
  });

  it("a missing migration is named, by the consumer, the relay and enqueue", async () => {
    await using s = await scene();
    const storage = postgresStorage({ pool: s.pool, schema: "not_there" });
    const missing = { code: "schema-missing", message: expect.stringContaining("migrate") };
    await expect(s.consumer({ storage }).start()).rejects.toMatchObject(missing);
    const relay = createOutboxRelay({ storage, broker: s.broker });
    await expect(relay.start()).rejects.toMatchObject(missing);
    await relay.stop();
    const outbox = createOutbox({ storage });
    const writing = storage.transaction((tx) => outbox.enqueue(tx, message));
    await expect(writing).rejects.toMatchObject(missing);
  });

  it("D13: a missing topic fails the start; nothing is created", async () => {
    await using s = await scene();
    const consumer = s.bareConsumer().handle(textTopic("no.such.topic"), async () => {});
    await expect(consumer.start()).rejects.toMatchObject({
      name: "BrokerError",
      code: "topic-missing",
      message: expect.stringContaining("no.such.topic"),
    });
    const admin = s.kafka.admin();
    await admin.connect();
    expect(await admin.listTopics()).not.toContain("no.such.topic");
    await admin.disconnect();
  });

  it("a pool that is too small is refused at start, with the numbers", async () => {
    await using s = await scene();
    const storage = postgresStorage({
      pool: s.morePool({ max: 4 }),
      idleInTransactionTimeoutMs: 5_000,
    });
    await expect(s.consumer({ storage }).start()).rejects.toMatchObject({
      code: "pool-too-small",
      details: { needed: 7, poolSize: 4 },
    });
    await expect(s.consumer({ storage, partitionsAtOnceMax: 1 }).start()).resolves.toBeUndefined();
  });

  it("B11: a read-only connection is refused at start", async () => {
    await using s = await scene();
    const pool = s.morePool({ options: "-c default_transaction_read_only=on" });
    const storage = postgresStorage({ pool, idleInTransactionTimeoutMs: 5_000 });
    const refused = { name: "ConfigurationError", code: "database-read-only" };
    await expect(s.consumer({ storage }).start()).rejects.toMatchObject(refused);
  });

  it("A11: a second group under one consumer name is refused", async () => {
    await using s = await scene();
    await s.consumer().start();
    await expect(s.consumer({ groupId: "another" }).start()).rejects.toMatchObject({
      code: "group-mismatch",
      message: expect.stringContaining(s.name),
    });
  });

  it("an idle time-out above the session time-out is a contradiction", async () => {
    await using s = await scene();
    const storage = postgresStorage({ pool: s.pool, idleInTransactionTimeoutMs: 60_000 });
    await expect(s.consumer({ storage }).start()).rejects.toThrow(/sessionTimeoutMs/);
  });
});

describe.skipIf(!hasKafka())("messages", () => {
  it("an oversized message and a reserved header write nothing, nor do the good ones beside them", async () => {
    await using s = await scene();
    const outbox = createOutbox({ storage: s.storage });
    const large = { ...message, value: new Uint8Array(1_000_001) };
    const reserved = { ...message, headers: [["oncebox-x", null]] as const };
    await s.storage.transaction(async (tx) => {
      await expect(outbox.enqueue(tx, [message, large])).rejects.toMatchObject({
        name: "InvalidMessageError",
        code: "message-too-large",
      });
      await expect(outbox.enqueue(tx, [message, reserved])).rejects.toMatchObject({
        code: "reserved-header",
      });
    });
    const { rows } = await s.pool.query("SELECT 1 FROM oncebox.outbox_messages");
    expect(rows).toEqual([]);
  });

  it("a pool, a stranger and a finished handle are told apart from a transaction", async () => {
    await using s = await scene();
    const outbox = createOutbox({ storage: s.storage });
    for (const wrong of [s.pool, {}, null, "tx"]) {
      await expect(outbox.enqueue(wrong as never, message)).rejects.toMatchObject({
        code: "invalid-handle",
      });
    }
    const kept = await s.storage.transaction(async (tx) => tx);
    await expect(outbox.enqueue(kept, message)).rejects.toMatchObject({
      name: "TransactionFinishedError",
    });
  });
});
