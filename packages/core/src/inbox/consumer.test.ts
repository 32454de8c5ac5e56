import { describe, expect, it } from "vitest";
import { clockByHand, settled } from "../clock-by-hand.ts";
import type { OnceboxEvent } from "../events.ts";
import { utf8 } from "../message.ts";
import type { Broker, ConsumerCallbacks, ConsumerOptions } from "../ports/broker.ts";
import type {
  ChunkTransaction,
  PartitionClaim,
  PartitionRef,
  RecordRef,
  Storage,
} from "../ports/storage.ts";
import { bytes, defineTopic } from "../topic.ts";
import { createConsumer } from "./consumer.ts";
import type { Run } from "./handler.ts";

type Tx = "tx";
type Value = Uint8Array;

const topic = defineTopic({ name: "orders", value: bytes() });
const topicId = "topic-1";

/** Hands out its clients, so that a test can speak as each of them. */
function fakeBroker() {
  const clients: ConsumerCallbacks[] = [];
  const tries: (boolean | undefined)[] = [];
  const start = new Map([[0, 0n]]);
  const state = { refused: 0 };
  const broker = {
    timing: {
      sessionTimeoutMs: 30_000,
      heartbeatIntervalMs: 3_000,
      rebalanceTimeoutMs: 60_000,
      publishTimeoutMs: 5_000,
    },
    offsets: async () => Object.assign(new Map(start), { topicId, offsets: start }),
    retentionMs: async () => null,
    consumer: async (asked: ConsumerOptions, says: ConsumerCallbacks) => {
      tries.push(asked.requireTopics);
      if (state.refused > 0) {
        state.refused -= 1;
        throw new Error("no broker answers");
      }
      clients.push(says);
      return { commit: async () => true, stop: async () => undefined };
    },
  } as unknown as Broker;
  const newest = () => {
    const client = clients.at(-1);
    if (client === undefined) throw new Error("no client was made");
    return client;
  };
  return { broker, newest, tries, state };
}

/** One partition's row, without a database under it. */
function fakeStorage() {
  const row = { nextOffset: 0n, epoch: 0n };
  const transaction = (records: readonly RecordRef[]): ChunkTransaction<Tx> => ({
    nextOffset: row.nextOffset,
    recorded: records.map(() => "new"),
    handle: () => ({ tx: "tx", end: () => undefined, refused: () => false }),
    commit: async (nextOffset) => {
      row.nextOffset = nextOffset;
    },
    rollback: async () => true,
    destroy: () => undefined,
  });
  const parts = {
    check: async () => ({ pipelined: true, poolSize: 10, idleInTransactionTimeoutMs: null }),
    registerTopic: async () => undefined,
    isRegistered: async () => true,
    lostClaims: async () => [],
    noteClaim: async () => undefined,
    takeParked: async () => [],
    releaseParked: async () => 0,
    trouble: (): null => null,
    claim: async (ref: PartitionRef): Promise<PartitionClaim> => {
      row.epoch += 1n;
      const log = { topicId: null, leaderEpoch: null, last: null };
      const replay = { number: 0, until: 0n };
      const token = `${row.epoch}`;
      return {
        ...ref,
        ...row,
        token,
        log,
        replay,
        soughtEpoch: 0n,
        stalledClaims: 1,
        trying: null,
        incarnation: "db-1",
      };
    },
    open: async (_: PartitionClaim, records: readonly RecordRef[]) => transaction(records),
    wake: { send: () => undefined, expect: () => undefined },
  };
  return { row, parts };
}

async function started(run: Run<Value, Tx> = async () => undefined) {
  const time = clockByHand();
  const { row, parts } = fakeStorage();
  // What a test puts into it is what the consumer meets from then on.
  const storage: Record<string, unknown> = { ...parts };
  const fake = fakeBroker();
  const events: OnceboxEvent[] = [];
  const consumer = createConsumer<Tx>({
    name: "billing",
    storage: storage as unknown as Storage<Tx>,
    broker: fake.broker,
    clock: time.clock,
    observer: (event) => events.push(event),
  }).handle(topic, run);
  await consumer.start();
  const ofType = <T extends OnceboxEvent["type"]>(type: T) =>
    events.filter((event): event is Extract<OnceboxEvent, { type: T }> => event.type === type);
  /** Said by the newest client: it was given the one partition. */
  const assigned = async () => {
    fake.newest().assigned(1, [{ topic: topic.name, partition: 0 }]);
    await settled();
  };
  const position = () => fake.newest().position({ topic: topic.name, partition: 0 });
  /** The same client has fetched so many records at the position it was told. */
  const delivered = async (count: number) => {
    const at = position();
    if (at === null) throw new Error("the partition is left out of the fetch");
    const from = typeof at === "object" ? at.offset : at;
    const records = Array.from({ length: count }, (_, i) => {
      const offset = from + BigInt(i);
      return { offset, timestamp: 0n, leaderEpoch: 0, key: null, value: utf8("v"), headers: [] };
    });
    fake.newest().deliver({
      topic: topic.name,
      partition: 0,
      assignment: 1,
      fetchedOffset: from,
      endOffset: from + BigInt(count),
      records,
      topicId,
      endEpoch: 0,
    });
    await settled();
  };
  return { ...fake, ...time, consumer, row, storage, parts, ofType, assigned, position, delivered };
}

