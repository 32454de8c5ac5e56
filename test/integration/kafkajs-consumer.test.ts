/** The consumer of the kafkajs broker on real Kafka: what is asked, what arrives, what is reported. */
import { type Broker, BrokerError } from "@oncebox/core";
import { kafkajsBroker } from "@oncebox/kafkajs";
import type { Admin, Kafka } from "kafkajs";
import { afterEach, beforeEach, describe, expect, inject, it } from "vitest";
import { hasKafka, testKafka, testTopic, uniqueName } from "../fixtures/servers.ts";
import { type Recorder, recorder } from "./kafkajs-recorder.ts";

describe.skipIf(!hasKafka())("consumer on kafkajs", () => {
  let kafka: Kafka;
  let admin: Admin;
  let broker: Broker;
  let group: string;

  beforeEach(async () => {
    kafka = testKafka();
    admin = kafka.admin();
    await admin.connect();
    group = uniqueName("group");
    broker = newBroker();
  });

  afterEach(async () => {
    await broker.close();
    await admin.disconnect();
  });

  function newBroker(options: Partial<Parameters<typeof kafkajsBroker>[0]> = {}): Broker {
    return kafkajsBroker({
      brokers: inject("kafkaBrokers") ?? [],
      sessionTimeoutMs: 6_000,
      heartbeatIntervalMs: 500,
      ...options,
    });
  }

  /** Sends in one request with kafkajs' own producer, all to one partition. */
  async function send(topic: string, values: readonly string[], partition = 0): Promise<void> {
    const producer = kafka.producer({ retry: { retries: 3 } });
    await producer.connect();
    const messages = values.map((value) => ({ key: "k", value, partition }));
    await producer.send({ topic, messages });
    await producer.disconnect();
  }

  /** As retention does: records below the offset are gone. */
  async function deleteRecords(topic: string, partition: number, offset: string): Promise<void> {
    // kafkajs' admin does not look up what it needs to know for it.
    await admin.fetchTopicOffsets(topic);
    await admin.deleteTopicRecords({ topic, partitions: [{ partition, offset }] });
  }

  /** One transaction of some records, ended as told. */
  async function transact(topic: string, values: readonly string[], end: "commit" | "abort") {
    const transactionalId = uniqueName("tx");
    const producer = kafka.producer({ transactionalId, idempotent: true, maxInFlightRequests: 1 });
    await producer.connect();
    const transaction = await producer.transaction();
    for (const value of values) await transaction.send({ topic, messages: [{ value }] });
    await transaction[end]();
    await producer.disconnect();
  }

  async function consume(topics: readonly string[], told: Recorder = recorder(), by = broker) {
    const consumer = await by.consumer({ groupId: group, topics }, told.callbacks);
    return { told, consumer };
  }

  const received = (told: Recorder, count: number) =>
    told.until(() => told.records().length >= count, `${count} records`);

  it("asks for the core's position, whatever the group says", async () => {
    const topic = await testTopic(kafka);
    await send(topic, ["a", "b", "c", "d"]);
    const other = await consume([topic]);
    await received(other.told, 4);
    const committed = { topic, partition: 0, offset: 4n, metadata: "" };
    expect(await other.consumer.commit([committed])).toBe(true);
    await other.consumer.stop(2_000);
    const told = recorder();
    told.positions.set(0, 2n);
    await consume([topic], told);
    await received(told, 2);
    expect(told.values()).toEqual(["c", "d"]);
    expect(told.batches[0]).toMatchObject({ assignment: 1, fetchedOffset: 2n });
    expect(told.logs.get(`${topic}/0`)).toEqual({ start: 0n, lastStable: 4n, end: 4n });
    await send(topic, ["e"]);
    await received(told, 3);
    expect(told.batches.at(-1)).toMatchObject({ fetchedOffset: 4n, endOffset: 5n });
  });

  it("leaves out a partition without position, and takes it up when it has one", async () => {
    const topic = await testTopic(kafka, { partitions: 2 });
    await send(topic, ["a"], 0);
    await send(topic, ["b"], 1);
    const told = recorder();
    told.positions.set(0, null);
    await consume([topic], told);
    await received(told, 1);
    await send(topic, ["c"], 1);
    await received(told, 2);
    expect(told.values()).toEqual(["b", "c"]);
    told.positions.set(0, 0n);
    await received(told, 3);
    expect(told.values(0)).toEqual(["a"]);
  });

  it("waits without asking Kafka while no partition has a position", async () => {
    const topic = await testTopic(kafka);
    await send(topic, ["a"]);
    const told = recorder();
    told.positions.set(0, null);
    await consume([topic], told);
    await told.until(() => told.asked > 20, "positions asked again and again");
    expect(told.batches).toEqual([]);
    told.positions.set(0, 0n);
    await received(told, 1);
  });

  it("keeps bytes, null, and headers with their repeats and order", async () => {
    const topic = await testTopic(kafka);
    const producer = await broker.producer();
    const headers = [
      ["10", Buffer.from("x")],
      ["b", null],
      ["a", Buffer.from([0, 255])],
      ["b", Buffer.alloc(0)],
    ] as const;
    const key = new Uint8Array([0, 0, 0, 0]);
    const records = [
      { topic, partition: 0, key, value: null, headers },
      { topic, partition: 0, key: null, value: new Uint8Array([255, 0]), headers: [] },
    ];
    expect(await producer.publish(records)).toMatchObject({ acknowledged: [0, 1] });
    const { told } = await consume([topic]);
    await received(told, 2);
    const [first, second] = told.records();
    expect(first).toMatchObject({ offset: 0n, key, value: null });
    expect(first?.headers.map(([name, value]) => [name, value && [...value]])).toEqual([
      ["10", [120]],
      ["b", null],
      ["a", [0, 255]],
      ["b", []],
    ]);
    expect(second).toMatchObject({ offset: 1n, key: null, value: new Uint8Array([255, 0]) });
  });

  describe("transactions", () => {
    it("delivers what follows an aborted one, and moves over it", async () => {
      const topic = await testTopic(kafka);
      await transact(topic, ["no", "no"], "abort");
      const { told } = await consume([topic]);
      await told.until(() => told.batches.length > 0, "an empty batch");
      expect(told.batches[0]).toMatchObject({ fetchedOffset: 0n, endOffset: 3n, records: [] });
      await send(topic, ["yes"]);
      await received(told, 1);
      expect(told.records()[0]?.offset).toBe(3n);
    });

    it("delivers committed ones only, in one fetch with aborted ones", async () => {
      const topic = await testTopic(kafka);
      await transact(topic, ["a"], "commit");
      await transact(topic, ["no"], "abort");
      await send(topic, ["b"]);
      await transact(topic, ["c", "d"], "commit");
      await transact(topic, ["no"], "abort");
      const { told } = await consume([topic]);
      await told.until(() => told.batches.at(-1)?.endOffset === 10n, "the end of the log");
      expect(told.values()).toEqual(["a", "b", "c", "d"]);
    });

    it("is not misled by overlapping ones and a fetch that starts inside of them", async () => {
      const topic = await testTopic(kafka);
      const open = async () => {
        const transactionalId = uniqueName("tx");
        const producer = kafka.producer({ transactionalId, idempotent: true });
        await producer.connect();
        return { producer, transaction: await producer.transaction() };
      };
      const first = await open();
      const second = await open();
      const put = (by: typeof first, value: string, key: Buffer | null = null) =>
        by.transaction.send({ topic, messages: [{ key, value }] });
      await put(first, "no 0");
      await put(second, "no 1", Buffer.alloc(4));
      await put(first, "no 2");
      await put(second, "no 3");
      await second.transaction.abort();
      await first.transaction.abort();
      await send(topic, ["yes"]);
      await Promise.all([first.producer.disconnect(), second.producer.disconnect()]);
      for (const from of [0n, 1n, 2n, 3n, 4n, 5n]) {
        const told = recorder();
        told.positions.set(0, from);
        const { consumer } = await consume([topic], told);
        await received(told, 1);
        expect(told.values()).toEqual(["yes"]);
        await consumer.stop(2_000);
      }
    });
  });

  describe("positions outside the log", () => {
    it("reports one beyond the end with the log's bounds; the others go on", async () => {
      const topic = await testTopic(kafka, { partitions: 2 });
      await send(topic, ["a", "b"], 0);
      await send(topic, ["c"], 1);
      const told = recorder();
      told.positions.set(0, 50n);
      await consume([topic], told);
      await told.until(() => told.displaced.length > 0, "the report");
      expect(told.displaced).toEqual([
        {
          at: { topic, partition: 0 },
          asked: 50n,
          why: { kind: "out-of-range", log: { start: 0n, end: 2n } },
        },
      ]);
      await send(topic, ["d"], 1);
      await received(told, 2);
      expect(told.values()).toEqual(["c", "d"]);
      const [offsets] = await admin.fetchOffsets({ groupId: group, topics: [topic] });
      expect(offsets?.partitions.map(({ offset }) => offset)).toEqual(["-1", "-1"]);
    });

    it("reports one below the log's start", async () => {
      const topic = await testTopic(kafka);
      await send(topic, ["a", "b", "c"]);
      await deleteRecords(topic, 0, "2");
      const told = recorder();
      await consume([topic], told);
      await told.until(() => told.displaced.length > 0, "the report");
      expect(told.displaced[0]).toMatchObject({
        asked: 0n,
        why: { kind: "out-of-range", log: { start: 2n, end: 3n } },
      });
      told.positions.set(0, 2n);
      await received(told, 1);
      expect(told.values()).toEqual(["c"]);
      expect(told.failures).toEqual([]);
    });
  });

  describe("topics", () => {
    it("refuses to join for missing ones, by name, and creates none", async () => {
      const topic = await testTopic(kafka);
      const wanted = [topic, "no-such-a", "no-such-b"];
      const failed = await consume(wanted).catch((error: unknown) => error);
      expect(failed).toBeInstanceOf(BrokerError);
      expect(failed).toMatchObject({
        code: "topic-missing",
        details: { topics: ["no-such-a", "no-such-b"] },
      });
      await expect(broker.partitions("no-such-a")).rejects.toMatchObject({ code: "topic-missing" });
      await expect(broker.offsets("no-such-a", "latest")).rejects.toMatchObject({
        code: "topic-missing",
      });
      expect(await admin.listTopics()).not.toContain("no-such-a");
      const { groups } = await admin.describeGroups([group]);
      expect(groups[0]?.state).toBe("Dead");
    });

    it("goes on with the others when one is deleted", async () => {
      const kept = await testTopic(kafka);
      const gone = await testTopic(kafka);
      const told = recorder();
      for (const topic of [kept, gone]) told.positions.set(`${topic}/0`, 0n);
      await consume([kept, gone], told);
      await told.until(() => told.asked > 0, "the first fetch");
      await admin.deleteTopics({ topics: [gone] });
      await told.until(() => told.displaced.length > 0, "the report");
      expect(told.displaced).toEqual([
        { at: { topic: gone, partition: 0 }, asked: 0n, why: { kind: "topic-missing" } },
      ]);
      await send(kept, ["a"]);
      await received(told, 1);
      expect(told.failures).toEqual([]);
      // Nobody had to join again for it, which would have voided what the others do.
      expect(told.assignments).toHaveLength(1);
    });

    it("answers questions about them", async () => {
      const topic = await testTopic(kafka, { partitions: 3 });
      await send(topic, ["a", "b"], 1);
      await deleteRecords(topic, 1, "1");
      expect(await broker.partitions(topic)).toBe(3);
      expect([...(await broker.offsets(topic, "earliest")).offsets]).toEqual([
        [0, 0n],
        [1, 1n],
        [2, 0n],
      ]);
      expect([...(await broker.offsets(topic, "latest")).offsets]).toEqual([
        [0, 0n],
        [1, 2n],
        [2, 0n],
      ]);
    });
  });
});
