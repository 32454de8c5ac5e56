// One consumer in a process of its own, made to be killed: every event, and every advance and COMMIT
// of a chunk and of a parked message's turn, is a step of its log before the next thing happens. Told so
// by a file, it stops dead at a given point, so that whoever kills it knows what it was doing.

import { existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import { createConsumer, defineTopic, type OnceboxEvent, text } from "@oncebox/core";
import { kafkajsBroker } from "@oncebox/kafkajs";
import { postgresStorage } from "@oncebox/postgres";
import { brokenClient, kafkaFirst, type OnBroken, type SqlBreak } from "../fixtures/breaks.ts";
import { openPool } from "../fixtures/databases.ts";
import { stepData } from "../fixtures/history.ts";
import { stepLog } from "../fixtures/step-log.ts";
import type { Point } from "./points.ts";
import { askUncommitted } from "./uncommitted.ts";
import { watchedClient } from "./watched-client.ts";

/**
 * Messages that fail for a while, by their number in their key and by the attempt alone: so they are
 * parked, and applied in the end.
 */
export interface Failing {
  /** Every so manieth message of a key fails. */
  readonly every: number;
  /** Longest time of a handler; a turn's lease is so long and a margin. */
  readonly handlerTimeoutMs: number;
}

export interface WorkerSettings {
  readonly name: string;
  readonly consumer: string;
  readonly databaseUrl: string;
  readonly brokers: readonly string[];
  readonly topic: string;
  /** A file in here that is named as a point is an order to stop there, once. */
  readonly orders: string;
  readonly pipelined: boolean;
  readonly breaks: readonly SqlBreak[];
  readonly kafkaFirst: boolean;
  /** Whether Kafka is asked for what is not committed as well. */
  readonly uncommitted: boolean;
  readonly sessionTimeoutMs: number;
  /** Null: no message fails. */
  readonly failing: Failing | null;
}

const settings = JSON.parse(process.argv[2] ?? "{}") as WorkerSettings;
const { topic, sessionTimeoutMs, failing } = settings;
const step = stepLog();

/** The chunk that each partition has open, for the log. */
const chunks = new Map<number, object>();

function stopIfTold(point: Point, where: object): void {
  const order = join(settings.orders, point);
  if (!existsSync(order)) return;
  rmSync(order);
  step("frozen", { point, ...where });
  // Stops every thread before this call returns: the next line runs after SIGCONT.
  process.kill(process.pid, "SIGSTOP");
  step("thawed", { point, ...where });
}

function observe(event: OnceboxEvent): void {
  step(event.type, stepData(event));
  if (event.type !== "inbox.chunk-opening") return;
  const { epoch, firstOffset, endOffset } = event;
  const { partition } = event;
  chunks.set(partition, stepData({ epoch, firstOffset, endOffset }));
  stopIfTold("opening", { partition, ...chunks.get(partition) });
}

/** The first attempt that succeeds lies behind the two that are made while the partition waits. */
function failsStill(sequence: number, attempt: number): boolean {
  if (failing === null || sequence % failing.every !== 0) return false;
  return attempt < 3 + ((sequence / failing.every) % 4);
}

const broken = new Set<string>();
const onBroken: OnBroken = (name, what) => {
  // Of a statement, once is enough to know that the break is at work.
  if (name !== "kafka-first" && broken.has(`${name} ${what}`)) return;
  broken.add(`${name} ${what}`);
  step("broken", { name, what });
};

if (settings.uncommitted) {
  askUncommitted(() => {
    if (broken.has("isolation")) return;
    broken.add("isolation");
    step("broken", { name: "isolation", what: "Fetch" });
  });
}

const pool = openPool({
  connectionString: settings.databaseUrl,
  application_name: settings.name,
  pipeline: settings.pipelined,
  max: 8,
  Client: watchedClient(brokenClient(settings.breaks, onBroken), {
    ...{ step, topic, stopIfTold, failsStill },
    chunkOf: (partition) => chunks.get(partition) ?? {},
  }),
});
const storage = postgresStorage({ pool, idleInTransactionTimeoutMs: sessionTimeoutMs - 500 });
const honest = kafkajsBroker({
  clientId: settings.name,
  brokers: [...settings.brokers],
  sessionTimeoutMs,
  heartbeatIntervalMs: 500,
});
const broker = settings.kafkaFirst
  ? kafkaFirst(honest, { brokers: settings.brokers, onBroken })
  : honest;
const consumer = createConsumer({
  name: settings.consumer,
  storage,
  broker,
  observer: observe,
  chunkSizeMax: 40,
  offsetCommitIntervalMs: 200,
  ...(failing === null
    ? {}
    : { redriveIntervalMs: 20, handlerTimeoutMs: failing.handlerTimeoutMs }),
}).handle(
  defineTopic({ name: topic, value: text() }),
  async (message, tx, { attempt }) => {
    const { partition, offset, id, key, value } = message;
    const sequence = Number(value);
    await tx.query(
      `INSERT INTO effects (message_id, key, sequence, topic, partition, record_offset, worker)
       VALUES ($1, $2, $3, $4, $5, $6, $7)`,
      // A text of PostgreSQL holds no zero bytes, and some keys are made of them.
      [id, key?.replaceAll("\0", "0"), sequence, topic, partition, `${offset}`, settings.name],
    );
    // Behind the effect: where the transaction is not rolled back, it stays.
    if (failsStill(sequence, attempt)) throw new Error(`attempt ${attempt} of ${id} fails`);
  },
  {
    retry: {
      ...{ localAttemptsMax: 2, localBackoffMs: 1 },
      ...{ redriveBackoffMs: 5, redriveBackoffMaxMs: 50 },
    },
  },
);

process.once("SIGTERM", async () => {
  await consumer.stop({ deadlineMs: 10_000 });
  await broker.close();
  await storage.close();
  await pool.end();
});
process.once("exit", () => step("ended"));
await consumer.start();
step("started");
