/**
 * The broker port on kafkajs: makes producers and consumers, each with connections of its own, and
 * answers questions about topics and groups. Owns what it made until `close`; never touches a record.
 */
import { type Broker, type BrokerConsumer, type BrokerProducer, murmur2 } from "@oncebox/core";
import { Cluster } from "./cluster.ts";
import { startConsumer } from "./kafkajs-consumer.ts";
import { type KafkajsBrokerConfig, kafkajsSettings } from "./kafkajs-options.ts";
import { createProducer, openQuietClient } from "./kafkajs-producer.ts";

const encoder = new TextEncoder();

const closeDeadlineMs = 5_000;

/**
 * A broker on kafkajs 2.2.4. Nothing is connected before it is needed. Throws ConfigurationError for
 * options that do not fit, all in one list.
 */
export function kafkajsBroker(config: KafkajsBrokerConfig): Broker {
  const settings = kafkajsSettings(config);
  const cluster = new Cluster(() => openQuietClient(settings));
  const producers = new Set<BrokerProducer>();
  const consumers = new Set<BrokerConsumer>();
  return {
    timing: {
      sessionTimeoutMs: settings.sessionTimeoutMs,
      heartbeatIntervalMs: settings.heartbeatIntervalMs,
      rebalanceTimeoutMs: settings.rebalanceTimeoutMs,
      publishTimeoutMs: settings.publishTimeoutMs,
    },
    partitions: async (topic) => (await cluster.describe(topic)).length,
    partitionOf,
    offsets: (topic, at) => cluster.offsets(topic, at),
    retentionMs: (topic) => cluster.retentionMs(topic),
    group: (groupId, topics) => cluster.group(groupId, topics),
    setGroupOffsets: (groupId, offsets) => cluster.setGroupOffsets(groupId, offsets),
    producer: async () => {
      const producer = createProducer(settings);
      producers.add(producer);
      return producer;
    },
    consumer: async (options, callbacks) => {
      const consumer = await startConsumer(settings, options, callbacks);
      // Forgotten when it stops: a consumer that is rebuilt again and again must not pile up.
      const made: BrokerConsumer = {
        commit: consumer.commit,
        stop: async (deadlineMs) => {
          consumers.delete(made);
          await consumer.stop(deadlineMs);
        },
      };
      consumers.add(made);
      return made;
    },
    close: async () => {
      await Promise.all([...consumers].map((consumer) => consumer.stop(closeDeadlineMs)));
      await Promise.all([...producers].map((producer) => producer.close()));
      cluster.close();
    },
  };
}

function partitionOf(key: Uint8Array | null, id: string, partitions: number): number {
  const bytes = key ?? encoder.encode(id);
  // Kafka's `toPositive`: the sign bit is cut off.
  return (murmur2(bytes) & 0x7fffffff) % partitions;
}
