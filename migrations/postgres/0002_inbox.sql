-- The inbox: where each consumer stands in each partition, and which message ids it has seen.

-- Consumer names as small integers. A name belongs to one Kafka group for ever; it is null for a
-- name that only records ids (inbox.once) and has no subscription.
CREATE TABLE consumers (
  id       integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name     text    NOT NULL UNIQUE,
  group_id text
);

-- Scopes of message ids (the CloudEvents source, else the topic) and topics, as small integers.
-- A backslash and U+0000, which text cannot hold, are written as \\ and \0.
CREATE TABLE sources (
  id   integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name text    NOT NULL UNIQUE
);

-- One row for each partition a consumer reads: the authority on its position. Every transaction
-- that handles messages locks its partition's row first and moves next_offset last. An operator who
-- moves a position (a seek) locks it as well. Do not move it by hand: a seek also fences whoever
-- reads, and remembers what must not be applied twice.
CREATE TABLE inbox_partitions (
  -- Order of the key: all look-ups name all three columns; listings ask by consumer, then topic.
  consumer    integer NOT NULL REFERENCES consumers (id),
  topic       text    NOT NULL,
  partition   integer NOT NULL,
  -- First offset without a committed outcome. Kafka's committed offset is only a copy of it.
  next_offset bigint  NOT NULL CHECK (next_offset >= 0),
  -- Who may write: a random token, because an epoch could fit again after a fail-over to a replica
  -- that lags. Null until the first claim.
  token       uuid,
  -- Counts claims and seeks.
  epoch       bigint  NOT NULL DEFAULT 0,
  -- For people: who claimed it, and when. Nothing is decided by these two.
  owner       text,
  claimed_at  timestamptz,
  -- Which log next_offset counts in: Kafka's id of the topic, in Kafka's own spelling, which is
  -- another one once the topic was deleted and made anew. Null: not known.
  topic_id      text,
  -- Kafka's leader epoch of what lies directly before next_offset. Null: not known.
  leader_epoch  integer,
  -- The last record that was handled, its time in milliseconds since 1970 (not a timestamptz: a
  -- producer may write any number) and its checksum: to find it in the log again, or to see that the
  -- log is another one; the time also says how far this partition has come, for pruning. Null: none
  -- yet, or none since a seek.
  last_offset   bigint,
  last_time     bigint,
  last_checksum integer,
  -- The highest next_offset that a seek ever left: below it messages may have been applied before,
  -- so ids that lie there count as seen, whatever the topic holds there today.
  applied_until bigint  NOT NULL DEFAULT 0,
  -- How often a seek asked for what lies below applied_until to be applied again, and whether the
  -- last one did. Ids are recorded there once more for each number, under other ids.
  replay        integer NOT NULL DEFAULT 0,
  replaying     boolean NOT NULL DEFAULT false,
  -- The epoch that the last seek made: offsets of Kafka's group that were written under an epoch up
  -- to this may lie above next_offset, and mean nothing. 0: never.
  sought_epoch  bigint  NOT NULL DEFAULT 0,
  -- Whether messages of this partition may be parked: only then a chunk looks for them. Written by
  -- chunks alone, as only they park. False is always true; true may be out of date.
  parked        boolean NOT NULL DEFAULT false,
  -- Claims in a row that neither moved next_offset nor were given up alive: their processes may
  -- have died of a message.
  stalled_claims integer NOT NULL DEFAULT 0,
  -- The record that was being tried alone, how many claims tried it, and the epoch of the last one.
  -- Null and 0: none.
  trying_offset bigint,
  trying_claims integer NOT NULL DEFAULT 0,
  trying_epoch  bigint,
  PRIMARY KEY (consumer, topic, partition)
)
-- Updated in place once a transaction: free space in the page and no index on a changing column
-- keep every update a HOT one, so that neither the table nor its index grows.
WITH (fillfactor = 10);

-- Ids that were seen. Written in the transaction of their effects. Deleted, a little at a time, when
-- they lie before the window of the consumer's slowest partition.
CREATE TABLE inbox_messages (
  -- Offset of the record that took the id; null where it came through inbox.once.
  record_offset bigint,
  -- Milliseconds since 1970: the record's time, but not before that of the record handled before its
  -- chunk, nor beyond this database's clock, which counts alone where the id came through inbox.once.
  -- Pruning goes by it. It has no index: what is old is found by walking over the table.
  record_time   bigint,
  consumer      integer NOT NULL,
  source        integer NOT NULL,
  -- A UUID as it is; any other id as the first 16 bytes of its SHA-256.
  id            uuid    NOT NULL,
  -- Topic (a row of sources) and partition of that record; null as above.
  topic         integer,
  partition     integer,
  -- CRC-32C of key and value: the same id with another value is a conflict, not a duplicate. Null
  -- where inbox.once was given no value.
  checksum      integer,
  -- The one index. It decides what is a duplicate, for all partitions and processes at once. The id
  -- stands last: ids that grow with time (UUIDv7) then fill one page after another for each source.
  PRIMARY KEY (consumer, source, id)
);
-- No foreign keys on purpose: their checks would lock a shared row once for each message.

-- What people, or policies in their name, did to positions and parked messages. Written in the
-- transaction of what it tells of, where that is a change of this database. Nothing is decided by
-- it, and nothing prunes it.
CREATE TABLE audit_log (
  id       bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at       timestamptz NOT NULL DEFAULT clock_timestamp(),
  -- A name, not a row of consumers: it may say something of one that has none.
  consumer text        NOT NULL,
  -- Who did it, as they called themselves, and why, in their words.
  actor    text        NOT NULL,
  -- seek: positions of a topic moved. adopt: topics taken over at given positions. sync-offsets:
  -- positions copied to Kafka's group. redrive: parked messages made due. skip: parked messages
  -- deleted.
  action   text        NOT NULL
           CHECK (action IN ('seek', 'adopt', 'sync-offsets', 'redrive', 'skip')),
  reason   text        NOT NULL,
  -- What was done to what. Offsets are strings: readers of JSON may round large numbers.
  details  jsonb       NOT NULL
);

-- Pages of one consumer, newest first.
CREATE INDEX audit_log_consumer ON audit_log (consumer, id);
