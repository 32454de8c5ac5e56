/**
 * Exactly once while workers die: 20,000 messages through real Kafka and real Postgres, judged by the
 * independent checker against what was produced. Then the same scenario with mechanisms taken out:
 * what holds on one of fence and dedupe alone, and what must not hold, or the proof would be blind.
 *
 * Victims are drawn from a seed that every line of output names; CHAOS_SEED=… draws them again.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { anomalies } from "../fixtures/checker.ts";
import { startKafka } from "../fixtures/kafka.ts";
import { kafkaObstacle } from "../fixtures/kafka-jars.ts";
import { startPostgres } from "../fixtures/postgres.ts";
import { type ChurnOutcome, type ChurnSettings, churn, type Servers } from "./scenario.ts";

const seed = Number(process.env.CHAOS_SEED ?? Math.floor(Math.random() * 2 ** 32));
const obstacle = kafkaObstacle();
if (obstacle !== undefined) console.error(`\n*** no Kafka: ${obstacle}. CHAOS IS SKIPPED. ***\n`);

const stops: (() => Promise<void>)[] = [];
let servers: Servers;

/** Servers of its own, whatever others are named: sessions are shorter than most brokers allow. */
beforeAll(async () => {
  if (obstacle !== undefined) return;
  const folder = mkdtempSync(join(tmpdir(), "oncebox-churn-"));
  stops.push(async () => rmSync(folder, { recursive: true, force: true }));
  const starting = [startPostgres(), startKafka()] as const;
  for (const server of await Promise.allSettled(starting)) {
    if (server.status === "fulfilled") stops.push(() => server.value.stop());
  }
  const [postgres, kafka] = await Promise.all(starting);
  servers = { databaseUrl: postgres.url, brokers: kafka.brokers, folder };
});

afterAll(async () => {
  await Promise.all(stops.map((stop) => stop()));
});

const unbroken: Omit<ChurnSettings, "acts"> = {
  ...{ messages: 4_000, repeats: 0 },
  ...{ breaks: [], kafkaFirst: false, pipelined: true },
};

/** Red where something was planned and not done: a run that killed nothing proves nothing. */
async function outcomeOf(name: string, settings: ChurnSettings): Promise<ChurnOutcome> {
  const outcome = await churn(servers, seed, settings);
  const { tally, account } = outcome;
  console.log(`${name}: ${account}`);
  const planned = (...names: string[]) =>
    Object.entries(settings.acts)
      .filter(([act]) => names.some((start) => act.startsWith(start)))
      .reduce((sum, [, count]) => sum + count, 0);
  expect(tally.kills, account).toBe(planned("kill"));
  expect(tally.killsInChunk, account).toBeGreaterThanOrEqual(planned("kill handling"));
  const inCommit = planned("kill advanced", "kill committing");
  expect(tally.killsInCommit, account).toBeGreaterThanOrEqual(inCommit);
  expect(tally.stopsPastSession, account).toBe(planned("stop"));
  expect(tally.staleOpenings, account).toBe(planned("stop opening"));
  const broken: string[] = settings.kafkaFirst ? ["kafka-first"] : [...settings.breaks];
  expect([...tally.broken].sort(), account).toEqual(broken.sort());
  return outcome;
}

const nothing = Object.fromEntries(Object.keys(anomalies).map((name) => [name, []]));

/** No anomaly of any kind, and something was delivered twice: else nothing was proved. */
function expectExactlyOnce({ report, account }: ChurnOutcome): void {
  expect(report.found, account).toEqual(nothing);
  expect(report.balanced, account).toBe(true);
  expect(report.applied, account).toBe(report.acknowledged);
  expect(report.redelivered, account).toBeGreaterThan(0);
}

describe.skipIf(obstacle !== undefined)("churn", () => {
  it("A1, A2: 20,000 messages, each applied once, in order, through kills and stops at the worst moments", async () => {
    const outcome = await outcomeOf("churn", {
      ...unbroken,
      messages: 20_000,
      repeats: 0.02,
      acts: {
        ...{ "kill handling": 8, "kill advanced": 2, "kill committing": 2, "kill anywhere": 1 },
        ...{ "stop opening": 2, "stop handling": 1, "stop advanced": 1, "stop committing": 1 },
        leave: 1,
      },
    });
    const { report, tally, account } = outcome;
    expectExactlyOnce(outcome);
    expect(report.acknowledged, account).toBe(20_000);
    expect(report.published, account).toBeGreaterThan(20_000);
    // What this proof promises, whatever becomes of the plan above.
    expect(tally.kills, account).toBeGreaterThanOrEqual(10);
    expect(tally.killsInChunk, account).toBeGreaterThanOrEqual(8);
    expect(tally.killsInCommit, account).toBeGreaterThanOrEqual(3);
    expect(tally.stopsPastSession, account).toBeGreaterThanOrEqual(3);
    // The claim: a worker that missed its takeover is refused by the database when it opens a chunk.
    expect(tally.fenced, account).toBe(2);
  });

  describe("one mechanism alone", () => {
    it("the fence holds without ids, where the producer does not repeat itself", async () => {
      const outcome = await outcomeOf("fence alone", {
        ...unbroken,
        breaks: ["dedupe"],
        // The other path of the storage: COMMIT is sent after the advance was answered.
        pipelined: false,
        acts: { "kill handling": 1, "kill committing": 1, "stop handling": 1, "stop opening": 1 },
      });
      const { report, tally, account } = outcome;
      expectExactlyOnce(outcome);
      expect(report.published, account).toBe(report.acknowledged);
      expect(tally.fenced, account).toBe(1);
    });

    // As long as the position does not fall, which the break sees to: at or above the position, an id
    // taken by the very same record is not a duplicate, by design.
    it("ids hold without the fence: a stale chunk is committed, and applies nothing", async () => {
      const outcome = await outcomeOf("ids alone", {
        ...unbroken,
        repeats: 0.02,
        breaks: ["fence"],
        acts: { "kill handling": 1, "kill committing": 1, "stop handling": 1, "stop opening": 1 },
      });
      const { tally, account } = outcome;
      expectExactlyOnce(outcome);
      expect(tally.fencedAtAll, account).toBe(0);
      expect(tally.staleCommits, account).toMatchObject([{ applied: 0 }]);
    });
  });

  describe("controls that must be caught", () => {
    it("neither fence nor ids: a worker that missed its takeover applies messages again", async () => {
      const { report, tally, account } = await outcomeOf("neither", {
        ...unbroken,
        breaks: ["fence", "dedupe"],
        acts: { "kill handling": 1, "stop opening": 1 },
      });
      expect(tally.staleCommits[0]?.applied, account).toBeGreaterThan(0);
      expect(report.found.doubled.length, account).toBeGreaterThan(0);
      expect(report.balanced, account).toBe(false);
    });

    it("Kafka's offset before the database: a kill inside a chunk loses it", async () => {
      const { report, account } = await outcomeOf("kafka first", {
        ...unbroken,
        kafkaFirst: true,
        acts: { "kill handling": 2 },
      });
      expect(report.found.lost.length, account).toBeGreaterThan(0);
      expect(report.balanced, account).toBe(false);
    });

    it("no ids and a producer that repeats itself: repeats are applied twice", async () => {
      const { report, account } = await outcomeOf("repeats", {
        ...unbroken,
        repeats: 0.05,
        breaks: ["dedupe"],
        acts: { "kill handling": 1 },
      });
      expect(report.found.doubled.length, account).toBeGreaterThan(0);
      expect(report.balanced, account).toBe(false);
    });
  });
});
