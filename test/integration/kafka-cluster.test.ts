/** A cluster of three brokers and what tests can do to it: each verb does what it says. */
import { existsSync } from "node:fs";
import { Kafka, logLevel } from "kafkajs";
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import { spawnWorker } from "../fixtures/child.ts";
import { type KafkaCluster, startKafkaCluster } from "../fixtures/kafka-cluster.ts";
import { kafkaObstacle } from "../fixtures/kafka-jars.ts";
import {
  createReplicatedTopic,
  deleteRecordsBelow,
  deleteTopic,
  electUncleanly,
  logBounds,
  moveLeader,
  recreateTopic,
  waitForPartition,
} from "../fixtures/kafka-partitions.ts";
import { openTransaction } from "../fixtures/kafka-transactions.ts";
import { planFault } from "../fixtures/proxy-faults.ts";
import { readTopic } from "../fixtures/topic-log.ts";

// Brokers that others own cannot be killed: KAFKA_BROKERS does not help here.
const obstacle = kafkaObstacle();
if (obstacle !== undefined) {
  console.error(`\n*** no Kafka: ${obstacle}. TESTS OF A KAFKA CLUSTER ARE SKIPPED. ***\n`);
}

const all = [1, 2, 3];
let cluster: KafkaCluster;

beforeAll(async () => {
  if (obstacle === undefined) cluster = await startKafkaCluster({ proxied: true });
});

// One that fails half-way must not fail the next.
afterEach(() => cluster?.heal());

afterAll(() => cluster?.stop());

type Way = "direct" | "proxied";

/** Sends values in one request; the producer does not try again unless told to. */
async function send(
  topic: string,
  values: readonly string[],
  { acks = -1, way = "direct", retries = 0 }: { acks?: number; way?: Way; retries?: number } = {},
) {
  // Brokers are asked anew for leaders, which another test may have moved.
  const client = cluster.client(way);
  const producer = client.producer({ retry: { retries, initialRetryTime: 50 } });
  await producer.connect();
  try {
    await producer.send({ topic, acks, messages: values.map((value) => ({ key: value, value })) });
  } finally {
    await producer.disconnect();
  }
}

/** Keys of all records that are not aborted, in the order of the log. */
async function read(topic: string): Promise<(string | null)[]> {
  const { records } = await readTopic([...cluster.members.map(({ address }) => address)], topic);
  return records.map(({ key }) => key);
}

describe.skipIf(obstacle !== undefined)("brokers", () => {
  test("stopped, hand over their leaders at once, and are missed by topics that need all", async () => {
    const topic = await createReplicatedTopic(cluster, {
      replicas: [[2, 3, 1]],
      config: { "min.insync.replicas": "3" },
    });
    await send(topic, ["before"]);
    await cluster.broker(2).stop();
    const { leader } = await waitForPartition(cluster, { topic }, { isr: [1, 3] });
    expect(leader).toBe(3);
    await expect(send(topic, ["refused"])).rejects.toThrow("fewer in-sync replicas than required");
    await cluster.broker(2).start();
    await waitForPartition(cluster, { topic }, { isr: all, leader: 3 });
    await send(topic, ["after"]);
    expect(await read(topic)).toEqual(["before", "after"]);
  });

  test("killed, are noticed within seconds; frozen ones too, and catch up", async () => {
    const topic = await createReplicatedTopic(cluster, { replicas: [[1, 2, 3]] });
    await cluster.broker(1).kill();
    const killed = performance.now();
    await waitForPartition(cluster, { topic }, { leader: 2, isr: [2, 3] });
    expect(performance.now() - killed).toBeLessThan(6_000);
    cluster.broker(2).freeze();
    const frozen = performance.now();
    await waitForPartition(cluster, { topic }, { leader: 3, isr: [3] });
    expect(performance.now() - frozen).toBeLessThan(6_000);
    await send(topic, ["alone"], { retries: 5 });
    cluster.broker(2).thaw();
    await cluster.broker(1).start();
    await waitForPartition(cluster, { topic }, { leader: 3, isr: all });
    expect(await read(topic)).toEqual(["alone"]);
  });

  test("keep what was acknowledged, restarted in turn or killed together", async () => {
    const topic = await createReplicatedTopic(cluster);
    await send(topic, ["one"]);
    const pids = cluster.pids;
    await cluster.rollingRestart();
    expect(cluster.pids.filter((pid) => pids.includes(pid))).toHaveLength(1);
    await send(topic, ["two"]);
    await cluster.hardRestart();
    await send(topic, ["three"]);
    expect(await read(topic)).toEqual(["one", "two", "three"]);
  });
});

