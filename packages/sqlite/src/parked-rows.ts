/**
 * Rows of parked messages: what a chunk asks of them and adds to them, with the write lock held, and
 * how a record is written down in one and read back. Bytes are never re-encoded.
 */
import {
  type ParkedError,
  type ParkedRecord,
  type Recorded,
  type RecordRef,
  sha256First16,
  type ToPark,
} from "@oncebox/core";
import type { Database } from "better-sqlite3";
import { headersOf, pairsOf } from "./headers.ts";
import { anyLeftText, keyParkedText, offsetParkedText, parkText } from "./parking-queries.ts";
import { int, one, prepared } from "./statements.ts";

/** A partition by its row's key. */
interface Place {
  readonly consumer: bigint;
  readonly topic: string;
  readonly partition: number;
}

/** The columns of a record, as every statement returns them. */
export interface RecordColumns {
  readonly record_offset: bigint;
  readonly record_time: bigint;
  readonly key: Uint8Array | null;
  readonly value: Uint8Array | null;
  readonly headers: string;
}

/**
 * I6. What became of each record, seen beside what is parked: one that is parked itself is not tried
 * again, and one whose key is parked is held, where it would be new. Also whether anything is left.
 */
export function amongParked(
  db: Database,
  { consumer, topic, partition }: Place,
  records: readonly RecordRef[],
  recorded: readonly Recorded[],
): { readonly recorded: readonly Recorded[]; readonly left: boolean } {
  const place = [consumer, topic, int(partition)] as const;
  const left = one(db, anyLeftText, ...place) !== undefined;
  if (!left) return { recorded, left };
  const outcomeOf = (record: RecordRef, fresh: Recorded | undefined): Recorded => {
    if (fresh === undefined) throw new TypeError("a record of a chunk has no outcome");
    if (fresh === "done") return fresh;
    if (one(db, offsetParkedText, ...place, record.offset, record.timestamp) !== undefined)
      return "duplicate";
    if (fresh !== "new" || record.key === null) return fresh;
    const parked = one(db, keyParkedText, ...place, sha256First16(record.key)) !== undefined;
    return parked ? "held" : "new";
  };
  return { recorded: records.map((record, index) => outcomeOf(record, recorded[index])), left };
}

/** I6. Sets messages aside, in this order. The advance that follows fences them. */
export function parkRows(
  db: Database,
  { consumer, topic, partition }: Place,
  rows: readonly ToPark[],
): void {
  for (const { record, state, attempts, afterMs, error } of rows) {
    const { offset, timestamp: time, key, value, headers } = record;
    prepared(db, parkText).run({
      ...{ consumer, topic, partition: int(partition), offset, time },
      ...{ hash: key === null ? null : sha256First16(key), key, value },
      ...{
        headers: JSON.stringify(pairsOf(headers)),
        state,
        attempts: int(attempts),
        after: msOf(afterMs),
      },
      ...columnsOf(error),
    });
  }
}

/** An integer for SQLite; a delay may have a fraction, and ends a little later rather than early. */
export function msOf(delayMs: number): bigint {
  return int(Math.ceil(delayMs));
}

export function columnsOf(error: ParkedError | null) {
  return { code: error?.code ?? null, error: error?.text ?? null };
}

export function recordOf(row: RecordColumns): ParkedRecord {
  const { record_offset: offset, record_time: timestamp, key, value, headers } = row;
  return { offset, timestamp, key, value, headers: headersOf(headers) };
}
