/**
 * Sends records and says of each what became of it. Owns the order: one batch of a partition on its
 * way at a time, nothing behind one whose outcome is not known. Never sends anything twice by itself,
 * except the parts of a batch that Kafka refused whole.
 *
 * kafkajs' producer is not used, its connections are: `send` gives one error for a whole request, may
 * resolve although a partition was never written, and cannot send every header.
 */
import {
  type BrokerProducer,
  type OutgoingRecord,
  type PublishResult,
  systemClock,
  within,
} from "@oncebox/core";
import { createAssigner } from "./assigner.ts";
import { connectTo, type KafkajsClient, openClient } from "./kafkajs-client.ts";
import {
  errorOfCode,
  kafkaCode,
  produceVerdict,
  toOnceboxError,
  topicMissing,
} from "./kafkajs-errors.ts";
import type { KafkajsSettings } from "./kafkajs-options.ts";
import { type ProduceBatch, produce } from "./produce-request.ts";
import { Outcome } from "./publish-outcome.ts";
import { type SizedBatch, sizeBatch } from "./record-batch.ts";

/** Batches start below Kafka's default limit of 1,048,588 bytes; a broker with a lower one halves them. */
const batchBytesMax = 1_000_000;

/** For connecting only: records are sent once. */
const retry = {
  initialRetryTime: 50,
  maxRetryTime: 1_000,
  factor: 0.2,
  multiplier: 2,
  retries: 3,
} as const;

/** A client for metadata and sending. It is never run, so it joins no group. */
export function openQuietClient(settings: KafkajsSettings): KafkajsClient {
  return openClient(
    settings,
    { groupId: "none", retry },
    { assigner: (cluster) => createAssigner(cluster) },
  );
}

export function createProducer(settings: KafkajsSettings): BrokerProducer {
  const producer = new KafkajsProducer(settings);
  return {
    publish: (records) => producer.publish(records),
    close: () => producer.close(),
  };
}

/** What is still to be sent of one partition, in order; parts hold indexes of records. */
interface PartitionQueue {
  readonly topic: string;
  readonly partition: number;
  parts: (readonly number[])[];
}

/** One request: what goes to one node together. */
interface Shipment {
  readonly nodeId: number;
  readonly entries: { queue: PartitionQueue; part: readonly number[]; batch: SizedBatch }[];
}

class KafkajsProducer {
  readonly #settings: KafkajsSettings;
  #client: KafkajsClient | null = null;
  #last: Promise<unknown> = Promise.resolve();
  #closed = false;

  constructor(settings: KafkajsSettings) {
    this.#settings = settings;
  }

  /** Calls wait for each other: two requests side by side could change places. */
  publish(records: readonly OutgoingRecord[]): Promise<PublishResult> {
    const result = this.#last.then(() => this.#publish(records));
    this.#last = result.catch(() => undefined);
    return result;
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#last;
    this.#discard();
  }

  async #publish(records: readonly OutgoingRecord[]): Promise<PublishResult> {
    const outcome = new Outcome(records);
    if (this.#closed) return outcome.seal(new TypeError("the producer is closed"));
    const { publishTimeoutMs } = this.#settings;
    const deadline = systemClock.now() + publishTimeoutMs;
    let trouble: unknown = null;
    const work = this.#send(outcome, deadline).catch((error: unknown) => {
      trouble = error;
    });
    if ((await within(systemClock, publishTimeoutMs, work, "late")) === "late") {
      trouble = new Error(`no answer within ${publishTimeoutMs} ms`);
    }
    const result = outcome.seal(toOnceboxError(trouble ?? new Error("no answer"), "publishing"));
    // After anything but clear answers the connection is in doubt, and so is what is on its way.
    if (result.unknown.length > 0) this.#discard();
    return result;
  }

  #discard(): void {
    this.#client?.destroy();
    this.#client = null;
  }

  async #send(outcome: Outcome, deadline: number): Promise<void> {
    this.#client ??= openQuietClient(this.#settings);
    const client = this.#client;
    let queues = queuesOf(outcome.records);
    const topics = [...new Set(queues.map(({ topic }) => topic))];
    await connectTo(client, topics);
    const strange = (topic: string) =>
      client.topicError(topic) !== kafkaCode.none ||
      queues.some((queue) => queue.topic === topic && leaderOf(client, queue) === null);
    if (topics.some(strange)) await client.cluster.refreshMetadata();
    queues = queues.filter((queue) => this.#isSendable(client, outcome, queue));
    while (queues.length > 0 && !outcome.sealed) {
      const shipments = shipmentsOf(client, outcome, queues);
      await Promise.all(
        shipments.map((shipment) => ship(client, outcome, shipment, deadline - systemClock.now())),
      );
      queues = queues.filter(({ parts }) => parts.length > 0);
    }
  }

  /** Settles a queue that cannot be sent at all. */
  #isSendable(client: KafkajsClient, outcome: Outcome, queue: PartitionQueue): boolean {
    const { topic, partition, parts } = queue;
    const code = client.topicError(topic);
    if (code === kafkaCode.unknownTopicOrPartition) {
      outcome.refuse(parts.flat(), topicMissing([topic]), "topic");
      return false;
    }
    const verdict = produceVerdict(code);
    if (verdict === "topic") {
      outcome.refuse(parts.flat(), errorOfCode(code, topic, partition), "topic");
      return false;
    }
    const leader = leaderOf(client, queue);
    if (verdict === "stored" && leader === null) {
      outcome.refuse(
        parts.flat(),
        errorOfCode(kafkaCode.unknownTopicOrPartition, topic, partition),
        "topic",
      );
      return false;
    }
    if (verdict === "stored" && leader !== -1) return true;
    const reason = code === kafkaCode.none ? kafkaCode.leaderNotAvailable : code;
    outcome.unknown(parts.flat(), errorOfCode(reason, topic, partition));
    return false;
  }
}

