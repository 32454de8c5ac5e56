// Owns what kafkajs brings to the broker suite: each context has brokers of its own, and a proxy
// where a case breaks the network. Admin, producer and proxy-free access are shared by a whole file,
// and never pass the adapter under test.

import { connect } from "node:net";
import type { Broker } from "@oncebox/core";
import { type KafkajsBrokerConfig, kafkajsBroker } from "@oncebox/kafkajs";
import type {
  BreakableNetwork,
  BrokerCapability,
  BrokerSettings,
  BrokerUnderTest,
} from "@oncebox/testing";
import { type Admin, type Kafka, Partitioners, type Producer } from "kafkajs";
import { inject } from "vitest";
import { openTransaction } from "../fixtures/kafka-transactions.ts";
import { uniqueName } from "../fixtures/names.ts";
import { freePort } from "../fixtures/ports.ts";
import { type FaultProxy, startProxy } from "../fixtures/proxy.ts";
import { testKafka } from "../fixtures/servers.ts";
import { readTopic } from "../fixtures/topic-log.ts";
import { createTopic } from "../fixtures/topics.ts";

/** What this environment can do: all there is. */
export const capabilities: ReadonlySet<BrokerCapability> = new Set(["network", "replica-shortage"]);

/** What the contexts of a file share. */
export interface KafkaSide {
  readonly kafka: Kafka;
  readonly brokers: string[];
  readonly admin: Admin;
  readonly producer: Producer;
  /** Answers about topics, unbroken. */
  readonly plain: Broker;
  readonly close: () => Promise<void>;
}

export interface KafkajsVariant {
  /** Stands between the suite and each broker. */
  readonly wrap?: (broker: Broker) => Broker;
  /** Default 20 s. */
  readonly patienceMs?: number;
}

export async function kafkaSide(): Promise<KafkaSide> {
  const kafka = testKafka();
  const brokers = inject("kafkaBrokers") ?? [];
  const admin = kafka.admin();
  const producer = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner });
  await Promise.all([admin.connect(), producer.connect()]);
  const plain = kafkajsBroker({ brokers });
  const close = async () => {
    await Promise.all([admin.disconnect(), producer.disconnect(), plain.close()]);
  };
  return { kafka, brokers, admin, producer, plain, close };
}

/** A context of one case; `close` ends everything that was made in it. */
export function kafkajsUnderTest(
  side: KafkaSide,
  { wrap = (broker) => broker, patienceMs = 20_000 }: KafkajsVariant = {},
): { context: BrokerUnderTest; close: () => Promise<void> } {
  const made: Broker[] = [];
  const proxies: FaultProxy[] = [];
  const open = (settings: BrokerSettings, config: Partial<KafkajsBrokerConfig> = {}) => {
    const broker = kafkajsBroker({
      brokers: side.brokers,
      sessionTimeoutMs: 10_000,
      heartbeatIntervalMs: 150,
      rebalanceTimeoutMs: 10_000,
      maxWaitMs: 100,
      ...settings,
      ...config,
    });
    made.push(broker);
    return wrap(broker);
  };
  const context: BrokerUnderTest = {
    patienceMs,
    broker: (settings = {}) => open(settings),
    unreachable: (settings = {}) => open(settings, { brokers: [`127.0.0.1:${deadPort}`] }),
    newName: () => uniqueName("suite"),
    ...topicsOf(side),
    ...writingOf(side),
    network: async (settings = {}) => {
      const [host = "", port = ""] = (side.brokers[0] ?? "").split(":");
      const proxy = await startProxy(Number(port), host);
      proxies.push(proxy);
      return network(proxy, open(settings, throughProxy(proxy.port)));
    },
  };
  const close = async () => {
    // Cut first: nothing may wait for a network that a case has silenced.
    await Promise.all(proxies.map((proxy) => proxy.close()));
    await Promise.all(made.map((broker) => broker.close()));
  };
  return { context, close };
}

const deadPort = await freePort();

/** Every connection, also those to the address that the broker tells its clients. */
function throughProxy(port: number): Partial<KafkajsBrokerConfig> {
  return {
    brokers: [`127.0.0.1:${port}`],
    socketFactory: ({ onConnect }) => connect(port, "127.0.0.1", onConnect),
  };
}

function network(proxy: FaultProxy, broker: Broker): BreakableNetwork {
  return {
    broker,
    cut: () => proxy.cutAll(),
    silence: () => proxy.pause(),
    resume: () => proxy.resume(),
  };
}

type Topics = Pick<
  BrokerUnderTest,
  "createTopic" | "understaffedTopic" | "deleteTopic" | "recreateTopic" | "deleteRecords"
>;

function topicsOf({ admin, plain }: KafkaSide): Topics {
  const create = async (partitions: number, config: Readonly<Record<string, string>>) => {
    const topic = uniqueName("suite");
    const configEntries = Object.entries(config).map(([name, value]) => ({ name, value }));
    await createTopic(admin, { topic, numPartitions: partitions, configEntries });
    return topic;
  };
  return {
    createTopic: ({ partitions = 1, recordBytesMax } = {}) =>
      create(
        partitions,
        recordBytesMax === undefined ? {} : { "max.message.bytes": `${recordBytesMax}` },
      ),
    // One replica, and two wanted: Kafka stores nothing that asks for all of them.
    understaffedTopic: () => create(1, { "min.insync.replicas": "2" }),
    deleteTopic: (topic) => admin.deleteTopics({ topics: [topic] }),
    recreateTopic: async (topic) => {
      const before = (await plain.offsets(topic, "latest")).topicId;
      await admin.deleteTopics({ topics: [topic] });
      // Kafka deletes in the background, and refuses the name until it is done.
      for (;;) {
        await createTopic(admin, { topic, numPartitions: 1 }).catch(() => undefined);
        const after = await plain.offsets(topic, "latest").catch(() => null);
        if (after?.topicId && after.topicId !== before) return after.topicId;
      }
    },
    deleteRecords: async (topic, partition, below) => {
      // kafkajs' admin does not look up what it needs to know for it.
      await admin.fetchTopicOffsets(topic);
      await admin.deleteTopicRecords({ topic, partitions: [{ partition, offset: `${below}` }] });
    },
  };
}

type Writing = Pick<BrokerUnderTest, "produce" | "transaction" | "stored">;

function writingOf({ kafka, brokers, producer }: KafkaSide): Writing {
  const messagesOf = (partition: number, values: readonly string[]) =>
    values.map((value) => ({ partition, value }));
  return {
    produce: async (topic, partition, records) => {
      const messages = records.map(({ key = null, value, timestamp }) => {
        const time = timestamp === undefined ? {} : { timestamp: `${timestamp}` };
        return { partition, key, value, ...time };
      });
      await producer.send({ topic, acks: -1, messages });
    },
    transaction: async (topic, partition, ...values) => {
      const { send, commit, abort } = await openTransaction(
        kafka,
        topic,
        messagesOf(partition, values),
      );
      return { write: (...more) => send(topic, messagesOf(partition, more)), commit, abort };
    },
    stored: async (topic) => (await readTopic(brokers, topic)).records,
  };
}
