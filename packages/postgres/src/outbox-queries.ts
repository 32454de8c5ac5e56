/**
 * Every statement of the outbox, as pure functions; see queries.ts for what a statement is.
 *
 *   oncebox_enqueue, oncebox_enqueue_many rows written in the caller's transaction
 *   oncebox_lease, oncebox_release        lanes taken, renewed, given back
 *   oncebox_read, oncebox_settle          rows read; rows deleted when published
 *   oncebox_notify                        wakes relays of other processes
 */
import type { LaneLease, LeaseRequest, OutboxEntry, OutboxRow } from "@oncebox/core";
import { define, quoted, type Statement } from "./queries.ts";
import { absentBytes, bytesArray, plainArray, textArray } from "./wire.ts";

/** A lane of `oncebox_lease`; at least one row comes back, with nulls where there is no lease. */
export interface LeasedRow {
  readonly relays: bigint;
  /** When the server was started: tells it from any other that takes its place. */
  readonly server: string;
  readonly lane: number | null;
  readonly token: string | null;
  readonly floor: bigint | null;
}

/**
 * A row of `oncebox_read`, as an array; at least one comes back, with nulls from `lane` on where
 * there is nothing to read. The content is null where `fetched` is false.
 */
export type ReadRow = readonly [
  xmin: string,
  server: string,
  lane: number | null,
  position: bigint,
  /** Read before: looked at for the floor only. */
  pending: boolean,
  bytes: number,
  fetched: boolean,
  id: string,
  topic: string,
  key: Uint8Array | null,
  value: Uint8Array | null,
  headerNames: string | null,
  headerValues: string | null,
];

export interface SettledRow {
  readonly xid: bigint;
  /** Lanes still held, as the text of an array. */
  readonly held: string;
}

/** One lane of a read: rows above `above`, at most `limit`, those read before included. */
export interface LaneRange {
  readonly lane: number;
  readonly above: bigint;
  readonly limit: number;
}

/** A lease and the floor to store with it; 0 leaves the stored one. */
export interface LeaseFloor extends LaneLease {
  readonly floor: bigint;
}

export interface OutboxQueries {
  /** With `xid` it writes nothing in any other transaction. */
  readonly enqueue: (rows: readonly OutboxEntry[], xid?: bigint) => Statement;
  readonly lease: (request: LeaseRequest) => Statement;
  readonly release: (relay: string, leases: readonly LeaseFloor[]) => Statement;
  readonly read: (
    ranges: readonly LaneRange[],
    pending: readonly bigint[],
    bytesMax: number,
    options: { readonly prepare: boolean },
  ) => Statement;
  readonly settle: (
    leases: readonly LeaseFloor[],
    published: readonly OutboxRow[],
    options: { readonly prepare: boolean },
  ) => Statement;
}

export function outboxQueries(schema: string): OutboxQueries {
  const own = `${quoted(schema)}.`;
  return { ...writeQueries(own), ...leaseQueries(own), ...relayQueries(own) };
}

// Index: outbox_messages_pkey is written. Locks nothing that another transaction could want. The
// columns xid and position are left to their defaults, which are computed in column order: the
// transaction's id first. One row, the usual case, without the detour through arrays. What stands for
// null in an array (wire.ts) becomes one here.
const enqueueText = (own: string) => `
  INSERT INTO ${own}outbox_messages
    (lane, message_id, topic, key, value, header_names, header_values)
  VALUES ($1, $2, $3, $4, $5, $6, array_replace($7::bytea[], $8::bytea, NULL))`;

// As above. ORDER BY: positions follow the order of the array. What was kept for the commit of a
// transaction ($9) must not be written outside of it, should a handler have ended it.
const enqueueManyText = (own: string) => `
  INSERT INTO ${own}outbox_messages
    (lane, message_id, topic, key, value, header_names, header_values)
  SELECT lane, message_id, topic, nullif(key, $8::bytea), nullif(value, $8::bytea),
    coalesce(nullif(header_names, '')::text[], '{}'),
    coalesce(array_replace(nullif(header_values, '')::bytea[], $8::bytea, NULL), '{}')
  FROM unnest($1::smallint[], $2::text[], $3::text[], $4::bytea[], $5::bytea[],
      $6::text[], $7::text[]) WITH ORDINALITY
    AS r (lane, message_id, topic, key, value, header_names, header_values, place)
  WHERE $9::xid8 IS NULL OR pg_current_xact_id() = $9::xid8
  ORDER BY place`;

function writeQueries(own: string) {
  const enqueue = define("enqueue", enqueueText(own));
  const enqueueMany = define("enqueue_many", enqueueManyText(own));
  return {
    enqueue: (rows, xid) => {
      const [row] = rows;
      if (row !== undefined && rows.length === 1 && xid === undefined) {
        const { lane, id, topic, key, value, headers } = row;
        return enqueue(
          ...[lane, id, topic, key, value],
          ...[namesOf(headers), valuesOf(headers), absentBytes],
        );
      }
      return enqueueMany(
        plainArray(rows.map(({ lane }) => lane)),
        textArray(rows.map(({ id }) => id)),
        textArray(rows.map(({ topic }) => topic)),
        bytesArray(rows.map(({ key }) => key)),
        bytesArray(rows.map(({ value }) => value)),
        // One array's text for each row: a list of arrays of several lengths is no array.
        rows.map(({ headers }) => (headers.length === 0 ? "" : namesOf(headers))),
        rows.map(({ headers }) => (headers.length === 0 ? "" : valuesOf(headers))),
        absentBytes,
        xid ?? null,
      );
    },
  } satisfies Partial<OutboxQueries>;
}

