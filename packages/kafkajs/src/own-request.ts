/**
 * Requests that kafkajs does not know, sent over its connections: their versions are newer than any
 * that it speaks. Owns the framing and the agreement on a version; never the meaning of a request.
 *
 * Newer versions are "flexible": their headers end with a list of optional fields, which kafkajs
 * neither writes nor reads. So each body begins with an empty list, and each answer with one to skip.
 */
import { ConfigurationError } from "@oncebox/core";
import type { KafkaNode, Protocol } from "./kafkajs-client.ts";
import { MalformedBytesError, Reader } from "./wire.ts";

/** One version of one request, encoded and decoded by us. */
export interface OwnRequest<T extends Throttled> {
  readonly apiKey: number;
  readonly apiName: string;
  readonly version: number;
  /** The first release of Kafka that knows this version, for people. */
  readonly since: string;
  /** The body, behind the one byte of an empty list of optional fields. */
  readonly body: Buffer;
  readonly decode: (reader: Reader) => T;
  /**
   * How long the broker may take over it on purpose: an answer is waited for at least as long, where
   * kafkajs' own `requestTimeout` is shorter.
   */
  readonly holdMs?: number;
}

/** Every answer begins so: for how long the broker wants to hear nothing more (KIP-219). */
export interface Throttled {
  readonly throttleMs: number;
}

/** As kafkajs gives its own fetches, on top of what the broker may take. */
const networkMs = 100;

/**
 * Sends it and resolves with the decoded answer. Rejects with ConfigurationError where the broker is
 * too old, MalformedBytesError where the answer is not what the protocol says, and with kafkajs' own
 * errors for its connection.
 */
export async function ask<T extends Throttled>(
  node: KafkaNode,
  request: OwnRequest<T>,
): Promise<T> {
  // kafkajs compares with what the broker can and asks back with the best version of both.
  const definition = {
    versions: [String(request.version)],
    protocol: ({ version }: { version: number }): Protocol => {
      if (version !== request.version) throw tooOld(request, version);
      return () => callOf(request);
    },
  };
  const lookupRequest = () => node.lookupRequest(request.apiKey, definition);
  const view = Object.create(node, { lookupRequest: { value: lookupRequest } }) as KafkaNode;
  // Any of kafkajs' requests is a door to its connection; this one asks for nothing beforehand.
  return (await Object.getPrototypeOf(node).metadata.call(view, [])) as T;
}

function callOf<T extends Throttled>(request: OwnRequest<T>) {
  const { apiKey, apiName, version: apiVersion, body, holdMs } = request;
  return {
    // What kafkajs' own encoder looks like to the code that copies it into the frame.
    request: { apiKey, apiName, apiVersion, encode: async () => ({ buf: body, buffer: body }) },
    response: {
      decode: async (bytes: Buffer) => {
        const answer = decoded(request, bytes);
        return { answer, clientSideThrottleTime: answer.throttleMs };
      },
      parse: async ({ answer }: { answer: T }) => answer,
    },
    requestTimeout: holdMs === undefined ? null : holdMs + networkMs,
  };
}

function decoded<T extends Throttled>(request: OwnRequest<T>, bytes: Buffer): T {
  const reader = new Reader(bytes);
  try {
    reader.tags();
    return request.decode(reader);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new MalformedBytesError(`the answer to ${request.apiName} is cut off`);
  }
}

function tooOld({ apiName, version, since }: OwnRequest<Throttled>, agreed: number): Error {
  return new ConfigurationError(
    "client-unsupported",
    `the broker speaks ${apiName} up to version ${agreed}, Oncebox needs ${version}: use Kafka ${since} or newer`,
    { details: { apiName, wanted: version, spoken: agreed } },
  );
}
