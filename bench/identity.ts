/**
 * What it costs that each fetch says which log it means: the same topic read with topic id and leader
 * epoch ÷ without, through the broker alone.
 */
import type { Broker, FetchPosition } from "@oncebox/core";
import { kafkajsBroker } from "@oncebox/kafkajs";
import { uniqueName } from "../test/fixtures/names.ts";
import type { Servers } from "./bench.ts";
import { compare, rate } from "./figures.ts";
import { fillTopic } from "./fill-topic.ts";

const messages = 400_000;
const partitions = 4;

export async function identity({ brokers }: Servers): Promise<string> {
  const topic = await fillTopic(brokers, { messages, partitions, bytes: 100 });
  const broker = kafkajsBroker({ clientId: "bench", brokers: [...brokers] });
  try {
    const { ours, theirs, ratio } = await compare(
      5,
      () => readAll(broker, topic, true),
      () => readAll(broker, topic, false),
    );
    return `with ${ours.toFixed(0)}/s ÷ without ${theirs.toFixed(0)}/s = ${ratio.toFixed(2)} (no further request is made for it)`;
  } finally {
    await broker.close();
  }
}

async function readAll(broker: Broker, topic: string, known: boolean): Promise<number> {
  const positions = new Map<number, FetchPosition>();
  const start = { offset: 0n, topicId: null, leaderEpoch: null };
  let left = messages;
  let done = () => {};
  const drained = new Promise<void>((resolve) => {
    done = resolve;
  });
  let began = 0;
  const ignore = () => {};
  const consumer = await broker.consumer(
    { groupId: uniqueName("bench"), topics: [topic] },
    {
      assigned: () => {
        began = performance.now();
      },
      position: ({ partition }) => positions.get(partition) ?? start,
      deliver: ({ partition, endOffset, endEpoch, topicId, records }) => {
        const told = known
          ? { topicId, leaderEpoch: endEpoch }
          : { topicId: null, leaderEpoch: null };
        positions.set(partition, { offset: endOffset, ...told });
        left -= records.length;
        if (left <= 0) done();
      },
      ...{ fetched: ignore, displaced: ignore, unreadable: ignore, troubled: ignore },
      failed: (error) => {
        throw error;
      },
    },
  );
  await rate(messages, () => drained);
  const perSecond = (messages * 1_000) / (performance.now() - began);
  await consumer.stop(2_000);
  return perSecond;
}