function namesOf(headers: OutboxEntry["headers"]): string {
  return textArray(headers.map(([name]) => name));
}

function valuesOf(headers: OutboxEntry["headers"]): string {
  return bytesArray(headers.map(([, value]) => value));
}

/**
 * Plain text, of several statements in one message; channel and payload are ours. Takes a lock of
 * the whole database while it commits: never inside a transaction of the business. It would wait for
 * the disk as any commit does; a wake-up that a crash loses is worth nothing afterwards.
 */
export function notifyScript(channel: string, payload: string): string {
  return `/* oncebox_notify */ BEGIN; SET LOCAL synchronous_commit = off; NOTIFY ${quoted(channel)}, '${payload}'; COMMIT`;
}

// Index: outbox_lanes_pkey, outbox_relays_pkey. Locks the lanes to renew in order, so that two
// relays that fight over lanes never wait for each other in a circle; free ones are taken only
// where nobody holds their lock (SKIP LOCKED), so that relays starting at once take different
// ones. clock_timestamp: after a wait, the statement's own time would be in the past. A renewal
// asks for the token alone: an expired lease that nobody took is still ours.
const leaseText = (own: string) => `
  WITH span AS (SELECT clock_timestamp() + $2 * interval '1 millisecond' AS leased_until),
  alive AS (
    INSERT INTO ${own}outbox_relays (relay, live_until) SELECT $1, leased_until FROM span
    ON CONFLICT (relay) DO UPDATE SET live_until = excluded.live_until
  ), dead AS (
    DELETE FROM ${own}outbox_relays
    WHERE relay <> $1 AND live_until < clock_timestamp() - interval '1 hour'
  ), held AS MATERIALIZED (
    SELECT l.lane FROM ${own}outbox_lanes l
    JOIN unnest($3::smallint[], $4::uuid[]) AS r (lane, token)
      ON l.lane = r.lane AND l.token = r.token
    ORDER BY l.lane FOR NO KEY UPDATE OF l
  ), renewed AS (
    UPDATE ${own}outbox_lanes l SET leased_until = span.leased_until FROM held, span
    WHERE l.lane = held.lane
    RETURNING l.lane, l.token, l.floor
  ), free AS MATERIALIZED (
    SELECT lane FROM ${own}outbox_lanes
    WHERE (leased_until IS NULL OR leased_until < clock_timestamp())
      AND lane <> ALL ($3::smallint[])
    ORDER BY lane LIMIT $5 FOR NO KEY UPDATE SKIP LOCKED
  ), taken AS (
    UPDATE ${own}outbox_lanes l
    SET token = gen_random_uuid(), owner = $1, leased_until = span.leased_until
    FROM free, span
    WHERE l.lane = free.lane
    RETURNING l.lane, l.token, l.floor
  )
  SELECT live.relays, live.server, l.lane, l.token, l.floor
  FROM (
    SELECT count(*) + 1 AS relays, extract(epoch FROM pg_postmaster_start_time())::text AS server
    FROM ${own}outbox_relays
    WHERE relay <> $1 AND live_until >= clock_timestamp()
  ) AS live
  LEFT JOIN (SELECT * FROM renewed UNION ALL SELECT * FROM taken) AS l ON true`;

// Index: as above. Changes only lanes whose token is still the one given. The relay is forgotten
// when it holds nothing any more, so that the others take their new share at once.
const releaseText = (own: string) => `
  WITH held AS MATERIALIZED (
    SELECT l.lane, g.floor FROM ${own}outbox_lanes l
    JOIN unnest($2::smallint[], $3::uuid[], $4::bigint[]) AS g (lane, token, floor)
      ON l.lane = g.lane AND l.token = g.token
    ORDER BY l.lane FOR NO KEY UPDATE OF l
  ), given_back AS (
    UPDATE ${own}outbox_lanes l
    SET token = NULL, owner = NULL, leased_until = NULL, floor = greatest(l.floor, held.floor)
    FROM held WHERE l.lane = held.lane
  )
  DELETE FROM ${own}outbox_relays
  WHERE relay = $1 AND NOT EXISTS (
    SELECT FROM ${own}outbox_lanes l
    WHERE l.owner = $1 AND l.lane NOT IN (SELECT lane FROM held)
  )`;

function leaseQueries(own: string) {
  const lease = define("lease", leaseText(own));
  const release = define("release", releaseText(own));
  return {
    lease: ({ relay, leaseMs, renew, acquireMax }) =>
      lease(relay, leaseMs, lanesOf(renew), tokensOf(renew), acquireMax),
    release: (relay, leases) => release(relay, lanesOf(leases), tokensOf(leases), floorsOf(leases)),
  } satisfies Partial<OutboxQueries>;
}

