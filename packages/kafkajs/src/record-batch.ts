/**
 * Record batches as Kafka stores them (format 2, since Kafka 0.11): read what a fetch returned, write
 * what a produce sends. Owns the aborted-transaction filter, because kafkajs' own hands over aborted
 * records: it expects the broker's list in another order than the broker gives, and takes a record
 * whose key is four zero bytes for an abort marker. Never decides where to read or what to send.
 */
import { type BrokerRecord, crc32c, type Headers } from "@oncebox/core";
import kafkajs from "kafkajs";
import { MalformedBytesError, Reader, varbytesSize, varintSize, type Writer } from "./wire.ts";

/** A transaction that was rolled back: its records, from this offset to its marker, never were. */
export interface AbortedTransaction {
  readonly producerId: bigint;
  readonly firstOffset: bigint;
}

interface DecodedRecords {
  readonly records: BrokerRecord[];
  /** First offset behind the last whole batch, markers and holes included; null where there is none. */
  readonly endOffset: bigint | null;
  /** Leader epoch of that batch; null where it is not known. */
  readonly endEpoch: number | null;
}

// baseOffset 8, length 4; then what `length` counts, of which the fixed part is 49.
const prefixSize = 12;
const fixedSize = 49;
const magicAt = 16;

const codecMask = 0b0111;
const logAppendTime = 1 << 3;
const transactional = 1 << 4;
const control = 1 << 5;

const abortMarker = 0;

/** One batch, its records still encoded and perhaps compressed. */
interface Batch {
  readonly baseOffset: bigint;
  readonly lastOffset: bigint;
  readonly leaderEpoch: number | null;
  readonly attributes: number;
  readonly firstTimestamp: bigint;
  readonly maxTimestamp: bigint;
  readonly producerId: bigint;
  readonly count: number;
  readonly body: Buffer;
}

/**
 * Decodes what one partition returned for a fetch at `from`: only records at or above it, none of an
 * aborted transaction. A batch cut off at the end is left for the next fetch.
 */
export async function decodeRecords(
  bytes: Buffer,
  from: bigint,
  aborted: readonly AbortedTransaction[],
): Promise<DecodedRecords> {
  const filter = new AbortedFilter(aborted);
  const reader = new Reader(bytes);
  const records: BrokerRecord[] = [];
  let endOffset: bigint | null = null;
  let endEpoch: number | null = null;
  for (let batch = nextBatch(reader); batch !== null; batch = nextBatch(reader)) {
    // Also for a batch that is skipped: it may hold the marker that closes a transaction.
    const hidden = filter.hides(batch);
    if (batch.lastOffset < from) continue;
    endOffset = batch.lastOffset + 1n;
    endEpoch = batch.leaderEpoch;
    if (!hidden && batch.count > 0) await readRecords(batch, from, records);
  }
  return { records, endOffset, endEpoch };
}

function nextBatch(reader: Reader): Batch | null {
  if (reader.left < prefixSize + fixedSize) return null;
  const start = reader.at;
  const magic = reader.bytes[start + magicAt];
  if (magic !== 2) {
    throw new MalformedBytesError(
      `record format ${magic} is not supported: the topic was written before Kafka 0.11 or with an old message format`,
    );
  }
  const baseOffset = reader.int64();
  const length = reader.int32();
  if (length < fixedSize) throw new MalformedBytesError(`a record batch of ${length} bytes`);
  if (length > reader.left) return null;
  const end = reader.at + length;
  const epoch = reader.int32();
  reader.at += 5; // magic, checksum
  const attributes = reader.int16();
  const lastOffset = baseOffset + BigInt(reader.int32());
  const firstTimestamp = reader.int64();
  const maxTimestamp = reader.int64();
  const producerId = reader.int64();
  reader.at += 6; // producer epoch, first sequence
  const count = reader.int32();
  const body = reader.bytes.subarray(reader.at, end);
  reader.at = end;
  return {
    baseOffset,
    lastOffset,
    // The broker fills it in; -1 where it never did.
    leaderEpoch: epoch < 0 ? null : epoch,
    attributes,
    firstTimestamp,
    maxTimestamp,
    producerId,
    count,
    body,
  };
}

/** Follows the batches of one fetch in offset order. A batch belongs to one producer. */
class AbortedFilter {
  // The broker lists aborted transactions by their end; they are needed by their start.
  readonly #waiting: AbortedTransaction[];
  readonly #open = new Set<bigint>();

  constructor(aborted: readonly AbortedTransaction[]) {
    this.#waiting = [...aborted].sort((a, b) => (a.firstOffset < b.firstOffset ? -1 : 1));
  }

  hides(batch: Batch): boolean {
    // Before markers too: a fetch may start at a marker, and what it closes must not stay waiting.
    let first = this.#waiting[0];
    while (first !== undefined && first.firstOffset <= batch.lastOffset) {
      this.#open.add(first.producerId);
      this.#waiting.shift();
      first = this.#waiting[0];
    }
    if ((batch.attributes & control) !== 0) {
      if (isAbort(batch)) this.#open.delete(batch.producerId);
      return true;
    }
    return (batch.attributes & transactional) !== 0 && this.#open.has(batch.producerId);
  }
}

/** A control batch holds one record; its key says of what kind it is. Never compressed. */
function isAbort(batch: Batch): boolean {
  if (batch.count < 1) return false;
  const reader = new Reader(batch.body);
  reader.varint(); // length
  reader.int8(); // attributes
  reader.varlong(); // timestamp
  reader.varint(); // offset
  const key = reader.varbytes();
  if (key === null || key.length < 4) return false;
  return new DataView(key.buffer, key.byteOffset).getInt16(2) === abortMarker;
}

