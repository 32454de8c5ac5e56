/**
 * The broker port on kafkajs: makes producers and consumers, each with connections of its own, and
 * answers questions about topics. Owns what it made until `close`; never touches a record.
 */
import {
  type Broker,
  type BrokerConsumer,
  BrokerError,
  type BrokerProducer,
  murmur2,
  systemClock,
} from "@oncebox/core";
import { connectTo, type KafkajsClient, type PartitionMetadata } from "./kafkajs-client.ts";
import { startConsumer } from "./kafkajs-consumer.ts";
import { codeName, kafkaCode, toOnceboxError, topicMissing } from "./kafkajs-errors.ts";
import { type KafkajsBrokerConfig, kafkajsSettings } from "./kafkajs-options.ts";
import { createProducer, openQuietClient } from "./kafkajs-producer.ts";

const encoder = new TextEncoder();

/** A topic just created has no leaders for a moment. */
const leaderWaitMs = 100;
const leaderAttempts = 30;

const closeDeadlineMs = 5_000;

/**
 * A broker on kafkajs 2.2.4. Nothing is connected before it is needed. Throws ConfigurationError for
 * options that do not fit, all in one list.
 */
export function kafkajsBroker(config: KafkajsBrokerConfig): Broker {
  const settings = kafkajsSettings(config);
  const topics = new Topics(() => openQuietClient(settings));
  const producers = new Set<BrokerProducer>();
  const consumers = new Set<BrokerConsumer>();
  return {
    timing: {
      sessionTimeoutMs: settings.sessionTimeoutMs,
      heartbeatIntervalMs: settings.heartbeatIntervalMs,
      publishTimeoutMs: settings.publishTimeoutMs,
    },
    partitions: async (topic) => (await topics.describe(topic)).length,
    partitionOf,
    offsets: (topic, at) => topics.offsets(topic, at),
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
      topics.close();
    },
  };
}

function partitionOf(key: Uint8Array | null, id: string, partitions: number): number {
  const bytes = key ?? encoder.encode(id);
  // Kafka's `toPositive`: the sign bit is cut off.
  return (murmur2(bytes) & 0x7fffffff) % partitions;
}

/** Questions about topics over one connection, opened by the first one. One at a time. */
class Topics {
  readonly #open: () => KafkajsClient;
  #client: KafkajsClient | null = null;
  #last: Promise<unknown> = Promise.resolve();

  constructor(open: () => KafkajsClient) {
    this.#open = open;
  }

  describe(topic: string): Promise<readonly PartitionMetadata[]> {
    return this.#ask(`asking for topic ${topic}`, (client) => describe(client, topic));
  }

  offsets(topic: string, at: "earliest" | "latest"): Promise<ReadonlyMap<number, bigint>> {
    const what = `asking for offsets of ${topic}`;
    return this.#ask(
      what,
      untilLed(async (client) => {
        const partitions = await describe(client, topic);
        const offsets = new Map<number, bigint>();
        for (const [leader, numbers] of byLeader(partitions)) {
          const node = await client.cluster.findBroker({ nodeId: String(leader) });
          const timestamp = at === "earliest" ? -2 : -1;
          const { responses } = await node.listOffsets({
            // For "latest" the last stable offset: a transaction that is still open is not passed over.
            isolationLevel: 1,
            topics: [{ topic, partitions: numbers.map((partition) => ({ partition, timestamp })) }],
          });
          for (const listed of responses[0]?.partitions ?? []) {
            offsets.set(listed.partition, BigInt(listed.offset));
          }
        }
        return new Map([...offsets].sort(([a], [b]) => a - b));
      }),
    );
  }

  close(): void {
    this.#client?.destroy();
    this.#client = null;
  }

  #ask<T>(what: string, question: (client: KafkajsClient) => Promise<T>): Promise<T> {
    const answer = this.#last.then(async () => {
      this.#client ??= this.#open();
      try {
        return await question(this.#client);
      } catch (error) {
        this.#client.destroy();
        this.#client = null;
        throw toOnceboxError(error, what);
      }
    });
    this.#last = answer.catch(() => undefined);
    return answer;
  }
}

/** Again for a while where a leader has just moved, or does not know yet that it is one. */
function untilLed<T>(question: (client: KafkajsClient) => Promise<T>) {
  return async (client: KafkajsClient): Promise<T> => {
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await question(client);
      } catch (error) {
        const code = (error as { readonly code?: unknown } | null)?.code;
        const unled = typeof code === "number" && unledCodes.has(code);
        if (!unled || attempt >= leaderAttempts) throw error;
        await systemClock.sleep(leaderWaitMs);
        await client.cluster.refreshMetadata();
      }
    }
  };
}

/** The topic is known when these come: unknown topic or partition, no leader, not the leader. */
const unledCodes: ReadonlySet<number> = new Set([3, 5, 6]);

async function describe(
  client: KafkajsClient,
  topic: string,
): Promise<readonly PartitionMetadata[]> {
  await connectTo(client, [topic]);
  for (let attempt = 1; ; attempt += 1) {
    const partitions = client.cluster.findTopicPartitionMetadata(topic);
    const code = client.topicError(topic);
    const ready = partitions.length > 0 && partitions.every(({ leader }) => leader >= 0);
    if (code === kafkaCode.none && ready) return partitions;
    // Asked once more before it counts: what is known may be old.
    if (attempt > 1) refuseTopic(topic, code, attempt);
    if (attempt > 1) await systemClock.sleep(leaderWaitMs);
    await client.cluster.refreshMetadata();
  }
}

function refuseTopic(topic: string, code: number, attempt: number): void {
  if (code === kafkaCode.unknownTopicOrPartition) throw topicMissing([topic]);
  const waiting = code === kafkaCode.none || code === kafkaCode.leaderNotAvailable;
  if (waiting && attempt < leaderAttempts) return;
  const why = waiting ? "a partition has no leader" : codeName(code);
  throw new BrokerError(
    waiting ? "broker-unavailable" : "broker-refused",
    `topic ${topic}: ${why}`,
    { retryable: waiting, details: { topic, kafkaCode: code } },
  );
}

function byLeader(partitions: readonly PartitionMetadata[]): Map<number, number[]> {
  const found = new Map<number, number[]>();
  for (const { leader, partitionId } of partitions) {
    found.set(leader, [...(found.get(leader) ?? []), partitionId]);
  }
  return found;
}
