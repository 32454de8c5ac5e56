/**
 * The Produce request in version 7: written by us, sent over kafkajs' connection, its answer read
 * partition by partition. kafkajs' own encoding turns bytes that are no `Buffer` into text, refuses
 * null header values, sorts headers by name, and is slower by far. Never decides what is sent.
 */
import { checkApiVersion, type KafkaNode, withProtocol } from "./kafkajs-client.ts";
import { type SizedBatch, writeBatch } from "./record-batch.ts";
import { Writer } from "./wire.ts";

/** The records of one partition that go out together. */
export interface ProduceBatch {
  readonly topic: string;
  readonly partition: number;
  readonly batch: SizedBatch;
}

/** Kafka's code per partition, by `topic/partition`; one that is not listed was not answered. */
type ProduceAnswer = ReadonlyMap<string, number>;

const produceKey = 0;
const produceVersion = 7;
const allReplicas = -1;

const encoder = new TextEncoder();

/** Sends once. Rejects when there is no answer: then everything may have been stored or not. */
export async function produce(
  node: KafkaNode,
  batches: readonly ProduceBatch[],
  timestamp: bigint,
  timeoutMs: number,
): Promise<ProduceAnswer> {
  const body = encodeProduce(batches, timestamp, timeoutMs);
  const view = withProtocol(node, produceKey, (call) => {
    checkApiVersion(call, produceVersion, "2.1");
    return {
      ...call,
      // What kafkajs' own encoder looks like to the code that copies it into the frame.
      request: { ...call.request, encode: async () => ({ buf: body, buffer: body }) },
      // Without its check, which throws for the first error and hides the other partitions.
      response: { decode: call.response.decode, parse: async (answer: Answer) => answer },
    };
  });
  const call = { acks: allReplicas, timeout: timeoutMs, topicData: [] };
  const answer = (await node.produce.call(view, call)) as Answer;
  const codes = new Map<string, number>();
  for (const { topicName, partitions } of answer.topics) {
    for (const { partition, errorCode } of partitions) {
      codes.set(`${topicName}/${partition}`, errorCode);
    }
  }
  return codes;
}

interface Answer {
  readonly topics: readonly {
    readonly topicName: string;
    readonly partitions: readonly { readonly partition: number; readonly errorCode: number }[];
  }[];
}

/** Topics in the order of their first batch; a partition at most once. */
function encodeProduce(
  batches: readonly ProduceBatch[],
  timestamp: bigint,
  timeoutMs: number,
): Buffer {
  const topics = new Map<string, ProduceBatch[]>();
  for (const entry of batches) {
    const ofTopic = topics.get(entry.topic);
    if (ofTopic === undefined) topics.set(entry.topic, [entry]);
    else ofTopic.push(entry);
  }
  const named = [...topics].map(([topic, entries]) => ({ name: encoder.encode(topic), entries }));
  let size = 2 + 2 + 4 + 4; // transactional id, acks, time-out, number of topics
  for (const { name, entries } of named) {
    size += 2 + name.length + 4;
    for (const { batch } of entries) size += 4 + 4 + batch.size;
  }
  const writer = new Writer(size);
  writer.int16(-1);
  writer.int16(allReplicas);
  writer.int32(timeoutMs);
  writer.int32(named.length);
  for (const { name, entries } of named) {
    writer.string(name);
    writer.int32(entries.length);
    for (const { partition, batch } of entries) {
      writer.int32(partition);
      writer.int32(batch.size);
      writeBatch(writer, batch, timestamp);
    }
  }
  return writer.bytes;
}
