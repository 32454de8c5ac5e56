/** What a consumer does with good messages, on real Kafka and PostgreSQL. */
import { createInbox, createOutbox, defineTopic, json } from "@oncebox/core";
import kafkajs from "kafkajs";
import { describe, expect, it } from "vitest";
import { scene, textTopic } from "../fixtures/scene.ts";
import { hasKafka } from "../fixtures/servers.ts";

const { CompressionCodecs, CompressionTypes } = kafkajs;

describe.skipIf(!hasKafka())("from records to effects", () => {
  it("applies each message once, moves the row, then the group's offset", async () => {
    await using s = await scene({ partitions: 2 });
    await s.produce(0, "a", "b");
    await s.produce(1, "c");
    const consumer = s.consumer({ offsetCommitIntervalMs: 50 });
    await consumer.start();
    expect((await s.effectsReach(3)).sort()).toEqual(["a", "b", "c"]);
    await s.ear.waitFor("inbox.offsets-committed", ({ ok }) => ok);
    await consumer.stop();
    expect([await s.nextOffset(0), await s.nextOffset(1)]).toEqual([2n, 1n]);
    const admin = s.kafka.admin();
    await admin.connect();
    const [group] = await admin.fetchOffsets({ groupId: s.name, topics: [s.topic] });
    await admin.disconnect();
    const offsets = group?.partitions.map(({ partition, offset }) => [partition, offset]);
    expect(offsets?.sort()).toEqual([
      [0, "2"],
      [1, "1"],
    ]);
    expect(group?.partitions[0]?.metadata).toMatch(/^oncebox\/1 [0-9a-f-]{36} \d+ \d+$/);
  });

  it.each([true, false])("works with a pool that pipelines: %s", async (pipelined) => {
    await using s = await scene({ pipelined });
    const values = Array.from({ length: 250 }, (_, i) => `m${i}`);
    await s.produce(0, ...values);
    await s.consumer().start();
    expect(await s.effectsReach(250)).toEqual(values);
  });

  it("goes on from the database, whatever Kafka says", async () => {
    await using s = await scene();
    await s.produce(0, "a", "b", "c");
    const first = s.consumer();
    await first.start();
    await s.effectsReach(3);
    await first.stop();
    const admin = s.kafka.admin();
    await admin.connect();
    await admin.setOffsets({
      groupId: s.name,
      topic: s.topic,
      partitions: [{ partition: 0, offset: "0" }],
    });
    await admin.disconnect();
    await s.consumer().start();
    await s.produce(0, "d");
    expect(await s.effectsReach(4)).toEqual(["a", "b", "c", "d"]);
  });

  it("drops a producer's repeat, and tells ids of different sources apart", async () => {
    await using s = await scene();
    const id = { id: "order-1" };
    await s.produce(
      0,
      { value: "a", headers: id },
      { value: "a", headers: id },
      { value: "b", headers: { ...id, ce_source: "/other" } },
      { value: "a", headers: id },
    );
    await s.consumer().start();
    await s.produce(0, { value: "a", headers: id }, "end");
    expect(await s.effectsReach(3)).toEqual(["a", "b", "end"]);
  });

  it("without message ids the offset alone protects", async () => {
    await using s = await scene();
    await s.produce(0, "a", "a", "");
    await s.consumer().start();
    expect(await s.effectsReach(3)).toEqual(["a", "a", ""]);
  });
});

