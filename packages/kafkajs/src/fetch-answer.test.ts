import { ConfigurationError, type ConsumerCallbacks, type FetchPosition } from "@oncebox/core";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { displacementOf, sharedEnd } from "./fetch-answer.ts";
import { type Assignment, FetchHook } from "./fetch-hook.ts";
import type { FetchAnswer, FetchedPartition, FetchQuestion } from "./fetch-request.ts";
import type { FetchRequest, KafkaNode } from "./kafkajs-client.ts";
import type { TopicAnswer } from "./metadata-request.ts";
import { sizeBatch, writeBatch } from "./record-batch.ts";
import { MalformedBytesError, Writer } from "./wire.ts";

// Time passes when the test says so: what is left out for a while stays so on a slow machine.
beforeEach(() => {
  vi.useFakeTimers({ toFake: ["performance"] });
});
afterEach(() => {
  vi.useRealTimers();
});

const topicId = Buffer.alloc(16, 1).toString("base64url");
const topic = "orders";

const request: FetchRequest = {
  maxWaitTime: 5,
  maxBytes: 4_096,
  topics: [{ topic, partitions: [0, 1].map((partition) => ({ partition, maxBytes: 1_024 })) }],
};

/** What Kafka answers for one partition where nothing is wrong. */
function answered(partition: number, more: Partial<FetchedPartition> = {}): FetchedPartition {
  return {
    topicId,
    partition,
    errorCode: 0,
    highWatermark: 1n,
    lastStable: 1n,
    logStart: 0n,
    aborted: [],
    diverging: null,
    bytes: oneRecord(),
    ...more,
  };
}

function oneRecord(): Buffer {
  const sized = sizeBatch([{ key: null, value: Buffer.from("a"), headers: [] }]);
  const writer = new Writer(sized.size);
  writeBatch(writer, sized, 7n);
  return writer.bytes;
}

/** A hook whose Kafka answers what the test says, and everything that the core is told. */
function scene(
  answer: (question: FetchQuestion) => Partial<FetchAnswer> | Promise<Partial<FetchAnswer>>,
) {
  const told: unknown[][] = [];
  const note =
    (name: string) =>
    (...args: unknown[]) =>
      told.push([name, ...args]);
  const asked: number[][] = [];
  const positions = new Map<number, FetchPosition>();
  const first: FetchPosition = { offset: 0n, topicId: null, leaderEpoch: null };
  const partitions = [0, 1].map((partition) => ({ topic, partition }));
  const state = { assignment: { number: 1, partitions, has: () => true } as Assignment };
  const names = ["fetched", "deliver", "displaced", "unreadable", "troubled"] as const;
  const topics: { answer: TopicAnswer; looks: number } = { answer: { code: 0, topicId }, looks: 0 };
  const refreshMetadata = vi.fn(async () => undefined);
  const hook = new FetchHook({
    callbacks: {
      ...Object.fromEntries(names.map((name) => [name, note(name)])),
      position: ({ partition }: { partition: number }) => positions.get(partition) ?? first,
    } as unknown as ConsumerCallbacks,
    assignment: () => state.assignment,
    refreshMetadata,
    fail: note("fail"),
    wire: {
      fetch: async (_, question) => {
        asked.push(question.partitions.map(({ partition }) => partition).sort());
        return { throttleMs: 0, errorCode: 0, partitions: [], ...(await answer(question)) };
      },
      topics: async (_, names) => {
        topics.looks += 1;
        return new Map(names.map((name) => [name, topics.answer]));
      },
    },
  });
  const node = {} as KafkaNode;
  // The first question of all waits for the ids of the topics.
  const fetch = () => hook.fetch(node, request);
  const said = () => told.map(([name]) => name);
  return { hook, told, asked, positions, state, fetch, names: said, refreshMetadata, topics };
}

