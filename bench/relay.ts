/** Rows of a full outbox to real Kafka per second ÷ kafkajs sending the same from memory. */
import { createOutbox, createOutboxRelay, defineTopic, text } from "@oncebox/core";
import { kafkajsBroker } from "@oncebox/kafkajs";
import { migrate, postgresStorage } from "@oncebox/postgres";
import { Kafka, logLevel, Partitioners } from "kafkajs";
import { createDatabase } from "../test/fixtures/databases.ts";
import { uniqueName } from "../test/fixtures/names.ts";
import type { Servers } from "./bench.ts";
import { median, rate } from "./figures.ts";

const rows = 50_000;
const batch = 500;
const rounds = 3;
const value = "x".repeat(300);

export async function relayDrain({ databaseUrl, brokers }: Servers): Promise<string> {
  const database = await createDatabase(databaseUrl);
  const pool = database.pool({ pipeline: true });
  await migrate(pool);
  const kafka = new Kafka({ brokers: [...brokers], logLevel: logLevel.NOTHING });
  const topic = uniqueName("bench-relay");
  const admin = kafka.admin();
  await admin.connect();
  await admin.createTopics({ topics: [{ topic, numPartitions: 3 }], waitForLeaders: true });
  await admin.disconnect();
  const storage = postgresStorage({ pool });
  const broker = kafkajsBroker({ clientId: "bench", brokers: [...brokers] });
  const outbox = createOutbox({ storage });
  const definition = defineTopic({ name: topic, value: text() });
  const message = (i: number) => definition.message({ key: `k${i % 1_000}`, value });

  const relayed = async () => {
    for (let i = 0; i < rows; i += 1_000) {
      const many = Array.from({ length: 1_000 }, (_, n) => message(i + n));
      await storage.transaction((tx) => outbox.enqueue(tx, many));
    }
    let left = rows;
    let done = () => {};
    const drained = new Promise<void>((resolve) => {
      done = resolve;
    });
    await using relay = createOutboxRelay({
      storage,
      broker,
      batchRowsMax: batch,
      observer: (event) => {
        if (event.type !== "outbox.published") return;
        left -= event.messages;
        if (left <= 0) done();
      },
    });
    // Awaited here: otherwise the service would be disposed of first.
    return await rate(rows, async () => {
      await relay.start();
      await drained;
    });
  };
  const producer = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner });
  await producer.connect();
  const fromMemory = () =>
    rate(rows, async () => {
      for (let i = 0; i < rows; i += batch) {
        const messages = Array.from({ length: batch }, (_, n) => ({
          key: `k${(i + n) % 1_000}`,
          value,
          headers: { id: crypto.randomUUID() },
        }));
        await producer.send({ topic, acks: -1, messages });
      }
    });
  try {
    const ours: number[] = [];
    const ratios: number[] = [];
    for (let round = 0; round <= rounds; round += 1) {
      const [relay, memory] = [await relayed(), await fromMemory()];
      if (round === 0) continue;
      ours.push(relay);
      ratios.push(relay / memory);
    }
    return `relay ${median(ours).toFixed(0)} rows/s, ${median(ratios).toFixed(2)} of kafkajs from memory (batches of ${batch}, 300 B)`;
  } finally {
    await producer.disconnect();
    await broker.close();
    await database.drop();
  }
}
