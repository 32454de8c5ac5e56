// Owns the memory broker as a side of the scripts: a cluster for each, on the machine's clock, as
// members wait for each other by time.

import type { Broker } from "@oncebox/core";
import {
  type BrokerUnderTest,
  type MemoryBroker,
  type MemoryCluster,
  memoryBroker,
  memoryCluster,
} from "@oncebox/testing";

export interface MemoryContext {
  readonly context: BrokerUnderTest;
  readonly close: () => Promise<void>;
}

/** `change` is done to the cluster before anything else, and `wrap` to each broker. */
export function memoryContext(
  change: (broker: MemoryBroker) => void = () => {},
  wrap: (broker: Broker) => Broker = (broker) => broker,
): MemoryContext {
  const cluster: MemoryCluster = memoryCluster();
  const made: MemoryBroker[] = [];
  const open = () => {
    const times = { sessionTimeoutMs: 10_000, heartbeatIntervalMs: 10, maxWaitMs: 10 };
    const broker = memoryBroker({ cluster, ...times, rebalanceTimeoutMs: 10_000 });
    made.push(broker);
    return broker;
  };
  const first = open();
  change(first);
  const { admin } = first;
  let names = 0;
  const newName = () => {
    names += 1;
    return `name-${names}`;
  };
  const valuesOf = (values: readonly string[]) => values.map((value) => ({ value }));
  const decoder = new TextDecoder();
  const context: BrokerUnderTest = {
    patienceMs: 5_000,
    broker: () => wrap(open()),
    unreachable: () => {
      throw new Error("no script asks for it");
    },
    newName,
    createTopic: async (settings) => {
      const topic = newName();
      admin.createTopic(topic, settings);
      return topic;
    },
    deleteTopic: async (topic) => admin.deleteTopic(topic),
    recreateTopic: async (topic) => admin.recreateTopic(topic, { partitions: 1 }),
    deleteRecords: async (topic, partition, below) => admin.deleteRecords(topic, partition, below),
    produce: async (topic, partition, records) => admin.produce(topic, partition, records),
    transaction: async (topic, partition, ...values) => {
      const { write, commit, abort } = admin.transaction();
      write(topic, partition, valuesOf(values));
      return {
        write: async (...more) => write(topic, partition, valuesOf(more)),
        commit: async () => commit(),
        abort: async () => abort(),
      };
    },
    stored: async (topic) =>
      admin.stored(topic).map(({ partition, offset, key }) => {
        return { partition, offset, key: key === null ? null : decoder.decode(key) };
      }),
  };
  const close = async () => {
    await Promise.all(made.map((broker) => broker.close()));
  };
  return { context, close };
}