function queuesOf(records: readonly OutgoingRecord[]): PartitionQueue[] {
  const found = new Map<string, { queue: PartitionQueue; open: number[]; bytes: number }>();
  for (const [index, record] of records.entries()) {
    const { topic, partition } = record;
    const key = `${topic}/${partition}`;
    let entry = found.get(key);
    if (entry === undefined) {
      const open: number[] = [];
      entry = { queue: { topic, partition, parts: [open] }, open, bytes: 0 };
      found.set(key, entry);
    }
    const bytes = sizeBatch([record]).size;
    if (entry.open.length > 0 && entry.bytes + bytes > batchBytesMax) {
      entry.open = [];
      entry.bytes = 0;
      entry.queue.parts.push(entry.open);
    }
    entry.open.push(index);
    entry.bytes += bytes;
  }
  return [...found.values()].map(({ queue }) => queue);
}

/** -1: no leader at the moment; null: no such partition. */
function leaderOf(client: KafkajsClient, { topic, partition }: PartitionQueue): number | null {
  const known = client.cluster.findTopicPartitionMetadata(topic);
  return known.find(({ partitionId }) => partitionId === partition)?.leader ?? null;
}

/** The first part of each queue, by the node that leads its partition. */
function shipmentsOf(
  client: KafkajsClient,
  outcome: Outcome,
  queues: readonly PartitionQueue[],
): Shipment[] {
  const byNode = new Map<number, Shipment>();
  for (const queue of queues) {
    const part = queue.parts.shift();
    if (part === undefined) continue;
    const nodeId = leaderOf(client, queue) ?? -1;
    const shipment = byNode.get(nodeId) ?? { nodeId, entries: [] };
    const batch = sizeBatch(part.map((index) => outcome.records[index] as OutgoingRecord));
    shipment.entries.push({ queue, part, batch });
    byNode.set(nodeId, shipment);
  }
  return [...byNode.values()];
}

async function ship(
  client: KafkajsClient,
  outcome: Outcome,
  { nodeId, entries }: Shipment,
  leftMs: number,
): Promise<void> {
  let answer: ReadonlyMap<string, number> = new Map();
  let trouble: Error | null = null;
  try {
    const node = await client.cluster.findBroker({ nodeId: String(nodeId) });
    // The time-out may have struck while connecting: what was reported as unknown must not follow.
    if (outcome.sealed) return;
    const batches = entries.map(({ queue, batch }): ProduceBatch => ({ ...queue, batch }));
    const timeoutMs = Math.max(1, Math.floor(leftMs));
    answer = await produce(node, batches, BigInt(systemClock.epochMs()), timeoutMs);
  } catch (error) {
    trouble = toOnceboxError(error, "publishing");
  }
  for (const { queue, part } of entries) {
    const code = answer.get(`${queue.topic}/${queue.partition}`);
    if (code !== undefined) await settle(client, outcome, queue, part, code);
    else {
      const silent =
        trouble ?? new Error(`Kafka did not answer for ${queue.topic}/${queue.partition}`);
      outcome.unknown([...part, ...queue.parts.flat()], toOnceboxError(silent, "publishing"));
      queue.parts = [];
    }
  }
}

/** Notes what Kafka said of one part, and what that means for the parts behind it. */
async function settle(
  client: KafkajsClient,
  outcome: Outcome,
  queue: PartitionQueue,
  part: readonly number[],
  code: number,
): Promise<void> {
  const error = errorOfCode(code, queue.topic, queue.partition);
  const verdict = produceVerdict(code);
  const rest = () => {
    const behind = queue.parts.flat();
    queue.parts = [];
    return [...part, ...behind];
  };
  switch (verdict) {
    case "stored":
      return outcome.acknowledge(part);
    case "message":
      return isolate(outcome, queue, part, error);
    case "topic":
      return outcome.refuse(rest(), error, "topic");
    case "missing-topic": {
      await client.cluster.refreshMetadata();
      if (client.topicError(queue.topic) === kafkaCode.unknownTopicOrPartition) {
        return outcome.refuse(rest(), topicMissing([queue.topic]), "topic");
      }
      return outcome.unknown(rest(), error);
    }
    case "unknown":
      return outcome.unknown(rest(), error);
  }
}

/** A batch was refused whole and stored nothing: halves are tried, down to the guilty record. */
function isolate(
  outcome: Outcome,
  queue: PartitionQueue,
  part: readonly number[],
  error: Error,
): void {
  const middle = Math.ceil(part.length / 2);
  if (part.length > 1) {
    queue.parts.unshift(part.slice(0, middle), part.slice(middle));
    return;
  }
  outcome.refuse(part, error, "message");
  const key = outcome.records[part[0] as number]?.key ?? null;
  if (key === null) return;
  // Later records of its key must not overtake it: they are left for the caller to decide.
  const sameKey = (index: number) => {
    const other = outcome.records[index]?.key ?? null;
    return other !== null && Buffer.compare(other, key) === 0;
  };
  outcome.unknown(queue.parts.flat().filter(sameKey), error);
  queue.parts = queue.parts
    .map((later) => later.filter((index) => !sameKey(index)))
    .filter((later) => later.length > 0);
}
