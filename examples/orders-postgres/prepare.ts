// What a deployment does before the services of a new version start: tables and topic. Harmless when
// run again.

import { setTimeout as delay } from "node:timers/promises";
import { Kafka, logLevel } from "kafkajs";
import { readConfig } from "./config.ts";
import { openDatabase } from "./database.ts";
import { orExit } from "./lifecycle.ts";
import { log } from "./log.ts";
import { migrateAll } from "./migrations.ts";

const partitions = 6;
const leadersWithinMs = 30_000;

async function migrate(databaseUrl: string): Promise<void> {
  const database = openDatabase(databaseUrl);
  try {
    await migrateAll(database);
  } finally {
    await database.destroy();
  }
}

/** Replicas as the broker's default has it: at least three where messages matter. */
async function createTopic(brokers: readonly string[], topic: string): Promise<void> {
  const kafka = new Kafka({
    clientId: "prepare",
    brokers: [...brokers],
    logLevel: logLevel.NOTHING,
  });
  const admin = kafka.admin();
  await admin.connect();
  try {
    // Says false where it is there already.
    const wanted = { topic, numPartitions: partitions, replicationFactor: -1 };
    await admin.createTopics({ topics: [wanted], waitForLeaders: false });
    const deadline = performance.now() + leadersWithinMs;
    while (!(await hasLeaders(admin, topic))) {
      if (performance.now() > deadline) throw new Error(`topic ${topic} has no leaders yet`);
      await delay(100);
    }
  } finally {
    await admin.disconnect();
  }
}

async function hasLeaders(admin: ReturnType<Kafka["admin"]>, topic: string): Promise<boolean> {
  try {
    const { topics } = await admin.fetchTopicMetadata({ topics: [topic] });
    const found = topics[0]?.partitions ?? [];
    return found.length > 0 && found.every(({ leader }) => leader >= 0);
  } catch {
    // Not every broker has heard of it yet.
    return false;
  }
}

await orExit(async () => {
  const { databaseUrl, brokers, topic } = readConfig(process.env, { port: 0 });
  await migrate(databaseUrl);
  await createTopic(brokers, topic);
  log("info", "prepared", { topic });
});
