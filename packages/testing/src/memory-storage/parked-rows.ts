/**
 * I6. The rows of parked messages, as a chunk and a turn meet them: found, told apart from new
 * records, written. Opens no transaction.
 */
import type { PartitionRef, Recorded, RecordRef, ToPark } from "@oncebox/core";
import type { MemoryDatabase } from "./database.ts";
import { hexOf, type ParkedRow, partitionKey, type StorageParts } from "./parts.ts";
import type { Transaction } from "./tables.ts";

/** What a partition's parked messages mean for a chunk. */
export interface Probed {
  /** Whether there is any. */
  readonly left: boolean;
  readonly keys: ReadonlySet<string>;
  /** As texts of offset and time. */
  readonly records: ReadonlySet<string>;
}

export const nothingParked: Probed = { left: false, keys: new Set(), records: new Set() };

/** One record is parked once. The time tells it from another at the same place, in a topic made anew. */
export function parkedKey(
  at: PartitionRef,
  { offset, timestamp }: Pick<RecordRef, "offset" | "timestamp">,
): string {
  return `${partitionKey(at)}#${offset} ${timestamp}`;
}

/** Those of a consumer, or of one of its partitions, by id. */
export function parkedRows(
  { tables }: MemoryDatabase,
  transaction: Transaction,
  of: Pick<PartitionRef, "consumer"> & Partial<PartitionRef>,
): readonly ParkedRow[] {
  const rows = tables.entries(transaction, "parked") as readonly [string, ParkedRow][];
  return rows
    .map(([, row]) => row)
    .filter(
      (row) =>
        row.consumer === of.consumer &&
        (of.topic === undefined || row.topic === of.topic) &&
        (of.partition === undefined || row.partition === of.partition),
    )
    .sort((a, b) => (a.id < b.id ? -1 : 1));
}

/** Whether no earlier message of its key is parked in its partition, in whatever state. */
export function isHead(
  database: MemoryDatabase,
  transaction: Transaction,
  row: ParkedRow,
): boolean {
  if (row.key === null) return true;
  return !parkedRows(database, transaction, row).some(
    (other) => other.key === row.key && isBefore(other, row),
  );
}

function isBefore(one: ParkedRow, other: ParkedRow): boolean {
  const { offset } = other.record;
  return one.record.offset === offset ? one.id < other.id : one.record.offset < offset;
}

/** What is parked of a partition whose lock is held. */
export function probe(
  { database }: StorageParts,
  transaction: Transaction,
  at: PartitionRef,
): Probed {
  const { consumer, topic, partition } = at;
  const rows = parkedRows(database, transaction, { consumer, topic, partition });
  return {
    left: rows.length > 0,
    keys: new Set(rows.flatMap(({ key }) => (key === null ? [] : [key]))),
    records: new Set(rows.map(({ record }) => placeOf(record))),
  };
}

function placeOf({ offset, timestamp }: Pick<RecordRef, "offset" | "timestamp">): string {
  return `${offset} ${timestamp}`;
}

/** What was parked already is a duplicate; what stands behind a parked message of its key is held. */
export function withParked(
  recorded: readonly Recorded[],
  records: readonly RecordRef[],
  { keys, records: parked }: Probed,
): readonly Recorded[] {
  return recorded.map((each, place) => {
    const record = records[place];
    if (record === undefined || each === "done") return each;
    if (parked.has(placeOf(record))) return "duplicate";
    const held = each === "new" && record.key !== null && keys.has(hexOf(record.key));
    return held ? "held" : each;
  });
}

/** Sets records aside, in their order; one that is parked already stays as it is. */
export async function park(
  { database, lockTimeoutMs }: StorageParts,
  transaction: Transaction,
  { consumer, topic, partition }: PartitionRef,
  records: readonly ToPark[],
): Promise<void> {
  const { tables, clock } = database;
  const at = { consumer, topic, partition };
  for (const { record, state, attempts, afterMs, error } of records) {
    const key = parkedKey(at, record);
    // A turn that is open may be about to delete it.
    await tables.lock(transaction, `parked/${key}`, lockTimeoutMs);
    if (tables.get(transaction, "parked", key) !== undefined) continue;
    const row: ParkedRow = {
      ...{ ...at, id: tables.next("parked"), record: structuredClone(record) },
      key: record.key === null ? null : hexOf(record.key),
      ...{ state, attempts, error, token: null, parkedAt: clock.epochMs() },
      ...dueIn(database, afterMs),
    };
    tables.write(transaction, "parked", key, row);
  }
}

/** A time from now, to be compared and to be shown. */
export function dueIn(
  { clock }: MemoryDatabase,
  ms: number,
): Pick<ParkedRow, "dueAt" | "nextAttemptAt"> {
  return { dueAt: clock.now() + ms, nextAttemptAt: clock.epochMs() + ms };
}