describe("what Kafka answers", () => {
  it("is told before it is delivered, also where it is empty", async () => {
    // Guards: `fetched` for each answer without error, in front of `deliver`.
    const { told, fetch } = scene(() => ({
      partitions: [answered(0), answered(1, { bytes: Buffer.alloc(0), lastStable: 0n })],
    }));
    await fetch();
    expect(told).toMatchObject([
      ["fetched", { topic, partition: 0 }, { start: 0n, lastStable: 1n, end: 1n }],
      ["deliver", { topic, partition: 0, topicId, endOffset: 1n, endEpoch: null }],
      ["fetched", { topic, partition: 1 }, { start: 0n, lastStable: 0n, end: 1n }],
    ]);
  });

  it.each([29, 56, 2, 87, 76, -1, 999])(
    "of code %i is the trouble of one partition, which is left out for a while",
    async (errorCode) => {
      // Guards: no error of one partition reaches kafkajs, the client's life or the others.
      const { told, asked, fetch, state, names } = scene(() => ({
        partitions: [answered(0, { errorCode }), answered(1)],
      }));
      await fetch();
      expect(told[0]).toMatchObject([
        "troubled",
        { topic, partition: 0 },
        { name: "BrokerError", details: { kafkaCode: errorCode } },
      ]);
      await fetch();
      expect(names()).toEqual(["troubled", "fetched", "deliver", "fetched", "deliver"]);
      expect(asked).toEqual([[0, 1], [1]]);
      // A new assignment begins anew.
      state.assignment = { ...state.assignment, number: 2 };
      await fetch();
      expect(asked.at(-1)).toEqual([0, 1]);
    },
  );

  it.each([5, 6, 9, 74, 75, 78])(
    "of code %i means that the leader moved: the metadata is read, nobody is told",
    async (errorCode) => {
      const { asked, fetch, names, refreshMetadata } = scene(() => ({
        partitions: [answered(0, { errorCode }), answered(1)],
      }));
      await fetch();
      await fetch();
      expect(names()).toEqual(["fetched", "deliver", "fetched", "deliver"]);
      expect(asked).toEqual([[0, 1], [1]]);
      expect(refreshMetadata).toHaveBeenCalledTimes(1);
      vi.advanceTimersByTime(100);
      await fetch();
      expect(asked.at(-1)).toEqual([0, 1]);
    },
  );

  it.each([5, 6, 9, 74, 75, 78, 100])(
    "of code %i again and again is told in the end, and never long ago",
    async (errorCode) => {
      // Guards: the report. Who hears nothing of one partition builds the client anew, for all.
      const { fetch, told } = scene(() => ({ partitions: [answered(0, { errorCode })] }));
      const times = await timesOf(told, fetch);
      expect(told.filter(([name]) => name === "troubled")[0]).toMatchObject([
        ...["troubled", { topic, partition: 0 }],
        { code: "broker-unavailable", details: { kafkaCode: errorCode } },
      ]);
      expectReports(times);
    },
  );

  it("to the request as a whole is for kafkajs to recover from", async () => {
    const { fetch, told } = scene(() => ({ errorCode: -1 }));
    await expect(fetch()).rejects.toMatchObject({ name: "KafkaJSProtocolError", retriable: true });
    expect(told).toEqual([]);
  });

  it.each([
    ["a broker that is too old", new ConfigurationError("client-unsupported", "too old")],
    ["bytes that are not what they must be", new MalformedBytesError("cut off")],
    ["a bug", new TypeError("undefined is not a function")],
  ])("that is %s ends the consumer, and does not reach kafkajs", async (_, error) => {
    const { fetch, told } = scene(() => {
      throw error;
    });
    await fetch();
    expect(told).toEqual([["fail", error]]);
  });

  it("that is trouble with the connection is kafkajs' to recover from", async () => {
    const error = Object.assign(new Error("closed"), { name: "KafkaJSConnectionError" });
    const { fetch, told } = scene(() => {
      throw error;
    });
    await expect(fetch()).rejects.toBe(error);
    expect(told).toEqual([]);
  });

  it("counts no more once there is another assignment", async () => {
    const { fetch, told, state } = scene(() => {
      state.assignment = { ...state.assignment, number: 2 };
      return { partitions: [answered(0), answered(1, { errorCode: 29 })] };
    });
    await fetch();
    expect(told).toEqual([]);
  });

  it("counts no more once another node was asked", async () => {
    // Guards: batches of a partition come one after another, also while its leader moves.
    let release = (): void => undefined;
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    let first = true;
    const { fetch, names, asked } = scene(async () => {
      const isFirst = first;
      first = false;
      if (isFirst) await held;
      return { partitions: [answered(0), ...(isFirst ? [answered(1)] : [])] };
    });
    const slow = fetch();
    await vi.waitFor(() => expect(asked).toHaveLength(1));
    await fetch();
    expect(names()).toEqual(["fetched", "deliver"]);
    release();
    await slow;
    expect(names()).toEqual(["fetched", "deliver"]);
  });

  it("of records that do not decode pauses one partition", async () => {
    const bytes = oneRecord();
    bytes.writeInt8(1, 16);
    const { fetch, names } = scene(() => ({ partitions: [answered(0, { bytes }), answered(1)] }));
    await fetch();
    expect(names()).toEqual(["fetched", "unreadable", "fetched", "deliver"]);
  });

  it("of another log is reported, and nothing of it delivered", async () => {
    const diverging = { epoch: 1, endOffset: 5n };
    const { fetch, told, positions } = scene(() => ({
      partitions: [answered(0, { diverging, highWatermark: 9n }), answered(1)],
    }));
    positions.set(0, { offset: 8n, topicId, leaderEpoch: 2 });
    await fetch();
    expect(told.filter(([, at]) => (at as { partition: number }).partition === 0)).toEqual([
      ["displaced", { topic, partition: 0 }, 8n, { kind: "log-diverged", endOffset: 5n }],
    ]);
  });
});

/** So long nobody waits for news before it takes the client for silent: the shortest session. */
const silenceMs = 6_000;

/** After how many milliseconds something was said to be in trouble, while this is done again and again. */
async function timesOf(told: readonly unknown[][], work: () => unknown): Promise<number[]> {
  const times: number[] = [];
  for (let now = 0; now < 30_000; now += 100) {
    const before = told.length;
    await work();
    for (const [name] of told.slice(before)) if (name === "troubled") times.push(now);
    vi.advanceTimersByTime(100);
  }
  return times;
}

