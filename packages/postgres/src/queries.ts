/**
 * Every statement of the inbox, as pure functions. Each says which index it uses, what it locks and
 * why it is safe. The outbox's are in outbox-queries.ts, those of claims in claim-queries.ts, those of
 * parked messages in parking-queries.ts, that of pruning in pruning-queries.ts.
 *
 * A statement's text starts with a comment that names it, `/* oncebox_open *\/`, so that a DBA knows
 * it in pg_stat_activity; its name is that and a hash of the text. Both beginnings are stable: tests
 * replace single statements by them.
 *
 *   oncebox_names, oncebox_add_names      scopes of ids and topics → integers
 *   oncebox_open, oncebox_takers          first and second statement of a chunk
 *   oncebox_advance                       last statement of a chunk
 *   oncebox_terminate                     ends what still runs of a chunk that was cut
 *   oncebox_register_lock, …_consumer, …_bound, …_partitions
 *   oncebox_record, oncebox_add_consumer  inbox.once
 *
 * What people ask for, and what is asked beside the chunks, is in operator-queries.ts.
 */
import { createHash } from "node:crypto";
import type { LogMark, MessageRef, PartitionClaim, RecordRef } from "@oncebox/core";
import { absentInteger, plainArray, storedName, textArray, uuidOf } from "./wire.ts";

export interface Statement {
  readonly name: string;
  readonly text: string;
  readonly values: readonly unknown[];
  /**
   * Whether it may be sent under its name, prepared once for each connection. Not where the plan
   * depends on how full a table is: a plan cached while the outbox was empty reads the whole table
   * later, for each lane, until someone analyzes it.
   */
  readonly prepare: boolean;
}

export type Define = (
  verb: string,
  text: string,
  options?: { readonly prepare?: boolean },
) => (...values: readonly unknown[]) => Statement;

/** Names and tags a text once, when the storage is made. */
export const define: Define = (verb, text, { prepare = true } = {}) => {
  const tagged = `/* oncebox_${verb} */ ${text.trim().replace(/\n {2}/g, "\n")}`;
  // Two schemas on one client have two texts, so they must not share a name.
  const hash = createHash("sha256").update(tagged).digest("hex").slice(0, 12);
  const name = `oncebox_${verb}_${hash}`;
  return (...values) => ({ name, text: tagged, values, prepare });
};

/** A schema's name in a statement. The pattern was checked before. */
export function quoted(identifier: string): string {
  return `"${identifier.replaceAll('"', '""')}"`;
}

/** Rows of `oncebox_open`: exactly one. */
export interface OpenedRow {
  /** Null: fenced. */
  readonly next_offset: bigint | null;
  readonly xid: bigint;
  /** Offsets whose ids were recorded now, as the text of an array. */
  readonly recorded: string;
  /** Whether messages of the partition may be parked. Null: fenced. */
  readonly parked: boolean | null;
}

/** Who took an id; all null where nobody has. */
export interface TakerRow {
  readonly taken: boolean;
  readonly topic: number | null;
  readonly partition: number | null;
  readonly record_offset: bigint | null;
  readonly checksum: number | null;
}

/** One message of `oncebox_record`, in the order given. */
export interface RecordedRow {
  readonly consumer: number | null;
  readonly source: number | null;
  readonly inserted: boolean;
}

export interface InboxQueries {
  readonly names: (names: readonly string[]) => Statement;
  readonly addNames: (names: readonly string[]) => Statement;
  readonly open: (claim: ClaimKey, records: readonly Identified[], sources: number[]) => Statement;
  readonly takers: (consumer: number, sources: number[], ids: readonly Uint8Array[]) => Statement;
  readonly advance: (
    claim: ClaimKey,
    xid: bigint,
    from: bigint,
    to: bigint,
    mark: LogMark,
    parked: boolean,
  ) => Statement;
  readonly terminate: (xid: bigint) => Statement;
  readonly registerLock: (consumer: string, topic: string) => Statement;
  readonly registerConsumer: (consumer: string, groupId: string) => Statement;
  readonly bound: (consumer: string) => Statement;
  readonly registerPartitions: (
    consumer: number,
    rows: {
      readonly topic: string;
      readonly topicId: string | null;
      readonly start: ReadonlyMap<number, bigint>;
      readonly added: ReadonlyMap<number, bigint>;
    },
  ) => Statement;
  readonly record: (consumer: string, ids: readonly MessageRef[]) => Statement;
  readonly addConsumer: (consumer: string) => Statement;
}