async function readRecords(batch: Batch, from: bigint, into: BrokerRecord[]): Promise<void> {
  const codec = batch.attributes & codecMask;
  const body = codec === 0 ? batch.body : await decompressed(codec, batch.body);
  const reader = new Reader(body);
  const stamped = (batch.attributes & logAppendTime) !== 0 ? batch.maxTimestamp : null;
  for (let i = 0; i < batch.count; i += 1) {
    const length = reader.varint();
    const end = reader.at + length;
    reader.int8(); // attributes, unused by Kafka
    const delta = reader.varlong();
    const offset = batch.baseOffset + BigInt(reader.varint());
    const key = reader.varbytes();
    const value = reader.varbytes();
    const headers = readHeaders(reader);
    if (reader.at !== end)
      throw new MalformedBytesError(`the record at ${offset} has a wrong length`);
    if (offset < from) continue;
    const timestamp =
      stamped ?? (delta === 0n ? batch.firstTimestamp : batch.firstTimestamp + delta);
    into.push({ offset, timestamp, leaderEpoch: batch.leaderEpoch, key, value, headers });
  }
}

const noHeaders: Headers = [];

function readHeaders(reader: Reader): Headers {
  const count = reader.varint();
  if (count <= 0) return noHeaders;
  const headers: [string, Uint8Array | null][] = [];
  for (let i = 0; i < count; i += 1) {
    const name = reader.take(reader.varint()).toString("utf8");
    headers.push([name, reader.varbytes()]);
  }
  return headers;
}

const codecNames = ["none", "GZIP", "Snappy", "LZ4", "ZSTD"];

/** A codec that kafkajs has not, and nobody registered with it. */
export class CodecMissingError extends Error {
  override readonly name = "CodecMissingError";
}

interface Codec {
  decompress(bytes: Buffer): Promise<Buffer> | Buffer;
}

/** Through kafkajs' registry: what a user registers there for Snappy, LZ4 or ZSTD works here as well. */
async function decompressed(codec: number, bytes: Buffer): Promise<Buffer> {
  const name = codecNames[codec] ?? `number ${codec}`;
  const registry = kafkajs.CompressionCodecs as unknown as Record<
    number,
    (() => Codec) | undefined
  >;
  let found: Codec | undefined;
  try {
    found = registry[codec]?.();
  } catch {
    // kafkajs' placeholders throw; the error below says what to do.
  }
  if (found === undefined) {
    throw new CodecMissingError(
      `records are compressed with ${name}: register a codec for it in kafkajs' CompressionCodecs`,
    );
  }
  return found.decompress(bytes);
}

/** What a producer writes of one message. */
export interface RecordToWrite {
  readonly key: Uint8Array | null;
  readonly value: Uint8Array | null;
  readonly headers: Headers;
}

/** Sizes once counted, so that the batch is written into a buffer that fits. */
export interface SizedBatch {
  readonly records: readonly RecordToWrite[];
  readonly sizes: readonly number[];
  /** The whole batch in bytes. */
  readonly size: number;
}

const encoder = new TextEncoder();
// Header names repeat on every message; a bound keeps odd senders from filling the memory.
const names = new Map<string, Uint8Array>();
const namesMax = 1000;

function nameBytes(name: string): Uint8Array {
  let bytes = names.get(name);
  if (bytes === undefined) {
    bytes = encoder.encode(name);
    if (names.size >= namesMax) names.clear();
    names.set(name, bytes);
  }
  return bytes;
}

function recordSize(record: RecordToWrite, index: number): number {
  const { key, value, headers } = record;
  // attributes 1, timestamp delta 0 in 1
  let size = 2 + varintSize(index) + varbytesSize(key) + varbytesSize(value);
  size += varintSize(headers.length);
  for (const [name, bytes] of headers) size += varbytesSize(nameBytes(name)) + varbytesSize(bytes);
  return size;
}

export function sizeBatch(records: readonly RecordToWrite[]): SizedBatch {
  const sizes = records.map(recordSize);
  let size = prefixSize + fixedSize;
  for (const bytes of sizes) size += varintSize(bytes) + bytes;
  return { records, sizes, size };
}

/** Uncompressed, not transactional, not idempotent, all records with one timestamp. */
export function writeBatch(writer: Writer, batch: SizedBatch, timestamp: bigint): void {
  const start = writer.at;
  writer.int64(0n); // base offset: the broker's to give
  writer.int32(batch.size - prefixSize);
  writer.int32(-1); // leader epoch
  writer.int8(2); // magic
  const checksumAt = writer.at;
  writer.int32(0);
  writer.int16(0); // attributes
  writer.int32(batch.records.length - 1);
  writer.int64(timestamp);
  writer.int64(timestamp);
  writer.int64(-1n); // producer id
  writer.int16(-1);
  writer.int32(-1);
  writer.int32(batch.records.length);
  for (const [i, record] of batch.records.entries()) {
    writer.varint(batch.sizes[i] as number);
    writer.int8(0);
    writer.varint(0);
    writer.varint(i);
    writer.varbytes(record.key);
    writer.varbytes(record.value);
    writer.varint(record.headers.length);
    for (const [name, bytes] of record.headers) {
      writer.varbytes(nameBytes(name));
      writer.varbytes(bytes);
    }
  }
  const checksum = crc32c(writer.bytes, checksumAt + 4, start + batch.size);
  writer.bytes.writeInt32BE(checksum, checksumAt);
}
