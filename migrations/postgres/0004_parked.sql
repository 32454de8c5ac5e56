-- Parked messages: records that failed, or that stand behind one of their key that did, set aside
-- so that their partition goes on. Nothing but a try that succeeded, or a person, deletes them.

CREATE TABLE parked_messages (
  -- Order of parking.
  id              bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  consumer        integer     NOT NULL REFERENCES consumers (id),
  -- Where the record lay in the log, and its time there, in milliseconds since 1970. Not a
  -- timestamptz: a producer may write any number.
  topic           text        NOT NULL,
  partition       integer     NOT NULL,
  record_offset   bigint      NOT NULL,
  record_time     bigint      NOT NULL,
  -- Bytes as they lay in the log, never re-encoded. A null value is a tombstone.
  key             bytea,
  -- First 16 bytes of the key's SHA-256: what stands behind what is asked by it, and an index holds
  -- it whatever the key's length. Null: no key, so it stands behind nothing.
  key_hash        uuid        CHECK ((key_hash IS NULL) = (key IS NULL)),
  value           bytea,
  -- Two arrays of one length: names may repeat, and their order is kept. In a name a backslash and
  -- U+0000, which text cannot hold, are written as \\ and \0.
  header_names    text[]      NOT NULL DEFAULT '{}',
  header_values   bytea[]     NOT NULL DEFAULT '{}',
  -- waiting: to be tried again. retrying: it is being tried. dead: it waits for a person.
  state           text        NOT NULL CHECK (state IN ('waiting', 'retrying', 'dead')),
  -- Tries so far; one that is under way counts.
  attempts        integer     NOT NULL,
  -- By this database's clock: when it is due. While it is being tried: when the lease runs out, and
  -- others may try it. Null: dead.
  next_attempt_at timestamptz CHECK ((next_attempt_at IS NULL) = (state = 'dead')),
  -- Who may try it: random, made anew for each try. Null: nobody does.
  token           uuid        CHECK ((token IS NULL) = (state <> 'retrying')),
  -- Why the last try failed: for people. Null: it was not tried, it only stands behind another of
  -- its key.
  error_code      text,
  error           text,
  parked_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
  -- A record is parked once. The time tells it from another at the same place, in a topic made anew.
  CONSTRAINT parked_messages_place
    UNIQUE (consumer, topic, partition, record_offset, record_time)
);

-- Is a message of this key parked? And the first one of it: only that is tried.
CREATE INDEX parked_messages_key
  ON parked_messages (consumer, topic, partition, key_hash, record_offset)
  WHERE key_hash IS NOT NULL;

-- What is due, first what was due first.
CREATE INDEX parked_messages_due
  ON parked_messages (consumer, next_attempt_at)
  WHERE state <> 'dead';