/** Not for what passes by itself, not often, and again before it counts as silence. */
function expectReports(times: readonly number[]): void {
  expect(times[0]).toBeGreaterThanOrEqual(1_000);
  expect(times.length).toBeLessThan(12);
  for (const [i, time] of [...times, 30_000].entries()) {
    expect(time - (times[i - 1] ?? 0)).toBeLessThan(silenceMs);
  }
}

describe("what kafkajs reads of a topic", () => {
  it.each([
    ["without a leader", 5, { topicErrorCode: 0, partitionMetadata: [led(0, -1), led(1, 2)] }],
    ["that is not listed", 3, { topicErrorCode: 0, partitionMetadata: [led(1, 2)] }],
  ])("a partition %s is told of, and never long ago", async (_, kafkaCode, metadata) => {
    // Guards: kafkajs asks for no such partition, so that no fetch would ever tell of it.
    const { hook, told } = scene(() => ({}));
    const node = {} as KafkaNode;
    const times = await timesOf(told, () => hook.described(node, { topic, ...metadata }));
    for (const [name, at, error] of told) {
      expect([name, at]).toEqual(["troubled", { topic, partition: 0 }]);
      expect(error).toMatchObject({ code: "broker-unavailable", details: { kafkaCode } });
    }
    expectReports(times);
    hook.close();
  });

  it("that Kafka does not describe is trouble of each of its partitions", async () => {
    const { hook, told } = scene(() => ({}));
    const refused = { topic, topicErrorCode: 29, partitionMetadata: [] };
    for (let time = 0; time < 2; time += 1) {
      hook.described({} as KafkaNode, refused);
      vi.advanceTimersByTime(1_000);
    }
    expect(told.map(([name, at]) => [name, at])).toEqual(
      [0, 1].map((partition) => ["troubled", { topic, partition }]),
    );
    hook.close();
  });

  it("that is gone is reported without any fetch, after a second look", async () => {
    // Guards: kafkajs fetches nothing of a topic without metadata.
    const { hook, told, topics, fetch } = scene(() => ({}));
    await fetch();
    topics.answer = { code: 3, topicId: null };
    hook.described({} as KafkaNode, { topic, topicErrorCode: 3, partitionMetadata: [] });
    hook.described({} as KafkaNode, { topic: "else", topicErrorCode: 3, partitionMetadata: [] });
    await vi.waitFor(() => expect(told).toHaveLength(2), 2_000);
    expect(told).toEqual(
      [0, 1].map((partition) => ["displaced", { topic, partition }, 0n, { kind: "topic-missing" }]),
    );
    expect(topics.looks).toBe(3);
  });

  it("without a leader is read again soon", async () => {
    // Guards: kafkajs fetches nothing of a partition without leader, and reads metadata seldom.
    const { hook, fetch, refreshMetadata } = scene(() => ({}));
    await fetch();
    vi.useFakeTimers({ toFake: ["performance", "setTimeout", "clearTimeout"] });
    const leaderless = {
      topic,
      topicErrorCode: 0,
      partitionMetadata: [{ partitionId: 0, leader: -1 }],
    };
    hook.described({} as KafkaNode, leaderless);
    hook.described({} as KafkaNode, leaderless);
    await vi.advanceTimersByTimeAsync(10_000);
    expect(refreshMetadata).toHaveBeenCalledTimes(1);
    hook.described({} as KafkaNode, leaderless);
    hook.close();
    await vi.advanceTimersByTimeAsync(10_000);
    expect(refreshMetadata).toHaveBeenCalledTimes(1);
  });
});

describe("how far two logs agree", () => {
  const end = (offset: bigint, endOffset: bigint, highWatermark: bigint) =>
    sharedEnd(offset, { diverging: { epoch: 1, endOffset }, highWatermark });

  it("is where the shared epoch ends, and never beyond the end of the log", () => {
    expect(end(8n, 5n, 9n)).toBe(5n);
    expect(end(8n, 5n, 3n)).toBe(3n);
    expect(end(8n, 5n, -1n)).toBe(5n);
  });

  it("is not known where that lies at or above the position", () => {
    expect(end(8n, 8n, 9n)).toBeNull();
    expect(end(8n, -1n, 9n)).toBeNull();
  });
});

describe("out of range", () => {
  const log = { start: 2n, end: 5n };
  const why = (offset: bigint, leaderEpoch: number | null, bounds: typeof log | null = log) =>
    displacementOf({ offset, topicId, leaderEpoch }, bounds).kind;

  it("is what it says outside of the log, and where no epoch was sent", () => {
    expect([why(1n, 3), why(6n, 3), why(3n, null), why(3n, 3, null)]).toEqual(
      Array(4).fill("out-of-range"),
    );
  });

  it("is an epoch that the log does not know, inside of it", () => {
    expect([why(2n, 3), why(5n, 3)]).toEqual(["log-diverged", "log-diverged"]);
  });
});

function led(partitionId: number, leader: number) {
  return { partitionId, leader };
}
