// One consumer in a process of its own, made to be killed: every event, and every advance and COMMIT
// of a chunk, is a step of its log before the next thing happens. Told so by a file, it stops dead
// at a given point of a chunk, so that whoever kills it knows what it was doing.

import { existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import { createConsumer, defineTopic, type OnceboxEvent, text } from "@oncebox/core";
import { kafkajsBroker } from "@oncebox/kafkajs";
import { postgresStorage } from "@oncebox/postgres";
import type pg from "pg";
import { brokenClient, kafkaFirst, type OnBroken, type SqlBreak } from "../fixtures/breaks.ts";
import { openPool } from "../fixtures/databases.ts";
import { stepData } from "../fixtures/history.ts";
import { stepLog } from "../fixtures/step-log.ts";
import { askUncommitted } from "./uncommitted.ts";

/** Where a worker can be told to stop. */
export type Point =
  /** The chunk's transaction is about to be opened; nothing was sent. */
  | "opening"
  /** A handler has written its effect; more messages, the advance and COMMIT are to come. */
  | "handling"
  /** The advance was sent (and answered where the pool does not pipeline), COMMIT was not. */
  | "advanced"
  /** COMMIT was sent, its answer was not read. */
  | "committing";

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
}

const settings = JSON.parse(process.argv[2] ?? "{}") as WorkerSettings;
const { topic, sessionTimeoutMs } = settings;
const step = stepLog();

/** The chunk that each partition has open, for the log. */
const chunks = new Map<number, object>();

function stopIfTold(point: Point, partition: number): void {
  const order = join(settings.orders, point);
  if (!existsSync(order)) return;
  rmSync(order);
  const where = { point, partition, ...chunks.get(partition) };
  step("frozen", where);
  // Stops every thread before this call returns: the next line runs after SIGCONT.
  process.kill(process.pid, "SIGSTOP");
  step("thawed", where);
}

// biome-ignore lint/suspicious/noExplicitAny: the original has a dozen overloads
type Query = (this: pg.Client, config: any, ...rest: any[]) => any;

/** A client that tells of a chunk's advance and COMMIT when they are sent and answered. */
function watched(Base: typeof pg.Client): typeof pg.Client {
  return class WatchedClient extends Base {
    #partition: number | null = null;

    override query: Query = (config, ...rest) => {
      const send = () => (super.query as Query).call(this, config, ...rest);
      const statement: unknown = typeof config === "string" ? config : config?.text;
      if (typeof statement !== "string") return send();
      if (statement.startsWith("/* oncebox_advance */")) {
        this.#partition = Number(config.values[2]);
        step("advance", { topic, partition: this.#partition });
        return send();
      }
      const partition = this.#partition;
      this.#partition = null;
      if (statement !== "COMMIT" || partition === null) return send();
      stopIfTold("advanced", partition);
      step("commit", { topic, partition });
      const answer: Promise<unknown> = send();
      stopIfTold("committing", partition);
      const answered = (ok: boolean) => step("commit-answered", { topic, partition, ok });
      answer.then(
        () => answered(true),
        () => answered(false),
      );
      return answer;
    };
  };
}

function observe(event: OnceboxEvent): void {
  step(event.type, stepData(event));
  if (event.type !== "inbox.chunk-opening") return;
  const { epoch, firstOffset, endOffset } = event;
  chunks.set(event.partition, stepData({ epoch, firstOffset, endOffset }));
  stopIfTold("opening", event.partition);
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
  Client: watched(brokenClient(settings.breaks, onBroken)),
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
}).handle(defineTopic({ name: topic, value: text() }), async (message, tx) => {
  const { partition, offset, id, key, value } = message;
  await tx.query(
    `INSERT INTO effects (message_id, key, sequence, topic, partition, record_offset, worker)
     VALUES ($1, $2, $3, $4, $5, $6, $7)`,
    // A text of PostgreSQL holds no zero bytes, and some keys are made of them.
    [id, key?.replaceAll("\0", "0"), Number(value), topic, partition, `${offset}`, settings.name],
  );
  stopIfTold("handling", partition);
});

process.once("SIGTERM", async () => {
  await consumer.stop({ deadlineMs: 10_000 });
  await broker.close();
  await storage.close();
  await pool.end();
});
process.once("exit", () => step("ended"));
await consumer.start();
step("started");
