/**
 * D8: topics that others write with Kafka's transactions. Six producers at a time, half of their
 * transactions aborted, while workers are killed and frozen: what was aborted has no effect, what was
 * committed has one. Guards the filter for aborted records (kafkajs/record-batch.ts), which a position
 * in the middle of overlapping transactions puts to the test, and positions that go past markers.
 * Then what must not hold: kafkajs' own filter, on the same log, and ours without Kafka's list.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Kafka, logLevel } from "kafkajs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { anomalies } from "../fixtures/checker.ts";
import { startKafka } from "../fixtures/kafka.ts";
import { kafkaObstacle } from "../fixtures/kafka-jars.ts";
import { uniqueName } from "../fixtures/names.ts";
import { startPostgres } from "../fixtures/postgres.ts";
import { type ChurnOutcome, type ChurnSettings, churn, type Servers } from "./scenario.ts";

const seed = Number(process.env.CHAOS_SEED ?? Math.floor(Math.random() * 2 ** 32));
const obstacle = kafkaObstacle();
if (obstacle !== undefined) console.error(`\n*** no Kafka: ${obstacle}. CHAOS IS SKIPPED. ***\n`);

const stops: (() => Promise<void>)[] = [];
let servers: Servers;

beforeAll(async () => {
  if (obstacle !== undefined) return;
  const folder = mkdtempSync(join(tmpdir(), "oncebox-transactions-"));
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

const transactional: ChurnSettings = {
  ...{ messages: 3_000, repeats: 0, places: 3, transactional: true },
  // Without ids nothing hides a record that is handled twice.
  ...{ breaks: ["dedupe"], kafkaFirst: false, pipelined: true, acts: {} },
};

const nothing = Object.fromEntries(Object.keys(anomalies).map((name) => [name, []]));

/** Ids of everything that a plain consumer of kafkajs hands over, in its default read_committed. */
async function handedByKafkajs({ topic, records }: ChurnOutcome): Promise<string[]> {
  const last = new Map<number, bigint>();
  for (const { partition, offset } of records) last.set(partition, offset);
  const kafka = new Kafka({ brokers: [...servers.brokers], logLevel: logLevel.NOTHING });
  const consumer = kafka.consumer({ groupId: uniqueName("plain") });
  const handed: string[] = [];
  await consumer.connect();
  try {
    await consumer.subscribe({ topic, fromBeginning: true });
    await new Promise<void>((resolve, reject) => {
      consumer.on(consumer.events.CRASH, ({ payload }) => reject(payload.error));
      const eachBatch = async ({ batch }: { batch: Batch }) => {
        for (const { headers } of batch.messages) handed.push(String(headers?.id));
        if (BigInt(batch.lastOffset()) >= (last.get(batch.partition) ?? 0n)) {
          last.delete(batch.partition);
        }
        if (last.size === 0) resolve();
      };
      consumer.run({ eachBatch }).catch(reject);
    });
  } finally {
    await consumer.disconnect();
  }
  return handed;
}

interface Batch {
  readonly partition: number;
  readonly messages: readonly { readonly headers?: Readonly<Record<string, unknown>> }[];
  lastOffset(): string;
}

describe.skipIf(obstacle !== undefined)("D8: transactional writers under churn", () => {
  let whole: ChurnOutcome;

  it("nothing aborted has an effect, everything committed has one, in order", async () => {
    const acts = { "kill handling": 2, "kill committing": 1, "stop handling": 1 };
    whole = await churn(servers, seed, { ...transactional, acts });
    const { report, tally, account, aborted, intents } = whole;
    console.log(`transactions: ${account}`);
    expect(tally.kills, account).toBe(3);
    expect(tally.stopsPastSession, account).toBe(1);
    expect(report.found, account).toEqual(nothing);
    expect(report.balanced, account).toBe(true);
    expect(report.applied, account).toBe(report.acknowledged);
    expect(report.redelivered, account).toBeGreaterThan(0);
    expect(report.unknown, account).toBe(0);
    // The log held what it was about.
    expect(aborted, account).toBe(intents.filter(({ state }) => state === "failed").length);
    expect(aborted, account).toBeGreaterThan(300);
    expect(report.acknowledged, account).toBeGreaterThan(300);
  });

  describe("controls that must be caught", () => {
    it("kafkajs' own filter hands over aborted records of the same log", async () => {
      const failed = new Set(
        whole.intents.filter(({ state }) => state === "failed").map(({ id }) => id),
      );
      const handed = await handedByKafkajs(whole);
      const leaked = handed.filter((id) => failed.has(id)).length;
      console.log(`kafkajs handed over ${leaked} of ${failed.size} aborted records`);
      expect(leaked).toBeGreaterThan(0);
    });

    it("without Kafka's list of aborted transactions their records take effect", async () => {
      const { report, tally, account, aborted } = await churn(servers, seed, {
        ...transactional,
        ...{ messages: 600, uncommitted: true },
      });
      expect([...tally.broken].sort(), account).toEqual(["dedupe", "isolation"]);
      expect(report.found.phantom.length, account).toBe(aborted);
      expect(aborted, account).toBeGreaterThan(0);
      expect(report.balanced, account).toBe(false);
    });
  });
});
