import type { Socket } from "node:net";
import { Duplex } from "node:stream";
import type { ConsumerCallbacks } from "@oncebox/core";
import { describe, expect, it } from "vitest";
import { startConsumer } from "./kafkajs-consumer.ts";
import { kafkaCode } from "./kafkajs-errors.ts";
import { type KafkajsSettings, kafkajsSettings } from "./kafkajs-options.ts";
import { Reader, Writer } from "./wire.ts";

const metadataKey = 3;
const findCoordinatorKey = 10;
const apiVersionsKey = 18;

const host = "kafka";
const port = 9_092;

/** Which requests the node knows, none in a version above 1. */
function apiVersions(out: Writer): void {
  out.int16(kafkaCode.none);
  out.int32(3);
  for (const [key, newest] of [
    [metadataKey, 1],
    [findCoordinatorKey, 1],
    [apiVersionsKey, 2],
  ] as const) {
    out.int16(key);
    out.int16(0);
    out.int16(newest);
  }
  out.int32(0);
}

/** One node, and no topic of those that were asked for. */
function metadata(asked: Reader, out: Writer): void {
  const topics = asked.list(() => asked.string());
  out.int32(1);
  out.int32(0);
  out.string(Buffer.from(host));
  out.int32(port);
  out.int16(-1);
  out.int32(0);
  out.int32(topics.length);
  for (const topic of topics) {
    out.int16(kafkaCode.unknownTopicOrPartition);
    out.string(Buffer.from(topic));
    out.int8(0);
    out.int32(0);
  }
}

/** The other end of a connection: a node that tells what it knows, and is silent about groups. */
function nodeWithoutTopics(onConnect: () => void): Socket {
  const socket = new Duplex({
    read: () => undefined,
    // kafkajs writes one whole request at a time.
    write: (bytes: Buffer, _, done) => {
      const asked = new Reader(bytes);
      asked.int32();
      const key = asked.int16();
      asked.int16();
      const correlation = asked.int32();
      asked.string();
      const out = new Writer(1_024);
      out.int32(0);
      out.int32(correlation);
      if (key === apiVersionsKey) apiVersions(out);
      if (key === metadataKey) metadata(asked, out);
      const answer = out.bytes.subarray(0, out.at);
      answer.writeInt32BE(out.at - 4);
      // Never within the write: kafkajs would meet the answer before it has sent.
      if (key !== findCoordinatorKey) setImmediate(() => socket.push(answer));
      done();
    },
  });
  queueMicrotask(onConnect);
  return Object.assign(socket, { unref: () => socket }) as unknown as Socket;
}

const settings: KafkajsSettings = kafkajsSettings({
  brokers: [`${host}:${port}`],
  socketFactory: ({ onConnect }) => nodeWithoutTopics(onConnect),
});

const callbacks = {
  assigned: () => undefined,
  failed: () => undefined,
} as Partial<ConsumerCallbacks> as ConsumerCallbacks;

const subscription = { groupId: "billing", topics: ["orders"] };

describe("a topic that is missing when a consumer starts", () => {
  it.each([{}, { requireTopics: true }])("is an error: %j", async (required) => {
    const starting = startConsumer(settings, { ...subscription, ...required }, callbacks);
    await expect(starting).rejects.toMatchObject({ code: "topic-missing" });
  });

  it("is none where the topics are not required", async () => {
    // Guards: `requireTopics: false` leaves the check of the topics out.
    const consumer = await startConsumer(
      settings,
      { ...subscription, requireTopics: false },
      callbacks,
    );
    await consumer.stop(0);
  });
});
