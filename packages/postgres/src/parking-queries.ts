/**
 * Every statement of parked messages, as pure functions; see queries.ts for what a statement is.
 *
 *   oncebox_among_parked, oncebox_park    of a chunk: what is parked already, what it sets aside
 *   oncebox_take_parked                   turns given to whoever tries again
 *   oncebox_release_parked                turns given back, of which nobody was told
 *   oncebox_open_parked, oncebox_remove_parked   first and last statement of a turn
 *   oncebox_settle_parked                 what became of a turn that did not succeed
 *   oncebox_take_back_parked              its attempt, where another has the turn by now
 *   oncebox_parked                        what people look at
 *   oncebox_redrive, oncebox_skip         what people change
 *
 * No statement but the two of a chunk is sent with a partition's row locked, and none touches one.
 */
import {
  type ParkedFilter,
  type ParkedOutcome,
  type ParkedPage,
  type ParkedState,
  type ParkedTurn,
  type RecordRef,
  type Storage,
  sha256First16,
  type ToPark,
} from "@oncebox/core";
import { type ClaimKey, define, quoted, type Statement } from "./queries.ts";
import { absentBytes, bytesArray, plainArray, storedName, textArray, uuidOf } from "./wire.ts";

/** What a chunk finds parked of its partition; exactly one row. */
export interface AmongParkedRow {
  readonly any_left: boolean;
  /** Offsets of the chunk's records that are parked, as the text of an array. */
  readonly offsets: string;
  /** As above: offsets of its records whose keys are parked. */
  readonly held: string;
}

/** The columns that hold a record. */
export interface RecordColumns {
  readonly record_offset: bigint;
  readonly record_time: bigint;
  readonly key: Uint8Array | null;
  readonly value: Uint8Array | null;
  /** JSON, as stored. */
  readonly header_names: string;
  /** The text of an array. */
  readonly header_values: string;
}

export interface TakenRow extends RecordColumns {
  readonly id: bigint;
  readonly topic: string;
  readonly partition: number;
  readonly token: string;
  readonly attempts: number;
}

/** Exactly one row. */
export interface OpenedParkedRow {
  readonly xid: bigint;
  /** False: the turn is held no more. */
  readonly held: boolean;
}

export interface ParkedRow extends RecordColumns {
  readonly id: bigint;
  readonly topic: string;
  readonly partition: number;
  readonly state: ParkedState;
  readonly attempts: number;
  readonly error_code: string | null;
  readonly error: string | null;
  readonly parked_at: bigint;
  readonly next_attempt_at: bigint | null;
}

/** Exactly one row. */
export interface ChangedRow {
  /** How many fitted, up to the page's limit, and the highest of them; null: none. */
  readonly seen: bigint;
  readonly last: bigint | null;
  /** Ids of those that were changed, upwards, as the text of an array. */
  readonly changed: string;
}

export interface ParkingQueries {
  readonly amongParked: (key: ClaimKey, records: readonly RecordRef[]) => Statement;
  readonly park: (key: ClaimKey, xid: bigint, park: readonly ToPark[]) => Statement;
  readonly take: (request: Parameters<Storage<never>["takeParked"]>[0]) => Statement;
  readonly release: (request: Parameters<Storage<never>["releaseParked"]>[0]) => Statement;
  readonly open: (turn: ParkedTurn) => Statement;
  readonly remove: (turn: ParkedTurn, xid: bigint) => Statement;
  readonly settle: (turn: ParkedTurn, outcome: ParkedOutcome) => Statement;
  readonly takeBack: (turn: ParkedTurn) => Statement;
  readonly parked: (filter: ParkedFilter, page: ParkedPage) => Statement;
  readonly redrive: (filter: ParkedFilter, page: ParkedPage) => Statement;
  readonly skip: (filter: ParkedFilter, page: ParkedPage) => Statement;
}

export function parkingQueries(schema: string): ParkingQueries {
  const own = `${quoted(schema)}.`;
  return { ...chunkQueries(own), ...turnQueries(own), ...filterQueries(own) };
}

