/**
 * Every statement of the inbox and of operators. Each is run with the write lock held, or only looks;
 * so none of them can meet another one half-way, and none waits.
 */

/** The driver's clock: one for all processes of the machine, which SQLite's locks need anyway. */
export const nowMs = "CAST(unixepoch('subsec') * 1000 AS INTEGER)";
export const newToken = "lower(hex(randomblob(16)))";
const thisPartition = "consumer = ? AND topic = ? AND partition = ?";

// First statement of a chunk: it proves the claim with the write lock held. It writes, so that it
// would take the lock itself where a transaction was begun without it.
export const openText = `
  UPDATE oncebox_inbox_partitions SET owner = owner
  WHERE consumer = (SELECT id FROM oncebox_consumers WHERE name = ?)
    AND topic = ? AND partition = ? AND token = ?
  RETURNING consumer, next_offset, parked, last_time`;

// The time beside an id is what pruning goes by, so one that a clock of nobody's made is brought to
// where the partition is.
export const recordText = `
  INSERT INTO oncebox_inbox_messages
    (consumer, source, id, topic, partition, record_offset, record_time, checksum)
  VALUES (?, ?, ?, ?, ?, ?, min(max(?, ?), ${nowMs}), ?)
  ON CONFLICT DO NOTHING`;

export const recordOnceText = `
  INSERT INTO oncebox_inbox_messages (consumer, source, id, record_time, checksum)
  VALUES (?, ?, ?, ${nowMs}, ?)
  ON CONFLICT DO NOTHING`;

export const takerText = `
  SELECT topic, partition, record_offset, checksum FROM oncebox_inbox_messages
  WHERE consumer = ? AND source = ? AND id = ?`;

// Last statement of a chunk. The mark of the log moves with the position; a chunk that handled no
// record keeps the last one. A chunk got through, so no claim is stalled and no record is being tried.
export const advanceText = `
  UPDATE oncebox_inbox_partitions SET next_offset = ?, topic_id = ?, leader_epoch = ?,
    last_offset = coalesce(?, last_offset), last_time = coalesce(?, last_time),
    last_checksum = coalesce(?, last_checksum), parked = ?,
    stalled_claims = 0, trying_offset = NULL, trying_claims = 0, trying_epoch = NULL
  WHERE ${thisPartition} AND token = ? AND next_offset = ?`;

const logColumns = "topic_id, leader_epoch, last_offset, last_time, last_checksum";

// The token is made here: no process can guess or repeat one. What a seek and the last chunk left is
// told and stays. Each claim counts as stalled until its first chunk, or until it is given up alive.
export const claimText = `
  UPDATE oncebox_inbox_partitions
  SET token = ${newToken}, epoch = epoch + 1, owner = ?, claimed_at = ${nowMs},
    stalled_claims = stalled_claims + 1
  WHERE consumer = (SELECT id FROM oncebox_consumers WHERE name = ?) AND topic = ? AND partition = ?
  RETURNING token, epoch, next_offset, ${logColumns},
    CASE WHEN replaying THEN replay ELSE 0 END AS replay, applied_until, sought_epoch,
    stalled_claims, trying_offset, trying_claims,
    (SELECT incarnation FROM oncebox_meta) AS incarnation`;

// By primary key, whoever holds the row by now: a lower epoch is that of a database that was set back,
// where this claim never was. One's own trying only: another's is still under way.
export const leftText = `
  UPDATE oncebox_inbox_partitions
  SET stalled_claims = max(0, stalled_claims - 1),
    trying_offset = iif(trying_epoch = @epoch AND trying_claims <= 1, NULL, trying_offset),
    trying_claims = iif(trying_epoch = @epoch, max(0, trying_claims - 1), trying_claims),
    trying_epoch = iif(trying_epoch = @epoch AND trying_claims <= 1, NULL, trying_epoch)
  WHERE consumer = (SELECT id FROM oncebox_consumers WHERE name = @consumer)
    AND topic = @topic AND partition = @partition AND epoch >= @epoch`;

// By primary key. A claim counts once for a record, however often it tries it.
export const tryingText = `
  UPDATE oncebox_inbox_partitions
  SET trying_claims =
      iif(trying_offset IS @offset, trying_claims + (trying_epoch IS NOT @epoch), 1),
    trying_offset = @offset, trying_epoch = @epoch
  WHERE consumer = (SELECT id FROM oncebox_consumers WHERE name = @consumer)
    AND topic = @topic AND partition = @partition AND token = @token`;

export const heldText = `
  SELECT p.next_offset FROM oncebox_inbox_partitions p JOIN oncebox_consumers c ON c.id = p.consumer
  WHERE c.name = ? AND p.topic = ? AND p.partition = ? AND p.token = ?`;

export const clockText = `SELECT ${nowMs} AS now`;

export const incarnationText = "SELECT incarnation FROM oncebox_meta";

export const positionsText = `
  SELECT topic, partition, next_offset, epoch, owner, ${logColumns}
  FROM oncebox_inbox_partitions WHERE consumer = ? ORDER BY topic, partition`;

export const addConsumerText =
  "INSERT INTO oncebox_consumers (name) VALUES (?) ON CONFLICT DO NOTHING";
export const consumerText = "SELECT id, group_id FROM oncebox_consumers WHERE name = ?";
export const bindText =
  "UPDATE oncebox_consumers SET group_id = ? WHERE name = ? AND group_id IS NULL";

export const addSourceText = "INSERT INTO oncebox_sources (name) VALUES (?) ON CONFLICT DO NOTHING";
export const sourceText = "SELECT id FROM oncebox_sources WHERE name = ?";

export const registeredText = `
  SELECT 1 FROM oncebox_inbox_partitions p JOIN oncebox_consumers c ON c.id = p.consumer
  WHERE c.name = ? AND p.topic = ? LIMIT 1`;

export const addPartitionText = `
  INSERT INTO oncebox_inbox_partitions (consumer, topic, partition, next_offset, topic_id)
  VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`;

export const partitionText = `
  SELECT next_offset, token FROM oncebox_inbox_partitions WHERE ${thisPartition}`;

// The new token is nobody's: whoever held a claim is fenced. The mark of the old position says nothing
// of the new one, nor do the claims that stalled at it. What lay below the old position stays known as applied; only where that is to be
// applied again, and where there is something of it above the new position, a replay begins.
export const seekText = `
  UPDATE oncebox_inbox_partitions
  SET next_offset = @to, token = ${newToken}, epoch = epoch + 1, sought_epoch = epoch + 1,
    topic_id = @topicId, leader_epoch = NULL,
    last_offset = NULL, last_time = NULL, last_checksum = NULL,
    stalled_claims = 0, trying_offset = NULL, trying_claims = 0, trying_epoch = NULL,
    applied_until = max(applied_until, next_offset),
    replaying = (@replay AND @to < max(applied_until, next_offset)),
    replay = replay + (@replay AND @to < max(applied_until, next_offset))
  WHERE consumer = @consumer AND topic = @topic AND partition = @partition`;

export const auditText = `
  INSERT INTO oncebox_audit_log (consumer, actor, action, reason, details) VALUES (?, ?, ?, ?, ?)`;

export const auditLogText = `
  SELECT id, at, actor, action, reason, details FROM oncebox_audit_log
  WHERE consumer = ? AND id < ? ORDER BY id DESC LIMIT ?`;
