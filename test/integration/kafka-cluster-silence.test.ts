/** A broker that is there and does not answer, or whose answers are lost on their way. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { type Flow, type FlowOptions, startFlow } from "../fixtures/flow.ts";
import { type KafkaCluster, startKafkaCluster } from "../fixtures/kafka-cluster.ts";
import { kafkaObstacle } from "../fixtures/kafka-jars.ts";
import { createReplicatedTopic } from "../fixtures/kafka-partitions.ts";
import { type PostgresServer, startPostgres } from "../fixtures/postgres.ts";
import type { FaultProxy } from "../fixtures/proxy.ts";
import { planFault } from "../fixtures/proxy-faults.ts";

const obstacle = kafkaObstacle();
let cluster: KafkaCluster;
let postgres: PostgresServer;
let proxy: FaultProxy;

beforeAll(async () => {
  if (obstacle !== undefined) return;
  [cluster, postgres] = await Promise.all([
    startKafkaCluster({ brokers: 1, proxied: true }),
    startPostgres(),
  ]);
  proxy = cluster.broker(1).proxy;
});

afterEach(() => {
  proxy?.resume();
  proxy?.release();
});

afterAll(async () => {
  await Promise.all([cluster?.stop(), postgres?.stop()]);
});

async function flowing(options: Partial<FlowOptions> = {}): Promise<Flow> {
  const topic = await createReplicatedTopic(cluster, { replicas: [[1], [1], [1]] });
  const { brokers } = cluster;
  const flow = await startFlow({ databaseUrl: postgres.url, brokers, topic, ...options });
  await flow.moreEffects(50);
  return flow;
}

const right = { lost: [], doubled: [], inverted: [] };

describe.skipIf(obstacle !== undefined)("a broker behind a bad network", () => {
  // Guards the watchdog (watchdog.ts): kafkajs itself waits 30 s for the answer, and heartbeats go on
  // over another connection, so the group keeps the member.
  test("A14: fetches are never answered, heartbeats are: a new client takes over", async () => {
    await using flow = await flowing({
      settings: { sessionTimeoutMs: 3_000, heartbeatIntervalMs: 300, rebalanceTimeoutMs: 5_000 },
      consumer: { stallAfterMs: 6_000 },
    });
    const silence = planFault(proxy, { on: "Fetch", fault: "hold reply" });
    await silence.until();
    const began = performance.now();
    const { error } = await flow.ear.waitFor("inbox.client-rebuilt");
    expect(error).toMatchObject({ code: "consumer-silent" });
    expect(performance.now() - began).toBeLessThan(15_000);
    await flow.moreEffects(50);
    expect(flow.consumer.health()).toEqual({ ready: true, live: true, reasons: [] });
    expect(await flow.settle()).toMatchObject(right);
  });

  // Guards "unknown" as an outcome of its own (publish-outcome.ts), and the ids that drop repeats.
  test("D1: replies and requests of the relay are lost: repeats, but one effect each, in order", async () => {
    await using flow = await flowing();
    for (const fault of ["cut reply", "cut request", "cut inside reply"] as const) {
      const cuts = planFault(proxy, { on: "Produce", fault, times: 4 });
      await cuts.until(4);
    }
    await flow.ear.waitFor("outbox.publish-unknown");
    expect(await flow.settle()).toMatchObject(right);
    const committed = flow.ear.heard.filter((event) => event.type === "inbox.chunk-committed");
    expect(committed.reduce((sum, { duplicates }) => sum + duplicates, 0)).toBeGreaterThan(0);
  });

  // Guards the time-outs of requests: a half-open connection says nothing, for ever.
  test("D15: nothing passes for 10 s, connections stay open: it goes on unaided", async () => {
    await using flow = await flowing();
    proxy.pause();
    await flow.runFor(10_000);
    proxy.resume();
    await flow.moreEffects(50);
    expect(await flow.settle()).toMatchObject(right);
  });

  test("A8: a stop while nothing passes keeps its deadline", async () => {
    await using flow = await flowing();
    proxy.pause();
    await flow.runFor(1_000);
    const began = performance.now();
    await Promise.all([
      flow.consumer.stop({ deadlineMs: 2_000 }),
      flow.relay.stop({ deadlineMs: 2_000 }),
    ]);
    expect(performance.now() - began).toBeLessThan(3_000);
  });
});
