/** A topic full of messages, for benchmarks that read. */
import { Kafka, logLevel, Partitioners } from "kafkajs";
import { uniqueName } from "../test/fixtures/names.ts";

const perSend = 5_000;

export interface Filling {
  readonly messages: number;
  readonly partitions: number;
  /** Of each value. */
  readonly bytes: number;
}

/** Creates a topic and writes to its partitions in turn; resolves with its name. */
export async function fillTopic(brokers: readonly string[], filling: Filling): Promise<string> {
  const { messages, partitions, bytes } = filling;
  const kafka = new Kafka({ brokers: [...brokers], logLevel: logLevel.NOTHING });
  const topic = uniqueName("full");
  const admin = kafka.admin();
  await admin.connect();
  await admin.createTopics({
    topics: [{ topic, numPartitions: partitions }],
    waitForLeaders: true,
  });
  await admin.disconnect();
  const producer = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner });
  await producer.connect();
  const value = Buffer.alloc(bytes, "x");
  for (let sent = 0; sent < messages; sent += perSend) {
    const partition = (sent / perSend) % partitions;
    // Below the broker's limit for one batch.
    for (let part = 0; part < perSend; part += 1_000) {
      const list = Array.from({ length: 1_000 }, () => ({ partition, value }));
      await producer.send({ topic, messages: list });
    }
  }
  await producer.disconnect();
  return topic;
}