describe.skipIf(!hasKafka())("positions without records", () => {
  it("one aborted transaction alone in a fetch, then an ordinary record: it arrives", async () => {
    await using s = await scene();
    await s.consumer().start();
    await s.ear.waitFor("inbox.claimed");
    const producer = s.kafka.producer({
      transactionalId: `${s.name}-aborts`,
      maxInFlightRequests: 1,
      idempotent: true,
    });
    await producer.connect();
    const transaction = await producer.transaction();
    await transaction.send({ topic: s.topic, messages: [{ value: "phantom", partition: 0 }] });
    await transaction.abort();
    await producer.disconnect();
    // The record and its marker are passed over on their own: nothing else is in the log.
    await s.ear.waitFor("inbox.chunk-committed", ({ nextOffset }) => nextOffset === 2n);
    await s.produce(0, "real");
    expect(await s.effectsReach(1)).toEqual(["real"]);
    expect(await s.nextOffset(0)).toBe(3n);
  });

  it("moves over the marker behind a committed transaction, so that the lag becomes zero", async () => {
    await using s = await scene();
    const producer = s.kafka.producer({
      transactionalId: `${s.name}-commits`,
      maxInFlightRequests: 1,
      idempotent: true,
    });
    await producer.connect();
    const transaction = await producer.transaction();
    await transaction.send({ topic: s.topic, messages: [{ value: "real", partition: 0 }] });
    await transaction.commit();
    await producer.disconnect();
    const consumer = s.consumer();
    await consumer.start();
    await s.ear.waitFor("inbox.chunk-committed", ({ nextOffset }) => nextOffset === 2n);
    expect(await s.effects()).toEqual(["real"]);
    expect(consumer.status()).toMatchObject([{ partition: 0, nextOffset: 2n, lag: 0n }]);
  });

  it("D3: a position below the log's start pauses that partition with the exact range", async () => {
    await using s = await scene({ partitions: 2 });
    await s.produce(0, "a", "b", "c", "d");
    const first = s.consumer();
    await first.start();
    await s.effectsReach(4);
    await first.stop();
    await s.produce(0, "lost 1", "lost 2", "e");
    const admin = s.kafka.admin();
    await admin.connect();
    // kafkajs knows no leader to ask before.
    await admin.fetchTopicOffsets(s.topic);
    await admin.deleteTopicRecords({ topic: s.topic, partitions: [{ partition: 0, offset: "6" }] });
    await admin.disconnect();
    const second = s.consumer();
    const since = s.ear.heard.length;
    await second.start();
    const { error } = await s.ear.waitFor("inbox.displaced", () => true, since);
    expect(error.name).toBe("PositionError");
    expect(error.code).toBe("position-out-of-range");
    expect(error.details).toMatchObject({ position: 4n, logStart: 6n, logEnd: 7n });
    expect(error.message).toContain("messages 4 to 5");
    await s.produce(1, "other partition");
    expect(await s.effectsReach(5)).toEqual(["a", "b", "c", "d", "other partition"]);
    expect(await s.nextOffset(0)).toBe(4n);
    const paused = second.status().find(({ partition }) => partition === 0);
    expect(paused?.blockedBy).toBe(error);
  });
});

describe.skipIf(!hasKafka())("partitions and bytes of another kind", () => {
  it("D6: an added partition begins at 0, and what retention took of it meanwhile is told", async () => {
    await using s = await scene();
    await s.produce(0, "a");
    const first = s.consumer();
    await first.start();
    await s.effectsReach(1);
    await first.stop();
    const admin = s.kafka.admin();
    await admin.connect();
    await admin.createPartitions({ topicPartitions: [{ topic: s.topic, count: 2 }] });
    const producer = s.kafka.producer();
    await producer.connect();
    const messages = ["gone", "kept"].map((value) => ({ partition: 1, value }));
    await producer.send({ topic: s.topic, messages });
    await producer.disconnect();
    await admin.fetchTopicOffsets(s.topic);
    await admin.deleteTopicRecords({ topic: s.topic, partitions: [{ partition: 1, offset: "1" }] });
    await admin.disconnect();
    const since = s.ear.heard.length;
    await s.consumer().start();
    const { error } = await s.ear.waitFor("inbox.displaced", () => true, since);
    expect(error.details).toMatchObject({ partition: 1, position: 0n, logStart: 1n });
  });

  it("a batch that does not decode pauses its partition; the others go on", async () => {
    await using s = await scene({ partitions: 2 });
    const { GZIP } = CompressionTypes;
    const gzip = CompressionCodecs[GZIP];
    CompressionCodecs[GZIP] = () => ({
      ...gzip(),
      decompress: () => Promise.reject(new Error("no such codec here")),
    });
    try {
      const producer = s.kafka.producer();
      await producer.connect();
      const messages = [{ partition: 0, value: "unreadable" }];
      await producer.send({ topic: s.topic, messages, compression: GZIP });
      await producer.disconnect();
      await s.produce(1, "other partition");
      const consumer = s.consumer();
      await consumer.start();
      const { error } = await s.ear.waitFor("inbox.displaced");
      expect(error).toMatchObject({ code: "position-unreadable", details: { partition: 0 } });
      expect(error.message).toContain("no such codec here");
      expect(await s.effectsReach(1)).toEqual(["other partition"]);
      expect(s.ear.heard.filter(({ type }) => type === "inbox.client-rebuilt")).toEqual([]);
    } finally {
      CompressionCodecs[GZIP] = gzip;
    }
  });
});

