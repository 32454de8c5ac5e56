/**
 * Every statement of parked messages; see queries.ts. Locks: the write lock alone, so what a statement
 * has found stays as it is until its transaction ends. Indexes are named as in 0004_parked.sql.
 */
import type { ParkedFilter } from "@oncebox/core";
import { nowMs } from "./queries.ts";

const ofPartition = "consumer = ? AND topic = ? AND partition = ?";

// What a chunk asks where its partition's row says that there may be something. All three with the
// write lock held by the chunk, which alone parks messages of its partition: what they say is true
// until it ends. By the unique index: its first columns; all of them.
export const anyLeftText = `
  SELECT 1 FROM oncebox_parked_messages WHERE ${ofPartition} LIMIT 1`;

export const offsetParkedText = `
  SELECT 1 FROM oncebox_parked_messages WHERE ${ofPartition} AND record_offset = ? AND record_time = ?`;

// By oncebox_parked_messages_key.
export const keyParkedText = `
  SELECT 1 FROM oncebox_parked_messages WHERE ${ofPartition} AND key_hash = ? LIMIT 1`;

// In the chunk's transaction, before its advance: where that finds the claim lost, this is undone with
// it. A record that is parked already stays as it is, found by the unique index: its tries and its bytes
// are those that count.
export const parkText = `
  INSERT INTO oncebox_parked_messages
    (consumer, topic, partition, record_offset, record_time, key_hash, key, value, headers,
     state, attempts, next_attempt_at, error_code, error)
  VALUES
    (@consumer, @topic, @partition, @offset, @time, @hash, @key, @value, @headers,
     @state, @attempts, iif(@state = 'dead', NULL, ${nowMs} + @after), @code, @error)
  ON CONFLICT (consumer, topic, partition, record_offset, record_time) DO NOTHING`;

/** By oncebox_parked_messages_key, which leaves out null: what has no key has nothing before it. */
const isHead = (row: string) => `NOT EXISTS (
    SELECT 1 FROM oncebox_parked_messages AS earlier
    WHERE earlier.consumer = ${row}.consumer AND earlier.topic = ${row}.topic
      AND earlier.partition = ${row}.partition AND earlier.key_hash = ${row}.key_hash
      AND (earlier.record_offset, earlier.id) < (${row}.record_offset, ${row}.id))`;

// By oncebox_parked_messages_due, in its order. The lease of one that is being tried stands in the
// same column: when it has run out, it is due again. Asked first without a lock, whether there is any;
// then with the write lock held, so nobody else finds the same ones.
export const dueText = `
  SELECT id FROM oncebox_parked_messages AS due
  WHERE consumer = (SELECT id FROM oncebox_consumers WHERE name = ?)
    AND state <> 'dead' AND next_attempt_at <= ${nowMs}
    AND +topic IN (SELECT value FROM json_each(?))
    AND ${isHead("due")}
  ORDER BY next_attempt_at, id LIMIT ?`;

const recordColumns = "record_offset, record_time, key, value, headers";

// By primary key, in the transaction that found it due. The token is new with each request: whoever held
// the turn before is fenced.
export const takeText = `
  UPDATE oncebox_parked_messages
  SET state = 'retrying', attempts = attempts + 1, token = ?,
    next_attempt_at = ${nowMs} + ?
  WHERE id = ?
  RETURNING id, topic, partition, token, attempts, ${recordColumns}`;

// By oncebox_parked_messages_due, all of the consumer that are not dead: after a lost answer only.
export const releaseText = `
  UPDATE oncebox_parked_messages
  SET state = 'waiting', attempts = attempts - 1, token = NULL, next_attempt_at = ${nowMs}
  WHERE consumer = (SELECT id FROM oncebox_consumers WHERE name = ?)
    AND state = 'retrying' AND token = ?`;

// First statement of a turn, by primary key, with the write lock held: what it proves stays true until
// the transaction ends. A lease that has run out is still its holder's until another takes it. Changes
// nothing: a handler that ends the transaction early must not commit the end of its message.
export const heldText = `
  SELECT 1 FROM oncebox_parked_messages AS tried
  WHERE id = ? AND token = ? AND state = 'retrying' AND ${isHead("tried")}`;

// Last statement of a turn, by primary key, with the write lock held since the one above, unless somebody
// ended that transaction: then the token tells whether anybody came in between.
export const removeText = `
  DELETE FROM oncebox_parked_messages WHERE id = ? AND token = ? AND state = 'retrying'`;

// By primary key; the token fences whoever was overtaken. Attempts change by a difference: what another
// took back since the turn was taken stays so.
export const settleText = `
  UPDATE oncebox_parked_messages
  SET state = @state, attempts = attempts - @uncounted, token = NULL,
    next_attempt_at = iif(@state = 'dead', NULL, ${nowMs} + @after),
    error_code = coalesce(@code, error_code), error = coalesce(@error, error)
  WHERE id = @id AND token = @token AND state = 'retrying'`;

// By primary key, by whoever was overtaken, alive: its own attempt is not to count. The turn of the other
// goes on. Not below none: a person may have set them back since.
export const takeBackText = `
  UPDATE oncebox_parked_messages
  SET attempts = max(0, attempts - 1) WHERE id = @id AND state <> 'dead'`;

// By primary key, of rows that a statement of the same transaction has found.
export const redriveText = `
  UPDATE oncebox_parked_messages
  SET state = 'waiting', attempts = 0, token = NULL, next_attempt_at = ${nowMs}
  WHERE id = ?`;

export const skipText = "DELETE FROM oncebox_parked_messages WHERE id = ?";

/**
 * Only what is given stands in the text. Pages are read by primary key, in its order: any other index
 * would find, and sort, all that fits for each page. But one key's messages are few, and found by
 * oncebox_parked_messages_key; a plus sign keeps SQLite from an index.
 */
function fitting({ topic, partition, ids, key, state }: ParkedFilter): string {
  const byKey = topic !== undefined && partition !== undefined && key !== undefined;
  return [
    `${byKey ? "" : "+"}consumer = (SELECT id FROM oncebox_consumers WHERE name = @consumer)`,
    ...(topic === undefined ? [] : ["topic = @topic"]),
    ...(partition === undefined ? [] : ["partition = @partition"]),
    ...(ids === undefined ? [] : ["id IN (SELECT value FROM json_each(@ids))"]),
    ...(key === undefined ? [] : ["key_hash = @hash AND key = @key"]),
    ...(state === undefined ? [] : ["state = @state"]),
    "id > @above",
  ].join(" AND ");
}

/** Locks nothing: it only looks, and what it finds may change at once. */
export const parkedText = (filter: ParkedFilter): string => `
  SELECT id, topic, partition, state, attempts, error_code, error, parked_at, next_attempt_at,
    ${recordColumns}
  FROM oncebox_parked_messages WHERE ${fitting(filter)} ORDER BY id LIMIT @limit`;

/** As parkedText, with the write lock held: nobody takes, ends or parks one before it is changed. */
export const changeableText = (filter: ParkedFilter): string => `
  SELECT id, state = 'retrying' AND next_attempt_at > ${nowMs} AS tried
  FROM oncebox_parked_messages WHERE ${fitting(filter)} ORDER BY id LIMIT @limit`;