/** A record that has an id. */
export type Identified = RecordRef & { readonly id: Uint8Array };

/** A claim, with the names replaced by the integers of this connection. */
export interface ClaimKey {
  readonly claim: PartitionClaim;
  readonly consumer: number;
  /** The topic as a row of `sources`. */
  readonly topicId: number;
}

export function inboxQueries(schema: string): InboxQueries {
  const own = `${quoted(schema)}.`;
  return { ...chunkQueries(own), ...registerQueries(own, schema) };
}

// Index: sources_name_key. Locks nothing; runs outside any transaction, or in one that reads only
// what is committed, so that a number is never remembered for a row that may still vanish.
const namesText = (own: string) => `
  SELECT n.place, s.id FROM unnest($1::text[]) WITH ORDINALITY AS n (name, place)
  JOIN ${own}sources s ON s.name = n.name`;

// Index: sources_name_key. Waits for another transaction that adds the same name; sorted, so that
// two never wait for each other. The callers read again afterwards: what another added is not
// returned here.
const addNamesText = (own: string) => `
  INSERT INTO ${own}sources (name)
  SELECT DISTINCT name FROM unnest($1::text[]) AS n (name) ORDER BY name
  ON CONFLICT (name) DO NOTHING`;

// Index: inbox_partitions_pkey, inbox_messages_pkey. Locks the partition's row until the end of
// the transaction (FOR NO KEY UPDATE: a claim waits for it, a foreign key's check does not), and
// waits for transactions that record the same ids. Safe because the lock is taken and the token
// compared in one step: where the row changed while this waited, the token is compared again with
// the new row. MATERIALIZED keeps the lock before the INSERT. Ids are inserted in one order
// everywhere, so two recordings never wait for each other; of the same id twice in one chunk the
// first offset wins. The time beside an id is what pruning goes by, so one that a clock of nobody's made
// is brought to where the partition is; null counts for nothing in both. When all locks are there, lock_timeout is again what it was for the session.
const openText = (own: string) => `
  WITH claimed AS MATERIALIZED (
    SELECT next_offset, parked, last_time,
      floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now
    FROM ${own}inbox_partitions
    WHERE consumer = $1 AND topic = $2 AND partition = $3 AND token = $4
    FOR NO KEY UPDATE
  ), recorded AS (
    INSERT INTO ${own}inbox_messages
      (record_offset, record_time, consumer, source, id, topic, partition, checksum)
    SELECT r.record_offset, least(greatest(r.record_time, claimed.last_time), claimed.now),
      $1, r.source, r.id, $5, $3, r.checksum
    FROM claimed, unnest($6::bigint[], $7::bigint[], $8::integer[], $9::uuid[], $10::integer[])
      AS r (record_offset, record_time, source, id, checksum)
    WHERE r.record_offset >= claimed.next_offset
    ORDER BY r.source, r.id, r.record_offset
    ON CONFLICT DO NOTHING
    RETURNING record_offset
  )
  SELECT (SELECT next_offset FROM claimed) AS next_offset, pg_current_xact_id() AS xid,
    array(SELECT record_offset FROM recorded)::text AS recorded,
    (SELECT parked FROM claimed) AS parked,
    (SELECT set_config('lock_timeout', current_setting('oncebox.lock_timeout'), true)
      FROM (SELECT count(*) FROM claimed) AS locked, (SELECT count(*) FROM recorded) AS inserted)
      AS lock_timeout`;

// Index: inbox_messages_pkey. Locks nothing. A statement of its own, because the one that waited
// for another transaction does not see the row that made it wait.
const takersText = (own: string) => `
  SELECT m.consumer IS NOT NULL AS taken, m.topic, m.partition, m.record_offset, m.checksum
  FROM unnest($2::integer[], $3::uuid[]) WITH ORDINALITY AS g (source, id, place)
  LEFT JOIN ${own}inbox_messages m
    ON m.consumer = $1 AND m.source = g.source AND m.id = g.id
  ORDER BY g.place`;

