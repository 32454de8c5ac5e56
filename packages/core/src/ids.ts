/** Ids of messages: how they are made, derived and stored. */
import { concat, framed, sha256First16 } from "./hashes.ts";
import { utf8 } from "./message.ts";
import type { Clock } from "./ports/clock.ts";
import type { Replay } from "./ports/storage.ts";

/** Every message's id passes through here twice: tables instead of patterns and parsing. */
const hexOfByte = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, "0"));
const nibbleOfCode = new Map(
  Array.from("0123456789abcdefABCDEF", (digit) => [
    digit.charCodeAt(0),
    Number.parseInt(digit, 16),
  ]),
);
const uuidLength = 36;
const dashes: ReadonlySet<number> = new Set([8, 13, 18, 23]);
const dashCode = 0x2d;

/**
 * The 16 bytes under which an id is remembered. A UUID is kept as it is, so that version 7 stays in
 * time order in the index; any other id is hashed.
 */
export function idBytesOf(id: Uint8Array): Uint8Array {
  return uuidBytes(id) ?? sha256First16(id);
}

/**
 * The same, in a range that an operator has handled anew: another id for each replay, so that the
 * message is no duplicate of its first time but still one of itself.
 */
export function replayedIdBytes(id: Uint8Array, offset: bigint, replay: Replay): Uint8Array {
  if (replay.number === 0 || offset >= replay.until) return id;
  return sha256First16(concat([utf8(`replay ${replay.number}\0`), id]));
}

/** The bytes of a UUID in its text form; null where it is none. */
function uuidBytes(text: Uint8Array): Uint8Array | null {
  if (text.length !== uuidLength) return null;
  const bytes = new Uint8Array(16);
  let nibbles = 0;
  for (const [place, code] of text.entries()) {
    if (dashes.has(place)) {
      if (code !== dashCode) return null;
      continue;
    }
    const nibble = nibbleOfCode.get(code);
    if (nibble === undefined) return null;
    const at = nibbles >> 1;
    bytes[at] = ((bytes[at] as number) << 4) | nibble;
    nibbles += 1;
  }
  return bytes;
}

/** 16 bytes in the text form of a UUID. */
export function uuidText(bytes: Uint8Array): string {
  let text = "";
  for (let at = 0; at < 16; at += 1) {
    if (at === 4 || at === 6 || at === 8 || at === 10) text += "-";
    text += hexOfByte[bytes[at] as number];
  }
  return text;
}

/** Writes version and variant into 16 bytes (RFC 9562). */
function stamped(bytes: Uint8Array, version: number): Uint8Array {
  bytes[6] = ((bytes[6] as number) & 0x0f) | (version << 4);
  bytes[8] = ((bytes[8] as number) & 0x3f) | 0x80;
  return bytes;
}

/**
 * A UUIDv7 (RFC 9562): milliseconds first, so that ids made later sort later. Uniqueness rests on 74
 * random bits; the order within a millisecond is not kept, positions in the outbox do that.
 */
export function uuidv7(clock: Pick<Clock, "epochMs" | "random">): string {
  const bytes = new Uint8Array(16);
  const view = new DataView(bytes.buffer);
  const ms = clock.epochMs();
  view.setUint16(0, Math.floor(ms / 2 ** 32));
  view.setUint32(2, ms % 2 ** 32);
  view.setUint16(6, Math.floor(clock.random() * 2 ** 16));
  view.setUint32(8, Math.floor(clock.random() * 2 ** 32));
  view.setUint32(12, Math.floor(clock.random() * 2 ** 32));
  return uuidText(stamped(bytes, 7));
}

/**
 * What an incoming message is told apart by, for one consumer: its id within its source, or its place
 * in the log. Another consumer of the message does other work, so what it derives must differ. No
 * name holds a slash, and an id's text is of one length: no two messages are written alike.
 */
export function incomingIdentity(message: {
  readonly consumer: string;
  readonly source: string;
  readonly idBytes: Uint8Array | null;
  readonly topic: string;
  readonly partition: number;
  readonly offset: bigint;
}): string {
  const { consumer, source, idBytes, topic, partition, offset } = message;
  return idBytes === null
    ? `${consumer}/o:${topic}:${partition}:${offset}`
    : `${consumer}/i:${source}:${uuidText(idBytes)}`;
}

/**
 * The id of a message enqueued inside a handler, as a UUID of version 8. It derives from the message
 * being handled and from how often that handler has enqueued for this topic and key, so that a redo
 * after a lost commit yields the same ids, whatever ran beside it.
 */
export function derivedId(
  incoming: string,
  topic: string,
  key: Uint8Array | null,
  nth: number,
): string {
  // Each part behind its length: a source may hold any text, and a key any bytes.
  const parts = framed(utf8(incoming), utf8(topic), utf8(String(nth)), key);
  return uuidText(stamped(sha256First16(parts), 8));
}