describe("a client that dies", () => {
  const gone = new Error("the client crashed");

  it("waits longer each time when it dies again at once, and anew when it had lived", async () => {
    // Guards: the count of rebuilds outlives a client that connects and fails again.
    const { newest, advance, ofType } = await started();
    const dies = async () => {
      newest().failed(gone);
      await advance(1_000);
    };
    const lives = async (ms: number) => {
      // A member of its group, so that nothing is amiss but its end.
      newest().assigned(1, []);
      await advance(ms);
    };
    for (let deaths = 0; deaths < 3; deaths += 1) await dies();
    // Not quite long enough to have recovered.
    await lives(28_000);
    await dies();
    await lives(30_001);
    await dies();
    const rebuilt = ofType("inbox.client-rebuilt");
    expect(rebuilt.map(({ rebuild }) => rebuild)).toEqual([1, 2, 3, 4, 1]);
    expect(rebuilt.map(({ waitMs }) => waitMs)).toEqual([100, 200, 400, 800, 100]);
  });

  it("asks for all of its topics at the start only", async () => {
    // Guards: `requireTopics` is off in a rebuild, so that a deleted topic does not stop the others.
    const { newest, advance, tries, state } = await started();
    expect(tries).toEqual([true]);
    state.refused = 1;
    newest().failed(gone);
    await advance(1_000);
    expect(tries).toEqual([true, false, false]);
  });
});

describe("a stop without time left", () => {
  it("runs no handler behind the one it cut", async () => {
    // Guards: the look at the cut signal before each handler of a chunk.
    const handled: bigint[] = [];
    let returned = () => {};
    const first = new Promise<void>((resolve) => {
      returned = resolve;
    });
    const scene = await started(async ({ offset }) => {
      handled.push(offset);
      await first;
    });
    await scene.assigned();
    await scene.delivered(2);
    expect(handled).toEqual([0n]);
    const stopped = scene.consumer.stop({ deadlineMs: 1_000 });
    await scene.advance(1_000);
    await stopped;
    expect(scene.ofType("inbox.chunk-cut")).toHaveLength(1);
    returned();
    await settled();
    expect(handled).toEqual([0n]);
    expect(scene.row.nextOffset).toBe(0n);
  });
});

describe("a storage that breaks its promise", () => {
  const broken = new TypeError("a bug of the adapter");
  const noConnection = async (): Promise<never> => {
    throw new Error("no connection");
  };
  const fail = (): never => {
    throw broken;
  };

  it.each([
    ["its `open` answers with nothing", { open: async (): Promise<undefined> => undefined }],
    ["its `trouble` throws", { open: noConnection, trouble: fail }],
  ])("costs the claim and a pause, not the worker: %s", async (_, faults) => {
    // Guards: the catch around a chunk's work, which gives the claim up and goes on.
    const handled: bigint[] = [];
    const scene = await started(async ({ offset }) => void handled.push(offset));
    Object.assign(scene.storage, faults);
    await scene.assigned();
    await scene.delivered(1);
    const [rerun] = scene.ofType("inbox.chunk-rerun");
    expect(rerun).toMatchObject({ trouble: "global", waitMs: 50 });
    expect(rerun?.error).toBeInstanceOf(TypeError);
    expect(scene.position()).toBeNull();
    expect(scene.ofType("inbox.claimed")).toHaveLength(1);
    Object.assign(scene.storage, scene.parts);
    await scene.advance(50);
    expect(scene.ofType("inbox.claimed").map(({ epoch }) => epoch)).toEqual([1n, 2n]);
    await scene.delivered(1);
    expect(handled).toEqual([0n]);
    expect(scene.row.nextOffset).toBe(1n);
  });
});