// Index: parked_messages_place, parked_messages_key; LIMIT 1 keeps
// one look-up for each record, however large the table, and ORDER BY one for whether anything
// is left (downwards: what is dead lies at the other end). Locks nothing. A statement of its own,
// behind the one that locked the partition's row: its snapshot has all that any chunk before has
// parked, and no chunk beside this one parks. What a transaction of a turn is about to remove still
// counts, so nothing of its key passes by it.
const amongParkedText = (own: string) => `
  SELECT (
      SELECT true FROM ${own}parked_messages m
      WHERE m.consumer = $1 AND m.topic = $2 AND m.partition = $3
      ORDER BY m.record_offset DESC LIMIT 1
    ) IS TRUE AS any_left,
    array(
      SELECT g.record_offset
      FROM unnest($4::bigint[], $7::bigint[]) AS g (record_offset, record_time)
      CROSS JOIN LATERAL (
        SELECT FROM ${own}parked_messages m
        WHERE m.consumer = $1 AND m.topic = $2 AND m.partition = $3
          AND m.record_offset = g.record_offset AND m.record_time = g.record_time LIMIT 1
      ) AS found
    )::text AS offsets,
    array(
      SELECT g.record_offset FROM unnest($5::bigint[], $6::uuid[]) AS g (record_offset, key_hash)
      CROSS JOIN LATERAL (
        SELECT FROM ${own}parked_messages m
        WHERE m.consumer = $1 AND m.topic = $2 AND m.partition = $3
          AND m.key_hash = g.key_hash LIMIT 1
      ) AS found
    )::text AS held`;

// Index: all of parked_messages are written, the unique one decides. Locks nothing that another chunk
// could want: the partition's row is locked since oncebox_open. Writes nothing in any other
// transaction than the one that was opened: the advance behind it raises there, and could not undo
// it. A record that is parked already stays as it is. ORDER BY: ids follow the order of the arrays.
const parkText = (own: string) => `
  INSERT INTO ${own}parked_messages
    (consumer, topic, partition, record_offset, record_time, key, key_hash, value,
     header_names, header_values, state, attempts, next_attempt_at, error_code, error)
  SELECT $1, $2, $3, r.record_offset, r.record_time, nullif(r.key, $5::bytea),
    CASE WHEN r.key <> $5::bytea THEN r.key_hash END, nullif(r.value, $5::bytea),
    r.header_names::text[], array_replace(r.header_values::bytea[], $5::bytea, NULL),
    r.state, r.attempts,
    CASE WHEN r.state <> 'dead' THEN clock_timestamp() + r.after_ms * interval '1 millisecond' END,
    CASE WHEN r.failed THEN r.error_code END, CASE WHEN r.failed THEN r.error END
  FROM unnest($6::bigint[], $7::bigint[], $8::bytea[], $9::uuid[], $10::bytea[], $11::text[],
      $12::text[], $13::text[], $14::integer[], $15::double precision[], $16::boolean[],
      $17::text[], $18::text[]) WITH ORDINALITY
    AS r (record_offset, record_time, key, key_hash, value, header_names, header_values, state,
      attempts, after_ms, failed, error_code, error, place)
  WHERE pg_current_xact_id() = $4::xid8
  ORDER BY r.place
  ON CONFLICT (consumer, topic, partition, record_offset, record_time) DO NOTHING`;

/** Stands in the array of hashes for a record without a key, whose hash is null in the row. */
const noHash = "0".repeat(32);

