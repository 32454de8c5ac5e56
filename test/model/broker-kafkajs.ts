// Owns kafkajs on real Kafka as a side of the scripts, by way of what the conformance suite makes of
// it. A transaction has ended here when its marker lies in the log: Kafka answers before it does, and
// what is written next would lie before or behind it as it happens.

import type { BrokerUnderTest } from "@oncebox/testing";
import { type KafkaSide, kafkajsUnderTest } from "../conformance/kafkajs-under-test.ts";
import { logEnd } from "../fixtures/topic-log.ts";

const patienceMs = 10_000;

export function kafkajsContext(side: KafkaSide): {
  readonly context: BrokerUnderTest;
  readonly close: () => Promise<void>;
} {
  const { context, close } = kafkajsUnderTest(side);
  const transaction: BrokerUnderTest["transaction"] = async (topic, partition, ...values) => {
    const begun = await context.transaction(topic, partition, ...values);
    const marked = (end: () => Promise<unknown>) => async () => {
      const before = await logEnd(side.brokers, topic, partition);
      await end();
      const deadline = performance.now() + patienceMs;
      while ((await logEnd(side.brokers, topic, partition)) === before) {
        if (performance.now() > deadline) throw new Error("the marker of a transaction is missing");
      }
    };
    return { ...begun, commit: marked(begun.commit), abort: marked(begun.abort) };
  };
  return { context: { ...context, transaction }, close };
}
