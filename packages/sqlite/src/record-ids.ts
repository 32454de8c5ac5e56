/** I3: ids recorded with the write lock held, so of several recordings the first to come is new. */
import type { MessageRef, PartitionClaim, Recorded, RecordRef } from "@oncebox/core";
import type { Database } from "better-sqlite3";
import {
  addConsumerText,
  addSourceText,
  consumerText,
  recordOnceText,
  recordText,
  sourceText,
  takerText,
} from "./queries.ts";
import { int, one, run } from "./statements.ts";

interface Taker {
  readonly topic: bigint | null;
  readonly partition: bigint | null;
  readonly record_offset: bigint | null;
  readonly checksum: bigint | null;
}

/** Scopes and topics as integers. Looked up each time: what is remembered may have been rolled back. */
function sourceIds(db: Database): (name: string) => bigint {
  const known = new Map<string, bigint>();
  return (name) => {
    const id = known.get(name) ?? sourceId(db, name);
    known.set(name, id);
    return id;
  };
}

function sourceId(db: Database, name: string): bigint {
  const found = one<{ id: bigint }>(db, sourceText, name);
  if (found !== undefined) return found.id;
  run(db, addSourceText, name);
  return sourceId(db, name);
}

export function consumerId(db: Database, name: string): bigint | null {
  return one<{ id: bigint }>(db, consumerText, name)?.id ?? null;
}

/** A partition's row as it is behind the lock. */
interface ChunkPlace {
  readonly consumer: bigint;
  readonly nextOffset: bigint;
  /** That of the last handled record; null: none yet. */
  readonly lastTime: bigint | null;
}

/** What became of each record of a chunk, from the offset on that the partition's row stands at. */
export function recordChunk(
  db: Database,
  claim: PartitionClaim,
  { consumer, nextOffset, lastTime }: ChunkPlace,
  records: readonly RecordRef[],
): readonly Recorded[] {
  const sourceOf = sourceIds(db);
  return records.map((record) => {
    if (record.offset < nextOffset) return "done";
    if (record.id === null) return "new";
    const key = [consumer, sourceOf(record.source), record.id] as const;
    const topic = sourceOf(claim.topic);
    const place = [topic, int(claim.partition), record.offset] as const;
    const time = record.timestamp;
    const more = [time, lastTime ?? time, int(record.checksum)] as const;
    if (run(db, recordText, ...key, ...place, ...more) === 1) return "new";
    return outcomeOf(claim, record, topic, takerOf(db, key));
  });
}

function takerOf(db: Database, key: readonly [bigint, bigint, Uint8Array]): Taker {
  const taker = one<Taker>(db, takerText, ...key);
  if (taker === undefined) throw new TypeError("an id was neither recorded nor taken");
  return taker;
}

/** Of a record whose id was there before, or came twice in this chunk. */
function outcomeOf(
  { partition, replay: { number, until } }: PartitionClaim,
  record: RecordRef,
  topic: bigint,
  taker: Taker,
): Recorded {
  const own =
    taker.topic === topic &&
    taker.partition === int(partition) &&
    taker.record_offset === record.offset;
  // Left behind by a handler that committed early: the record itself has not been done. Not so below
  // a position that was left by a seek: there the id may stem from the time before, and from a topic
  // that was made anew since and filled with the same. In a replay the core gives ids of that replay.
  if (own && (number > 0 || record.offset >= until)) return "new";
  return sameContent(taker, record.checksum) ? "duplicate" : "conflict";
}

function sameContent(taker: Taker, checksum: number | null): boolean {
  return checksum === null || taker.checksum === null || taker.checksum === int(checksum);
}

/** I3 for `inbox.once`, in a transaction of the caller's. */
export function recordIds(
  db: Database,
  consumerName: string,
  ids: readonly MessageRef[],
): readonly Exclude<Recorded, "done" | "held">[] {
  if (ids.length === 0) return [];
  run(db, addConsumerText, consumerName);
  const consumer = consumerId(db, consumerName);
  if (consumer === null) throw new TypeError("a consumer was neither added nor there");
  const sourceOf = sourceIds(db);
  return ids.map(({ source, id, checksum }) => {
    const key = [consumer, sourceOf(source), id] as const;
    if (run(db, recordOnceText, ...key, int(checksum)) === 1) return "new";
    return sameContent(takerOf(db, key), checksum) ? "duplicate" : "conflict";
  });
}