function chunkQueries(own: string) {
  const amongParked = define("among_parked", amongParkedText(own), { prepare: false });
  const park = define("park", parkText(own));
  return {
    amongParked: ({ claim, consumer }, records) => {
      const keyed = records.filter((record) => record.key !== null);
      return amongParked(
        ...[consumer, claim.topic, claim.partition],
        plainArray(records.map((record) => record.offset)),
        plainArray(keyed.map((record) => record.offset)),
        plainArray(keyed.map((record) => hashOf(record.key) ?? noHash)),
        plainArray(records.map((record) => record.timestamp)),
      );
    },
    park: ({ claim, consumer }, xid, rows) =>
      park(
        ...[consumer, claim.topic, claim.partition, xid, absentBytes],
        plainArray(rows.map(({ record }) => record.offset)),
        plainArray(rows.map(({ record }) => record.timestamp)),
        bytesArray(rows.map(({ record }) => record.key)),
        plainArray(rows.map(({ record }) => hashOf(record.key) ?? noHash)),
        bytesArray(rows.map(({ record }) => record.value)),
        // One array's text for each row: a list of arrays of several lengths is no array.
        textArray(rows.map(({ record }) => textArray(record.headers.map(([n]) => storedName(n))))),
        textArray(rows.map(({ record }) => bytesArray(record.headers.map(([, value]) => value)))),
        plainArray(rows.map((row) => row.state)),
        plainArray(rows.map((row) => row.attempts)),
        plainArray(rows.map((row) => row.afterMs)),
        plainArray(rows.map((row) => String(row.error !== null))),
        textArray(rows.map((row) => row.error?.code ?? "")),
        textArray(rows.map((row) => row.error?.text ?? "")),
      ),
  } satisfies Partial<ParkingQueries>;
}

/** As the column key_hash holds it; null where there is no key. */
function hashOf(key: Uint8Array | null): string | null {
  return key === null ? null : uuidOf(sha256First16(key));
}

/**
 * Whether nothing of the row's key is parked before it, in whatever state. Asked of all rows, never of
 * those that could be locked: while the first of a key is held by someone, the second is no head.
 * Index: parked_messages_key, once for each row.
 */
const headText = (own: string) => `(m.key_hash IS NULL OR NOT EXISTS (
      SELECT FROM ${own}parked_messages earlier
      WHERE earlier.consumer = m.consumer AND earlier.topic = m.topic
        AND earlier.partition = m.partition AND earlier.key_hash = m.key_hash
        AND (earlier.record_offset, earlier.id) < (m.record_offset, m.id)
    ))`;

/** Of rows of parked_messages, called m: see RecordColumns. */
const recordColumns = `m.record_offset, m.record_time, m.key, m.value,
    array_to_json(m.header_names) AS header_names, m.header_values::text AS header_values`;

// Index: consumers_name_key; parked_messages_due, upwards from what was due first until there are
// enough; parked_messages_pkey for the update. Locks the rows it takes, and waits for none: one that
// is locked is being tried or changed by someone (SKIP LOCKED). A row that was changed between the
// snapshot and the lock is compared again, so nobody takes it twice. statement_timestamp: the index
// can be searched by it, and nothing waits in here. The token is new with each request: whoever held
// the turn before is fenced.
const takeText = (own: string) => `
  WITH due AS MATERIALIZED (
    SELECT m.id, m.next_attempt_at FROM ${own}parked_messages m
    WHERE m.consumer = (SELECT c.id FROM ${own}consumers c WHERE c.name = $1)
      AND m.state <> 'dead' AND m.next_attempt_at <= statement_timestamp()
      AND m.topic = ANY ($2::text[]) AND ${headText(own)}
    ORDER BY m.next_attempt_at, m.id
    LIMIT $3
    FOR UPDATE OF m SKIP LOCKED
  ), taken AS (
    UPDATE ${own}parked_messages m
    SET state = 'retrying', attempts = m.attempts + 1, token = $5,
      next_attempt_at = clock_timestamp() + $4::double precision * interval '1 millisecond'
    WHERE m.id = ANY (ARRAY(SELECT id FROM due))
    RETURNING m.*
  )
  SELECT m.id, m.topic, m.partition, m.token, m.attempts, ${recordColumns}
  FROM taken m JOIN due ON due.id = m.id
  ORDER BY due.next_attempt_at, due.id`;

