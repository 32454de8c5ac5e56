import type { ConsumerCallbacks } from "@oncebox/core";
import { afterEach, describe, expect, it, vi } from "vitest";
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

describe("a fetch that leaves a partition out", () => {
  afterEach(() => {
    vi.useRealTimers();
  });

  /** Fetches for so long; how long Kafka was told to wait each time. Each fetch takes all of it. */
  function scene() {
    vi.useFakeTimers({ toFake: ["performance"] });
    const leftOut = new Set<number>();
    const waits: number[] = [];
    let early = Number.POSITIVE_INFINITY;
    const partitions = [0, 1, 2].map((partition) => ({ topic: "a", partition }));
    const state = { assignment: { number: 1, partitions, has: () => true } };
    const hook = new FetchHook({
      callbacks: {
        position: ({ partition }: { partition: number }) =>
          leftOut.has(partition) ? null : { offset: 0n, topicId: null, leaderEpoch: null },
      } as unknown as ConsumerCallbacks,
      assignment: () => state.assignment,
      refreshMetadata: async () => undefined,
      fail: (error) => {
        throw error;
      },
      wire: {
        fetch: async (_, { maxWaitMs }) => {
          waits.push(maxWaitMs);
          vi.advanceTimersByTime(Math.min(early, maxWaitMs));
          return { throttleMs: 0, errorCode: 0, partitions: [] };
        },
        topics: async (_, topics) =>
          new Map(topics.map((topic) => [topic, { code: 0, topicId: topic }])),
      },
    });
    const node = {} as KafkaNode;
    const request = { ...requestFor({ a: 3 }), maxWaitTime: 250 };
    const fetchFor = async (ms: number) => {
      waits.length = 0;
      const until = performance.now() + ms;
      while (performance.now() < until) await hook.fetch(node, request);
      return [...waits];
    };
    const answersAfter = (ms: number) => {
      early = ms;
    };
    return { leftOut, fetchFor, answersAfter, state };
  }

  it("waits a little at first, and longer while the same one is left out", async () => {
    // Guards: the growth. A partition that is paused for days would cost 40 fetches a second.
    const { leftOut, fetchFor } = scene();
    await fetchFor(500);
    leftOut.add(1);
    const [first, ...others] = await fetchFor(2_000);
    expect(first).toBe(25);
    expect([first, ...others]).toEqual([...others, first].sort((a, b) => Number(a) - Number(b)));
    expect(others.length).toBeLessThan(15);
    expect(others.at(-1)).toBe(250);
  });

  it("waits no longer than it has waited for the partition, however fast answers come", async () => {
    // Guards: that time counts, not fetches. A full buffer is empty again after a few of them.
    const { leftOut, fetchFor, answersAfter } = scene();
    leftOut.add(1);
    answersAfter(1);
    expect(Math.max(...(await fetchFor(25)))).toBe(25);
    expect(Math.max(...(await fetchFor(50)))).toBeLessThan(100);
  });

  it("waits a little again when another one is left out, one is back, or the assignment is new", async () => {
    const { leftOut, fetchFor, state } = scene();
    leftOut.add(1);
    expect((await fetchFor(2_000)).at(-1)).toBe(250);
    leftOut.add(2);
    expect((await fetchFor(2_000))[0]).toBe(25);
    leftOut.delete(1);
    expect((await fetchFor(2_000))[0]).toBe(25);
    state.assignment = { ...state.assignment, number: 2 };
    expect((await fetchFor(2_000))[0]).toBe(25);
    leftOut.clear();
    expect(await fetchFor(250)).toEqual([250]);
    leftOut.add(2);
    expect((await fetchFor(25))[0]).toBe(25);
  });
});