// Index: inbox_partitions_pkey; the update is HOT. The row is locked since oncebox_open. Must
// raise where it moves nothing, since COMMIT may be on its way behind it: 22012 (division by zero)
// in the transaction that was opened, so the claim or the position is another; 2201F (root of a
// negative number) in any other transaction, so somebody ended ours. The mark of the log moves with
// the position; a chunk that handled no record keeps the last one. What claims in a row left undone
// is done.
const advanceText = (own: string) => `
  WITH moved AS (
    UPDATE ${own}inbox_partitions SET next_offset = $6, topic_id = $8, leader_epoch = $9,
      last_offset = coalesce($10, last_offset), last_time = coalesce($11, last_time),
      last_checksum = coalesce($12, last_checksum), parked = $13,
      stalled_claims = 0, trying_offset = NULL, trying_claims = 0, trying_epoch = NULL
    WHERE consumer = $1 AND topic = $2 AND partition = $3 AND token = $4 AND next_offset = $5
      AND pg_current_xact_id() = $7::xid8
    RETURNING 1
  )
  SELECT CASE
    WHEN pg_current_xact_id() = $7::xid8 THEN 1 / (SELECT count(*) FROM moved)
    ELSE sqrt(-1 - (SELECT count(*) FROM moved))
  END`;

// Locks nothing. Finds the backend by its transaction, not by the number of its process, which
// may belong to another by now, or be that of a pooler. A role may end its own backends.
const terminateText = `
  SELECT pg_terminate_backend(pid) FROM pg_stat_activity
  WHERE backend_xid = $1::xid8::xid AND usename = current_user`;

function chunkQueries(own: string) {
  const names = define("names", namesText(own), { prepare: false });
  const addNames = define("add_names", addNamesText(own));
  const open = define("open", openText(own));
  const takers = define("takers", takersText(own), { prepare: false });
  const advance = define("advance", advanceText(own));
  const terminate = define("terminate", terminateText, { prepare: false });
  return {
    terminate: (xid) => terminate(xid),
    names: (list) => names(textArray(list.map(storedName))),
    addNames: (list) => addNames(textArray(list.map(storedName))),
    open: ({ claim, consumer, topicId }, records, sources) =>
      open(
        ...[consumer, claim.topic, claim.partition, claim.token, topicId],
        plainArray(records.map((record) => record.offset)),
        plainArray(records.map((record) => record.timestamp)),
        plainArray(sources),
        plainArray(records.map((record) => uuidOf(record.id))),
        plainArray(records.map((record) => record.checksum)),
      ),
    takers: (consumer, sources, ids) =>
      takers(consumer, plainArray(sources), plainArray(ids.map(uuidOf))),
    advance: ({ claim, consumer }, xid, from, to, { topicId, leaderEpoch, last }, parked) =>
      advance(
        ...[consumer, claim.topic, claim.partition, claim.token, from, to, xid],
        ...[topicId, leaderEpoch],
        ...[last?.offset ?? null, last?.timestamp ?? null, last?.checksum ?? null],
        parked,
      ),
  } satisfies Partial<InboxQueries>;
}

// Index: consumers_name_key. Looks first, because a refused INSERT burns a number. Waits for
// another transaction that inserts the same name, and sees the row as that one left it: an UPDATE
// beside the INSERT would only see what its snapshot has.
const registerConsumerText = (own: string) => `
  INSERT INTO ${own}consumers AS c (name, group_id)
  SELECT $1, $2 WHERE NOT EXISTS (
    SELECT FROM ${own}consumers WHERE name = $1 AND group_id IS NOT NULL
  )
  ON CONFLICT (name) DO UPDATE SET group_id = excluded.group_id WHERE c.group_id IS NULL`;

// Index: consumers_name_key. Locks nothing.
const boundText = (own: string) => `SELECT id, group_id FROM ${own}consumers WHERE name = $1`;

