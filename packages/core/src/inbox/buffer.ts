/**
 * What was fetched of one partition and is not committed yet. Accepts a batch only where it goes on
 * from the one before (the chain of custody), so that nothing can be skipped unseen.
 */
import type { BrokerRecord, RecordBatch } from "../ports/broker.ts";
import type { Chunk } from "./chunk.ts";

export interface BufferLimits {
  readonly batchesMax: number;
  readonly bytesMax: number;
}

export interface ChunkLimits {
  readonly recordsMax: number;
  readonly bytesMax: number;
  /** The chunk ends before this offset; null: it may go on. */
  readonly before: bigint | null;
}

/** `gap`: the batch is not in order, or holds what it does not account for. */
export type Acceptance = "accepted" | "empty" | "wrong-position" | "gap";

export interface Buffer {
  /** The offset to fetch next; null while the buffer is full. */
  readonly wanted: () => bigint | null;
  readonly accept: (batch: RecordBatch) => Acceptance;
  /** The next chunk, left in place; null where nothing is buffered. */
  readonly chunk: (limits: ChunkLimits) => Chunk | null;
  /** Forgets what lies below a committed position. */
  readonly drop: (nextOffset: bigint) => void;
}

interface Held {
  readonly records: readonly BrokerRecord[];
  readonly endOffset: bigint;
  readonly bytes: number;
}

export function buffer(from: bigint, limits: BufferLimits): Buffer {
  const held: Held[] = [];
  let bytes = 0;
  let start = from;
  let end = from;

  const accept = (batch: RecordBatch): Acceptance => {
    if (batch.fetchedOffset !== end) return "wrong-position";
    if (batch.endOffset <= end) return batch.records.length === 0 ? "empty" : "gap";
    // Kafka answers with whole stored batches: records below what was asked for are known already.
    const records = batch.records.filter((record) => record.offset >= end);
    if (!inOrder(records, batch.endOffset)) return "gap";
    const size = records.reduce((sum, record) => sum + recordBytes(record), 0);
    held.push({ records, endOffset: batch.endOffset, bytes: size });
    bytes += size;
    end = batch.endOffset;
    return "accepted";
  };

  const chunk = ({ recordsMax, bytesMax, before }: ChunkLimits): Chunk | null => {
    if (held.length === 0) return null;
    const records: BrokerRecord[] = [];
    let size = 0;
    for (const batch of held) {
      for (let i = firstAtOrAbove(batch.records, start); i < batch.records.length; i += 1) {
        const record = batch.records[i] as BrokerRecord;
        size += recordBytes(record);
        const full = records.length >= recordsMax || (records.length > 0 && size > bytesMax);
        if (full || (before !== null && record.offset >= before)) {
          // What lies between the last record and this one is a hole that the batch accounts for.
          return { firstOffset: start, endOffset: record.offset, records };
        }
        records.push(record);
      }
    }
    return { firstOffset: start, endOffset: end, records };
  };

  return {
    wanted: () => (held.length >= limits.batchesMax || bytes >= limits.bytesMax ? null : end),
    accept,
    chunk,
    drop: (nextOffset) => {
      start = nextOffset;
      while (held[0] !== undefined && held[0].endOffset <= nextOffset) {
        bytes -= held.shift()?.bytes ?? 0;
      }
    },
  };
}

function inOrder(records: readonly BrokerRecord[], endOffset: bigint): boolean {
  let last: bigint | null = null;
  for (const { offset } of records) {
    if (last !== null && offset <= last) return false;
    last = offset;
  }
  return last === null || last < endOffset;
}

function firstAtOrAbove(records: readonly BrokerRecord[], offset: bigint): number {
  let low = 0;
  let high = records.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((records[middle] as BrokerRecord).offset < offset) low = middle + 1;
    else high = middle;
  }
  return low;
}

function recordBytes(record: BrokerRecord): number {
  let size = (record.key?.length ?? 0) + (record.value?.length ?? 0);
  for (const [name, value] of record.headers) size += name.length + (value?.length ?? 0);
  return size;
}
