/**
 * The statement that forgets message ids, as a pure function; see queries.ts for what a statement is.
 *
 *   oncebox_prune                         one step of a walk over the table of ids
 */
import type { PruneRequest } from "@oncebox/core";
import { define, quoted, type Statement } from "./queries.ts";
import { plainArray, textArray } from "./wire.ts";

/** Exactly one row. */
export interface PrunedRow {
  readonly deleted: bigint;
  readonly next: string | null;
  readonly before: bigint | null;
  readonly topic: string | null;
  readonly partition: number | null;
}

export interface PruningQueries {
  /** Throws RangeError for a place that no answer gave. */
  readonly prune: (request: PruneRequest) => Statement;
}

/** Rows of a page of 8 kB, about. The walk goes by pages: see below. */
const rowsPerPage = 100;

/** What the database's clock shows, in milliseconds since 1970. */
export const nowMs = "floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint";

// How far each partition has come, and the slowest; null is not known, and comes first. No least() of
// what may be null: it would take that for nothing.
const slowestText = (own: string) => `
  at AS MATERIALIZED (
    SELECT c.id AS consumer, ${nowMs} AS now FROM ${own}consumers c WHERE c.name = $1
  ), slowest AS MATERIALIZED (
    SELECT p.topic, p.partition, CASE
        WHEN p.next_offset = e.end_offset
          AND (p.topic_id = nullif(e.topic_id, '')) IS NOT FALSE THEN least(at.now, $14::bigint)
        WHEN p.last_time BETWEEN 0 AND at.now THEN p.last_time
        WHEN p.last_time BETWEEN at.now AND at.now + $3 THEN at.now
      END AS come_to
    FROM at
    JOIN ${own}inbox_partitions p ON p.consumer = at.consumer
    LEFT JOIN unnest($4::text[], $5::text[], $6::integer[], $7::bigint[])
      AS e (topic, topic_id, partition, end_offset)
      ON e.topic = p.topic AND e.partition = p.partition
    ORDER BY come_to NULLS FIRST, p.topic COLLATE "C", p.partition LIMIT 1
  ), horizon AS MATERIALIZED (
    SELECT at.consumer, CASE
        WHEN EXISTS (SELECT FROM slowest) THEN (SELECT come_to FROM slowest) ELSE at.now
      END - $2 AS before
    FROM at
  )`;

// Index: consumers_name_key, inbox_partitions_pkey by its first column, parked_messages_place,
// sources_pkey; of the ids none. They are read page by page, as they lie in the table: $8 and $9 are the
// first place of this step and that of the next one. So no second index is written with each message,
// and whatever the ids look like, a step reads a few pages that lie side by side. A place that moved
// (CLUSTER, VACUUM FULL) is met in the next walk. Waits for nobody: rows of ids are locked by nothing
// but a deletion, and of one consumer only whoever has the advisory lock deletes. A chunk that records
// one of these ids waits for this one statement, which holds nothing that a chunk could wait for in
// turn. The subquery is asked for old rows alone.
const pruneText = (own: string) => `
  WITH ${slowestText(own).trim()}, mine AS MATERIALIZED (
    SELECT pg_try_advisory_xact_lock(hashtextextended($13::text, 0)) AS got
  ), old AS MATERIALIZED (
    SELECT m.ctid AS place FROM mine, horizon h, ${own}inbox_messages m
    WHERE mine.got AND m.ctid > $8::tid AND m.ctid < $9::tid
      AND m.consumer = h.consumer AND m.record_time < h.before
      AND NOT EXISTS (
        SELECT FROM ${own}parked_messages k JOIN ${own}sources s ON s.name = k.topic
        WHERE k.consumer = m.consumer AND s.id = m.topic AND k.partition = m.partition
          AND k.record_offset = m.record_offset
      )
    ORDER BY m.ctid LIMIT $10
  ), gone AS (
    DELETE FROM ${own}inbox_messages m WHERE m.ctid = ANY (ARRAY(SELECT place FROM old))
    RETURNING 1
  )
  SELECT (SELECT count(*) FROM gone) AS deleted,
    CASE
      WHEN (SELECT before FROM horizon) IS NULL OR NOT (SELECT got FROM mine) THEN NULL
      WHEN (SELECT count(*) FROM old) = $10 THEN (SELECT max(place)::text FROM old)
      WHEN $11 * current_setting('block_size')::bigint
        < pg_relation_size($12::regclass) THEN $9::tid::text
    END AS next,
    (SELECT before FROM horizon) AS before, s.topic, s.partition
  FROM (SELECT) AS one LEFT JOIN slowest s ON true`;

export function pruningQueries(schema: string): PruningQueries {
  const own = `${quoted(schema)}.`;
  // Not prepared: what fits best depends on how many messages are parked.
  const prune = define("prune", pruneText(own), { prepare: false });
  return {
    prune: ({ consumer, windowMs, aheadMsMax, ends, askedAt, limit, from }) => {
      const place = from ?? "(0,0)";
      const [, page] = /^\((\d{1,10}),\d{1,5}\)$/.exec(place) ?? [];
      if (page === undefined) throw new RangeError(`no place of a walk over ids: ${place}`);
      const behind = Number(page) + Math.ceil(limit / rowsPerPage);
      return prune(
        ...[consumer, windowMs, aheadMsMax],
        textArray(ends.map((end) => end.topic)),
        textArray(ends.map((end) => end.topicId ?? "")),
        plainArray(ends.map((end) => end.partition)),
        plainArray(ends.map((end) => end.end)),
        ...[place, `(${behind},0)`, limit, behind, `${own}inbox_messages`],
        JSON.stringify(["oncebox", schema, consumer, "prune"]),
        askedAt,
      );
    },
  };
}
