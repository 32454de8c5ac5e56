/** Where a consumer begins, and what people do to positions: the database decides, Kafka follows. */
import { createOperator, type Operator } from "@oncebox/core";
import type { Kafka } from "kafkajs";
import { describe, expect, it } from "vitest";
import { type Scene, scene, textTopic } from "../fixtures/scene.ts";
import { hasKafka, uniqueName } from "../fixtures/servers.ts";

const operatorOf = (s: Scene): Operator =>
  createOperator({ storage: s.storage, broker: s.broker, actor: "ann" });

const reason = "a test";

/** A consumer of the scene's topic that begins at `startFrom`. */
function consumerFrom(s: Scene, startFrom: never | object | string) {
  return s.bareConsumer().handle(
    textTopic(s.topic),
    async ({ value }, tx) => {
      await tx.query("INSERT INTO effects (value) VALUES ($1)", [value]);
    },
    { startFrom: startFrom as "earliest" },
  );
}

async function groupOffsets(kafka: Kafka, groupId: string, topic: string) {
  const admin = kafka.admin();
  await admin.connect();
  const [found] = await admin.fetchOffsets({ groupId, topics: [topic] });
  await admin.disconnect();
  return found?.partitions.sort((a, b) => a.partition - b.partition) ?? [];
}

async function setGroup(s: Scene, offset: string) {
  const admin = s.kafka.admin();
  await admin.connect();
  await admin.setOffsets({
    groupId: s.name,
    topic: s.topic,
    partitions: [{ partition: 0, offset }],
  });
  await admin.disconnect();
}

describe.skipIf(!hasKafka())("startFrom", () => {
  it("D5: latest is resolved once for all partitions: an idle one misses nothing later", async () => {
    await using s = await scene({ partitions: 2 });
    await s.produce(0, "old");
    const first = consumerFrom(s, "latest");
    await first.start();
    await s.ear.waitFor("inbox.claimed", ({ partition }) => partition === 1);
    await first.stop();
    // Partition 1 was idle, and nothing of it was ever handled.
    await s.produce(1, "first of the idle one");
    await consumerFrom(s, "latest").start();
    expect(await s.effectsReach(1)).toEqual(["first of the idle one"]);
  });

  it("begins at a time", async () => {
    await using s = await scene();
    // Retention would take what is older than a week.
    const now = Date.now();
    const ago = (ms: number) => String(now - ms);
    await s.produce(0, { value: "old", timestamp: ago(60_000) });
    await s.produce(0, { value: "new", timestamp: ago(10_000) });
    await consumerFrom(s, { timestamp: new Date(now - 30_000) }).start();
    expect(await s.effectsReach(1)).toEqual(["new"]);
  });

  it("begins at offsets, and refuses those that the log does not hold", async () => {
    await using s = await scene({ partitions: 2 });
    await s.produce(0, "a", "b", "c");
    await expect(consumerFrom(s, { offsets: { 0: 9 } }).start()).rejects.toThrow(
      "partition 1 has no offset; partition 0 holds 0 to 3, not 9",
    );
    await consumerFrom(s, { offsets: { 0: 2n, 1: 0 } }).start();
    expect(await s.effectsReach(1)).toEqual(["c"]);
  });
});

