/** Kafka to PostgreSQL, everything on this machine: throughput against a raw twin, and latency. */
import { createConsumer, defineTopic, type OnceboxEvent, text } from "@oncebox/core";
import { kafkajsBroker } from "@oncebox/kafkajs";
import { migrate, postgresStorage } from "@oncebox/postgres";
import { Kafka, logLevel, Partitioners, type Producer } from "kafkajs";
import { createDatabase, type TestDatabase } from "../test/fixtures/databases.ts";
import { uniqueName } from "../test/fixtures/names.ts";
import type { Servers } from "./bench.ts";
import { compare, percentile, rate } from "./figures.ts";
import { createAccounts, rawEachBatch, updateText } from "./raw-twin.ts";

const partitions = 3;
const messages = 20_000;
const padding = "x".repeat(290);

interface Ground extends AsyncDisposable {
  readonly database: TestDatabase;
  readonly kafka: Kafka;
  readonly topic: string;
  readonly producer: Producer;
}

async function ground({ databaseUrl, brokers }: Servers): Promise<Ground> {
  const database = await createDatabase(databaseUrl);
  const kafka = new Kafka({ brokers: [...brokers], logLevel: logLevel.NOTHING });
  const topic = uniqueName("bench");
  const admin = kafka.admin();
  await admin.connect();
  await admin.createTopics({
    topics: [{ topic, numPartitions: partitions }],
    waitForLeaders: true,
  });
  await admin.disconnect();
  const producer = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner });
  await producer.connect();
  return {
    database,
    kafka,
    topic,
    producer,
    [Symbol.asyncDispose]: async () => {
      await producer.disconnect();
      await database.drop();
    },
  };
}

/** Runs a consumer of one UPDATE a message under a new name, until `applied` says it is enough. */
async function consumeOnce(
  { database, topic }: Ground,
  brokers: readonly string[],
  options: { onApplied: (values: readonly string[]) => void },
) {
  const pool = database.pool({ pipeline: true });
  const broker = kafkajsBroker({ clientId: "bench", brokers: [...brokers] });
  const handled = new Map<number, string[]>();
  const observer = (event: OnceboxEvent) => {
    if (event.type !== "inbox.chunk-committed") return;
    options.onApplied(handled.get(event.partition) ?? []);
    handled.delete(event.partition);
  };
  const consumer = createConsumer({
    name: uniqueName("bench"),
    storage: postgresStorage({ pool }),
    broker,
    observer,
  }).handle(defineTopic({ name: topic, value: text() }), async ({ value, partition }, tx) => {
    await tx.query({ name: "raw_update", text: updateText, values: [Number.parseInt(value, 10)] });
    const list = handled.get(partition);
    if (list === undefined) handled.set(partition, [value]);
    else list.push(value);
  });
  await consumer.start();
  return async () => {
    await consumer.stop();
    await broker.close();
    await pool.end();
  };
}

export async function endToEnd(servers: Servers): Promise<string> {
  await using at = await ground(servers);
  await migrate(at.database.pool());
  await createAccounts(at.database.pool());
  for (let i = 0; i < messages; i += 500) {
    await at.producer.send({
      topic: at.topic,
      messages: Array.from({ length: 500 }, (_, n) => ({
        partition: (i + n) % partitions,
        value: `${(i + n) % 10_000} ${padding}`,
        headers: { id: crypto.randomUUID() },
      })),
    });
  }
  const inbox = async () => {
    let left = messages;
    let done = () => {};
    const drained = new Promise<void>((resolve) => {
      done = resolve;
    });
    let began = 0;
    const end = await consumeOnce(at, servers.brokers, {
      onApplied: (values) => {
        // From the first commit on: joining the group is not what is compared.
        if (began === 0) began = performance.now();
        else left -= values.length;
        if (left <= partitions * 100) done();
      },
    });
    await drained;
    const perSecond = ((messages - left) * 1_000) / (performance.now() - began);
    await end();
    return perSecond;
  };
  const pool = at.database.pool({ pipeline: true });
  const raw = () => rawEachBatch(at.kafka, pool, at.topic, uniqueName("raw"), messages, 4);
  const { ours, theirs, ratio } = await compare(3, inbox, raw);
  return `inbox ${ours.toFixed(0)}/s ÷ raw eachBatch ${theirs.toFixed(0)}/s = ${ratio.toFixed(2)} (${partitions} partitions at once, 300 B, awaited)`;
}

/** Milliseconds from before `send` to the commit being known, at a steady rate. */
export async function latency(servers: Servers): Promise<string> {
  const perSecond = 500;
  const seconds = 10;
  const perSend = 5;
  await using at = await ground(servers);
  await migrate(at.database.pool());
  await createAccounts(at.database.pool());
  const taken: number[] = [];
  const end = await consumeOnce(at, servers.brokers, {
    onApplied: (values) => {
      const now = performance.now();
      for (const value of values) taken.push(now - Number(value.split(" ")[1]));
    },
  });
  const total = perSecond * seconds;
  await rate(total, async () => {
    const began = performance.now();
    const sending: Promise<unknown>[] = [];
    // In sends of five, as a producer that lingers would: kafkajs' own requests are not the subject.
    for (let i = 0; i < total; i += perSend) {
      const ahead = began + (i * 1_000) / perSecond - performance.now();
      if (ahead > 0) await new Promise((resolve) => setTimeout(resolve, ahead));
      const messages = Array.from({ length: perSend }, (_, n) => ({
        partition: (i / perSend) % partitions,
        value: `${i + n} ${performance.now()} ${padding}`,
        headers: { id: crypto.randomUUID() },
      }));
      sending.push(at.producer.send({ topic: at.topic, messages }));
    }
    await Promise.all(sending);
  });
  while (taken.length < total) await new Promise((resolve) => setTimeout(resolve, 50));
  await end();
  // The first second warms up: the group's first fetches, prepared statements.
  const steady = taken.slice(perSecond);
  return `send → commit at ${perSecond}/s: p50 ${percentile(steady, 0.5).toFixed(1)} ms, p99 ${percentile(steady, 0.99).toFixed(1)} ms`;
}
