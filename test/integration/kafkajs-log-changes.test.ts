/**
 * A log that is not the one a position was read from: the consumer of the kafkajs broker says so and
 * delivers nothing of it, while the other topics go on.
 */
import type { Broker, FetchPosition } from "@oncebox/core";
import { kafkajsBroker } from "@oncebox/kafkajs";
import { type Admin, Kafka, logLevel } from "kafkajs";
import { afterEach, beforeEach, describe, expect, inject, it } from "vitest";
import { startKafka } from "../fixtures/kafka.ts";
import { hasKafka, testKafka, testTopic, uniqueName } from "../fixtures/servers.ts";
import { createTopic } from "../fixtures/topics.ts";
import { type Recorder, recorder } from "./kafkajs-recorder.ts";

describe.skipIf(!hasKafka())("a log that changed, on kafkajs", () => {
  let kafka: Kafka;
  let admin: Admin;
  let broker: Broker;

  beforeEach(async () => {
    kafka = testKafka();
    admin = kafka.admin();
    await admin.connect();
    broker = brokerOn(inject("kafkaBrokers") ?? []);
  });

  afterEach(async () => {
    await broker.close();
    await admin.disconnect();
  });

  function brokerOn(brokers: string[]): Broker {
    return kafkajsBroker({
      brokers,
      sessionTimeoutMs: 6_000,
      heartbeatIntervalMs: 500,
      metadataMaxAgeMs: 1_000,
    });
  }

  /** Appends one record for each value, in one batch. */
  async function send(topic: string, values: readonly string[], by = kafka): Promise<void> {
    const producer = by.producer({ retry: { retries: 5 } });
    await producer.connect();
    await producer.send({ topic, messages: values.map((value) => ({ value, partition: 0 })) });
    await producer.disconnect();
  }

  async function consume(topics: readonly string[], told: Recorder = recorder(), by = broker) {
    await by.consumer({ groupId: uniqueName("group"), topics }, told.callbacks);
    return told;
  }

  const received = (told: Recorder, count: number) =>
    told.until(() => told.records().length >= count, `${count} records`);

  /** Deletes and creates again; Kafka deletes in the background. */
  async function recreate(topic: string): Promise<string> {
    const before = (await broker.offsets(topic, "latest")).topicId;
    await admin.deleteTopics({ topics: [topic] });
    for (;;) {
      await createTopic(admin, { topic, numPartitions: 1 }).catch(() => undefined);
      const after = await broker.offsets(topic, "latest").catch(() => null);
      if (after?.topicId && after.topicId !== before) return after.topicId;
    }
  }

  const filled = (count: number) => Array.from({ length: count }, (_, i) => `new ${i}`);

  describe("a topic made anew while it is read", () => {
    // Guards: fetches name the topic's id, so a broker refuses one that is another topic by now.
    it.each([
      ["empty", 0],
      ["filled below the position", 2],
      ["filled up to the position", 3],
      ["filled past the position", 6],
    ])("is reported, nothing of it delivered: %s", async (_, count) => {
      const topic = await testTopic(kafka);
      const other = await testTopic(kafka);
      await send(topic, ["a", "b", "c"]);
      const told = recorder();
      for (const name of [topic, other]) told.positions.set(`${name}/0`, 0n);
      await consume([topic, other], told);
      await received(told, 3);
      const read = told.batches[0]?.topicId;
      // Held still meanwhile, so that the first fetch afterwards finds all of it.
      const position = told.positions.get(`${topic}/0`) as FetchPosition;
      told.positions.set(`${topic}/0`, null);
      const topicId = await recreate(topic);
      if (count > 0) await send(topic, filled(count));
      told.positions.set(`${topic}/0`, position);
      await send(other, ["d"]);
      await told.until(() => told.displaced.length > 0, "the report");
      expect(told.displaced).toEqual([
        { at: { topic, partition: 0 }, asked: 3n, why: { kind: "topic-recreated", topicId } },
      ]);
      expect(topicId).not.toBe(read);
      await received(told, 4);
      expect(told.values()).toEqual(["a", "b", "c", "d"]);
      expect(told.failures).toEqual([]);
      expect(told.assignments).toHaveLength(1);
    });

    it("is read from its beginning when the position says so", async () => {
      // Guards: a position that names no topic takes the id at hand, also a new one.
      const topic = await testTopic(kafka);
      await send(topic, ["a"]);
      const told = await consume([topic]);
      await received(told, 1);
      const topicId = await recreate(topic);
      await told.until(() => told.displaced.length > 0, "the report");
      await send(topic, ["b"]);
      told.positions.set(0, 0n);
      await received(told, 2);
      expect(told.batches.at(-1)).toMatchObject({ topicId, fetchedOffset: 0n, endOffset: 1n });
      expect(told.values()).toEqual(["a", "b"]);
    });
  });

  it("knows a topic of another id from the first fetch on", async () => {
    // Guards: a position's topic is compared before anything is fetched by it.
    const topic = await testTopic(kafka);
    await send(topic, ["a", "b"]);
    const { topicId } = await broker.offsets(topic, "latest");
    const told = recorder();
    const old = Buffer.alloc(16, 7).toString("base64url");
    told.positions.set(0, { offset: 1n, topicId: old, leaderEpoch: 0 });
    await consume([topic], told);
    await told.until(() => told.displaced.length > 0, "the report");
    expect(told.displaced[0]?.why).toEqual({ kind: "topic-recreated", topicId });
    told.positions.set(0, { offset: 1n, topicId, leaderEpoch: 0 });
    await received(told, 1);
    expect(told.values()).toEqual(["b"]);
  });

  it("says that a topic is gone, and goes on when it is back", async () => {
    // Guards: kafkajs asks no more for a topic without metadata, so it is noticed beside the fetches.
    const topic = await testTopic(kafka);
    const told = await consume([topic]);
    await told.until(() => told.logs.size > 0, "the first answer");
    await admin.deleteTopics({ topics: [topic] });
    await told.until(() => told.displaced.length > 0, "the report");
    expect(told.displaced[0]?.why).toEqual({ kind: "topic-missing" });
    await createTopic(admin, { topic, numPartitions: 1 });
    await send(topic, ["a"]);
    told.positions.set(0, 0n);
    await received(told, 1);
    expect(told.failures).toEqual([]);
  });

  describe("the epoch before a position", () => {
    it("tells a log that ends before the position how far they agree", async () => {
      // Guards: the last fetched epoch goes out with each fetch, and what Kafka answers is read.
      const topic = await testTopic(kafka);
      await send(topic, ["a", "b"]);
      const { topicId } = await broker.offsets(topic, "latest");
      const told = recorder();
      told.positions.set(0, { offset: 50n, topicId, leaderEpoch: 0 });
      await consume([topic], told);
      await told.until(() => told.displaced.length > 0, "the report");
      expect(told.displaced[0]?.why).toEqual({ kind: "log-diverged", endOffset: 2n });
    });

    it("that the log never had is a divergence of unknown extent", async () => {
      // Guards: "out of range" inside of the log's bounds is read as what it means.
      const topic = await testTopic(kafka);
      await send(topic, ["a", "b", "c"]);
      const { topicId } = await broker.offsets(topic, "latest");
      const told = recorder();
      told.positions.set(0, { offset: 2n, topicId, leaderEpoch: 9 });
      await consume([topic], told);
      await told.until(() => told.displaced.length > 0, "the report");
      expect(told.displaced[0]?.why).toEqual({ kind: "log-diverged", endOffset: null });
      expect(told.batches).toEqual([]);
    });

    it("does not hide that retention took the records", async () => {
      // Guards: the bounds decide which of the two it is.
      const topic = await testTopic(kafka);
      await send(topic, ["a", "b", "c"]);
      const told = await consume([topic]);
      await received(told, 3);
      const position = told.positions.get(0) as FetchPosition;
      told.positions.set(0, null);
      await admin.fetchTopicOffsets(topic);
      await admin.deleteTopicRecords({ topic, partitions: [{ partition: 0, offset: "2" }] });
      told.positions.set(0, { ...position, offset: 1n });
      await told.until(() => told.displaced.length > 0, "the report");
      expect(told.displaced[0]?.why).toEqual({
        kind: "out-of-range",
        log: { start: 2n, end: 3n },
      });
      told.positions.set(0, position);
      await send(topic, ["d"]);
      await received(told, 4);
    });

    it("comes with each record and batch, and finds a log that went on under another leader", async () => {
      // Guards: a truncated log that was refilled past the position, by its epochs alone.
      const cluster = await startKafka();
      const own = new Kafka({ brokers: cluster.brokers, logLevel: logLevel.NOTHING });
      const ownAdmin = own.admin();
      const ownBroker = brokerOn(cluster.brokers);
      try {
        const topic = uniqueName("topic");
        await ownAdmin.connect();
        await createTopic(ownAdmin, { topic, numPartitions: 1 });
        await send(topic, ["a", "b", "c"], own);
        await ownAdmin.disconnect();
        await cluster.restart();
        await send(topic, ["d", "e", "f"], own);
        const told = await consume([topic], recorder(), ownBroker);
        await received(told, 6);
        const [first = -1, last = -1] = [0, 5].map((i) => told.records()[i]?.leaderEpoch ?? -1);
        expect(last).toBeGreaterThan(first);
        expect(told.records().map(({ leaderEpoch }) => leaderEpoch)).toEqual([
          ...Array(3).fill(first),
          ...Array(3).fill(last),
        ]);
        expect(told.batches.at(-1)?.endEpoch).toBe(last);
        // As one who had read a, b, c, and two more of the old leader that were lost.
        const topicId = told.batches[0]?.topicId ?? null;
        told.positions.set(0, { offset: 5n, topicId, leaderEpoch: first });
        await told.until(() => told.displaced.length > 0, "the report");
        expect(told.displaced[0]?.why).toEqual({ kind: "log-diverged", endOffset: 3n });
        expect(told.records()).toHaveLength(6);
      } finally {
        await ownBroker.close();
        await cluster.stop();
      }
    });
  });
});
