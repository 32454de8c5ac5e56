/**
 * Hashes whose results are stored or must agree with other programs: a result here never changes.
 * Golden values stand beside the tests.
 */
import { sha256 } from "@noble/hashes/sha2.js";

/** Number of lanes of the outbox, for ever: rows carry their lane. */
export const laneCount = 64;

/** First 16 bytes of SHA-256. */
export function sha256First16(bytes: Uint8Array): Uint8Array {
  return sha256(bytes).slice(0, 16);
}

/** murmur2 as Kafka's Java client computes it (seed 0x9747b28c), as an unsigned 32 bit number. */
export function murmur2(data: Uint8Array): number {
  const m = 0x5bd1e995;
  const length = data.length;
  let h = 0x9747b28c ^ length;
  let i = 0;
  for (; i + 4 <= length; i += 4) {
    let k =
      (data[i] as number) |
      ((data[i + 1] as number) << 8) |
      ((data[i + 2] as number) << 16) |
      ((data[i + 3] as number) << 24);
    k = Math.imul(k, m);
    k ^= k >>> 24;
    h = Math.imul(h, m) ^ Math.imul(k, m);
  }
  const rest = length - i;
  if (rest >= 3) h ^= (data[i + 2] as number) << 16;
  if (rest >= 2) h ^= (data[i + 1] as number) << 8;
  if (rest >= 1) h = Math.imul(h ^ (data[i] as number), m);
  h ^= h >>> 13;
  h = Math.imul(h, m);
  h ^= h >>> 15;
  return h >>> 0;
}

const zero = new Uint8Array(1);

/** The lane of a message: murmur2 of topic, 0x00 and key (the id's text where there is no key). */
export function laneOf(topic: Uint8Array, keyOrId: Uint8Array): number {
  return murmur2(concat([topic, zero, keyOrId])) % laneCount;
}

const crcTable = Int32Array.from({ length: 256 }, (_, n) => {
  let c = n;
  for (let bit = 0; bit < 8; bit += 1) c = c & 1 ? (c >>> 1) ^ 0x82f63b78 : c >>> 1;
  return c;
});

function crc32cUpdate(crc: number, bytes: Uint8Array, start = 0, end = bytes.length): number {
  let c = crc;
  for (let i = start; i < end; i += 1) {
    c = (c >>> 8) ^ (crcTable[(c ^ (bytes[i] as number)) & 0xff] as number);
  }
  return c;
}

/** CRC-32C of a part of these bytes, as a signed 32 bit number. */
export function crc32c(bytes: Uint8Array, start: number, end: number): number {
  return ~crc32cUpdate(-1, bytes, start, end);
}

const prefix = new DataView(new ArrayBuffer(4));
const prefixBytes = new Uint8Array(prefix.buffer);

/** CRC-32C over each part behind its length (null counts as length -1), as a signed 32 bit number. */
export function checksumOf(...parts: readonly (Uint8Array | null)[]): number {
  let crc = -1;
  for (const part of parts) {
    prefix.setInt32(0, part?.length ?? -1);
    crc = crc32cUpdate(crc, prefixBytes);
    if (part !== null) crc = crc32cUpdate(crc, part);
  }
  return ~crc;
}

/** The parts in one, each behind its length (null counts as length -1): no two lists are written alike. */
export function framed(...parts: readonly (Uint8Array | null)[]): Uint8Array {
  return concat(
    parts.flatMap((part) => {
      const length = new Uint8Array(4);
      new DataView(length.buffer).setInt32(0, part?.length ?? -1);
      return part === null ? [length] : [length, part];
    }),
  );
}

export function concat(parts: readonly Uint8Array[]): Uint8Array {
  let length = 0;
  for (const part of parts) length += part.length;
  const joined = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    joined.set(part, at);
    at += part.length;
  }
  return joined;
}