describe.skipIf(!hasKafka())("an operator", () => {
  it("seeks back under a running, idle consumer: messages are handled again, once", async () => {
    await using s = await scene();
    const withIds = ["a", "b", "c"].map((value) => ({ value, headers: { id: value } }));
    await s.produce(0, ...withIds);
    await s.consumer().start();
    await s.effectsReach(3);
    const { consumer, topic } = { consumer: s.name, topic: s.topic };
    const plan = await operatorOf(s).seek({ consumer, topic, to: 1n, reason, dryRun: true });
    expect(plan).toEqual([{ partition: 0, from: 3n, to: 1n }]);
    expect(await s.nextOffset(0)).toBe(3n);
    await operatorOf(s).seek({ consumer, topic, to: 1n, reason });
    expect(await s.effectsReach(5)).toEqual(["a", "b", "c", "b", "c"]);
    // What the producer repeats behind the replayed range is a duplicate, as before.
    await s.produce(0, ...withIds, "d");
    expect(await s.effectsReach(6)).toEqual(["a", "b", "c", "b", "c", "d"]);
    await operatorOf(s).seek({ consumer, topic, to: "earliest", replay: false, reason });
    await s.produce(0, "e");
    // Only messages without an id, which nothing but the offset protects, take effect again.
    expect(await s.effectsReach(8)).toEqual(["a", "b", "c", "b", "c", "d", "d", "e"]);
    const history = await operatorOf(s).history({ consumer });
    expect(history.map(({ actor, action, details }) => [actor, action, details.replay])).toEqual([
      ["ann", "seek", false],
      ["ann", "seek", true],
    ]);
  });

  it("A7, A11: adopts the offsets of an old group, only while that has no members", async () => {
    await using s = await scene({ partitions: 2 });
    await s.produce(0, "done", "next");
    await s.produce(1, "first");
    const groupId = uniqueName("old");
    const old = s.kafka.consumer({ groupId });
    await old.connect();
    await old.subscribe({ topics: [s.topic], fromBeginning: true });
    const joined = new Promise((resolve) => old.on("consumer.group_join", resolve));
    await old.run({ autoCommit: false, eachMessage: async () => {} });
    await joined;
    await old.commitOffsets([{ topic: s.topic, partition: 0, offset: "1" }]);
    const adoption = { consumer: s.name, groupId, topics: [s.topic], reason };
    await expect(operatorOf(s).adopt(adoption)).rejects.toMatchObject({ code: "group-active" });
    await old.disconnect();
    expect(await operatorOf(s).adopt(adoption)).toEqual([
      { topic: s.topic, partition: 0, nextOffset: 1n, committed: true },
      { topic: s.topic, partition: 1, nextOffset: 0n, committed: false },
    ]);
    await expect(operatorOf(s).adopt(adoption)).rejects.toMatchObject({
      code: "already-registered",
    });
    await expect(s.consumer().start()).rejects.toMatchObject({ code: "group-mismatch" });
    await s.consumer({ groupId }).start();
    expect((await s.effectsReach(2)).sort()).toEqual(["first", "next"]);
  });

  it("A7: writes the database's positions into the group, only while that has no members", async () => {
    await using s = await scene();
    await s.produce(0, "a", "b");
    const consumer = s.consumer({ offsetCommitIntervalMs: 3_600_000 });
    await consumer.start();
    await s.effectsReach(2);
    const sync = { consumer: s.name, reason };
    await expect(operatorOf(s).syncOffsets(sync)).rejects.toMatchObject({ code: "group-active" });
    await consumer.stop();
    await setGroup(s, "1");
    await operatorOf(s).syncOffsets(sync);
    const [found] = await groupOffsets(s.kafka, s.name, s.topic);
    expect(found?.offset).toBe("2");
    expect(found?.metadata).toMatch(/^oncebox\/1 \S+ 1 2$/);
  });
});

describe.skipIf(!hasKafka())("D5: a group offset above the database's position", () => {
  it("that somebody else wrote is reported, not followed", async () => {
    await using s = await scene();
    await s.produce(0, "a", "b", "c");
    await setGroup(s, "3");
    await s.consumer().start();
    expect(await s.effectsReach(3)).toEqual(["a", "b", "c"]);
    const { why, groupOffset, nextOffset } = await s.ear.waitFor("inbox.group-ahead");
    expect({ why, groupOffset, nextOffset }).toEqual({
      why: "moved",
      groupOffset: 3n,
      nextOffset: 0n,
    });
  });

  it("B9: that a later state of this database wrote tells that it was set back", async () => {
    await using s = await scene();
    await s.produce(0, "a", "b", "c");
    const first = s.consumer();
    await first.start();
    await s.effectsReach(3);
    await first.stop();
    // As a backup taken after the first message.
    await s.pool.query("UPDATE oncebox.inbox_partitions SET next_offset = 1, last_offset = 0");
    await s.pool.query("DELETE FROM effects WHERE value <> 'a'");
    await s.pool.query("UPDATE oncebox.inbox_partitions SET last_offset = NULL");
    await s.consumer().start();
    expect(await s.effectsReach(3)).toEqual(["a", "b", "c"]);
    expect((await s.ear.waitFor("inbox.group-ahead")).why).toBe("set-back");
  });

  it("after an operator's seek it is expected", async () => {
    await using s = await scene();
    await s.produce(0, "a", "b", "c");
    const first = s.consumer();
    await first.start();
    await s.effectsReach(3);
    await first.stop();
    await operatorOf(s).seek({ consumer: s.name, topic: s.topic, to: "earliest", reason });
    await s.consumer().start();
    await s.effectsReach(6);
    expect(s.ear.heard.filter(({ type }) => type === "inbox.group-ahead")).toEqual([]);
  });
});
