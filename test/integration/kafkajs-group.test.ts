/** The consumer of the kafkajs broker as a member of a group: joins, commits, guards, the end. */
import { connect } from "node:net";
import { type Broker, ConfigurationError } from "@oncebox/core";
import { kafkajsBroker } from "@oncebox/kafkajs";
import kafkajs, { type Admin, type Kafka } from "kafkajs";
import { afterEach, beforeEach, describe, expect, inject, it, vi } from "vitest";
import { freePort } from "../fixtures/ports.ts";
import { startProxy } from "../fixtures/proxy.ts";
import { hasKafka, testKafka, testTopic, uniqueName } from "../fixtures/servers.ts";
import { type Recorder, recorder } from "./kafkajs-recorder.ts";

describe.skipIf(!hasKafka())("group member on kafkajs", () => {
  let kafka: Kafka;
  let admin: Admin;
  let group: string;
  const brokers: Broker[] = [];

  beforeEach(async () => {
    kafka = testKafka();
    admin = kafka.admin();
    await admin.connect();
    group = uniqueName("group");
  });

  afterEach(async () => {
    vi.restoreAllMocks();
    await Promise.all(brokers.splice(0).map((broker) => broker.close()));
    await admin.disconnect();
  });

  function newBroker(options: Partial<Parameters<typeof kafkajsBroker>[0]> = {}): Broker {
    const broker = kafkajsBroker({
      brokers: inject("kafkaBrokers") ?? [],
      sessionTimeoutMs: 6_000,
      heartbeatIntervalMs: 200,
      maxWaitMs: 100,
      ...options,
    });
    brokers.push(broker);
    return broker;
  }

  function firstBroker(): [port: number, host: string] {
    const [host = "", port = ""] = (inject("kafkaBrokers")?.[0] ?? "").split(":");
    return [Number(port), host];
  }

  /** Every connection, also those to the address that the broker tells its clients. */
  function throughProxy(port: number): Broker {
    return newBroker({
      brokers: [`127.0.0.1:${port}`],
      socketFactory: ({ onConnect }) => connect(port, "127.0.0.1", onConnect),
    });
  }

  async function member(topics: readonly string[], broker = newBroker()) {
    const told = recorder();
    const consumer = await broker.consumer({ groupId: group, topics }, told.callbacks);
    return { told, consumer };
  }

  const owns = (told: Recorder, count: number) =>
    told.until(
      () => told.assignments.at(-1)?.partitions.length === count,
      `an assignment of ${count} partitions`,
    );
  const owned = (told: Recorder) =>
    (told.assignments.at(-1)?.partitions ?? []).map(
      ({ topic, partition }) => `${topic}/${partition}`,
    );
  const offsetsOf = async (topic: string) => {
    const [found] = await admin.fetchOffsets({ groupId: group, topics: [topic] });
    const sorted = found?.partitions.sort((a, b) => a.partition - b.partition);
    return sorted?.map(({ offset, metadata }) => [offset, metadata]);
  };
  const groupState = async () => (await admin.describeGroups([group])).groups[0]?.state;

  it("announces each assignment in turn, before anything of it arrives", async () => {
    const topic = await testTopic(kafka, { partitions: 4 });
    const producer = await newBroker().producer();
    const publish = (partition: number) =>
      producer.publish([{ topic, partition, key: null, value: Buffer.from("x"), headers: [] }]);
    const first = await member([topic]);
    await owns(first.told, 4);
    const second = await member([topic]);
    await owns(first.told, 2);
    await owns(second.told, 2);
    expect([...owned(first.told), ...owned(second.told)].sort()).toEqual(
      [0, 1, 2, 3].map((partition) => `${topic}/${partition}`),
    );
    await Promise.all([0, 1, 2, 3].map(publish));
    await first.told.until(() => first.told.records().length === 2, "its two records");
    await second.told.until(() => second.told.records().length === 2, "its two records");
    await second.consumer.stop(2_000);
    await owns(first.told, 4);
    const numbers = first.told.assignments.map(({ number }) => number);
    expect(numbers).toEqual(numbers.map((_, i) => i + 1));
    for (const { told } of [first, second]) {
      for (const batch of told.batches) {
        const of = told.assignments.find(({ number }) => number === batch.assignment);
        expect(of?.partitions).toContainEqual({ topic, partition: batch.partition });
      }
    }
  });

  it("gives each member only what it subscribes to, whoever leads", async () => {
    const [a, b] = [await testTopic(kafka, { partitions: 2 }), await testTopic(kafka)];
    const first = await member([a]);
    await owns(first.told, 2);
    const second = await member([b]);
    await owns(second.told, 1);
    expect(owned(second.told)).toEqual([`${b}/0`]);
    expect(owned(first.told).sort()).toEqual([`${a}/0`, `${a}/1`]);
    const third = await member([a, b]);
    const all = () => [first, second, third].flatMap(({ told }) => owned(told)).sort();
    const whole = [`${a}/0`, `${a}/1`, `${b}/0`].sort();
    for (const { told } of [first, second, third]) {
      await told.until(() => told.assignments.at(-1)?.partitions.length === 1, "a share");
    }
    expect(all()).toEqual(whole);
  });

  it("moves as little as possible with the sticky assigner", async () => {
    // Guards: what a member owns goes out with its next join, and its leader goes by it.
    const topic = await testTopic(kafka, { partitions: 6 });
    const stickyBroker = () => newBroker({ partitionAssigner: "sticky" });
    const first = await member([topic], stickyBroker());
    await owns(first.told, 6);
    const second = await member([topic], stickyBroker());
    await owns(first.told, 3);
    await owns(second.told, 3);
    const before = [owned(first.told), owned(second.told)];
    const third = await member([topic], stickyBroker());
    await owns(third.told, 2);
    await owns(first.told, 2);
    await owns(second.told, 2);
    expect(before[0]).toEqual(expect.arrayContaining(owned(first.told)));
    expect(before[1]).toEqual(expect.arrayContaining(owned(second.told)));
    const kept = owned(first.told);
    await second.consumer.stop(2_000);
    await owns(first.told, 3);
    await owns(third.told, 3);
    expect(owned(first.told)).toEqual(expect.arrayContaining(kept));
    const { groups } = await admin.describeGroups([group]);
    expect(groups[0]?.protocol).toBe("oncebox-sticky");
  });

  it("notices new partitions of a topic that only a follower subscribes to", async () => {
    const [a, b] = [await testTopic(kafka), await testTopic(kafka)];
    const leader = await member([a], newBroker({ metadataMaxAgeMs: 300 }));
    await owns(leader.told, 1);
    const follower = await member([b], newBroker({ metadataMaxAgeMs: 300 }));
    await owns(follower.told, 1);
    await admin.createPartitions({ topicPartitions: [{ topic: b, count: 3 }] });
    await owns(follower.told, 3);
  });

  it("is told apart from members of another kind", async () => {
    const topic = await testTopic(kafka);
    const theirs = kafka.consumer({ groupId: group, maxWaitTimeInMs: 100 });
    await theirs.connect();
    await theirs.subscribe({ topic });
    const joined = new Promise((resolve) => theirs.on(theirs.events.GROUP_JOIN, resolve));
    await theirs.run({ eachMessage: async () => {} });
    await joined;
    const { told } = await member([topic]);
    await told.until(() => told.failures.length > 0, "the failure");
    expect(told.failures[0]).toMatchObject({ code: "consumer-crashed" });
    expect(told.failures[0]?.cause).toMatchObject({
      code: "broker-refused",
      message: expect.stringContaining("a group of its own"),
    });
    await theirs.disconnect();
  });

  describe("commits", () => {
    it("writes offset and metadata, also before anything was delivered", async () => {
      const topic = await testTopic(kafka, { partitions: 2 });
      const { told, consumer } = await member([topic]);
      expect(await consumer.commit([])).toBe(false);
      await owns(told, 2);
      const position = { topic, partition: 1, offset: 2n ** 53n + 1n, metadata: "m 1" };
      expect(await consumer.commit([position])).toBe(true);
      expect(await offsetsOf(topic)).toEqual([
        ["-1", null],
        ["9007199254740993", "m 1"],
      ]);
    });

    it("writes nothing for partitions that are not its own, nor when it has left", async () => {
      const topic = await testTopic(kafka, { partitions: 2 });
      const first = await member([topic]);
      await owns(first.told, 2);
      const second = await member([topic]);
      await owns(first.told, 1);
      await owns(second.told, 1);
      const lost = second.told.assignments.at(-1)?.partitions[0]?.partition ?? -1;
      const position = { topic, partition: lost, offset: 7n, metadata: "" };
      expect(await first.consumer.commit([position])).toBe(false);
      expect(await second.consumer.commit([position])).toBe(true);
      await second.consumer.stop(2_000);
      expect(await second.consumer.commit([{ ...position, offset: 8n }])).toBe(false);
      expect((await offsetsOf(topic))?.[lost]).toEqual(["7", null]);
    });

    it("is refused by the broker once the group has gone on without it", async () => {
      const topic = await testTopic(kafka, { partitions: 2 });
      const proxy = await startProxy(...firstBroker());
      const first = await member([topic], throughProxy(proxy.port));
      await owns(first.told, 2);
      const position = { topic, partition: 1, offset: 7n, metadata: "old" };
      expect(await first.consumer.commit([position])).toBe(true);
      const second = await member([topic]);
      await owns(second.told, 1);
      await owns(first.told, 1);
      // Held up past its session, as a process that was paused.
      proxy.pause();
      await owns(second.told, 2);
      expect(await second.consumer.commit([{ ...position, offset: 20n, metadata: "new" }])).toBe(
        true,
      );
      const late = (first.told.assignments.at(-1)?.partitions ?? []).map((at) =>
        first.consumer.commit([{ ...at, offset: 9n, metadata: "late" }]),
      );
      proxy.resume();
      expect(await Promise.all(late)).toEqual([false]);
      expect((await offsetsOf(topic))?.map(([, metadata]) => metadata)).not.toContain("late");
      await owns(first.told, 1);
      expect(first.told.failures).toEqual([]);
      await first.consumer.stop(2_000);
      await proxy.close();
    });
  });

  describe("the end", () => {
    it("leaves the group", async () => {
      const topic = await testTopic(kafka);
      const { told, consumer } = await member([topic]);
      await owns(told, 1);
      expect(await groupState()).toBe("Stable");
      await consumer.stop(5_000);
      expect(await groupState()).toBe("Empty");
    });

    it("leaves the group also when it is asked during the first join", async () => {
      const topic = await testTopic(kafka);
      const { told, consumer } = await member([topic]);
      await consumer.stop(5_000);
      expect(told.assignments).toEqual([]);
      expect(told.failures).toEqual([]);
      expect(["Empty", "Dead"]).toContain(await groupState());
    });

    it("keeps the deadline while brokers do not answer", async () => {
      const topic = await testTopic(kafka);
      const proxy = await startProxy(...firstBroker());
      const { told, consumer } = await member([topic], throughProxy(proxy.port));
      // Assigned is not yet running: kafkajs would leave at once.
      await told.until(() => told.logs.size > 0, "an answer");
      proxy.pause();
      const start = performance.now();
      await consumer.stop(300);
      expect(performance.now() - start).toBeLessThan(1_000);
      await proxy.close();
      expect(told.failures).toEqual([]);
    });

    it("keeps the deadline while no broker can be reached any more", async () => {
      // Guards: the connections are cut at the deadline, whatever kafkajs still waits for.
      const topic = await testTopic(kafka);
      const proxy = await startProxy(...firstBroker());
      const broker = throughProxy(proxy.port);
      const { told, consumer } = await member([topic], broker);
      await told.until(() => told.logs.size > 0, "an answer");
      await proxy.close();
      const start = performance.now();
      await consumer.stop(300);
      expect(performance.now() - start).toBeLessThan(1_000);
      await broker.close();
      expect(performance.now() - start).toBeLessThan(2_000);
      expect(told.failures).toEqual([]);
    });

    it("says when no broker can be reached", async () => {
      const broker = newBroker({ brokers: [`127.0.0.1:${await freePort()}`] });
      const failed = member(["t"], broker);
      await expect(failed).rejects.toMatchObject({ code: "broker-unavailable", retryable: true });
    });
  });

  describe("guards", () => {
    it("refuses a client whose requests do not pass, before anything is fetched", async () => {
      const topic = await testTopic(kafka);
      withOtherCluster((cluster) => ({
        ...boundMethods(cluster),
        // Somewhere else than where kafkajs takes its brokers from.
        brokerPool: { createBroker: () => ({}) },
      }));
      const { told } = await member([topic]);
      await told.until(() => told.failures.length > 0, "the failure");
      expect(told.failures).toHaveLength(1);
      expect(told.failures[0]).toBeInstanceOf(ConfigurationError);
      expect(told.failures[0]).toMatchObject({ code: "client-unsupported" });
      expect(told.assignments).toEqual([]);
    });

    it("refuses batches that did not pass the hook", async () => {
      const topic = await testTopic(kafka);
      const producer = await newBroker().producer();
      const record = { topic, partition: 0, key: null, value: null, headers: [] };
      expect((await producer.publish([record])).acknowledged).toEqual([0]);
      withOtherCluster((cluster) => ({ ...boundMethods(cluster), brokerPool: unhooked(cluster) }));
      const { told } = await member([topic]);
      await told.until(() => told.failures.length > 0, "the failure");
      expect(told.failures).toHaveLength(1);
      expect(told.failures[0]).toMatchObject({
        code: "client-unsupported",
        message: expect.stringContaining("fetch hook"),
      });
      expect(told.batches).toEqual([]);
    });

    it("refuses a kafkajs whose cluster is another", async () => {
      const topic = await testTopic(kafka);
      withOtherCluster((cluster) => ({ ...boundMethods(cluster), brokerPool: {} }));
      await expect(member([topic])).rejects.toMatchObject({
        code: "client-unsupported",
        message: expect.stringContaining("createBroker"),
      });
    });

    it("reports what the core throws, once, and ends", async () => {
      const topic = await testTopic(kafka);
      const told = recorder();
      const bug = new Error("a bug of the core");
      const callbacks = {
        ...told.callbacks,
        position: () => {
          throw bug;
        },
      };
      await newBroker().consumer({ groupId: group, topics: [topic] }, callbacks);
      await told.until(() => told.failures.length > 0, "the failure");
      expect(told.failures).toMatchObject([{ cause: bug }]);
    });
  });
});