describe.skipIf(obstacle !== undefined)("partitions", () => {
  test("are led by whom they are given to", async () => {
    const topic = await createReplicatedTopic(cluster, { replicas: [all, all] });
    for (const to of [3, 2]) {
      await moveLeader(cluster, { topic, partition: 1 }, to);
      const moved = await waitForPartition(cluster, { topic, partition: 1 }, {});
      expect([moved.leader, moved.isr.length]).toEqual([to, 3]);
    }
    expect((await waitForPartition(cluster, { topic }, {})).leader).toBe(1);
    await expect(moveLeader(cluster, { topic }, 4)).rejects.toThrow("no replica");
  });

  test("lose what one replica acknowledged, by an unclean election", async () => {
    const config = { "unclean.leader.election.enable": "true" };
    const topic = await createReplicatedTopic(cluster, { replicas: [[1, 2]], config });
    await send(topic, ["kept"]);
    const { before, after } = await electUncleanly(cluster, { topic }, () =>
      send(topic, ["lost", "lost too"], { acks: 1, retries: 5 }),
    );
    expect(before).toEqual({ leader: 1, end: 3n });
    expect(after).toEqual({ leader: 2, end: 1n });
    await send(topic, ["new"], { retries: 5 });
    expect(await read(topic)).toEqual(["kept", "new"]);
    await moveLeader(cluster, { topic }, 1);
    expect(await read(topic)).toEqual(["kept", "new"]);
  });

  test("begin where records were deleted, and at 0 in a topic that is made anew", async () => {
    const topic = await createReplicatedTopic(cluster);
    await send(topic, ["a", "b", "c"]);
    await deleteRecordsBelow(cluster, { topic }, 2n);
    expect(await logBounds(cluster, { topic })).toEqual({ start: 2n, end: 3n });
    expect(await read(topic)).toEqual(["c"]);
    await recreateTopic(cluster, topic, { replicas: [all, all] });
    expect(await logBounds(cluster, { topic, partition: 1 })).toEqual({ start: 0n, end: 0n });
    await deleteTopic(cluster, topic);
    const known = (await cluster.views()).flatMap(({ partitions }) => partitions);
    expect(known.filter((view) => view.topic === topic)).toEqual([]);
  });
});

describe.skipIf(obstacle !== undefined)("transactions", () => {
  test("hide what follows them until they end", async () => {
    const topic = await createReplicatedTopic(cluster);
    const open = await openTransaction(cluster.client(), topic, [{ key: "committed" }].map(named));
    await send(topic, ["behind"]);
    await expect(read(topic)).rejects.toThrow("reads to 0 only");
    await open.commit();
    const aborted = await openTransaction(cluster.client(), topic, [named({ key: "aborted" })]);
    await aborted.abort();
    expect(await read(topic)).toEqual(["committed", "behind"]);
  });

  test("abandoned, are aborted by the broker when their time is over", async () => {
    const topic = await createReplicatedTopic(cluster);
    const timeoutMs = 1_000;
    const open = await openTransaction(cluster.client(), topic, [named({ key: "gone" })], {
      timeoutMs,
    });
    await open.abandon();
    await vi.waitFor(async () => expect(await read(topic)).toEqual([]), { timeout: 20_000 });
    // The record, and the mark that it does not count.
    expect((await logBounds(cluster, { topic })).end).toBe(2n);
  });

  const named = ({ key }: { key: string }) => ({ key, value: key });
});

describe.skipIf(obstacle !== undefined)("proxies", () => {
  let topic: string;
  const leader = 2;

  beforeAll(async () => {
    topic = await createReplicatedTopic(cluster, { replicas: [[leader, 1, 3]] });
  });

  test.each([
    ["cut request", ["cut request"]],
    ["cut reply", ["cut reply", "cut reply"]],
    ["cut inside reply", ["cut inside reply", "cut inside reply"]],
  ] as const)("%s: a producer that sends again writes %j", async (fault, written) => {
    const planned = planFault(cluster.broker(leader).proxy, { on: "Produce", fault });
    await send(topic, [fault], { way: "proxied", retries: 5 });
    expect(planned.struck).toBe(1);
    expect((await read(topic)).filter((key) => key === fault)).toEqual(written);
  });

  test("stand before clients only: with all of them shut, brokers go on", async () => {
    for (const { proxy } of cluster.members) {
      proxy.refuse();
      proxy.cutAll();
    }
    const quick = { retry: { retries: 0 }, logLevel: logLevel.NOTHING };
    const outside = new Kafka({ brokers: cluster.brokers, ...quick }).admin();
    await expect(outside.connect()).rejects.toThrow("ECONNREFUSED");
    await send(topic, ["past them"]);
    await Promise.all(cluster.members.map(({ proxy }) => proxy.welcome()));
    await send(topic, ["through them"], { way: "proxied" });
    expect((await read(topic)).slice(-2)).toEqual(["past them", "through them"]);
  });
});

describe.skipIf(obstacle !== undefined)("a cluster leaves nothing", () => {
  const left = ({ folder, pids }: { folder: string; pids: number[] }) => {
    const alive = pids.filter((pid) => {
      try {
        return process.kill(pid, 0);
      } catch {
        // ESRCH: there is no such process.
        return false;
      }
    });
    return { alive, folder: existsSync(folder) };
  };
  const nothing = { alive: [], folder: false };

  test("when it is stopped", async () => {
    const small = await startKafkaCluster({ brokers: 2 });
    const { folder, pids } = small;
    expect(left({ folder, pids }).alive).toHaveLength(3);
    await small.stop();
    expect(left({ folder, pids })).toEqual(nothing);
  });

  test("when its owner dies", async () => {
    const owner = new URL("../fixtures/workers/owner.ts", import.meta.url);
    const worker = spawnWorker(owner, { args: ["cluster"] });
    const { data } = await worker.waitFor("cluster", 60_000);
    const started = data as { folder: string; pids: number[] };
    expect(left(started).alive).toHaveLength(3);
    worker.kill("SIGKILL");
    await worker.exited;
    await vi.waitFor(() => expect(left(started)).toEqual(nothing), { timeout: 8_000 });
  });
});
