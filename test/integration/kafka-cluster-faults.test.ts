/**
 * The whole product on a cluster of three brokers that fails under it: whatever happens to the
 * brokers, each order has one effect, in the order of its key.
 */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { type Flow, startFlow } from "../fixtures/flow.ts";
import { type KafkaCluster, startKafkaCluster } from "../fixtures/kafka-cluster.ts";
import { kafkaObstacle } from "../fixtures/kafka-jars.ts";
import { createReplicatedTopic, electUncleanly, moveLeader } from "../fixtures/kafka-partitions.ts";
import { type PostgresServer, startPostgres } from "../fixtures/postgres.ts";
import { scene, textTopic } from "../fixtures/scene.ts";

const obstacle = kafkaObstacle();
let cluster: KafkaCluster;
let postgres: PostgresServer;

beforeAll(async () => {
  if (obstacle !== undefined) return;
  [cluster, postgres] = await Promise.all([startKafkaCluster(), startPostgres()]);
});

afterEach(() => cluster?.heal());

afterAll(async () => {
  await Promise.all([cluster?.stop(), postgres?.stop()]);
});

const partitions = 3;
const replicas = [
  [1, 2, 3],
  [2, 3, 1],
  [3, 1, 2],
];

async function flowing(): Promise<Flow & { readonly topic: string }> {
  const config = { "min.insync.replicas": "2" };
  const topic = await createReplicatedTopic(cluster, { replicas, config });
  const { brokers } = cluster;
  const flow = await startFlow({ databaseUrl: postgres.url, brokers, topic });
  await flow.moreEffects(50);
  return Object.assign(flow, { topic });
}

const right = { lost: [], doubled: [], inverted: [] };

describe.skipIf(obstacle !== undefined)("a flow of orders over three brokers", () => {
  test("D14: leaders move all the time: nothing that was acknowledged is missing", async () => {
    await using flow = await flowing();
    // Until a batch met a leader that had moved away: else nothing was put to the test.
    const met = () => flow.ear.heard.some(({ type }) => type === "outbox.publish-unknown");
    for (let round = 0; round < 9 || (!met() && round < 60); round += 1) {
      const at = { topic: flow.topic, partition: round % partitions };
      const to = 1 + ((Math.floor(round / partitions) + at.partition + 1) % 3);
      await moveLeader(cluster, at, to);
      await flow.runFor(300);
    }
    const verdict = await flow.settle();
    expect(verdict).toMatchObject(right);
    expect(met()).toBe(true);
  });

  test("D15: all brokers gone for 20 s and back: it goes on unaided", async () => {
    await using flow = await flowing();
    await cluster.kill();
    await flow.runFor(20_000);
    // Nobody was condemned meanwhile, and no probe asks for another process.
    expect(flow.consumer.health().live).toBe(true);
    await cluster.heal();
    await flow.moreEffects(100);
    expect(flow.consumer.health()).toEqual({ ready: true, live: true, reasons: [] });
    expect(await flow.settle()).toMatchObject(right);
  });

  test("D15: a stop while no broker answers keeps its deadline", async () => {
    await using flow = await flowing();
    await cluster.kill();
    await flow.runFor(2_000);
    const began = performance.now();
    await Promise.all([
      flow.consumer.stop({ deadlineMs: 3_000 }),
      flow.relay.stop({ deadlineMs: 3_000 }),
    ]);
    expect(performance.now() - began).toBeLessThan(4_000);
  });

  test("D15: brokers restarted one after the other, then all at once", async () => {
    await using flow = await flowing();
    await cluster.rollingRestart();
    await flow.moreEffects(100);
    await cluster.hardRestart();
    await flow.moreEffects(100);
    const verdict = await flow.settle();
    console.log(`restarts: longest pause ${verdict.longestPauseMs} ms`);
    expect(verdict).toMatchObject(right);
  });

  test.each(["below", "past"] as const)(
    "D2: an unclean election, the log filled again %s the position: paused with the exact range",
    async (how) => {
      const config = { "min.insync.replicas": "1", "unclean.leader.election.enable": "true" };
      const topic = await createReplicatedTopic(cluster, { replicas: [[1, 2]], config });
      await using s = await scene({ brokers: cluster.brokers, server: postgres.url });
      const consumer = s.bareConsumer();
      for (const name of [topic, s.topic]) {
        consumer.handle(textTopic(name), async ({ value }, tx) => {
          await tx.query("INSERT INTO effects (value) VALUES ($1)", [value]);
        });
      }
      const numbered = (name: string, count: number) =>
        Array.from({ length: count }, (_, i) => `${name} ${i}`);
      await s.send(topic, ...numbered("kept", 10));
      await consumer.start();
      await s.effectsReach(10);
      const { before, after } = await electUncleanly(cluster, { topic }, async () => {
        await s.send(topic, ...numbered("vanishing", 10));
        await s.effectsReach(20);
      });
      expect({ before: before.end, after: after.end }).toEqual({ before: 20n, after: 10n });
      await s.send(topic, ...numbered("new", how === "below" ? 5 : 20));
      const { error } = await s.ear.waitFor("inbox.displaced", (event) => event.topic === topic);
      expect(error.code).toBe("log-diverged");
      expect(error.details).toMatchObject({ topic, position: 20n, from: 10n, to: 19n });
      await s.send(s.topic, "goes on");
      expect((await s.effectsReach(21)).at(-1)).toBe("goes on");
    },
  );
});
