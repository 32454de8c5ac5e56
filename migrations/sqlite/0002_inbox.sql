-- The inbox: where each consumer stands in each partition, and which message ids it has seen.

-- Consumer names as small integers. A name belongs to one Kafka group for ever; it is null for a
-- name that only records ids (inbox.once) and has no subscription.
CREATE TABLE oncebox_consumers (
  id       INTEGER PRIMARY KEY,
  name     TEXT    NOT NULL UNIQUE,
  group_id TEXT
) STRICT;

-- Scopes of message ids (the CloudEvents source, else the topic) and topics, as small integers.
CREATE TABLE oncebox_sources (
  id   INTEGER PRIMARY KEY,
  name TEXT    NOT NULL UNIQUE
) STRICT;

-- One row for each partition a consumer reads: the authority on its position. Every transaction
-- that handles messages writes to its partition's row first and moves next_offset last. An operator
-- who moves a position (a seek) writes to it as well. Do not move it by hand: a seek also fences
-- whoever reads, and remembers what must not be applied twice.
CREATE TABLE oncebox_inbox_partitions (
  consumer      INTEGER NOT NULL REFERENCES oncebox_consumers (id),
  topic         TEXT    NOT NULL,
  partition     INTEGER NOT NULL,
  -- First offset without a committed outcome. Kafka's committed offset is only a copy of it.
  next_offset   INTEGER NOT NULL CHECK (next_offset >= 0),
  -- Who may write: 16 random bytes in hex. An epoch could fit again after a file was restored.
  -- Null until the first claim.
  token         TEXT,
  -- Counts claims and seeks.
  epoch         INTEGER NOT NULL DEFAULT 0,
  -- For people: who claimed it, and when. Nothing is decided by these two.
  owner         TEXT,
  claimed_at    INTEGER,
  -- Which log next_offset counts in: Kafka's id of the topic, in Kafka's own spelling. Null: not
  -- known.
  topic_id      TEXT,
  -- Kafka's leader epoch of what lies directly before next_offset. Null: not known.
  leader_epoch  INTEGER,
  -- The last record that was handled, its time and its checksum: to find it in the log again, or to
  -- see that the log is another one; the time also says how far this partition has come, for pruning.
  -- Null: none yet, or none since a seek.
  last_offset   INTEGER,
  last_time     INTEGER,
  last_checksum INTEGER,
  -- The highest next_offset that a seek ever left: below it messages may have been applied before,
  -- so ids that lie there count as seen, whatever the topic holds there today.
  applied_until INTEGER NOT NULL DEFAULT 0,
  -- How often a seek asked for what lies below applied_until to be applied again, and whether the
  -- last one did. Ids are recorded there once more for each number, under other ids.
  replay        INTEGER NOT NULL DEFAULT 0,
  replaying     INTEGER NOT NULL DEFAULT 0 CHECK (replaying IN (0, 1)),
  -- The epoch that the last seek made: offsets of Kafka's group that were written under an epoch up
  -- to this may lie above next_offset, and mean nothing. 0: never.
  sought_epoch  INTEGER NOT NULL DEFAULT 0,
  -- Whether messages of this partition may be parked: only then a chunk looks for them. Written by
  -- chunks alone, as only they park. 0 is always true; 1 may be out of date.
  parked        INTEGER NOT NULL DEFAULT 0 CHECK (parked IN (0, 1)),
  -- Claims in a row that neither moved next_offset nor were given up alive: their processes may
  -- have died of a message.
  stalled_claims INTEGER NOT NULL DEFAULT 0,
  -- The record that was being tried alone, how many claims tried it, and the epoch of the last one.
  -- Null and 0: none.
  trying_offset INTEGER,
  trying_claims INTEGER NOT NULL DEFAULT 0,
  trying_epoch  INTEGER,
  PRIMARY KEY (consumer, topic, partition)
) STRICT, WITHOUT ROWID;

-- Ids that were seen. Written in the transaction of their effects; deleted, a little at a time, when
-- they lie before the window of the consumer's slowest partition.
CREATE TABLE oncebox_inbox_messages (
  consumer      INTEGER NOT NULL,
  source        INTEGER NOT NULL,
  -- 16 bytes: a UUID as it is; of any other id the first 16 bytes of its SHA-256.
  id            BLOB    NOT NULL,
  -- Topic (a row of oncebox_sources), partition and offset of the record that took the id; null
  -- where it came through inbox.once.
  topic         INTEGER,
  partition     INTEGER,
  record_offset INTEGER,
  -- Milliseconds since 1970: the record's time, but not before that of the record handled before its
  -- chunk, nor beyond the clock here, which counts alone where it came through inbox.once. Pruning
  -- goes by it.
  record_time   INTEGER,
  -- CRC-32C of key and value: the same id with another value is a conflict, not a duplicate. Null
  -- where inbox.once was given no value.
  checksum      INTEGER,
  -- The one index, and the table itself. The id stands last: ids that grow with time (UUIDv7) then
  -- fill one page after another for each source.
  PRIMARY KEY (consumer, source, id)
) STRICT, WITHOUT ROWID;

-- What people, or policies in their name, did to positions and parked messages. Written in the
-- transaction of what it tells of, where that is a change of this database. Nothing is decided by
-- it, and nothing prunes it.
CREATE TABLE oncebox_audit_log (
  id       INTEGER PRIMARY KEY AUTOINCREMENT,
  at       INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS INTEGER)),
  -- A name, not a row of oncebox_consumers: it may say something of one that has none.
  consumer TEXT    NOT NULL,
  -- Who did it, as they called themselves, and why, in their words.
  actor    TEXT    NOT NULL,
  -- seek: positions of a topic moved. adopt: topics taken over at given positions. sync-offsets:
  -- positions copied to Kafka's group. redrive: parked messages made due. skip: parked messages
  -- deleted.
  action   TEXT    NOT NULL
           CHECK (action IN ('seek', 'adopt', 'sync-offsets', 'redrive', 'skip')),
  reason   TEXT    NOT NULL,
  -- What was done to what, as JSON. Offsets are strings: readers of JSON may round large numbers.
  details  TEXT    NOT NULL
) STRICT;

-- Pages of one consumer, newest first.
CREATE INDEX oncebox_audit_log_consumer ON oncebox_audit_log (consumer, id);
