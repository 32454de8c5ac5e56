// What the broker suite does not ask for: the ways in which a test can break the cluster.
import type { ConsumerCallbacks, FetchPosition, RecordBatch, TopicPartition } from "@oncebox/core";
import { describe, expect, it } from "vitest";
import { manualClock } from "../manual-clock.ts";
import { memoryBroker } from "./memory-broker.ts";

const topic = "orders";
const at = { topic, partition: 0 };
const decoder = new TextDecoder();
const values = (...list: readonly string[]) => list.map((value) => ({ value }));

function scene({ partitions = 1 } = {}) {
  const clock = manualClock();
  const broker = memoryBroker({ clock });
  broker.admin.createTopic(topic, { partitions });
  const { admin, faults, cluster } = broker;

  /** Accepts whatever goes on from its positions, and notes everything it is told. */
  const join = async (options: { groupId?: string } = {}) => {
    const { groupId = "g" } = options;
    const told: string[] = [];
    const accepted: string[] = [];
    const batches: RecordBatch[] = [];
    const positions = new Map<string, FetchPosition | null>();
    const name = ({ topic: of, partition }: TopicPartition) => `${of}/${partition}`;
    const fresh = { offset: 0n, topicId: null, leaderEpoch: null };
    const position = (of: TopicPartition) => {
      const known = positions.get(name(of));
      return known === undefined ? fresh : known;
    };
    const mine = { assignment: 0, partitions: [] as readonly TopicPartition[] };
    const callbacks: ConsumerCallbacks = {
      assigned: (assignment, assigned) => {
        Object.assign(mine, { assignment, partitions: assigned });
        told.push(`assigned ${assignment}: ${assigned.map(name).join(" ")}`);
      },
      position,
      fetched: () => undefined,
      deliver: (batch) => {
        batches.push(batch);
        const { fetchedOffset, endOffset: offset, topicId, endEpoch: leaderEpoch } = batch;
        if (position(batch)?.offset !== fetchedOffset) return;
        positions.set(name(batch), { offset, topicId, leaderEpoch });
        accepted.push(...batch.records.map(({ value }) => decoder.decode(value ?? undefined)));
      },
      displaced: (of, asked, why) => {
        positions.set(name(of), null);
        told.push(`displaced ${name(of)} at ${asked}: ${why.kind}`);
      },
      unreadable: (of, asked) => {
        positions.set(name(of), null);
        told.push(`unreadable ${name(of)} at ${asked}`);
      },
      troubled: (of, error) => told.push(`troubled ${name(of)}: ${error.message}`),
      failed: (error) => told.push(`failed: ${error.message}`),
    };
    let consumer: Awaited<ReturnType<typeof broker.consumer>> | null = null;
    const joining = broker.consumer({ groupId, topics: [topic] }, callbacks).then((made) => {
      consumer = made;
    });
    await clock.runUntil(() => consumer !== null);
    await joining;
    const member = admin.members(groupId).at(-1) ?? "";
    const made = consumer as unknown as Awaited<ReturnType<typeof broker.consumer>>;
    return { consumer: made, member, told, accepted, batches, positions, mine };
  };
  return { clock, broker, admin, faults, cluster, join };
}

/** Steps until the promise has settled. */
async function on<T>(clock: ReturnType<typeof manualClock>, work: Promise<T>): Promise<T> {
  let over = false;
  const end = work.finally(() => {
    over = true;
  });
  await clock.runUntil(() => over);
  return end;
}

