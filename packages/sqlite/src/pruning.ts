/**
 * I7: message ids that nobody needs any more, a few at a time, in the order of their one index. Decides
 * nothing about when. Looks without the write lock first: mostly there is nothing to delete.
 */
import type { LogEnd, Pruned, PruneRequest, PruningVerbs } from "@oncebox/core";
import type { Database } from "better-sqlite3";
import { type Access, reading, writing } from "./locking.ts";
import { clockText, nowMs } from "./queries.ts";
import { consumerId } from "./record-ids.ts";
import { int, one, prepared } from "./statements.ts";

// By primary key, its first column. How far each partition has come, and the slowest; null is not known,
// and comes first. A partition of which no end is known has a null there, which equals nothing.
const slowestText = `
  SELECT p.topic, p.partition, CASE
      WHEN p.next_offset = CAST(e.value ->> 'end' AS INTEGER)
        AND coalesce(p.topic_id = (e.value ->> 'topicId'), 1) THEN min(${nowMs}, @askedAt)
      WHEN p.last_time BETWEEN 0 AND ${nowMs} THEN p.last_time
      WHEN p.last_time BETWEEN ${nowMs} AND ${nowMs} + @ahead THEN ${nowMs}
    END AS come_to
  FROM oncebox_inbox_partitions AS p
  LEFT JOIN json_each(@ends) AS e
    ON e.value ->> 'topic' = p.topic AND e.value ->> 'partition' = p.partition
  WHERE p.consumer = @consumer
  ORDER BY come_to NULLS FIRST, p.topic, p.partition LIMIT 1`;

// By primary key, from the place of the step before. The last id of this step; none: all that are left
// belong to it.
const lastText = `
  SELECT source, id FROM oncebox_inbox_messages
  WHERE consumer = @consumer AND (source, id) > (@source, @id)
  ORDER BY source, id LIMIT 1 OFFSET @limit - 1`;

// By primary key, between two places; parked messages by their unique index, for old ids alone.
const oldText = `
  FROM oncebox_inbox_messages AS m
  WHERE m.consumer = @consumer AND (m.source, m.id) > (@source, @id)
    AND (@lastSource IS NULL OR (m.source, m.id) <= (@lastSource, @lastId))
    AND m.record_time < @before
    AND NOT EXISTS (
      SELECT 1 FROM oncebox_parked_messages AS k
      JOIN oncebox_sources AS s ON s.name = k.topic
      WHERE k.consumer = m.consumer AND s.id = m.topic AND k.partition = m.partition
        AND k.record_offset = m.record_offset)`;

const anyOldText = `SELECT 1 ${oldText} LIMIT 1`;
const pruneText = `DELETE ${oldText}`;

interface SlowestRow {
  readonly topic: string;
  readonly partition: bigint;
  readonly come_to: bigint | null;
}

interface IdRow {
  readonly source: bigint;
  readonly id: Uint8Array;
}

type Bound = Readonly<Record<string, bigint | Uint8Array | null>>;

/** What one step is about. */
interface Step extends Omit<Pruned, "deleted"> {
  /** Null: nothing may be deleted. */
  readonly values: Bound | null;
}

export function pruningVerbs(access: Access): PruningVerbs {
  return {
    pruneIds: async (request) => {
      const doing = `pruning of ids of ${request.consumer}`;
      const any = await reading(access, doing, (db) => {
        const { values, ...step } = stepOf(db, request);
        const found = values === null ? undefined : prepared(db, anyOldText).get(values);
        return { step, found: found !== undefined };
      });
      if (!any.found) return { ...any.step, deleted: 0 };
      // Looked at again: a seek, or a key that was parked, may have come in between.
      return writing(access, { doing }, (db) => {
        const { values, ...step } = stepOf(db, request);
        const deleted = values === null ? 0 : prepared(db, pruneText).run(values).changes;
        return { ...step, deleted };
      });
    },
  };
}

function stepOf(db: Database, request: PruneRequest): Step {
  const { consumer: name, windowMs, aheadMsMax, ends, askedAt, limit, from } = request;
  const at = placeOf(from);
  const consumer = consumerId(db, name);
  if (consumer === null) return { values: null, next: null, before: null, slowest: null };
  const found = prepared(db, slowestText).get({
    ...{ consumer, ahead: int(aheadMsMax), askedAt: int(askedAt) },
    ends: JSON.stringify(ends.map(inJson)),
  }) as SlowestRow | undefined;
  const slowest =
    found === undefined ? null : { topic: found.topic, partition: Number(found.partition) };
  const comeTo = found === undefined ? one<{ now: bigint }>(db, clockText)?.now : found.come_to;
  if (comeTo === null || comeTo === undefined) {
    return { values: null, next: null, before: null, slowest };
  }
  const before = comeTo - int(windowMs);
  const last = prepared(db, lastText).get({ consumer, ...at, limit: int(limit) }) as
    | IdRow
    | undefined;
  const upTo = { lastSource: last?.source ?? null, lastId: last?.id ?? null };
  const next = last === undefined ? null : `${last.source}:${Buffer.from(last.id).toString("hex")}`;
  return { values: { consumer, ...at, ...upTo, before }, next, before, slowest };
}

/** JSON knows no bigint, and a number of it would be rounded. */
function inJson({ topic, topicId, partition, end }: LogEnd) {
  return { topic, topicId, partition, end: String(end) };
}

/** Throws RangeError for a place that no answer gave. */
function placeOf(from: string | null): { readonly source: bigint; readonly id: Uint8Array } {
  if (from === null) return { source: -1n, id: new Uint8Array(0) };
  const [, source, id] = /^(\d{1,19}):([0-9a-f]{32})$/.exec(from) ?? [];
  if (source === undefined || id === undefined) {
    throw new RangeError(`no place of a walk over ids: ${from}`);
  }
  return { source: BigInt(source), id: Buffer.from(id, "hex") };
}
