/**
 * What was fetched of one partition and is not committed yet. Accepts a batch only where it goes on
 * from the one before (the chain of custody), so that nothing can be skipped unseen.
 */
import type { BrokerRecord, FetchPosition, RecordBatch } from "../ports/broker.ts";
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

/**
 * `gap`: the batch is not in order, or holds what it does not account for. `wrong-log`: it was read
 * from another topic of the same name.
 */
export type Acceptance = "accepted" | "empty" | "wrong-position" | "wrong-log" | "gap";

export interface Buffer {
  /** What to fetch next; null while the buffer is full. */
  readonly wanted: () => FetchPosition | null;
  readonly accept: (batch: RecordBatch) => Acceptance;
  /** The next chunk, left in place; null where nothing is buffered. */
  readonly chunk: (limits: ChunkLimits) => Chunk | null;
  readonly isEmpty: () => boolean;
  /** Forgets what lies below a committed position. */
  readonly drop: (nextOffset: bigint) => void;
}

interface Held {
  readonly records: readonly BrokerRecord[];
  readonly endOffset: bigint;
  readonly endEpoch: number | null;
  readonly bytes: number;
}

export function buffer(from: FetchPosition, limits: BufferLimits): Buffer {
  const held: Held[] = [];
  let bytes = 0;
  let start = from.offset;
  let end = from;

  const accept = (batch: RecordBatch): Acceptance => {
    const { endOffset, endEpoch, topicId } = batch;
    if (batch.fetchedOffset !== end.offset) return "wrong-position";
    if (end.topicId !== null && topicId !== end.topicId) return "wrong-log";
    if (endOffset <= end.offset) return batch.records.length === 0 ? "empty" : "gap";
    // Kafka answers with whole stored batches: records below what was asked for are known already.
    const records = batch.records.filter((record) => record.offset >= end.offset);
    if (!inOrder(records, endOffset)) return "gap";
    const size = records.reduce((sum, record) => sum + recordBytes(record), 0);
    held.push({ records, endOffset, endEpoch, bytes: size });
    bytes += size;
    end = { offset: endOffset, topicId, leaderEpoch: endEpoch };
    return "accepted";
  };

  const chunk = ({ recordsMax, bytesMax, before }: ChunkLimits): Chunk | null => {
    if (held.length === 0) return null;
    const records: BrokerRecord[] = [];
    const { topicId } = end;
    let size = 0;
    for (const batch of held) {
      for (let i = firstAtOrAbove(batch.records, start); i < batch.records.length; i += 1) {
        const record = batch.records[i] as BrokerRecord;
        size += recordBytes(record);
        const full = records.length >= recordsMax || (records.length > 0 && size > bytesMax);
        if (full || (before !== null && record.offset >= before)) {
          const cut = endBehind(records.at(-1), record);
          return { firstOffset: start, records, topicId, ...cut };
        }
        records.push(record);
      }
    }
    const { offset: endOffset, leaderEpoch: endEpoch } = end;
    return { firstOffset: start, endOffset, endEpoch, records, topicId };
  };

  return {
    wanted: () => (held.length >= limits.batchesMax || bytes >= limits.bytesMax ? null : end),
    accept,
    chunk,
    isEmpty: () => held.length === 0,
    drop: (nextOffset) => {
      start = nextOffset;
      while (held[0] !== undefined && held[0].endOffset <= nextOffset) {
        bytes -= held.shift()?.bytes ?? 0;
      }
    },
  };
}

/**
 * Where a chunk ends that leaves `next` out. Directly behind its last record, whose epoch is known:
 * a hole after it may belong to a later epoch, and position and epoch must fit together. With no
 * record at all it ends behind the hole, in an epoch that nobody told.
 */
function endBehind(last: BrokerRecord | undefined, next: BrokerRecord) {
  return last === undefined
    ? { endOffset: next.offset, endEpoch: null }
    : { endOffset: last.offset + 1n, endEpoch: last.leaderEpoch };
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