describe("batches", () => {
  it("may come after a rebalance with the old number, late, twice, or never", async () => {
    const { clock, admin, faults, join } = scene();
    const { batches, accepted, mine } = await join();
    await clock.runUntil(() => mine.assignment === 1);
    let held = 0;
    faults.onBatch = () => ({ kind: held++ === 0 ? "stale" : "lost" });
    admin.produce(topic, 0, values("a"));
    await clock.advance(600);
    expect(batches).toEqual([]);
    faults.rebalance("g");
    await clock.runUntil(() => batches.length > 0);
    expect([batches[0]?.assignment, mine.assignment]).toEqual([1, 2]);
    faults.onBatch = () => ({ kind: "twice" });
    admin.produce(topic, 0, values("b"));
    await clock.advance(600);
    expect(batches.map(({ fetchedOffset }) => fetchedOffset).slice(-2)).toEqual([1n, 1n]);
    faults.onBatch = () => ({ kind: "lost" });
    admin.produce(topic, 0, values("c"));
    await clock.advance(600);
    expect(accepted).toEqual(["a", "b"]);
    faults.onBatch = () => ({ kind: "late", ms: 5_000 });
    await clock.advance(4_000);
    expect(accepted).toEqual(["a", "b"]);
    faults.onBatch = () => ({ kind: "lost" });
    await clock.advance(3_000);
    expect(accepted).toEqual(["a", "b", "c"]);
  });

  it("hold what was aborted only where the client does not filter", async () => {
    const { clock, admin, faults, join } = scene();
    const aborted = admin.transaction();
    aborted.write(topic, 0, values("no"));
    aborted.abort();
    admin.produce(topic, 0, values("yes"));
    const { accepted, positions } = await join();
    await clock.advance(100);
    expect(accepted).toEqual(["yes"]);
    faults.readUncommitted = true;
    positions.clear();
    await clock.advance(1_000);
    expect(accepted).toEqual(["yes", "no", "yes"]);
  });

  it("pass over holes, and stop before a transaction that hangs and bytes that are broken", async () => {
    const { clock, admin, join } = scene();
    admin.produce(topic, 0, values("a", "b", "c", "d"));
    admin.compact(topic, 0, [1n, 2n]);
    admin.transaction().write(topic, 0, values("hangs"));
    admin.produce(topic, 0, values("behind"));
    const { accepted, positions, told } = await join();
    await clock.advance(10_000);
    expect([accepted, positions.get("orders/0")?.offset]).toEqual([["a", "d"], 4n]);
    admin.corrupt(topic, 0, 3n);
    positions.set("orders/0", { offset: 0n, topicId: null, leaderEpoch: null });
    await clock.advance(1_000);
    expect(told.slice(1)).toEqual(["unreadable orders/0 at 3"]);
  });
});

describe("positions", () => {
  it("are displaced by retention, an unclean election, a new topic and a deleted one", async () => {
    const { clock, admin, join } = scene();
    const { told, positions, accepted } = await join();
    admin.produce(topic, 0, values("a", "b", "c", "d"));
    await clock.advance(600);
    const behind = positions.get("orders/0") ?? null;
    const set = async (position: FetchPosition | null) => {
      positions.set("orders/0", position);
      await clock.advance(1_000);
    };
    admin.truncate(topic, 0, 2n);
    admin.produce(topic, 0, values("other c", "other d", "other e"));
    await set(behind);
    admin.deleteRecords(topic, 0, 2n);
    await set({ offset: 1n, topicId: null, leaderEpoch: null });
    admin.recreateTopic(topic);
    await set(behind);
    admin.recreateTopic(topic, { partitions: 0 });
    await set(behind);
    admin.deleteTopic(topic);
    await set(behind);
    expect(told.slice(1)).toEqual([
      "displaced orders/0 at 4: log-diverged",
      "displaced orders/0 at 1: out-of-range",
      "displaced orders/0 at 4: topic-recreated",
      "displaced orders/0 at 4: topic-recreated",
      "displaced orders/0 at 4: topic-missing",
    ]);
    expect(accepted).toEqual(["a", "b", "c", "d"]);
  });

  it("fit a log whose leader changed and lost nothing", async () => {
    const { clock, admin, join } = scene();
    const { told, accepted } = await join();
    admin.produce(topic, 0, values("a"));
    await clock.advance(600);
    admin.electLeader(topic, 0);
    admin.electLeader(topic, 0);
    admin.produce(topic, 0, values("b"));
    await clock.advance(600);
    expect([accepted, told.length]).toEqual([["a", "b"], 1]);
  });
});

