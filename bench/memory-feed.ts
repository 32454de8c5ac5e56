/** A broker that hands over records from memory: the inbox without Kafka's share. */

import { setTimeout as delay } from "node:timers/promises";
import type { Broker, BrokerRecord, OnceboxEvent } from "@oncebox/core";
import { rate } from "./figures.ts";

const batchSize = 500;

/** With an id each, of keys and values that are the numbers below `keys` in turn. */
export function numberedRecords(count: number, keys: number): BrokerRecord[] {
  return Array.from({ length: count }, (_, i) => ({
    offset: BigInt(i),
    timestamp: 0n,
    leaderEpoch: null,
    key: Buffer.from(String(i % keys)),
    value: Buffer.from(String(i % keys)),
    headers: [["id", Buffer.from(crypto.randomUUID())]],
  }));
}

/** What a consumer that is to be measured is made with. */
export interface Feed {
  readonly name: string;
  readonly broker: Broker;
  readonly observer: (event: OnceboxEvent) => void;
}

let feeds = 0;

/**
 * Messages per second of a consumer, from when it stands at the record `from` (its start, by default)
 * until it has moved past all.
 */
export async function drainRate(
  records: readonly BrokerRecord[],
  make: (feed: Feed) => AsyncDisposable & { readonly start: () => Promise<void> },
  from = 0,
): Promise<number> {
  feeds += 1;
  let arrived = () => {};
  const there = new Promise<void>((resolve) => {
    arrived = resolve;
  });
  let done = () => {};
  const drained = new Promise<void>((resolve) => {
    done = resolve;
  });
  await using consumer = make({
    name: `bench-${feeds}`,
    broker: memoryFeed(records),
    observer: (event) => {
      if (event.type !== "inbox.chunk-committed") return;
      if (event.nextOffset >= BigInt(from)) arrived();
      if (event.nextOffset >= BigInt(records.length)) done();
    },
  });
  // Awaited here: otherwise the service would be disposed of first.
  if (from > 0) {
    await consumer.start();
    await there;
  }
  return await rate(records.length - from, async () => {
    if (from === 0) await consumer.start();
    await drained;
  });
}

/** Each of the partitions holds all of these records. */
export function memoryFeed(records: readonly BrokerRecord[], partitions = 1): Broker {
  const end = BigInt(records.length);
  const numbers = Array.from({ length: partitions }, (_, partition) => partition);
  const refuse = () => Promise.reject(new Error("the memory feed has no producer"));
  return {
    timing: {
      sessionTimeoutMs: 30_000,
      heartbeatIntervalMs: 3_000,
      rebalanceTimeoutMs: 60_000,
      publishTimeoutMs: 1_000,
    },
    partitions: async () => partitions,
    partitionOf: () => 0,
    offsets: async () => ({ topicId: "feed", offsets: new Map(numbers.map((n) => [n, 0n])) }),
    retentionMs: async () => null,
    group: async () => ({ members: 0, offsets: [] }),
    setGroupOffsets: async () => {},
    producer: refuse,
    close: async () => {},
    consumer: async ({ topics: [topic = ""] }, { assigned, position, fetched, deliver }) => {
      let running = true;
      const pump = async (partition: number) => {
        const at = { topic, partition };
        while (running) {
          const from = position(at)?.offset ?? end;
          if (from >= end) {
            // Looking more often would take the processor from what is measured.
            await delay(1);
            continue;
          }
          const slice = records.slice(Number(from), Number(from) + batchSize);
          const endOffset = from + BigInt(slice.length);
          fetched(at, { start: 0n, lastStable: end, end });
          deliver({
            ...at,
            ...{ assignment: 1, fetchedOffset: from, endOffset, records: slice },
            ...{ topicId: "feed", endEpoch: null },
          });
        }
      };
      assigned(
        1,
        numbers.map((partition) => ({ topic, partition })),
      );
      const pumping = Promise.all(numbers.map(pump));
      return {
        commit: async () => true,
        stop: async () => {
          running = false;
          await pumping;
        },
      };
    },
  };
}
