/**
 * The Metadata request in version 12, for the one thing that kafkajs' own versions do not tell: the
 * id of a topic, which is another one when the topic was made anew. Wire form only.
 */
import type { KafkaNode } from "./kafkajs-client.ts";
import { ask, type OwnRequest } from "./own-request.ts";
import { compactBytesSize, type Reader, uvarintSize, Writer } from "./wire.ts";

/** What a broker says of one topic. */
export interface TopicAnswer {
  readonly code: number;
  /** Null where the broker names none. */
  readonly topicId: string | null;
}

interface MetadataAnswer {
  readonly throttleMs: number;
  readonly topics: ReadonlyMap<string, TopicAnswer>;
}

const encoder = new TextEncoder();
const noId = Buffer.alloc(16).toString("base64url");

/** Asks one node, which may know less than another: news reach brokers one by one. */
export async function lookUpTopics(
  node: KafkaNode,
  topics: readonly string[],
): Promise<ReadonlyMap<string, TopicAnswer>> {
  return (await ask(node, metadataRequest(topics))).topics;
}

export function metadataRequest(topics: readonly string[]): OwnRequest<MetadataAnswer> {
  return {
    apiKey: 3,
    apiName: "Metadata",
    version: 12,
    since: "3.1",
    body: encodeMetadata(topics),
    decode: decodeMetadata,
  };
}

function encodeMetadata(topics: readonly string[]): Buffer {
  const names = topics.map((topic) => encoder.encode(topic));
  let size = 1 + uvarintSize(names.length + 1) + 3;
  for (const name of names) size += 16 + compactBytesSize(name) + 1;
  const writer = new Writer(size);
  writer.uvarint(0); // optional fields of the header
  writer.uvarint(names.length + 1);
  for (const name of names) {
    writer.raw(Buffer.alloc(16)); // asked by name, not by id
    writer.compactBytes(name);
    writer.uvarint(0);
  }
  writer.int8(0); // never create
  writer.int8(0); // no authorised operations
  writer.uvarint(0);
  return writer.bytes;
}

function decodeMetadata(reader: Reader): MetadataAnswer {
  const throttleMs = reader.int32();
  reader.compactList(() => {
    reader.int32(); // node
    reader.compactString(); // host
    reader.int32(); // port
    reader.compactString(); // rack
    reader.tags();
  });
  reader.compactString(); // cluster
  reader.int32(); // controller
  const topics = new Map<string, TopicAnswer>();
  reader.compactList(() => {
    const code = reader.int16();
    const name = reader.compactString();
    const id = reader.uuid();
    reader.int8(); // whether it is internal
    reader.compactList(() => skipPartition(reader));
    reader.int32(); // authorised operations
    reader.tags();
    if (name !== null) topics.set(name, { code, topicId: id === noId ? null : id });
  });
  reader.tags();
  return { throttleMs, topics };
}

function skipPartition(reader: Reader): void {
  reader.at += 2 + 4 + 4 + 4; // error, partition, leader, leader epoch
  for (let lists = 0; lists < 3; lists += 1) reader.compactList(() => reader.int32());
  reader.tags();
}
