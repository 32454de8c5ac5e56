/**
 * Messages as an application sees them, before any broker or database: their shapes, the rules an
 * outgoing message must meet, and where an incoming message's identity comes from.
 */
import { InvalidMessageError } from "./errors.ts";

/** Bytes, repeats of one name and their order are kept. */
export type Headers = readonly (readonly [name: string, value: Uint8Array | null])[];

/** An incoming message, decoded. */
export interface Message<V> {
  /** The sender's id, from the first of the headers `ce_id`, `id`, `message-id`; null where there is none. */
  readonly id: string | null;
  readonly topic: string;
  readonly partition: number;
  readonly offset: bigint;
  /** Milliseconds since 1970, as stored in the log. */
  readonly timestamp: bigint;
  /** The key as UTF-8 text; null where the record has no key. */
  readonly key: string | null;
  /** The key as it lies in the log. */
  readonly keyBytes: Uint8Array | null;
  readonly value: V;
  readonly headers: Headers;
}

/** A message to publish, encoded. Made by `topic.message(…)`, or by hand for raw bytes. */
export interface OutgoingMessage {
  readonly topic: string;
  /** Messages of one key are published in order; null means no order. */
  readonly key: string | Uint8Array | null;
  /** Null is a tombstone. */
  readonly value: Uint8Array | null;
  readonly headers: Headers;
  /** Identity for readers' inboxes; default a UUIDv7, or derived from the message being handled. */
  readonly id?: string;
}

/**
 * Largest key + value + headers of an outgoing message in bytes; Kafka's own default limit is
 * 1,048,588 for all that is sent, the outbox's own headers and the framing included.
 */
export const messageBytesMax = 1_000_000;

/** Kafka frames each header with two lengths of up to five bytes: many tiny headers are not free. */
const headerFrameBytes = 10;

/** Longest id in bytes, ours and others'; a longer incoming one is treated as absent. */
const idBytesMax = 1_024;

/** Headers with this prefix belong to Oncebox. */
export const reservedHeaderPrefix = "oncebox-";

/** Headers that the outbox writes itself; the caller sets them through fields and options. */
const ownHeaders: ReadonlySet<string> = new Set([
  "id",
  "ce_specversion",
  "ce_id",
  "ce_source",
  "ce_type",
  "ce_time",
]);

const topicPattern = /^[a-zA-Z0-9._-]{1,249}$/;
const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });

export function utf8(text: string): Uint8Array {
  return encoder.encode(text);
}

/** Never fails: bytes that are not UTF-8 become U+FFFD; decide on bytes, show text. */
export function textOf(bytes: Uint8Array): string {
  return decoder.decode(bytes);
}

export function keyBytesOf(key: string | Uint8Array | null): Uint8Array | null {
  return typeof key === "string" ? utf8(key) : key;
}

export function isTopicName(name: unknown): name is string {
  return typeof name === "string" && topicPattern.test(name) && name !== "." && name !== "..";
}

/**
 * Checked before any SQL. Throws InvalidMessageError and says which field is wrong and why. `reserved`:
 * what is done about headers that belong to Oncebox; a copy of another message keeps them.
 */
export function checkOutgoing(
  message: OutgoingMessage,
  reserved: "refused" | "kept" = "refused",
): void {
  const { topic, key, value, headers, id } = message;
  if (!isTopicName(topic)) {
    throw invalid(`topic ${show(topic)} is not a Kafka topic name (1 to 249 of a-z A-Z 0-9 . _ -)`);
  }
  if (key !== null && typeof key !== "string" && !(key instanceof Uint8Array)) {
    throw invalid(`key of a message to ${topic} must be a string, a Uint8Array or null`);
  }
  if (value !== null && !(value instanceof Uint8Array)) {
    throw invalid(`value of a message to ${topic} must be a Uint8Array or null: encode it first`);
  }
  if (id !== undefined && !isId(id)) {
    throw invalid(
      `id of a message to ${topic} must be text of 1 to ${idBytesMax} bytes without U+0000 and lone surrogates`,
    );
  }
  const size =
    (keyBytesOf(key)?.length ?? 0) + (value?.length ?? 0) + headerBytes(topic, headers, reserved);
  if (size > messageBytesMax) {
    throw new InvalidMessageError(
      "message-too-large",
      `a message to ${topic} has ${size} bytes; the limit is ${messageBytesMax}. Keep large values elsewhere and send a reference`,
      { details: { topic, size, limit: messageBytesMax } },
    );
  }
}