// Index: parked_messages_due, all of the consumer that are not dead: after a lost answer only. Locks
// what it gives back, for this one statement; the token fences whoever was overtaken.
const releaseText = (own: string) => `
  UPDATE ${own}parked_messages
  SET state = 'waiting', attempts = attempts - 1, token = NULL, next_attempt_at = clock_timestamp()
  WHERE consumer = (SELECT c.id FROM ${own}consumers c WHERE c.name = $1)
    AND state = 'retrying' AND token = $2`;

// Index: parked_messages_pkey. Locks the row until the end of the transaction: whoever takes turns
// passes it by, a skip waits for it. Safe because lock and comparison are one step: where the row
// changed while this waited, its token is compared again. Asks for the head once more: after a seek
// back a chunk may have parked something before it. Nothing is removed yet: a handler that ends the
// transaction early must not commit that. When the lock is there, lock_timeout is again what it was
// for the session.
const openText = (own: string) => `
  WITH held AS MATERIALIZED (
    SELECT m.id FROM ${own}parked_messages m
    WHERE m.id = $1 AND m.token = $2 AND m.state = 'retrying' AND ${headText(own)}
    FOR UPDATE OF m
  )
  SELECT pg_current_xact_id() AS xid, EXISTS (SELECT FROM held) AS held,
    (SELECT set_config('lock_timeout', current_setting('oncebox.lock_timeout'), true)
      FROM (SELECT count(*) FROM held) AS locked) AS lock_timeout`;

// Index: parked_messages_pkey. The row is locked since oncebox_open_parked. Must raise where it
// removes nothing, in the same ways as oncebox_advance.
const removeText = (own: string) => `
  WITH removed AS (
    DELETE FROM ${own}parked_messages
    WHERE id = $1 AND token = $2 AND state = 'retrying' AND pg_current_xact_id() = $3::xid8
    RETURNING 1
  )
  SELECT CASE
    WHEN pg_current_xact_id() = $3::xid8 THEN 1 / (SELECT count(*) FROM removed)
    ELSE sqrt(-1 - (SELECT count(*) FROM removed))
  END`;

// Index: parked_messages_pkey. Waits for a transaction of the same turn that still ends, as long as
// lock_timeout allows. The token fences whoever was overtaken. Attempts change by a difference: what
// another took back since the turn was taken stays so.
const settleText = (own: string) => `
  UPDATE ${own}parked_messages
  SET state = $3, attempts = attempts - $4, token = NULL,
    error_code = coalesce($6, error_code), error = coalesce($7, error),
    next_attempt_at = CASE WHEN $3::text <> 'dead'
      THEN clock_timestamp() + $5::double precision * interval '1 millisecond' END
  WHERE id = $1 AND token = $2 AND state = 'retrying'`;

// Index: parked_messages_pkey. By whoever was overtaken, alive: its own attempt is not to count. The turn
// of the other goes on. Not below none: a person may have set them back since. Waits as settle does.
const takeBackText = (own: string) => `
  UPDATE ${own}parked_messages
  SET attempts = greatest(0, attempts - 1)
  WHERE id = $1 AND state <> 'dead'`;

function turnQueries(own: string) {
  const take = define("take_parked", takeText(own), { prepare: false });
  const release = define("release_parked", releaseText(own), { prepare: false });
  const open = define("open_parked", openText(own), { prepare: false });
  const remove = define("remove_parked", removeText(own), { prepare: false });
  const settle = define("settle_parked", settleText(own), { prepare: false });
  const takeBack = define("take_back_parked", takeBackText(own), { prepare: false });
  return {
    take: ({ consumer, topics, limit, leaseMs, token }) =>
      take(consumer, textArray(topics), limit, leaseMs, token),
    release: ({ consumer, token }) => release(consumer, token),
    open: ({ id, token }) => open(id, token),
    remove: ({ id, token }, xid) => remove(id, token, xid),
    settle: ({ id, token }, { state, counts, afterMs, error }) =>
      settle(
        ...[id, token, state, counts ? 0 : 1],
        ...[afterMs, error?.code ?? null, error?.text ?? null],
      ),
    takeBack: ({ id }) => takeBack(id),
  } satisfies Partial<ParkingQueries>;
}

