-- Parked messages: records that failed, or that stand behind one of their key that did, set aside
-- so that their partition goes on. Nothing but a try that succeeded, or a person, deletes them.

CREATE TABLE oncebox_parked_messages (
  -- Order of parking. AUTOINCREMENT: an id is not given again when its row was deleted, so that what
  -- a person noted down never means another message.
  id              INTEGER PRIMARY KEY AUTOINCREMENT,
  consumer        INTEGER NOT NULL REFERENCES oncebox_consumers (id),
  -- Where the record lay in the log, and its time there, in milliseconds since 1970.
  topic           TEXT    NOT NULL,
  partition       INTEGER NOT NULL,
  record_offset   INTEGER NOT NULL,
  record_time     INTEGER NOT NULL,
  -- waiting: to be tried again. retrying: it is being tried. dead: it waits for a person.
  state           TEXT    NOT NULL CHECK (state IN ('waiting', 'retrying', 'dead')),
  -- Tries so far; one that is under way counts.
  attempts        INTEGER NOT NULL,
  -- Milliseconds since 1970 by the clock of the machine, which all processes that open this file
  -- share: when it is due. While it is being tried: when the lease runs out, and others may try it.
  -- Null: dead.
  next_attempt_at INTEGER CHECK ((next_attempt_at IS NULL) = (state = 'dead')),
  -- Who may try it: 16 random bytes in hex, made anew for each try. Null: nobody does.
  token           TEXT    CHECK ((token IS NULL) = (state <> 'retrying')),
  -- Why the last try failed: for people. Null: it was not tried, it only stands behind another of
  -- its key.
  error_code      TEXT,
  error           TEXT,
  parked_at       INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS INTEGER)),
  -- First 16 bytes of the key's SHA-256: what stands behind what is asked by it, and an index holds
  -- it whatever the key's length. Null: no key, so it stands behind nothing.
  key_hash        BLOB    CHECK ((key_hash IS NULL) = (key IS NULL)),
  -- Bytes as they lay in the log, never re-encoded. A null value is a tombstone. These three stand
  -- last: what is before them is read without them.
  key             BLOB,
  value           BLOB,
  -- JSON: a list of pairs of a name and the value's bytes in hex, or null. Names may repeat, and
  -- their order is kept.
  headers         TEXT    NOT NULL DEFAULT '[]',
  -- A record is parked once. The time tells it from another at the same place, in a topic made anew.
  UNIQUE (consumer, topic, partition, record_offset, record_time)
) STRICT;

-- Is a message of this key parked? And the first one of it: only that is tried.
CREATE INDEX oncebox_parked_messages_key
  ON oncebox_parked_messages (consumer, topic, partition, key_hash, record_offset)
  WHERE key_hash IS NOT NULL;

-- What is due, first what was due first.
CREATE INDEX oncebox_parked_messages_due
  ON oncebox_parked_messages (consumer, next_attempt_at)
  WHERE state <> 'dead';
