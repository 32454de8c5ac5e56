/** The producer of the kafkajs broker on real Kafka: every record gets its outcome, none a false one. */
import { connect } from "node:net";
import type { Broker, BrokerProducer, OutgoingRecord, PublishResult } from "@oncebox/core";
import { kafkajsBroker } from "@oncebox/kafkajs";
import type { Admin, Kafka } from "kafkajs";
import { afterEach, beforeEach, describe, expect, inject, it } from "vitest";
import { freePort } from "../fixtures/ports.ts";
import { type FaultProxy, startProxy } from "../fixtures/proxy.ts";
import { hasKafka, testKafka, testTopic, uniqueName } from "../fixtures/servers.ts";
import { recorder } from "./kafkajs-recorder.ts";

describe.skipIf(!hasKafka())("producer on kafkajs", () => {
  let kafka: Kafka;
  let admin: Admin;
  let proxy: FaultProxy;
  let broker: Broker;
  let producer: BrokerProducer;

  beforeEach(async () => {
    kafka = testKafka();
    admin = kafka.admin();
    await admin.connect();
    const [host = "", port = ""] = (inject("kafkaBrokers")?.[0] ?? "").split(":");
    proxy = await startProxy(Number(port), host);
    broker = kafkajsBroker({
      brokers: [`127.0.0.1:${proxy.port}`],
      // Every connection, also those to the address that the broker tells its clients.
      socketFactory: ({ onConnect }) => connect(proxy.port, "127.0.0.1", onConnect),
      publishTimeoutMs: 3_000,
    });
    producer = await broker.producer();
  });

  afterEach(async () => {
    await producer.close();
    await broker.close();
    await proxy.close();
    await admin.disconnect();
  });

  function record(topic: string, value: string | number, partition = 0, key = ""): OutgoingRecord {
    const bytes = typeof value === "number" ? Buffer.alloc(value, "x") : Buffer.from(value);
    return {
      topic,
      partition,
      key: key === "" ? null : Buffer.from(key),
      value: bytes,
      headers: [],
    };
  }

  const summary = ({ acknowledged, unknown, refused }: PublishResult) => ({
    acknowledged,
    unknown: unknown.map(({ index }) => index),
    refused: refused.map(({ index, scope }) => [index, scope]),
  });

  /** Everything in a partition, as a consumer sees it. */
  async function stored(topic: string, partition = 0): Promise<(string | null)[]> {
    const end = (await broker.offsets(topic, "latest")).offsets.get(partition) ?? 0n;
    const told = recorder();
    const consumer = await broker.consumer(
      { groupId: uniqueName("group"), topics: [topic] },
      told.callbacks,
    );
    await told.until(() => (told.offset(partition) ?? -1n) >= end, "the end of the log");
    await consumer.stop(2_000);
    return told.values(partition);
  }

  it("acknowledges what is stored, in order, over topics and partitions", async () => {
    const [a, b] = [await testTopic(kafka, { partitions: 2 }), await testTopic(kafka)];
    const records = [record(a, "1", 1), record(b, "2"), record(a, "3", 1), record(a, "4", 0)];
    expect(summary(await producer.publish(records))).toEqual({
      acknowledged: [0, 1, 2, 3],
      unknown: [],
      refused: [],
    });
    expect(summary(await producer.publish([]))).toEqual({
      acknowledged: [],
      unknown: [],
      refused: [],
    });
    expect(await stored(a, 1)).toEqual(["1", "3"]);
    expect(await stored(a, 0)).toEqual(["4"]);
    expect(await stored(b)).toEqual(["2"]);
  });

  it("sends more than fits one batch in several, in order", async () => {
    const topic = await testTopic(kafka);
    const records = Array.from({ length: 12 }, (_, i) => record(topic, 250_000 + i));
    expect((await producer.publish(records)).acknowledged).toHaveLength(12);
    const sizes = (await stored(topic)).map((value) => value?.length);
    expect(sizes).toEqual(records.map(({ value }) => value?.length));
  });

  it("keeps calls made at once in order", async () => {
    const topic = await testTopic(kafka);
    const values = Array.from({ length: 20 }, (_, i) => `${i}`);
    const results = await Promise.all(values.map((v) => producer.publish([record(topic, v)])));
    for (const { acknowledged } of results) expect(acknowledged).toEqual([0]);
    expect(await stored(topic)).toEqual(values);
  });

  describe("refuses", () => {
    it("the record that is too large and no other", async () => {
      const topic = await testTopic(kafka, { config: { "max.message.bytes": "2000" } });
      const records = Array.from({ length: 40 }, (_, i) => record(topic, `${i}`));
      records[17] = record(topic, 5_000);
      const result = await producer.publish(records);
      expect(summary(result).refused).toEqual([[17, "message"]]);
      expect(result.unknown).toEqual([]);
      expect(result.refused[0]?.error).toMatchObject({ code: "broker-refused", retryable: false });
      const kept = [...records.keys()].filter((i) => i !== 17);
      expect(await stored(topic)).toEqual(kept.map(String));
    });

    it("nothing where only the batch was too large", async () => {
      const topic = await testTopic(kafka, { config: { "max.message.bytes": "2000" } });
      const records = Array.from({ length: 10 }, () => record(topic, 1_500));
      expect((await producer.publish(records)).acknowledged).toHaveLength(10);
    });

    it("a record, and leaves later ones of its key to the caller", async () => {
      const topic = await testTopic(kafka, { config: { "max.message.bytes": "2000" } });
      const records = [
        record(topic, "0", 0, "guilty"),
        record(topic, "1", 0, "other"),
        record(topic, 5_000, 0, "guilty"),
        record(topic, "3", 0, "guilty"),
        record(topic, "4", 0, "other"),
        record(topic, "5"),
      ];
      expect(summary(await producer.publish(records))).toEqual({
        acknowledged: [0, 1, 4, 5],
        unknown: [3],
        refused: [[2, "message"]],
      });
      expect(await stored(topic)).toEqual(["0", "1", "4", "5"]);
    });

    it("records without key for a compacted topic", async () => {
      const topic = await testTopic(kafka, { config: { "cleanup.policy": "compact" } });
      const records = [record(topic, "0", 0, "k"), record(topic, "1"), record(topic, "2", 0, "k")];
      expect(summary(await producer.publish(records))).toEqual({
        acknowledged: [0, 2],
        unknown: [],
        refused: [[1, "message"]],
      });
    });

    it("a topic that is missing or misnamed, and a partition that is not there", async () => {
      const topic = await testTopic(kafka);
      const missing = uniqueName("missing");
      const records = [
        record(missing, "0"),
        record(topic, "1"),
        record("no topic!", "2"),
        record(topic, "3", 7),
      ];
      const result = await producer.publish(records);
      expect(summary(result)).toEqual({
        acknowledged: [1],
        unknown: [],
        refused: [
          [0, "topic"],
          [2, "topic"],
          [3, "topic"],
        ],
      });
      expect(result.refused[0]?.error).toMatchObject({ code: "topic-missing" });
      expect(await admin.listTopics()).not.toContain(missing);
    });

    it("a topic that was deleted meanwhile, and takes it when it is back", async () => {
      const topic = await testTopic(kafka);
      expect((await producer.publish([record(topic, "0")])).acknowledged).toEqual([0]);
      await admin.deleteTopics({ topics: [topic] });
      await expect
        .poll(async () => summary(await producer.publish([record(topic, "1")])).refused)
        .toEqual([[0, "topic"]]);
      await admin.createTopics({ topics: [{ topic }], waitForLeaders: true });
      await expect
        .poll(async () => (await producer.publish([record(topic, "2")])).acknowledged)
        .toEqual([0]);
    });
  });

  describe("knows not", () => {
    it("what a lost answer would have said, and goes on with a new connection", async () => {
      const topic = await testTopic(kafka);
      await producer.publish([record(topic, "0")]);
      let seen = false;
      proxy.onChunk = (direction, _connection, bytes) => {
        if (direction === "toServer") seen ||= bytes.includes("lost-answer");
        return seen && direction === "toClient" ? "cut" : "pass";
      };
      const lost = await producer.publish([record(topic, "lost-answer")]);
      expect(summary(lost)).toEqual({ acknowledged: [], unknown: [0], refused: [] });
      expect(lost.unknown[0]?.error).toMatchObject({ code: "broker-unavailable", retryable: true });
      proxy.onChunk = undefined;
      expect((await producer.publish([record(topic, "2")])).acknowledged).toEqual([0]);
      expect(await stored(topic)).toEqual(["0", "lost-answer", "2"]);
    });

    it("what a broker that hangs has done, and never sends it again by itself", async () => {
      const topic = await testTopic(kafka);
      await producer.publish([record(topic, "0")]);
      const before = proxy.connections;
      proxy.onChunk = (direction, _connection, bytes) =>
        direction === "toServer" && bytes.includes("held-back") ? "hold" : "pass";
      const start = performance.now();
      const held = await producer.publish([record(topic, "held-back"), record(topic, "1")]);
      const took = performance.now() - start;
      expect(summary(held)).toEqual({ acknowledged: [], unknown: [0, 1], refused: [] });
      expect(took).toBeGreaterThan(2_900);
      expect(took).toBeLessThan(4_500);
      proxy.onChunk = undefined;
      await expect.poll(() => proxy.connections).toBeLessThan(before);
      expect((await producer.publish([record(topic, "2")])).acknowledged).toEqual([0]);
      // What the network kept for so long still arrives: the declared duplicate, or a late first.
      proxy.release();
      await expect.poll(() => stored(topic)).toEqual(["0", "2", "held-back", "1"]);
    });

    it("anything without a broker, and never rejects", async () => {
      const nowhere = kafkajsBroker({ brokers: [`127.0.0.1:${await freePort()}`] });
      const alone = await nowhere.producer();
      const result = await alone.publish([record("t", "0")]);
      expect(summary(result)).toEqual({ acknowledged: [], unknown: [0], refused: [] });
      expect(result.unknown[0]?.error).toMatchObject({ code: "broker-unavailable" });
      await alone.close();
      expect(summary(await alone.publish([record("t", "0")])).unknown).toEqual([0]);
      await nowhere.close();
    });
  });
});
