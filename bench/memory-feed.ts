/** A broker of one partition that hands over records from memory: the inbox without Kafka's share. */

import { setTimeout as delay } from "node:timers/promises";
import type { Broker, BrokerRecord } from "@oncebox/core";

const batchSize = 500;

export function memoryFeed(records: readonly BrokerRecord[]): Broker {
  const end = BigInt(records.length);
  const refuse = () => Promise.reject(new Error("the memory feed has no producer"));
  return {
    timing: {
      sessionTimeoutMs: 30_000,
      heartbeatIntervalMs: 3_000,
      rebalanceTimeoutMs: 60_000,
      publishTimeoutMs: 1_000,
    },
    partitions: async () => 1,
    partitionOf: () => 0,
    offsets: async () => ({ topicId: "feed", offsets: new Map([[0, 0n]]) }),
    group: async () => ({ members: 0, offsets: [] }),
    setGroupOffsets: async () => {},
    producer: refuse,
    close: async () => {},
    consumer: async ({ topics: [topic = ""] }, { assigned, position, fetched, deliver }) => {
      let running = true;
      const at = { topic, partition: 0 };
      const pump = async () => {
        assigned(1, [at]);
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
      const pumping = pump();
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