// Index: inbox_partitions_pkey. All partitions of a topic without rows, or those that were added
// to one that has rows; under the lock above, so nobody inserts in between.
const partitionsText = (own: string) => `
  INSERT INTO ${own}inbox_partitions (consumer, topic, partition, next_offset, topic_id)
  SELECT $1, $2, r.partition, r.next_offset, $6
  FROM unnest($3::integer[], $4::bigint[], $5::boolean[]) AS r (partition, next_offset, added)
  WHERE r.added = EXISTS (
    SELECT FROM ${own}inbox_partitions p WHERE p.consumer = $1 AND p.topic = $2
  )
  ORDER BY r.partition
  ON CONFLICT DO NOTHING`;

// Index: consumers_name_key, sources_name_key, inbox_messages_pkey. Inserts all or, where a name
// is not known yet, nothing. Waits for transactions that record the same ids, in one order. Joins
// by name: a number read in a caller's transaction may belong to a row that is rolled back.
const recordText = (own: string) => `
  WITH given AS MATERIALIZED (
    SELECT c.id AS consumer, s.id AS source, g.id,
      nullif(g.checksum, ${absentInteger})::integer AS checksum, g.place
    FROM unnest($2::text[], $3::uuid[], $4::bigint[]) WITH ORDINALITY
      AS g (source, id, checksum, place)
    LEFT JOIN ${own}consumers c ON c.name = $1
    LEFT JOIN ${own}sources s ON s.name = g.source
  ), recorded AS (
    INSERT INTO ${own}inbox_messages (record_time, consumer, source, id, checksum)
    SELECT floor(extract(epoch FROM clock_timestamp()) * 1000), consumer, source, id, checksum
    FROM given
    WHERE NOT EXISTS (SELECT FROM given WHERE consumer IS NULL OR source IS NULL)
    ORDER BY source, id, place
    ON CONFLICT DO NOTHING
    RETURNING source, id
  )
  SELECT given.consumer, given.source, recorded.id IS NOT NULL AS inserted
  FROM given LEFT JOIN recorded ON recorded.source = given.source AND recorded.id = given.id
  ORDER BY given.place`;

// Index: consumers_name_key. Waits for another transaction that inserts the same name.
const addConsumerText = (own: string) =>
  `INSERT INTO ${own}consumers (name) VALUES ($1) ON CONFLICT (name) DO NOTHING`;

function registerQueries(own: string, schema: string) {
  const registerConsumer = define("register_consumer", registerConsumerText(own), {
    prepare: false,
  });
  const bound = define("register_bound", boundText(own), { prepare: false });
  const partitions = define("register_partitions", partitionsText(own), { prepare: false });
  const record = define("record", recordText(own));
  const addConsumer = define("add_consumer", addConsumerText(own), { prepare: false });
  // An advisory lock of this transaction for one consumer and topic: the statements after it see
  // what the transaction that held it before has committed.
  const lock = define(
    "register_lock",
    "SELECT pg_advisory_xact_lock(hashtextextended($1::text, 0))",
    { prepare: false },
  );
  return {
    registerLock: (consumer, topic) => lock(JSON.stringify(["oncebox", schema, consumer, topic])),
    registerConsumer: (consumer, groupId) => registerConsumer(consumer, groupId),
    bound: (consumer) => bound(consumer),
    registerPartitions: (consumer, { topic, topicId, start, added }) => {
      const rows = [
        ...[...start].map(([partition, offset]) => ({ partition, offset, added: false })),
        ...[...added].map(([partition, offset]) => ({ partition, offset, added: true })),
      ];
      return partitions(
        ...[consumer, topic],
        plainArray(rows.map((row) => row.partition)),
        plainArray(rows.map((row) => row.offset)),
        plainArray(rows.map((row) => String(row.added))),
        topicId,
      );
    },
    record: (consumer, ids) =>
      record(
        consumer,
        textArray(ids.map((id) => storedName(id.source))),
        plainArray(ids.map((id) => uuidOf(id.id))),
        plainArray(ids.map((id) => id.checksum ?? absentInteger)),
      ),
    addConsumer: (consumer) => addConsumer(consumer),
  } satisfies Partial<InboxQueries>;
}
