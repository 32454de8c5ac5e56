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
    const marked = (finish: () => Promise<unknown>) => async () => {
      const before = await logEnd(side.brokers, topic, partition);
      await finish();
      const end = () => logEnd(side.brokers, topic, partition);
      await until(async () => (await end()) !== before, "the marker of a transaction");
    };
    return { ...begun, commit: marked(begun.commit), abort: marked(begun.abort) };
  };
  // Kafka deletes in the background, and takes records for a while.
  const deleteTopic: BrokerUnderTest["deleteTopic"] = async (topic) => {
    await context.deleteTopic(topic);
    // Not the number of partitions, which the client remembers.
    const isThere = () =>
      side.plain.offsets(topic, "latest").then(
        () => true,
        () => false,
      );
    await until(async () => !(await isThere()), "the end of a topic");
  };
  return { context: { ...context, transaction, deleteTopic }, close };
}

async function until(holds: () => Promise<boolean>, what: string): Promise<void> {
  const deadline = performance.now() + patienceMs;
  while (!(await holds())) {
    if (performance.now() > deadline) throw new Error(`${what} did not come in ${patienceMs} ms`);
  }
}