/** What is not given is null, and drops out when the statement is planned: none is prepared. */
const fitsText = (own: string) =>
  `m.consumer = (SELECT c.id FROM ${own}consumers c WHERE c.name = $1)
      AND ($2::text IS NULL OR m.topic = $2) AND ($3::integer IS NULL OR m.partition = $3)
      AND ($4::bigint[] IS NULL OR m.id = ANY ($4::bigint[]))
      AND ($5::uuid IS NULL OR m.key_hash = $5 AND m.key = $6::bytea)
      AND ($7::text IS NULL OR m.state = $7)`;

// Index: consumers_name_key; parked_messages_pkey upwards from where the page before ended, or one
// that fits the filter better. Locks nothing.
const parkedText = (own: string) => `
  SELECT m.id, m.topic, m.partition, m.state, m.attempts, m.error_code, m.error,
    floor(extract(epoch FROM m.parked_at) * 1000)::bigint AS parked_at,
    floor(extract(epoch FROM m.next_attempt_at) * 1000)::bigint AS next_attempt_at,
    ${recordColumns}
  FROM ${own}parked_messages m
  WHERE ${fitsText(own)} AND m.id > coalesce($8::bigint, 0)
  ORDER BY m.id LIMIT $9`;

// Index: as above, then parked_messages_pkey. Looks without a lock first, so that what is left alone is
// not waited for. Locks in order of the id, so that two changes never wait for each other in a circle,
// and compares again behind the lock: what does not fit any more is left.
const changeText = (own: string, left: string, change: string) => `
  WITH page AS MATERIALIZED (
    SELECT m.id FROM ${own}parked_messages m
    WHERE ${fitsText(own)} AND m.id > coalesce($8::bigint, 0)
    ORDER BY m.id LIMIT $9
  ), locked AS MATERIALIZED (
    SELECT m.id FROM ${own}parked_messages m
    WHERE m.id = ANY (ARRAY(SELECT id FROM page)) AND ${fitsText(own)} AND ${left}
    ORDER BY m.id
    FOR UPDATE OF m
  ), changed AS (
    ${change}
    WHERE m.id = ANY (ARRAY(SELECT id FROM locked))
    RETURNING m.id
  )
  SELECT (SELECT count(*) FROM page) AS seen, (SELECT max(id) FROM page) AS last,
    array(SELECT id FROM changed ORDER BY id)::text AS changed`;

// One that is being tried has its attempt counted already and keeps its turn. The error stays, for
// people. A lease that has run out is nobody's turn: its holder is fenced.
const redriveText = (own: string) =>
  changeText(
    own,
    "NOT (m.state = 'retrying' AND m.next_attempt_at > clock_timestamp())",
    `UPDATE ${own}parked_messages m
    SET state = 'waiting', attempts = 0, token = NULL, next_attempt_at = clock_timestamp()`,
  );

// Also while being tried: waits for the open transaction of that turn, as long as lock_timeout allows;
// where that one commits, its row is gone and not changed here.
const skipText = (own: string) => changeText(own, "true", `DELETE FROM ${own}parked_messages m`);

function filterQueries(own: string) {
  const parked = define("parked", parkedText(own), { prepare: false });
  const redrive = define("redrive", redriveText(own), { prepare: false });
  const skip = define("skip", skipText(own), { prepare: false });
  return {
    parked: (filter, page) => parked(...valuesOf(filter, page)),
    redrive: (filter, page) => redrive(...valuesOf(filter, page)),
    skip: (filter, page) => skip(...valuesOf(filter, page)),
  } satisfies Partial<ParkingQueries>;
}

function valuesOf(filter: ParkedFilter, { limit, above }: ParkedPage): readonly unknown[] {
  const { consumer, topic = null, partition = null, ids, key = null, state = null } = filter;
  return [
    ...[consumer, topic, partition, ids === undefined ? null : plainArray(ids)],
    ...[hashOf(key), key, state, above, limit],
  ];
}