// Index: outbox_messages_pkey, one range for each lane, upwards. Locks nothing. Each lane is read
// from its floor, whatever was read before: a row may have been committed below rows that are
// already on their way. Rows read before come without their content: they tell what the floor may
// rise to in this very snapshot. The content of all others is fetched up to a number of bytes, in
// the order of the lanes given; octet_length does not fetch a large value.
const readText = (own: string) => `
  SELECT (SELECT pg_snapshot_xmin(pg_current_snapshot())::text),
    (SELECT extract(epoch FROM pg_postmaster_start_time())::text),
    m.lane, m.position, m.pending, m.bytes, m.fetched,
    CASE WHEN m.fetched THEN m.message_id END,
    CASE WHEN m.fetched THEN m.topic END,
    CASE WHEN m.fetched THEN m.key END,
    CASE WHEN m.fetched THEN m.value END,
    CASE WHEN m.fetched AND m.header_names <> '{}' THEN array_to_json(m.header_names) END,
    CASE WHEN m.fetched THEN m.header_values::text END
  FROM (VALUES (1)) AS at_least_one_row
  LEFT JOIN (
    SELECT *, NOT pending AND
      sum(CASE WHEN pending THEN 0 ELSE bytes END) OVER (ROWS UNBOUNDED PRECEDING) - bytes < $5
      AS fetched
    FROM (
      SELECT o.*, o.position IN (SELECT unnest($4::bigint[])) AS pending,
        64 + octet_length(o.topic) + coalesce(octet_length(o.key), 0)
          + coalesce(octet_length(o.value), 0) + pg_column_size(o.header_values) AS bytes
      FROM unnest($1::smallint[], $2::bigint[], $3::integer[]) AS l (lane, above, most)
      CROSS JOIN LATERAL (
        SELECT * FROM ${own}outbox_messages
        WHERE outbox_messages.lane = l.lane AND position > l.above
        ORDER BY position LIMIT l.most
      ) AS o
    ) AS found
  ) AS m ON true`;

// Index: outbox_lanes_pkey, outbox_messages_pkey. Locks the lanes in order, so that none is taken
// over before this commits; a lane whose token is another is left alone, and its rows with it.
// Exactly the given rows are deleted, never a range: a row committed meanwhile may lie inside.
// LIMIT 1 keeps one index look-up for each row, however large the table. The transaction's id is
// made in here, so it is higher than that of every row that any earlier read returned.
const settleText = (own: string) => `
  WITH given AS (
    SELECT * FROM unnest($1::smallint[], $2::uuid[], $3::bigint[]) AS g (lane, token, floor)
  ), held AS MATERIALIZED (
    SELECT l.lane, g.floor FROM ${own}outbox_lanes l
    JOIN given g ON l.lane = g.lane AND l.token = g.token
    ORDER BY l.lane FOR NO KEY UPDATE OF l
  ), raised AS (
    UPDATE ${own}outbox_lanes l SET floor = held.floor
    FROM held WHERE l.lane = held.lane AND held.floor > l.floor
  ), deleted AS (
    DELETE FROM ${own}outbox_messages
    WHERE ctid = ANY (ARRAY(
      SELECT m.row_id
      FROM unnest($4::smallint[], $5::bigint[]) AS p (lane, position)
      CROSS JOIN LATERAL (
        SELECT o.ctid AS row_id FROM ${own}outbox_messages o
        WHERE o.lane = p.lane AND o.position = p.position LIMIT 1
      ) AS m
      WHERE p.lane IN (SELECT lane FROM held)
    ))
  )
  SELECT pg_current_xact_id() AS xid, array(SELECT lane FROM held)::text AS held`;

function relayQueries(own: string) {
  const read = define("read", readText(own), { prepare: false });
  const settle = define("settle", settleText(own), { prepare: false });
  return {
    read: (ranges, pending, bytesMax, { prepare }) => ({
      ...read(
        plainArray(ranges.map((range) => range.lane)),
        plainArray(ranges.map((range) => range.above)),
        plainArray(ranges.map((range) => range.limit)),
        plainArray(pending),
        bytesMax,
      ),
      prepare,
    }),
    settle: (leases, published, { prepare }) => ({
      ...settle(
        ...[lanesOf(leases), tokensOf(leases), floorsOf(leases)],
        plainArray(published.map((row) => row.lane)),
        plainArray(published.map((row) => row.position)),
      ),
      prepare,
    }),
  } satisfies Partial<OutboxQueries>;
}

function lanesOf(leases: readonly LaneLease[]): string {
  return plainArray(leases.map((lease) => lease.lane));
}

function tokensOf(leases: readonly LaneLease[]): string {
  return plainArray(leases.map((lease) => lease.token));
}

function floorsOf(leases: readonly LeaseFloor[]): string {
  return plainArray(leases.map((lease) => lease.floor));
}