describe("members", () => {
  it("that stand still lose their partitions and go on with what they had", async () => {
    const { clock, admin, faults, join } = scene({ partitions: 2 });
    const [first, second] = [await join(), await join()];
    await clock.runUntil(() => first.mine.partitions.length + second.mine.partitions.length === 2);
    await clock.runUntil(() => first.mine.partitions.length === 1);
    await clock.advance(100);
    const before = first.mine.assignment;
    faults.freeze(first.member);
    const { partition } = first.mine.partitions[0] as TopicPartition;
    admin.produce(topic, partition, values("a"));
    await clock.advance(40_000);
    expect([second.mine.partitions.length, second.accepted]).toEqual([2, ["a"]]);
    expect(first.batches).toEqual([]);
    faults.thaw(first.member);
    await clock.runUntil(() => first.mine.assignment > before);
    expect(first.batches.map(({ assignment }) => assignment)).toEqual([before]);
  });

  it("that crash say so, and hold their partitions until their session is over", async () => {
    const { clock, faults, join, cluster } = scene();
    const { member, told } = await join();
    faults.crash(member);
    expect(told.at(-1)).toBe("failed: the client died");
    await clock.advance(25_000);
    expect(cluster.group("g").members).toHaveLength(1);
    await clock.advance(6_000);
    expect(cluster.group("g").members).toEqual([]);
  });

  it("that are expelled come back, and those that fall silent stay", async () => {
    const { clock, faults, join, admin, cluster } = scene();
    const { member, mine, accepted } = await join();
    await clock.advance(10);
    faults.expel(member);
    expect(cluster.group("g").members).toEqual([]);
    await clock.runUntil(() => mine.assignment === 2);
    faults.mute(member);
    admin.produce(topic, 0, values("a"));
    await clock.advance(100_000);
    expect([accepted, cluster.group("g").members.length]).toEqual([[], 1]);
  });

  it("survive an outage, and join where its end finds them", async () => {
    const { clock, faults, admin, join } = scene();
    const { accepted, mine } = await join();
    await clock.advance(100);
    faults.outage(true);
    await clock.advance(200_000);
    faults.rebalance("g");
    await clock.advance(100_000);
    faults.outage(false);
    admin.produce(topic, 0, values("a"));
    await clock.runUntil(() => accepted.length === 1, { limitMs: 100_000 });
    expect(mine.assignment).toBeGreaterThan(0);
  });

  it("hear of a partition's trouble while the others are read", async () => {
    const { clock, admin, faults, join } = scene({ partitions: 2 });
    const { told, accepted } = await join();
    faults.trouble(at, new Error("its disk is broken"));
    for (const partition of [0, 1]) admin.produce(topic, partition, values(`in ${partition}`));
    await clock.advance(1_000);
    expect([accepted, told.at(-1)]).toEqual([["in 1"], "troubled orders/0: its disk is broken"]);
    faults.trouble(at, null);
    await clock.advance(1_000);
    expect(accepted).toEqual(["in 1", "in 0"]);
  });

  it("die of a callback that throws, instead of going on without it", async () => {
    const { clock, admin, join } = scene();
    const { told, positions } = await join();
    await clock.advance(100);
    positions.get = () => {
      throw new TypeError("a bug");
    };
    admin.produce(topic, 0, values("a"));
    await clock.advance(1_000);
    expect(told.at(-1)).toBe("failed: the client died");
  });

  it("share partitions that are added", async () => {
    const { clock, admin, join } = scene();
    const { mine } = await join();
    admin.addPartitions(topic, 3);
    await clock.runUntil(() => mine.partitions.length === 3);
  });
});

