import type { ConsumerCallbacks } from "@oncebox/core";
import { describe, expect, it } from "vitest";
import { FetchHook, type FetchWire } from "./fetch-hook.ts";
import type { FetchRequest, KafkaNode } from "./kafkajs-client.ts";

/** What kafkajs asks for at each fetch: always in the same order. */
function requestFor(topics: Readonly<Record<string, number>>): FetchRequest {
  return {
    maxWaitTime: 5_000,
    maxBytes: 1_048_576,
    topics: Object.entries(topics).map(([topic, partitions]) => ({
      topic,
      partitions: Array.from({ length: partitions }, (_, partition) => {
        return { partition, fetchOffset: "0", maxBytes: 1_024 };
      }),
    })),
  };
}

/** The partitions of each of so many fetches, as they are sent to Kafka. */
async function fetched(request: FetchRequest, times: number, nodes = 1): Promise<string[][]> {
  const asked: string[][] = [];
  const start = { offset: 0n, topicId: null, leaderEpoch: null };
  // A topic's id is its name, so that the test can read what was asked.
  const wire: FetchWire = {
    fetch: async (_, { partitions }) => {
      asked.push(partitions.map(({ topicId, partition }) => `${topicId}/${partition}`));
      return { throttleMs: 0, errorCode: 0, partitions: [] };
    },
    topics: async (_, topics) =>
      new Map(topics.map((topic) => [topic, { code: 0, topicId: topic }])),
  };
  const assignment = { number: 1, partitions: [], has: () => true };
  const hook = new FetchHook({
    callbacks: { position: () => start } as unknown as ConsumerCallbacks,
    assignment: () => assignment,
    refreshMetadata: async () => undefined,
    fail: (error) => {
      throw error;
    },
    wire,
  });
  const all = Array.from({ length: nodes }, () => ({}) as KafkaNode);
  // The first one also waits for the ids of the topics.
  for (let time = 0; time <= times; time += 1) {
    for (const node of all) await hook.fetch(node, request);
  }
  hook.close();
  return asked.slice(nodes);
}

describe("a fetch", () => {
  it.each([
    ["one topic", { a: 4 }, ["a/0", "a/1", "a/2", "a/3"]],
    ["as many topics as partitions", { a: 2, b: 2 }, ["a/0", "a/1", "b/0", "b/1"]],
    ["topics of several sizes", { a: 3, b: 1, c: 2 }, ["a/0", "a/1", "a/2", "b/0", "c/0", "c/1"]],
  ])("gives each partition its turn to be the first: %s", async (_, topics, all) => {
    // Guards: the rotation of what is asked, as the first may get an oversized batch alone.
    const asked = await fetched(requestFor(topics), all.length);
    expect(asked.map(([first]) => first).sort()).toEqual(all);
    for (const one of asked) expect([...one].sort()).toEqual(all);
  });

  it("gives turns at each node by itself", async () => {
    // Guards: the count of each node. One count for all gives the first of two nodes even turns only.
    const asked = await fetched(requestFor({ a: 2 }), 4, 2);
    const ofNode = (which: number) => asked.filter((_, i) => i % 2 === which);
    for (const which of [0, 1]) {
      const firsts = ofNode(which).map(([first]) => first);
      expect(firsts.filter((first) => first === "a/0")).toHaveLength(2);
    }
  });
});
