// Owns what kafkajs brings to the broker suite: each context has brokers of its own, and a proxy
// where a case breaks the network. What others do to Kafka passes the adapter under test by.

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

/** What one broker can do. For a shortage of replicas see broker-kafkajs-cluster.test.ts. */
export const capabilities: ReadonlySet<BrokerCapability> = new Set(["network"]);

/** What the contexts of a file share. */
export interface KafkaSide {
  readonly kafka: Kafka;
  readonly brokers: string[];
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

/** On the shared brokers unless told otherwise. */
export function kafkaSide(
  brokers: string[] = inject("kafkaBrokers") ?? [],
  kafka: Kafka = testKafka(),
): KafkaSide {
  const plain = kafkajsBroker({ brokers });
  return { kafka, brokers, plain, close: () => plain.close() };
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
  const { disconnect, ...writing } = writingOf(side);
  const context: BrokerUnderTest = {
    patienceMs,
    broker: (settings = {}) => open(settings),
    unreachable: (settings = {}) => open(settings, { brokers: [`127.0.0.1:${deadPort}`] }),
    newName: () => uniqueName("suite"),
    ...topicsOf(side),
    ...writing,
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
    await Promise.all([...made.map((broker) => broker.close()), disconnect()]);
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
  "createTopic" | "deleteTopic" | "recreateTopic" | "deleteRecords"
>;

function topicsOf({ kafka, plain }: KafkaSide): Topics {
  // One for each act: kafkajs' admin loses answers to what is asked of it at once.
  const asAdmin = async <T>(act: (admin: Admin) => Promise<T>): Promise<T> => {
    const admin = kafka.admin();
    await admin.connect();
    try {
      return await act(admin);
    } finally {
      await admin.disconnect();
    }
  };
  const deleteTopic = (topic: string) =>
    asAdmin((admin) => admin.deleteTopics({ topics: [topic] }));
  return {
    createTopic: async ({ partitions = 1, recordBytesMax } = {}) => {
      const topic = uniqueName("suite");
      const limit = { name: "max.message.bytes", value: String(recordBytesMax) };
      const configEntries = recordBytesMax === undefined ? [] : [limit];
      const wanted = { topic, numPartitions: partitions, configEntries };
      await asAdmin((admin) => createTopic(admin, wanted));
      return topic;
    },
    deleteTopic,
    recreateTopic: async (topic) => {
      const before = (await plain.offsets(topic, "latest")).topicId;
      await deleteTopic(topic);
      // Kafka deletes in the background, and refuses the name until it is done.
      for (;;) {
        const wanted = { topic, numPartitions: 1 };
        await asAdmin((admin) => createTopic(admin, wanted)).catch(() => undefined);
        const after = await plain.offsets(topic, "latest").catch(() => null);
        if (after?.topicId && after.topicId !== before) return after.topicId;
      }
    },
    deleteRecords: (topic, partition, below) =>
      asAdmin(async (admin) => {
        // kafkajs' admin does not look up what it needs to know for it.
        await admin.fetchTopicOffsets(topic);
        await admin.deleteTopicRecords({ topic, partitions: [{ partition, offset: `${below}` }] });
      }),
  };
}

type Writing = Pick<BrokerUnderTest, "produce" | "transaction" | "stored">;

function writingOf({ kafka, brokers }: KafkaSide): Writing & { disconnect(): Promise<unknown> } {
  // One for each topic: kafkajs' producers fail for all topics when one is gone.
  const producers = new Map<string, Promise<Producer>>();
  const producerOf = (topic: string) => {
    const open = async () => {
      const made = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner });
      await made.connect();
      return made;
    };
    const producer = producers.get(topic) ?? open();
    producers.set(topic, producer);
    return producer;
  };
  const messagesOf = (partition: number, values: readonly string[]) =>
    values.map((value) => ({ partition, value }));
  return {
    produce: async (topic, partition, records) => {
      const messages = records.map(({ key = null, value, timestamp }) => {
        const time = timestamp === undefined ? {} : { timestamp: `${timestamp}` };
        return { partition, key, value, ...time };
      });
      await (await producerOf(topic)).send({ topic, acks: -1, messages });
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
    disconnect: () =>
      Promise.all([...producers.values()].map(async (made) => (await made).disconnect())),
  };
}
