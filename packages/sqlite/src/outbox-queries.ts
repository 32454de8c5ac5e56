/** Every statement of the outbox; see queries.ts. */
import { nowMs } from "./queries.ts";

/** One statement however many rows: the list comes as JSON, bytes in hex. Positions follow its order. */
export const enqueueText = `
  INSERT INTO oncebox_outbox_messages (lane, message_id, topic, key, value, headers)
  SELECT value ->> 0, value ->> 1, value ->> 2, unhex(value ->> 3), unhex(value ->> 4), value ->> 5
  FROM json_each(?) ORDER BY key`;

export const aliveText = `
  INSERT INTO oncebox_outbox_relays (relay, live_until) VALUES (?, ${nowMs} + ?)
  ON CONFLICT (relay) DO UPDATE SET live_until = excluded.live_until`;

export const forgetDeadText = `
  DELETE FROM oncebox_outbox_relays WHERE live_until < ${nowMs} - 3600000`;

// By the token alone: an expired lease that nobody took is still ours.
export const renewText = `
  UPDATE oncebox_outbox_lanes SET leased_until = ${nowMs} + ? WHERE lane = ? AND token = ?`;

export const takeText = `
  UPDATE oncebox_outbox_lanes
  SET token = lower(hex(randomblob(16))), owner = ?, leased_until = ${nowMs} + ?
  WHERE lane IN (
    SELECT lane FROM oncebox_outbox_lanes
    WHERE (leased_until IS NULL OR leased_until < ${nowMs})
      AND lane NOT IN (SELECT value FROM json_each(?))
    ORDER BY lane LIMIT ?
  )
  RETURNING lane, token`;

export const liveText = `
  SELECT count(*) AS relays FROM oncebox_outbox_relays WHERE live_until >= ${nowMs}`;

export const releaseText = `
  UPDATE oncebox_outbox_lanes SET token = NULL, owner = NULL, leased_until = NULL
  WHERE lane = ? AND token = ?`;

// Forgotten when it holds nothing any more, so that the others take their new share at once.
export const leaveText = `
  DELETE FROM oncebox_outbox_relays
  WHERE relay = ? AND relay NOT IN
    (SELECT owner FROM oncebox_outbox_lanes WHERE owner IS NOT NULL)`;

// length() of a BLOB does not read it.
export const lookText = `
  SELECT position, 64 + length(topic) + coalesce(length(key), 0) + coalesce(length(value), 0)
    + length(headers) AS bytes
  FROM oncebox_outbox_messages WHERE lane = ? AND position > ? ORDER BY position LIMIT ?`;

export const rowText = `
  SELECT message_id, topic, key, value, headers FROM oncebox_outbox_messages
  WHERE position = ? AND lane = ?`;

export const holdsText = "SELECT 1 FROM oncebox_outbox_lanes WHERE lane = ? AND token = ?";

export const deleteText = "DELETE FROM oncebox_outbox_messages WHERE position = ? AND lane = ?";
