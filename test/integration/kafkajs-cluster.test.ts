/** What the kafkajs broker answers about topics and groups, and the offsets that it writes. */
import { createRequire } from "node:module";
import type { Broker } from "@oncebox/core";
import { kafkajsBroker } from "@oncebox/kafkajs";
import type { Admin, Kafka } from "kafkajs";
import { afterEach, beforeEach, describe, expect, inject, it, vi } from "vitest";
import { hasKafka, testKafka, testTopic, uniqueName } from "../fixtures/servers.ts";
import { recorder } from "./kafkajs-recorder.ts";

describe.skipIf(!hasKafka())("questions of the broker on kafkajs", () => {
  let kafka: Kafka;
  let admin: Admin;
  let broker: Broker;

  beforeEach(async () => {
    kafka = testKafka();
    admin = kafka.admin();
    await admin.connect();
    const brokers = inject("kafkaBrokers") ?? [];
    broker = kafkajsBroker({ brokers, sessionTimeoutMs: 6_000, heartbeatIntervalMs: 500 });
  });

  afterEach(async () => {
    vi.restoreAllMocks();
    await broker.close();
    await admin.disconnect();
  });

  /** One batch for each time, so that each is found by it. */
  async function sendAt(topic: string, times: readonly number[], partition = 0): Promise<void> {
    const producer = kafka.producer({ retry: { retries: 3 } });
    await producer.connect();
    for (const time of times) {
      const messages = [{ value: `${time}`, timestamp: `${time}`, partition }];
      await producer.send({ topic, messages });
    }
    await producer.disconnect();
  }

  describe("partitions", () => {
    it("are those of now: also of a topic that grew, or is gone", async () => {
      // Guards: that the metadata is asked for, not what was kept of an earlier question.
      const topic = await testTopic(kafka, { partitions: 2 });
      expect(await broker.partitions(topic)).toBe(2);
      await admin.createPartitions({ topicPartitions: [{ topic, count: 3 }] });
      const known = async () => (await admin.fetchTopicMetadata({ topics: [topic] })).topics[0];
      await vi.waitFor(async () => expect((await known())?.partitions).toHaveLength(3), 5_000);
      expect(await broker.partitions(topic)).toBe(3);
      await admin.deleteTopics({ topics: [topic] });
      await vi.waitFor(async () => expect(await admin.listTopics()).not.toContain(topic), 5_000);
      await expect(broker.partitions(topic)).rejects.toMatchObject({ code: "topic-missing" });
    });
  });

  describe("offsets", () => {
    it("at a time are those of the first record then or later, of each partition", async () => {
      const topic = await testTopic(kafka, { partitions: 3 });
      // Recent: retention takes what is old.
      const base = Date.now() - 60_000;
      await sendAt(topic, [base, base + 10, base + 20], 0);
      await sendAt(topic, [base], 1);
      const at = async (timestamp: number) => [
        ...(await broker.offsets(topic, { timestamp: BigInt(timestamp) })).offsets,
      ];
      // Guards: a partition without a record that late gives its next offset, not Kafka's -1.
      expect(await at(base + 5)).toEqual([
        [0, 1n],
        [1, 1n],
        [2, 0n],
      ]);
      expect(await at(base)).toEqual([
        [0, 0n],
        [1, 0n],
        [2, 0n],
      ]);
      expect(await at(base + 21)).toEqual([
        [0, 3n],
        [1, 1n],
        [2, 0n],
      ]);
    });

    it("name the topic that they belong to", async () => {
      const topic = await testTopic(kafka);
      const { topicId } = await broker.offsets(topic, "earliest");
      expect(Buffer.from(topicId ?? "", "base64url")).toHaveLength(16);
      expect((await broker.offsets(topic, "latest")).topicId).toBe(topicId);
      await sendAt(topic, [Date.now()]);
      const told = recorder();
      await broker.consumer({ groupId: uniqueName("group"), topics: [topic] }, told.callbacks);
      await told.until(() => told.batches.length > 0, "a record");
      expect(told.batches[0]?.topicId).toBe(topicId);
    });

    it("do not pass over a transaction that is still open", async () => {
      const topic = await testTopic(kafka);
      await sendAt(topic, [Date.now()]);
      const producer = kafka.producer({ transactionalId: uniqueName("tx"), idempotent: true });
      await producer.connect();
      const transaction = await producer.transaction();
      await transaction.send({ topic, messages: [{ value: "open" }] });
      expect([...(await broker.offsets(topic, "latest")).offsets]).toEqual([[0, 1n]]);
      // Guards: the log's state tells such a transaction by the distance of two offsets.
      const told = recorder();
      await broker.consumer({ groupId: uniqueName("group"), topics: [topic] }, told.callbacks);
      const log = () => told.logs.get(`${topic}/0`);
      await told.until(() => log() !== undefined, "an answer");
      expect(log()).toEqual({ start: 0n, lastStable: 1n, end: 2n });
      await transaction.abort();
      await told.until(() => log()?.lastStable === 3n, "the end of the transaction");
      expect(log()).toEqual({ start: 0n, lastStable: 3n, end: 3n });
      await producer.disconnect();
    });
  });

  describe("groups", () => {
    it("that nobody ever used have neither members nor offsets", async () => {
      const topic = await testTopic(kafka);
      expect(await broker.group(uniqueName("group"), [topic])).toEqual({ members: 0, offsets: [] });
    });

    it("show what was written, with its metadata, for the topics asked for", async () => {
      const [a, b] = [await testTopic(kafka, { partitions: 3 }), await testTopic(kafka)];
      const groupId = uniqueName("group");
      const offsets = [
        { topic: a, partition: 2, offset: 2n ** 53n + 1n, metadata: "m 1" },
        { topic: a, partition: 0, offset: 0n, metadata: "" },
        { topic: b, partition: 0, offset: 5n, metadata: "other" },
      ];
      await broker.setGroupOffsets(groupId, offsets);
      const found = await broker.group(groupId, [a]);
      expect(found.members).toBe(0);
      const sorted = [...found.offsets].sort((x, y) => y.partition - x.partition);
      expect(sorted).toEqual(offsets.slice(0, 2));
      expect((await broker.group(groupId, [a, b])).offsets).toHaveLength(3);
      expect((await broker.group(groupId, [])).offsets).toEqual([]);
      await broker.setGroupOffsets(groupId, []);
    });

    it("with members are counted, and their offsets left alone", async () => {
      // Guards: the look at the members before the commit.
      const topic = await testTopic(kafka);
      const groupId = uniqueName("group");
      const told = recorder();
      const consumer = await broker.consumer({ groupId, topics: [topic] }, told.callbacks);
      await told.until(() => told.assignments.length > 0, "an assignment");
      const mine = { topic, partition: 0, offset: 1n, metadata: "mine" };
      expect(await consumer.commit([mine])).toBe(true);
      expect(await broker.group(groupId, [topic])).toEqual({ members: 1, offsets: [mine] });
      const set = () => broker.setGroupOffsets(groupId, [{ ...mine, offset: 9n }]);
      await expect(set()).rejects.toMatchObject({
        name: "BrokerError",
        code: "group-active",
        details: { groupId, members: 1 },
      });
      expect((await broker.group(groupId, [topic])).offsets).toEqual([mine]);
      await consumer.stop(5_000);
      await set();
      expect(await broker.group(groupId, [topic])).toEqual({
        members: 0,
        offsets: [{ ...mine, offset: 9n }],
      });
    });

    it("that are joined behind the look are refused by Kafka", async () => {
      // Guards: the translation of Kafka's refusal, with the look answered as it was before.
      const topic = await testTopic(kafka);
      const groupId = uniqueName("group");
      const told = recorder();
      await broker.consumer({ groupId, topics: [topic] }, told.callbacks);
      await told.until(() => told.assignments.length > 0, "an assignment");
      const { prototype } = createRequire(import.meta.url)("kafkajs/src/broker");
      const before = { groups: [{ groupId, members: [] }] };
      vi.spyOn(prototype, "describeGroups").mockResolvedValue(before);
      const offsets = [{ topic, partition: 0, offset: 9n, metadata: "" }];
      const set = broker.setGroupOffsets(groupId, offsets);
      await expect(set).rejects.toMatchObject({ code: "group-active", details: { members: null } });
      vi.restoreAllMocks();
      expect((await broker.group(groupId, [topic])).offsets).toEqual([]);
    });
  });
});
