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
import { type KafkaCluster, startKafka } from "../fixtures/kafka.ts";
import { type PostgresServer, startPostgres } from "../fixtures/postgres.ts";
import { type ChurnOutcome, type ChurnSettings, churn, type Servers } from "./scenario.ts";

const seed = Number(process.env.CHAOS_SEED ?? Math.floor(Math.random() * 2 ** 32));
const folder = mkdtempSync(join(tmpdir(), "oncebox-churn-"));
const started: { stop(): Promise<void> }[] = [];
let servers: Servers;

beforeAll(async () => {
  const starting: [Promise<PostgresServer>, Promise<KafkaCluster>] = [
    startPostgres(),
    startKafka(),
  ];
  for (const server of await Promise.allSettled(starting)) {
    if (server.status === "fulfilled") started.push(server.value);
  }
  const [postgres, kafka] = await Promise.all(starting);
  servers = { databaseUrl: postgres.url, brokers: kafka.brokers, folder };
});

afterAll(async () => {
  await Promise.all(started.map((server) => server.stop()));
  rmSync(folder, { recursive: true, force: true });
});

const whole: Omit<ChurnSettings, "acts"> = {
  ...{ messages: 4_000, repeats: 0 },
  ...{ breaks: [], kafkaFirst: false, pipelined: true },
};

async function outcomeOf(name: string, settings: ChurnSettings): Promise<ChurnOutcome> {
  const outcome = await churn(servers, seed, settings);
  console.log(`${name}: ${outcome.account}`);
  return outcome;
}

/** No anomaly of any kind, and something was delivered twice: else nothing was proved. */
function expectExactlyOnce({ report, account }: ChurnOutcome): void {
  for (const name of Object.keys(anomalies) as (keyof typeof anomalies)[]) {
    expect(report.found[name], account).toEqual([]);
  }
  expect(report.balanced, account).toBe(true);
  expect(report.unknown + report.failed, account).toBe(0);
  expect(report.applied, account).toBe(report.acknowledged);
  expect(report.redelivered, account).toBeGreaterThan(0);
}

it("20,000 messages, each applied once, in order, through kills and stops at the worst moments", async () => {
  const outcome = await outcomeOf("churn", {
    ...whole,
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
  expect(tally.kills, account).toBeGreaterThanOrEqual(10);
  expect(tally.killsInChunk, account).toBeGreaterThanOrEqual(8);
  expect(tally.killsInCommit, account).toBeGreaterThanOrEqual(3);
  expect(tally.stopsPastSession, account).toBeGreaterThanOrEqual(3);
  // The claim: a worker that missed its takeover is refused by the database when it opens a chunk.
  expect(tally.staleOpenings, account).toBeGreaterThanOrEqual(1);
  expect(tally.fenced, account).toBe(tally.staleOpenings);
});

describe("one mechanism alone", () => {
  it("the fence holds without ids, where the producer does not repeat itself", async () => {
    const outcome = await outcomeOf("fence alone", {
      ...whole,
      breaks: ["dedupe"],
      // The other path of the storage: each statement awaited, COMMIT sent after the advance's answer.
      pipelined: false,
      acts: { "kill handling": 1, "kill committing": 1, "stop handling": 1, "stop opening": 1 },
    });
    const { tally, account } = outcome;
    expectExactlyOnce(outcome);
    expect([...tally.broken], account).toEqual(["dedupe"]);
    expect(tally.fenced, account).toBe(1);
  });

  it("ids hold without the fence: a stale chunk is committed, and applies nothing", async () => {
    const outcome = await outcomeOf("ids alone", {
      ...whole,
      repeats: 0.02,
      breaks: ["fence"],
      acts: { "kill handling": 1, "kill committing": 1, "stop handling": 1, "stop opening": 1 },
    });
    const { tally, account } = outcome;
    expectExactlyOnce(outcome);
    expect([...tally.broken], account).toEqual(["fence"]);
    expect(tally.fencedAtAll, account).toBe(0);
    expect(tally.staleCommits, account).toMatchObject([{ applied: 0 }]);
  });
});

describe("controls that must be caught", () => {
  it("neither fence nor ids: a worker that missed its takeover applies messages again", async () => {
    const { report, tally, account } = await outcomeOf("neither", {
      ...whole,
      breaks: ["fence", "dedupe"],
      acts: { "kill handling": 1, "stop opening": 1 },
    });
    expect([...tally.broken].sort(), account).toEqual(["dedupe", "fence"]);
    expect(tally.staleCommits[0]?.applied, account).toBeGreaterThan(0);
    expect(report.found.doubled.length, account).toBeGreaterThan(0);
    expect(report.balanced, account).toBe(false);
  });

  it("Kafka's offset before the database: a kill inside a chunk loses it", async () => {
    const { report, tally, account } = await outcomeOf("kafka first", {
      ...whole,
      kafkaFirst: true,
      acts: { "kill handling": 2 },
    });
    expect([...tally.broken], account).toEqual(["kafka-first"]);
    expect(report.found.lost.length, account).toBeGreaterThan(0);
    expect(report.balanced, account).toBe(false);
  });

  it("no ids and a producer that repeats itself: repeats are applied twice", async () => {
    const { report, tally, account } = await outcomeOf("repeats", {
      ...whole,
      repeats: 0.05,
      breaks: ["dedupe"],
      acts: { "kill handling": 1 },
    });
    expect([...tally.broken], account).toEqual(["dedupe"]);
    expect(report.found.doubled.length, account).toBeGreaterThan(0);
    expect(report.balanced, account).toBe(false);
  });
});