describe.skipIf(!hasKafka())("messages written by handlers", () => {
  it("go out with the chunk, with ids that derive from the incoming message", async () => {
    await using s = await scene();
    const paid = defineTopic({ name: "orders.paid", value: json<{ order: string }>() });
    let failures = 1;
    const consumer = s
      .bareConsumer()
      .handle(textTopic(s.topic), async ({ value }, tx, { outbox }) => {
        const message = paid.message({ key: value, value: { order: value } });
        const ids = await outbox.enqueue([message, message]);
        await tx.query("INSERT INTO effects (value) VALUES ($1)", [ids.join(" ")]);
        failures -= 1;
        if (failures >= 0) throw new Error(`first try, ids ${ids.join(" ")}`);
      });
    await s.produce(0, "o-1");
    await consumer.start();
    const [ids] = await s.effectsReach(1);
    const blocked = await s.ear.waitFor("inbox.blocked");
    expect(blocked.error.message).toContain(ids);
    const { rows } = await s.pool.query(
      "SELECT message_id FROM oncebox.outbox_messages ORDER BY position",
    );
    expect(rows.map(({ message_id }) => message_id).join(" ")).toBe(ids);
    expect(new Set(ids?.split(" ")).size).toBe(2);
  });
});

describe.skipIf(!hasKafka())("inbox.once", () => {
  it("records an id of another source once, with the caller's own writes", async () => {
    await using s = await scene();
    const inbox = createInbox({ name: "webhooks", storage: s.storage });
    const deliver = (value: string) =>
      s.storage.transaction(async (tx) => {
        const outcome = await inbox.once(tx, { source: "stripe", id: "evt_1", value });
        if (outcome === "new") await tx.query("INSERT INTO effects (value) VALUES ($1)", [value]);
        return outcome;
      });
    expect(await deliver("paid")).toBe("new");
    expect(await deliver("paid")).toBe("duplicate");
    expect(await deliver("refunded")).toBe("conflict");
    expect(await s.effects()).toEqual(["paid"]);
  });

  it("forgets what is rolled back", async () => {
    await using s = await scene();
    const inbox = createInbox({ name: "webhooks", storage: s.storage });
    const failing = s.storage.transaction(async (tx) => {
      await inbox.once(tx, { source: "stripe", id: "evt_1" });
      throw new Error("rolled back");
    });
    await expect(failing).rejects.toThrow("rolled back");
    const again = s.storage.transaction((tx) => inbox.once(tx, { source: "stripe", id: "evt_1" }));
    expect(await again).toBe("new");
  });
});

describe.skipIf(!hasKafka())("outbox", () => {
  it("writes nothing when the business transaction rolls back", async () => {
    await using s = await scene();
    const outbox = createOutbox({ storage: s.storage });
    const client = await s.pool.connect();
    try {
      await client.query("BEGIN");
      await outbox.enqueue(client, textTopic(s.topic).message({ key: "k", value: "v" }));
      await client.query("ROLLBACK");
    } finally {
      client.release();
    }
    const { rows } = await s.pool.query("SELECT 1 FROM oncebox.outbox_messages");
    expect(rows).toEqual([]);
  });
});
