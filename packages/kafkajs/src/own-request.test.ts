import { ConfigurationError } from "@oncebox/core";
import { expect, it } from "vitest";
import type { KafkaNode } from "./kafkajs-client.ts";
import { ask, type OwnRequest } from "./own-request.ts";
import { MalformedBytesError } from "./wire.ts";

interface Definition {
  readonly versions: readonly string[];
  readonly protocol: (agreed: { version: number }) => () => Call;
}

interface Call {
  readonly request: { apiKey: number; apiVersion: number; encode: () => Promise<{ buf: Buffer }> };
  readonly response: {
    decode: (bytes: Buffer) => Promise<{ clientSideThrottleTime: number }>;
    parse: (decoded: unknown) => Promise<unknown>;
  };
  readonly requestTimeout: number | null;
}

/** A node as kafkajs makes it, that knows requests up to a version and answers with these bytes. */
function nodeOf(newest: number, answer: Buffer) {
  const sent: { call: Call; bytes: Buffer; throttleMs: number }[] = [];
  class Node {
    lookupRequest(_key: number, { versions, protocol }: Definition) {
      return protocol({ version: Math.min(newest, ...versions.map(Number)) });
    }
    async metadata() {
      const call = this.lookupRequest(3, { versions: ["6"], protocol: () => fail })();
      const { buf: bytes } = await call.request.encode();
      const decoded = await call.response.decode(answer);
      sent.push({ call, bytes, throttleMs: decoded.clientSideThrottleTime });
      return call.response.parse(decoded);
    }
  }
  const node = Object.assign(new Node(), {
    metadata: () => {
      throw new Error("the door that others watch");
    },
  });
  return { node: node as unknown as KafkaNode, sent };
}

function fail(): never {
  throw new Error("kafkajs' own definition was asked for");
}

const request: OwnRequest<{ throttleMs: number; value: number }> = {
  apiKey: 1,
  apiName: "Fetch",
  version: 13,
  since: "3.1",
  body: Buffer.from([0, 7]),
  decode: (reader) => ({ throttleMs: reader.int32(), value: reader.int32() }),
  holdMs: 250,
};

// One optional field of the header, which is skipped; then two numbers.
const answer = Buffer.from("01" + "0502abcd" + "00000009" + "0000002a", "hex");

it("sends our bytes in our version, and reads the answer behind its header", async () => {
  const { node, sent } = nodeOf(17, answer);
  expect(await ask(node, request)).toEqual({ throttleMs: 9, value: 42 });
  expect(sent).toMatchObject([{ bytes: request.body, throttleMs: 9 }]);
  expect(sent[0]?.call.request).toMatchObject({ apiKey: 1, apiVersion: 13, apiName: "Fetch" });
  // Longer than the broker holds it on purpose.
  expect(sent[0]?.call.requestTimeout).toBeGreaterThan(250);
});

it("says which Kafka it needs where the broker is too old", async () => {
  // Guards: an older version would be answered in bytes that mean something else.
  const { node, sent } = nodeOf(12, answer);
  const error = await ask(node, request).catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(ConfigurationError);
  expect(error).toMatchObject({
    code: "client-unsupported",
    message: expect.stringMatching(/Fetch up to version 12.*needs 13.*Kafka 3\.1/),
  });
  expect(sent).toEqual([]);
});

it("refuses an answer that is cut off", async () => {
  const { node } = nodeOf(17, answer.subarray(0, -1));
  await expect(ask(node, request)).rejects.toBeInstanceOf(MalformedBytesError);
});
