/** Topic definitions: a name and a codec, shared by the publisher and the handler. */
import { ConfigurationError, HandlerError, InvalidMessageError } from "./errors.ts";
import type { Handler, Run } from "./inbox/handler.ts";
import { type Headers, isTopicName, type OutgoingMessage, textOf, utf8 } from "./message.ts";

/** Turns values into bytes and back. What it throws fails the message, never the process. */
export interface Codec<In, Out> {
  readonly encode: (value: In) => Uint8Array;
  readonly decode: (bytes: Uint8Array) => Out;
  /** Sent as the header `content-type` unless the message brings its own. */
  readonly contentType: string;
}

/** The part of https://standardschema.dev that is used here. */
export interface StandardSchema<In, Out> {
  readonly "~standard": {
    readonly version: 1;
    readonly vendor: string;
    readonly validate: (value: unknown) => SchemaResult<Out> | Promise<SchemaResult<Out>>;
    readonly types?: { readonly input: In; readonly output: Out } | undefined;
  };
}

type SchemaResult<Out> =
  | { readonly value: Out; readonly issues?: undefined }
  | { readonly issues: readonly SchemaIssue[] };

interface SchemaIssue {
  readonly message: string;
  readonly path?: readonly (PropertyKey | { readonly key: PropertyKey })[] | undefined;
}

/** JSON in UTF-8, checked by a schema on both sides where one is given. */
export function json<In, Out>(schema: StandardSchema<In, Out>): Codec<In, Out>;
export function json<V = unknown>(): Codec<V, V>;
export function json(schema?: StandardSchema<unknown, unknown>): Codec<unknown, unknown> {
  return {
    contentType: "application/json",
    encode: (value) => {
      if (schema !== undefined) validated(schema, value);
      const text = JSON.stringify(value);
      // JSON.stringify answers undefined for undefined, functions and symbols.
      if (text === undefined) throw new TypeError(`a ${typeof value} has no JSON form`);
      return utf8(text);
    },
    decode: (bytes) => {
      const value = parsed(jsonDecoder.decode(bytes));
      return schema === undefined ? value : validated(schema, value);
    },
  };
}

/** UTF-8 text. Bytes that are not UTF-8 do not decode. */
export function text(): Codec<string, string> {
  return {
    contentType: "text/plain; charset=utf-8",
    encode: utf8,
    decode: (value) => textDecoder.decode(value),
  };
}

/** Bytes as they are. */
export function bytes(): Codec<Uint8Array, Uint8Array> {
  return {
    contentType: "application/octet-stream",
    encode: (value) => value,
    decode: (value) => value,
  };
}

/** A byte order mark is a character of a text. JSON has none; some writers put one before it. */
const textDecoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const jsonDecoder = new TextDecoder("utf-8", { fatal: true });

/** `__proto__` as an own property of parsed JSON turns into a prototype where it is copied carelessly. */
function parsed(json: string): unknown {
  // The name may be written with escapes.
  if (!json.includes("__proto__") && !json.includes("\\u")) return JSON.parse(json);
  return JSON.parse(json, (key, value) => (key === "__proto__" ? undefined : value));
}

function validated<Out>(schema: StandardSchema<unknown, Out>, value: unknown): Out {
  const result = schema["~standard"].validate(value);
  if (result instanceof Promise) {
    throw new ConfigurationError(
      "invalid-options",
      "a schema of a topic must validate synchronously: do asynchronous checks in the handler",
    );
  }
  if (result.issues !== undefined) {
    throw new TypeError(`does not fit the schema: ${result.issues.map(issueText).join("; ")}`);
  }
  return result.value;
}

function issueText(issue: SchemaIssue): string {
  const path = (issue.path ?? []).map((part) => String(typeof part === "object" ? part.key : part));
  return path.length === 0 ? issue.message : `${path.join(".")}: ${issue.message}`;
}

/** A name, a codec and what follows from them. Made by {@link defineTopic}. */
export interface Topic<In, Out> {
  readonly name: string;
  /**
   * A message to publish, encoded and checked. Throws InvalidMessageError `value-not-encodable`.
   * `id` defaults to a UUIDv7, or inside a handler to one derived from the incoming message.
   */
  readonly message: (message: {
    readonly key: string | Uint8Array | null;
    readonly value: In;
    readonly id?: string;
    readonly headers?: Headers;
  }) => OutgoingMessage;
  /** A handler that lives in a file of its own: `orderPlaced.handler<ClientBase>(async (…) => …)`. */
  readonly handler: <Tx>(run: Run<Out, Tx>) => Handler<Tx>;
  /** Bytes of a record to a value. Throws HandlerError `value-not-decodable`. */
  readonly decode: (value: Uint8Array | null) => Out;
}

export interface TopicOptions<In, Out> {
  /** Kafka's name of the topic. It must exist: Oncebox never creates topics. */
  readonly name: string;
  /** How values become bytes: `json()`, `text()`, `bytes()`, or your own. */
  readonly value: Codec<In, Out>;
}

/** Defines a topic once for its publishers and handlers. Throws ConfigurationError for a bad name. */
export function defineTopic<In, Out>(
  options: TopicOptions<In, Out> & { readonly tombstones: true },
): Topic<In | null, Out | null>;
export function defineTopic<In, Out>(
  options: TopicOptions<In, Out> & { readonly tombstones?: false },
): Topic<In, Out>;
export function defineTopic<In, Out>(
  options: TopicOptions<In, Out> & { readonly tombstones?: boolean },
): Topic<In | null, Out | null> {
  const { name, value: codec, tombstones = false } = options;
  if (!isTopicName(name)) {
    throw new ConfigurationError(
      "invalid-options",
      `defineTopic: name ${JSON.stringify(name)} is not a Kafka topic name (1 to 249 of a-z A-Z 0-9 . _ -)`,
    );
  }
  const decode = (value: Uint8Array | null): Out | null => {
    if (value === null) {
      if (tombstones) return null;
      throw new HandlerError(
        "value-not-decodable",
        `a tombstone (null value) on ${name}: define the topic with \`tombstones: true\` to handle them`,
      );
    }
    try {
      return codec.decode(value);
    } catch (cause) {
      throw new HandlerError("value-not-decodable", `a value on ${name} does not decode`, {
        cause,
        details: { topic: name, bytes: value.length },
      });
    }
  };
  return {
    name,
    decode,
    message: ({ key, value, id, headers = [] }) => ({
      topic: name,
      key,
      value: value === null && tombstones ? null : encoded(name, codec, value as In),
      headers: headers.some(([header]) => header === "content-type")
        ? headers
        : [...headers, ["content-type", utf8(codec.contentType)]],
      ...(id === undefined ? {} : { id }),
    }),
    handler: (run) => ({
      topic: name,
      run: (message, tx, context) => run({ ...message, value: decode(message.value) }, tx, context),
    }),
  };
}

function encoded<In, Out>(topic: string, codec: Codec<In, Out>, value: In): Uint8Array {
  try {
    return codec.encode(value);
  } catch (cause) {
    if (cause instanceof ConfigurationError) throw cause;
    const why = cause instanceof Error ? cause.message : textOf(utf8(String(cause)));
    throw new InvalidMessageError("value-not-encodable", `a value for ${topic} ${why}`, {
      cause,
      details: { topic },
    });
  }
}
