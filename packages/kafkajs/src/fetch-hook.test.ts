import type { ConsumerCallbacks } from "@oncebox/core";
import { describe, expect, it } from "vitest";
import { FetchHook } from "./fetch-hook.ts";
import type { FetchRequest, KafkaCluster, KafkaNode } from "./kafkajs-client.ts";

const start = { offset: 0n, topicId: null, leaderEpoch: null };

/** What kafkajs asks for at each fetch: always in the same order. */
function requestFor(topics: Readonly<Record<string, number>>): FetchRequest {
  return {
    maxWaitTime: 0,
    topics: Object.entries(topics).map(([topic, partitions]) => ({
      topic,
      partitions: Array.from({ length: partitions }, (_, partition) => {
        return { partition, fetchOffset: "0", maxBytes: 1_024 };
      }),
    })),
  };
}

/** The partitions of each of so many fetches, as they are handed to the connection. */
async function fetched(request: FetchRequest, times: number): Promise<string[][]> {
  const asked: string[][] = [];
  const hook = new FetchHook({
    callbacks: { position: () => start } as unknown as ConsumerCallbacks,
    assignment: () => assignment,
    cluster: () => ({}) as KafkaCluster,
    fail: (error) => {
      throw error;
    },
  });
  const assignment = { number: 1, has: () => true };
  for (let time = 0; time < times; time += 1) {
    await hook.fetch({} as KafkaNode, request, async (_, { topics }) => {
      asked.push(topics.flatMap((one) => one.partitions.map((p) => `${one.topic}/${p.partition}`)));
      return { throttleMs: 0, partitions: [] };
    });
  }
  return asked;
}

describe("a fetch", () => {
  it.each([
    ["one topic", { a: 4 }, ["a/0", "a/1", "a/2", "a/3"]],
    ["several topics", { a: 3, b: 3 }, ["a/0", "a/1", "a/2", "b/0", "b/1", "b/2"]],
  ])("gives each partition its turn to be the first: %s", async (_, topics, all) => {
    // Guards: the rotation of topics and partitions, as the first may get an oversized batch alone.
    const asked = await fetched(requestFor(topics), all.length);
    expect(asked.map(([first]) => first).sort()).toEqual(all);
    for (const one of asked) expect([...one].sort()).toEqual(all);
  });
});
