// The broker suite on the memory broker. Time is the machine's: the suite waits by it.

import type { Broker } from "@oncebox/core";
import {
  type BrokerSettings,
  type BrokerUnderTest,
  brokerConformance,
  memoryBroker,
  memoryCluster,
} from "@oncebox/testing";
import { describe, expect, test } from "vitest";

const decoder = new TextDecoder();

function memoryUnderTest(): { readonly context: BrokerUnderTest; close: () => Promise<void> } {
  const cluster = memoryCluster();
  const made: Broker[] = [];
  const open = (settings: BrokerSettings = {}) => {
    const broker = memoryBroker({
      ...{ cluster, sessionTimeoutMs: 10_000, heartbeatIntervalMs: 50, maxWaitMs: 50 },
      ...{ rebalanceTimeoutMs: 10_000, publishTimeoutMs: 10_000 },
      ...settings,
    });
    made.push(broker);
    return broker;
  };
  const { admin } = open();
  let names = 0;
  const newName = () => {
    names += 1;
    return `suite-${names}`;
  };
  const create = async (settings: Parameters<typeof admin.createTopic>[1]) => {
    const topic = newName();
    admin.createTopic(topic, settings);
    return topic;
  };
  const context: BrokerUnderTest = {
    patienceMs: 5_000,
    broker: open,
    unreachable: (settings) => {
      const broker = open(settings);
      broker.network.down(true);
      return broker;
    },
    newName,
    createTopic: create,
    understaffedTopic: () => create({ understaffed: true }),
    deleteTopic: async (topic) => admin.deleteTopic(topic),
    recreateTopic: async (topic) => admin.recreateTopic(topic, { partitions: 1 }),
    deleteRecords: async (topic, partition, below) => admin.deleteRecords(topic, partition, below),
    produce: async (topic, partition, records) => admin.produce(topic, partition, records),
    transaction: async (topic, partition, ...values) => {
      const { write, commit, abort } = admin.transaction();
      const append = (texts: readonly string[]) =>
        write(
          topic,
          partition,
          texts.map((value) => ({ value })),
        );
      append(values);
      return {
        write: async (...more) => append(more),
        commit: async () => commit(),
        abort: async () => abort(),
      };
    },
    stored: async (topic) =>
      admin.stored(topic).map(({ partition, offset, key }) => {
        return { partition, offset, key: key === null ? null : decoder.decode(key) };
      }),
    network: async (settings) => {
      const broker = open(settings);
      return { broker, ...broker.network };
    },
  };
  const close = async () => {
    await Promise.all(
      made.map((broker) => {
        (broker as ReturnType<typeof open>).network.resume();
        return broker.close();
      }),
    );
  };
  return { context, close };
}

// Each context has a cluster of its own, and most of a case is waiting.
describe.concurrent("memoryBroker", () => {
  const cases = brokerConformance();

  for (const { promise, name, run } of cases) {
    test(`${promise} ${name}`, async () => {
      const { context, close } = memoryUnderTest();
      try {
        await run(context);
      } finally {
        await close();
      }
    });
  }

  test("with every capability that a case may need, and no case left out", () => {
    const { context } = memoryUnderTest();
    expect(context.network).toBeDefined();
    expect(context.understaffedTopic).toBeDefined();
    expect(cases.length).toBeGreaterThan(40);
  });
});