type Factory = (given: { cluster: object }) => unknown;

/** Lets kafkajs hand over something else than its cluster, as another version might. */
function withOtherCluster(other: (cluster: object) => object): void {
  const original = kafkajs.Kafka.prototype.consumer;
  vi.spyOn(kafkajs.Kafka.prototype, "consumer").mockImplementation(function (
    this: Kafka,
    config: Parameters<typeof original>[0],
  ) {
    const partitionAssigners = config?.partitionAssigners?.map(
      (factory) => (given: { cluster: object }) =>
        (factory as unknown as Factory)({ ...given, cluster: other(given.cluster) }),
    );
    return original.call(this, { ...config, partitionAssigners } as never);
  });
}

function boundMethods(cluster: object): Record<string, unknown> {
  const names = Object.getOwnPropertyNames(Object.getPrototypeOf(cluster));
  return Object.fromEntries(
    names.map((name) => [name, (cluster as Record<string, () => unknown>)[name]?.bind(cluster)]),
  );
}

type Pool = { createBroker: (options: unknown) => { fetch?: unknown } };

/** Takes the fetch hook off again, and only that. */
function unhooked(cluster: object): Pool {
  const { brokerPool } = cluster as { brokerPool: Pool };
  return {
    get createBroker() {
      return brokerPool.createBroker;
    },
    set createBroker(create) {
      brokerPool.createBroker = (options) => {
        const node = create(options);
        delete node.fetch;
        return node;
      };
    },
  };
}