/** Kept by databases as text, which has no U+0000; a lone surrogate would turn into U+FFFD on the way. */
function isId(id: unknown): boolean {
  if (typeof id !== "string" || id.length === 0 || !isPlainText(id)) return false;
  return utf8(id).length <= idBytesMax;
}

function isPlainText(text: string): boolean {
  return !text.includes("\0") && !/\p{Surrogate}/u.test(text);
}

function headerBytes(topic: string, headers: Headers, reserved: "refused" | "kept"): number {
  if (!Array.isArray(headers)) throw invalid(`headers of a message to ${topic} must be an array`);
  let bytes = 0;
  for (const header of headers) {
    if (!Array.isArray(header) || header.length !== 2 || typeof header[0] !== "string") {
      throw invalid(`each header of a message to ${topic} must be a pair [name, bytes or null]`);
    }
    const [name, value] = header as [string, unknown];
    if (!isPlainText(name)) {
      throw invalid(`header ${show(name)} of a message to ${topic} has U+0000 or a lone surrogate`);
    }
    if (reserved === "refused" && isReserved(name)) {
      throw new InvalidMessageError(
        "reserved-header",
        `header ${show(name)} of a message to ${topic} is written by Oncebox; pass the id as \`id\`, the source as an option of createOutbox or createConsumer`,
        { details: { topic, header: name } },
      );
    }
    if (value !== null && !(value instanceof Uint8Array)) {
      throw invalid(`header ${show(name)} of a message to ${topic} must be a Uint8Array or null`);
    }
    bytes += utf8(name).length + (value?.length ?? 0) + headerFrameBytes;
  }
  return bytes;
}

function isReserved(name: string): boolean {
  return name.toLowerCase().startsWith(reservedHeaderPrefix) || ownHeaders.has(name);
}

function invalid(message: string): InvalidMessageError {
  return new InvalidMessageError("invalid-message", message);
}

function show(value: unknown): string {
  return JSON.stringify(String(value).slice(0, 80));
}

/** Where an incoming message's identity lies, in this order; the first that is present and not empty. */
const idHeaders = ["ce_id", "id", "message-id"] as const;

/** The last value of a header, as Kafka's own clients choose among repeats. */
export function header(headers: Headers, name: string): Uint8Array | null {
  for (let i = headers.length - 1; i >= 0; i -= 1) {
    const entry = headers[i];
    if (entry !== undefined && entry[0] === name) return entry[1];
  }
  return null;
}

/** The raw bytes of a message's id, or null: then its offset alone tells it apart. */
export function idOf(headers: Headers): Uint8Array | null {
  for (const name of idHeaders) {
    const value = header(headers, name);
    if (value !== null && value.length > 0) return value.length <= idBytesMax ? value : null;
  }
  return null;
}

/** The scope of an id: `ce_source` where the message has one, else its topic. */
export function sourceOf(headers: Headers, topic: string): string {
  const source = header(headers, "ce_source");
  return source !== null && source.length > 0 && source.length <= idBytesMax
    ? textOf(source)
    : topic;
}

/** One character for each byte, so that bytes which are not UTF-8 stay apart. */
const latin1 = new TextDecoder("latin1");

/** Bytes as a text that differs where they differ: what they are looked up by in a Map. */
export function mapKeyOf(bytes: Uint8Array): string {
  return latin1.decode(bytes);
}