it("loses commits of group offsets, and takes those it should not", async () => {
  const { clock, broker, faults, join } = scene();
  const { consumer, mine, member } = await join();
  await clock.runUntil(() => mine.assignment === 1);
  const stored = async () => (await on(clock, broker.group("g", [topic]))).offsets[0]?.offset;
  const commit = (offset: bigint) => on(clock, consumer.commit([{ ...at, offset, metadata: "" }]));
  faults.onCommit = () => "lost";
  expect([await commit(1n), await stored()]).toEqual([false, undefined]);
  faults.onCommit = () => "reply-lost";
  expect([await commit(2n), await stored()]).toEqual([false, 2n]);
  faults.expel(member);
  faults.onCommit = null;
  expect([await commit(3n), await stored()]).toEqual([false, 2n]);
  faults.onCommit = () => "accepted";
  expect([await commit(1n), await stored()]).toEqual([true, 1n]);
});

it("leaves a producer in the dark, whether it stored its records or not", async () => {
  const { clock, broker, admin, faults } = scene();
  const producer = await broker.producer();
  const send = async (name: string) => {
    const bytes = new TextEncoder().encode(name);
    const record = { ...at, key: bytes, value: bytes, headers: [] };
    const result = await on(clock, producer.publish([record]));
    const { acknowledged, unknown, refused } = result;
    return [acknowledged.length, unknown.length, refused[0]?.scope];
  };
  const kinds = ["unknown-stored", "unknown-lost", "refused-message", "refused-topic"] as const;
  const outcomes = [];
  for (const kind of kinds) {
    faults.onPublish = () => ({ kind });
    outcomes.push(await send(kind));
  }
  faults.onPublish = () => ({ kind: "unknown-late", ms: 1_000 });
  outcomes.push(await send("late"));
  faults.onPublish = null;
  outcomes.push(await send("after"));
  faults.outage(true);
  outcomes.push(await send("outage"));
  await clock.advance(1_000);
  expect(outcomes).toEqual([
    [0, 1, undefined],
    [0, 1, undefined],
    [0, 0, "message"],
    [0, 0, "topic"],
    [0, 1, undefined],
    [1, 0, undefined],
    [0, 1, undefined],
  ]);
  const keys = admin.stored(topic).map(({ key }) => decoder.decode(key ?? undefined));
  expect(keys).toEqual(["unknown-stored", "after", "late"]);
});

describe("what Kafka says in corner cases", () => {
  it("is said here too: nothing that an open transaction may commit is passed over", async () => {
    const { clock, broker, admin } = scene();
    admin.produce(topic, 0, [{ value: "a", timestamp: 1_000n }]);
    const open = admin.transaction();
    open.write(topic, 0, [{ value: "b", timestamp: 2_000n }]);
    admin.produce(topic, 0, [{ value: "c", timestamp: 3_000n }]);
    const next = async (from: "latest" | { readonly timestamp: bigint }) =>
      (await on(clock, broker.offsets(topic, from))).offsets.get(0);
    expect(await next("latest")).toBe(1n);
    expect(await next({ timestamp: 3_000n })).toBe(1n);
    open.abort();
    expect(await next("latest")).toBe(4n);
    expect(await next({ timestamp: 3_000n })).toBe(2n);
  });

  it("is said here too: a missing partition is the trouble of its topic", async () => {
    const { clock, broker } = scene();
    const producer = await broker.producer();
    const record = { topic, partition: 7, key: null, value: null, headers: [] };
    const { refused } = await on(clock, producer.publish([record]));
    expect(refused.map(({ scope }) => scope)).toEqual(["topic"]);
  });

  it.each([
    [1n, { kind: "log-diverged", endOffset: null }],
    [5n, { kind: "out-of-range", log: { start: 0n, end: 2n } }],
  ] as const)("is said here too: position %s with an epoch never seen", (offset, expected) => {
    const { admin, cluster } = scene();
    admin.produce(topic, 0, values("a", "b"));
    const found = cluster.log(at).displacement({ offset, topicId: null, leaderEpoch: 7 });
    expect(found).toEqual(expected);
  });
});
