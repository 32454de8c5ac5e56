import { BrokerError } from "@oncebox/core";
import { expect, it } from "vitest";
import { Cluster } from "./cluster.ts";
import type { KafkajsClient } from "./kafkajs-client.ts";

/** Clients whose connections never come about, until they are destroyed. */
function scene() {
  const clients: { destroyed: boolean }[] = [];
  const cluster = new Cluster(() => {
    const state = { destroyed: false };
    clients.push(state);
    let fail = (_: Error): void => undefined;
    const connecting = new Promise<never>((_, reject) => {
      fail = reject;
    });
    return {
      cluster: { connect: () => connecting },
      destroy: () => {
        state.destroyed = true;
        fail(new Error("the client was closed"));
      },
    } as unknown as KafkajsClient;
  });
  return { cluster, clients };
}

it("looks once for the questions of one moment, and again for a later one", async () => {
  // Guards: both. A relay asks for all of its topics at once; what was known before counts for none.
  let looks = 0;
  const cluster = new Cluster(() => {
    const refreshMetadata = async () => {
      looks += 1;
    };
    const kafka = {
      ...{ connect: async () => undefined, addMultipleTargetTopics: async () => undefined },
      ...{ refreshMetadataIfNecessary: async () => undefined, refreshMetadata },
      findTopicPartitionMetadata: () => [{ partitionId: 0, leader: 1 }],
    };
    return { cluster: kafka, topicError: () => 0 } as unknown as KafkajsClient;
  });
  await Promise.all(["a", "b", "c"].map((topic) => cluster.describe(topic)));
  expect(looks).toBe(1);
  await cluster.describe("a");
  expect(looks).toBe(2);
});

it("answers what waits with an error when it is closed, and connects no more", async () => {
  // Guards: the flag. What waited behind a cut question opened connections that nobody ends.
  const { cluster, clients } = scene();
  const questions = [
    cluster.describe("orders"),
    cluster.offsets("orders", "latest"),
    cluster.group("billing", []),
  ];
  const answers = Promise.allSettled(questions);
  // The first one is under way.
  while (clients.length === 0) await Promise.resolve();
  cluster.close();
  for (const answer of await answers) {
    expect(answer).toMatchObject({ status: "rejected", reason: { code: "broker-unavailable" } });
    expect((answer as PromiseRejectedResult).reason).toBeInstanceOf(BrokerError);
    expect((answer as PromiseRejectedResult).reason.message).toContain("closed");
  }
  expect(clients).toEqual([{ destroyed: true }]);
  await expect(cluster.describe("orders")).rejects.toThrow("asking for topic orders: the broker");
  expect(clients).toHaveLength(1);
});
