// What the broker suite asks of more than one broker: a topic that has lost a replica it needs.

import { brokerConformance } from "@oncebox/testing";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type KafkaCluster, startKafkaCluster } from "../fixtures/kafka-cluster.ts";
import { kafkaObstacle } from "../fixtures/kafka-jars.ts";
import { createReplicatedTopic, waitForPartition } from "../fixtures/kafka-partitions.ts";
import { brokenBrokers } from "./broken-brokers.ts";
import { type KafkaSide, kafkajsUnderTest, kafkaSide } from "./kafkajs-under-test.ts";

const cases = brokerConformance().filter(({ needs }) => needs.includes("replica-shortage"));

describe.skipIf(kafkaObstacle() !== undefined)("kafkajsBroker with a replica missing", () => {
  let cluster: KafkaCluster;
  let side: KafkaSide;
  let short: string;

  beforeAll(async () => {
    cluster = await startKafkaCluster({ brokers: 2 });
    const config = { "min.insync.replicas": "2" };
    short = await createReplicatedTopic(cluster, { replicas: [[1, 2]], config });
    await cluster.broker(2).stop();
    await waitForPartition(cluster, { topic: short }, { isr: [1] });
    side = kafkaSide([cluster.broker(1).address], cluster.client());
  }, 120_000);

  afterAll(async () => {
    await side?.close();
    await cluster?.stop();
  });

  test("there is such a case", () => expect(cases).toHaveLength(1));

  for (const { promise, name, run } of cases) {
    test(`${promise} ${name}`, async () => {
      const { context, close } = kafkajsUnderTest(side);
      try {
        await run({ ...context, understaffedTopic: async () => short });
      } finally {
        await close();
      }
    });

    test(`and notices an answer that is not true: ${promise} ${name}`, async () => {
      const wrap = brokenBrokers["B1: what was unknown is acknowledged"];
      const { context, close } = kafkajsUnderTest(side, { wrap });
      const broken = run({ ...context, understaffedTopic: async () => short });
      await expect(broken.finally(close)).rejects.toThrow("the acknowledged indexes must be [1]");
    });
  }
});
