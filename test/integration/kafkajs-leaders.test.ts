/** The consumer of the kafkajs broker on three brokers, whose leaders move, die and lose records. */
import type { Broker } from "@oncebox/core";
import { kafkajsBroker } from "@oncebox/kafkajs";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { type KafkaCluster, startKafkaCluster } from "../fixtures/kafka-cluster.ts";
import { kafkaObstacle } from "../fixtures/kafka-jars.ts";
import {
  createReplicatedTopic,
  electUncleanly,
  moveLeader,
  waitForPartition,
} from "../fixtures/kafka-partitions.ts";
import { uniqueName } from "../fixtures/names.ts";
import { recorder } from "./kafkajs-recorder.ts";

const obstacle = kafkaObstacle();

// Brokers that die are missed only when their sessions have run out.
const patience = { timeout: 180_000 };

describe.skipIf(obstacle !== undefined)("leaders, for a consumer on kafkajs", patience, () => {
  let cluster: KafkaCluster;
  let broker: Broker;

  beforeAll(async () => {
    cluster = await startKafkaCluster();
  }, 120_000);

  afterEach(async () => {
    await broker.close();
    await cluster.heal();
  });

  afterAll(() => cluster?.stop());

  async function consume(topics: readonly string[], told = recorder()) {
    const { brokers } = cluster;
    broker = kafkajsBroker({ brokers, sessionTimeoutMs: 10_000, heartbeatIntervalMs: 500 });
    await broker.consumer({ groupId: uniqueName("group"), topics }, told.callbacks);
    return told;
  }

  /** `acks` 1 is stored by the leader alone. */
  async function send(topic: string, values: readonly string[], partition = 0, acks = -1) {
    const producer = cluster.client().producer({ retry: { retries: 10 } });
    await producer.connect();
    await producer.send({ topic, acks, messages: values.map((value) => ({ value, partition })) });
    await producer.disconnect();
  }

  it("move, and nobody has to join again", async () => {
    // Guards: "not the leader" reads the metadata again, and voids no assignment.
    const replicas = [
      [1, 2, 3],
      [2, 3, 1],
    ];
    const topic = await createReplicatedTopic(cluster, { replicas });
    const told = await consume([topic]);
    const sent: string[] = [];
    for (const [round, to] of [2, 3, 1, 2].entries()) {
      await moveLeader(cluster, { topic, partition: 0 }, to);
      for (const partition of [0, 1]) {
        const value = `${round} ${partition}`;
        await send(topic, [value], partition);
        sent.push(value);
      }
      await told.until(() => told.records().length >= sent.length, `the records of ${round}`);
    }
    expect(told.values().sort()).toEqual(sent.sort());
    expect(told.assignments).toHaveLength(1);
    expect([told.displaced, told.troubled, told.failures]).toEqual([[], [], []]);
    const epochs = told.batches.filter(({ partition }) => partition === 0);
    const [first, last] = [epochs[0]?.endEpoch ?? 0, epochs.at(-1)?.endEpoch ?? 0];
    expect(last).toBeGreaterThan(first);
  });

  it("are gone for a while: the others' partitions go on, and it is found when it is back", async () => {
    // Guards: kafkajs asks no more for a partition without leader, so the metadata is read again.
    const alone = await createReplicatedTopic(cluster, { replicas: [[3]] });
    const other = await createReplicatedTopic(cluster, { replicas: [[1, 2]] });
    const told = recorder();
    for (const name of [alone, other]) told.positions.set(`${name}/0`, 0n);
    await consume([alone, other], told);
    await send(alone, ["a"]);
    await told.until(() => told.records().length === 1, "the first record");
    await cluster.broker(3).stop();
    await waitForPartition(cluster, { topic: alone }, { leader: "none" });
    await send(other, ["b"]);
    await told.until(() => told.records().length === 2, "a record of the other");
    // Guards: the report. Nobody asks for the partition, and the core would take that for silence.
    await told.until(() => told.troubled.length > 1, "reports of the partition without a leader");
    await cluster.heal();
    await send(alone, ["c"]);
    await told.until(() => told.records().length === 3, "the record of the leader that is back");
    expect(told.values()).toEqual(["a", "b", "c"]);
    expect([told.displaced, told.failures]).toEqual([[], []]);
  });

  it("that lost records, and were filled past the position, are found by the epoch", async () => {
    // Guards: the last fetched epoch. Offsets and topic id look as if nothing had happened.
    const config = { "unclean.leader.election.enable": "true" };
    const topic = await createReplicatedTopic(cluster, { config });
    const other = await createReplicatedTopic(cluster);
    await send(topic, ["a", "b", "c"]);
    const told = recorder();
    for (const name of [topic, other]) told.positions.set(`${name}/0`, 0n);
    await consume([topic, other], told);
    await told.until(() => told.records().length === 3, "three records");
    await electUncleanly(cluster, { topic }, async () => {
      await send(topic, ["lost 1", "lost 2"], 0, 1);
      await told.until(() => told.records().length === 5, "what will be lost");
      // Without any broker kafkajs gives up; whoever is told so builds it anew.
      await broker.close();
    });
    await send(
      topic,
      Array.from({ length: 6 }, (_, i) => `new ${i}`),
    );
    await send(other, ["d"]);
    await consume([topic, other], told);
    await told.until(() => told.displaced.length > 0, "the report");
    await told.until(() => told.records().length === 6, "the other topic's record");
    expect(told.displaced).toEqual([
      { at: { topic, partition: 0 }, asked: 5n, why: { kind: "log-diverged", endOffset: 3n } },
    ]);
    expect(told.values()).toEqual(["a", "b", "c", "lost 1", "lost 2", "d"]);
    expect(told.failures).toEqual([]);
  });
});
