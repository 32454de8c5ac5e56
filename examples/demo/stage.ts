// Owns what a run of the demo stands on: servers, a database with its tables, a topic, and the
// questions asked of them. Takes everything down again.

import { migrate } from "@oncebox/postgres";
import kafkajs, { type Admin, Kafka, logLevel } from "kafkajs";
import pg from "pg";
import type { SqlBreak } from "../../test/fixtures/breaks.ts";
import { effectColumns, trackPositions } from "../../test/fixtures/history.ts";
import { kafkaAvailability, provideKafka } from "../../test/fixtures/kafka.ts";
import { kafkaObstacle } from "../../test/fixtures/kafka-jars.ts";
import { uniqueName } from "../../test/fixtures/names.ts";
import { providePostgres } from "../../test/fixtures/postgres.ts";
import { createTopic } from "../../test/fixtures/topics.ts";
import { DemoFailure, type Undo } from "./ending.ts";
import { type Setting, schema } from "./setting.ts";

export const partitions = 6;

/** Short, so that a dead worker is noticed soon. */
const sessionTimeoutMs = 3_000;
/** Kafka's own lower limit, where a broker does not say which it has. */
const usualSessionMinMs = 6_000;

/**
 * `invoices` has no unique key beside its counter, on purpose: here nothing but Oncebox keeps an
 * order from being billed twice, and the checker would see it.
 */
const tables = `
  CREATE TABLE orders (
    id         text PRIMARY KEY,
    customer   text NOT NULL,
    cents      integer NOT NULL,
    message_id text NOT NULL
  );
  CREATE TABLE invoices (${effectColumns},
    order_id text NOT NULL,
    cents    integer NOT NULL
  );`;

export interface Stage {
  readonly setting: Setting;
  /** Orders waiting in the outbox, and records in the topic without an outcome in the database. */
  readonly left: () => Promise<{ outbox: number; topic: number }>;
}

export async function openStage(breaks: readonly SqlBreak[], undo: Undo): Promise<Stage> {
  if (kafkaAvailability() === "none") {
    throw new DemoFailure(`no Kafka: ${kafkaObstacle()}, and KAFKA_BROKERS is not set`);
  }
  const starting = [providePostgres(), provideKafka()] as const;
  for (const server of starting) undo.push(async () => (await server).stop());
  const [{ url: databaseUrl }, { brokers }] = await Promise.all(starting);
  const topic = uniqueName("orders-placed");

  const pool = new pg.Pool({ connectionString: databaseUrl, max: 2 });
  undo.push(() => pool.end());
  await migrate(pool, { schema });
  await pool.query(tables);
  await trackPositions(databaseUrl, schema);

  const admin = new Kafka({ brokers, logLevel: logLevel.NOTHING }).admin();
  await admin.connect();
  undo.push(() => admin.disconnect());
  undo.push(() => admin.deleteTopics({ topics: [topic] }));
  await createTopic(admin, { topic, numPartitions: partitions });
  const consumer = uniqueName("billing");
  undo.push(() => admin.deleteGroups([consumer]));
  const session = { sessionTimeoutMs: Math.max(sessionTimeoutMs, await sessionMinMs(admin)) };
  const setting = { databaseUrl, brokers, topic, consumer, ...session, breaks };
  return { setting, left: () => left(pool, admin, topic) };
}

async function sessionMinMs(admin: Admin): Promise<number> {
  const name = "group.min.session.timeout.ms";
  const { controller } = await admin.describeCluster();
  const broker = {
    type: kafkajs.ConfigResourceTypes.BROKER,
    name: String(controller),
    configNames: [name],
  };
  const found = await admin
    .describeConfigs({ resources: [broker], includeSynonyms: false })
    // Not everyone may ask.
    .catch(() => undefined);
  return Number(found?.resources[0]?.configEntries[0]?.configValue ?? usualSessionMinMs);
}

async function left(pool: pg.Pool, admin: Admin, topic: string) {
  const outbox = await pool.query<{ count: string }>(
    `SELECT count(*) FROM ${schema}.outbox_messages`,
  );
  const ends = await admin.fetchTopicOffsets(topic);
  const { rows } = await pool.query<{ partition: number; next_offset: string }>(
    `SELECT partition, next_offset FROM ${schema}.inbox_partitions WHERE topic = $1`,
    [topic],
  );
  const positions = new Map(rows.map((row) => [row.partition, Number(row.next_offset)]));
  const behind = ends.map(({ partition, high }) => Number(high) - (positions.get(partition) ?? 0));
  return {
    outbox: Number(outbox.rows[0]?.count),
    topic: behind.reduce((sum, count) => sum + count, 0),
  };
}
