/** I7. Message ids that nobody needs any more, a few at a time. */
import type { Pruned, PruneRequest, PruningVerbs } from "@oncebox/core";
import { parkedRows } from "./parked-rows.ts";
import { rowsOf } from "./partitions.ts";
import type { IdRow, PartitionRow, StorageParts } from "./parts.ts";
import type { Transaction } from "./tables.ts";

export function pruningVerbs(parts: StorageParts): PruningVerbs {
  return {
    pruneIds: (request) =>
      parts.pool.with(`pruning of ids of ${request.consumer}`, (connection) =>
        connection.run("prune", (transaction) => prune(parts, transaction, request)),
      ),
  };
}

/**
 * Does not wait, so it is committed in the turn in which it reads: what nobody has locked it may
 * delete.
 */
function prune(parts: StorageParts, transaction: Transaction, request: PruneRequest): Pruned {
  const { tables, locks, clock } = parts.database;
  const { consumer, windowMs, limit, from } = request;
  const now = BigInt(Math.floor(clock.epochMs()));
  const slowest = rowsOf(parts, transaction, consumer)
    .map((row) => ({ row, comeTo: comeTo(row, request, now) }))
    .reduce<Standing | null>((first, each) => (isSlower(each, first) ? each : first), null);
  const { topic = "", partition = 0 } = slowest?.row ?? {};
  const decided = slowest === null ? null : { topic, partition };
  const time = slowest === null ? now : slowest.comeTo;
  if (time === null) return { deleted: 0, next: null, before: null, slowest: decided };
  const before = time - BigInt(windowMs);
  const rows = (tables.entries(transaction, "ids") as readonly [string, IdRow][])
    .filter(([key, row]) => row.consumer === consumer && (from === null || key > from))
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .slice(0, limit);
  const parked = new Set(parkedRows(parts.database, transaction, { consumer }).map(placeOfParked));
  const old = rows.filter(
    ([key, row]) =>
      row.time < before && !parked.has(placeOf(row)) && locks.holderOf(`ids/${key}`) === null,
  );
  for (const [key] of old) tables.write(transaction, "ids", key, undefined);
  const next = rows.length < limit ? null : (rows.at(-1)?.[0] ?? null);
  return { deleted: old.length, next, before, slowest: decided };
}

interface Standing {
  readonly row: PartitionRow;
  /** Null: nothing is known. */
  readonly comeTo: bigint | null;
}

function comeTo(
  { topic, partition, nextOffset, log }: PartitionRow,
  { ends, askedAt, aheadMsMax }: PruneRequest,
  now: bigint,
): bigint | null {
  const known = ends.find((each) => each.topic === topic && each.partition === partition);
  const sameLog = known?.topicId == null || log.topicId === null || known.topicId === log.topicId;
  if (known?.end === nextOffset && sameLog) return earlier(BigInt(askedAt), now);
  const time = log.last?.timestamp ?? null;
  if (time === null || time < 0n || time > now + BigInt(aheadMsMax)) return null;
  return earlier(time, now);
}

function earlier(one: bigint, other: bigint): bigint {
  return one < other ? one : other;
}

function isSlower({ comeTo: one }: Standing, than: Standing | null): boolean {
  if (than === null) return true;
  if (one === null || than.comeTo === null) return one === null && than.comeTo !== null;
  return one < than.comeTo;
}

function placeOf({ taker }: IdRow): string {
  return taker === null ? "" : JSON.stringify([taker.topic, taker.partition, `${taker.offset}`]);
}

function placeOfParked(row: ReturnType<typeof parkedRows>[number]): string {
  return JSON.stringify([row.topic, row.partition, `${row.record.offset}`]);
}
