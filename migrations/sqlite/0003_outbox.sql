-- The outbox: messages to publish, written in the transactions of the business and deleted when
-- Kafka has confirmed them.

CREATE TABLE oncebox_outbox_messages (
  -- Order of writing. SQLite has one writer at a time, so it is the order of commits as well: no
  -- row can appear below one that was read, and no floor has to be kept. AUTOINCREMENT: a position
  -- is not given again when its row was deleted.
  position   INTEGER PRIMARY KEY AUTOINCREMENT,
  -- One of 64 slices, by hash of topic and key. Order holds within a lane.
  lane       INTEGER NOT NULL CHECK (lane BETWEEN 0 AND 63),
  created_at INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS INTEGER)),
  message_id TEXT    NOT NULL,
  topic      TEXT    NOT NULL,
  -- Bytes as the application gave them, never re-encoded. A null value is a tombstone.
  key        BLOB,
  value      BLOB,
  -- JSON: a list of pairs of a name and the value's bytes in hex, or null. Names may repeat, and
  -- their order is kept.
  headers    TEXT    NOT NULL DEFAULT '[]'
) STRICT;

-- A relay reads each of its lanes upwards, and deletes by both.
CREATE INDEX oncebox_outbox_messages_lane ON oncebox_outbox_messages (lane, position);

-- The 64 lanes. Each has one live holder, fenced by a random token. A lease is counted by the clock
-- of the machine, which all processes that open this file share.
CREATE TABLE oncebox_outbox_lanes (
  lane         INTEGER PRIMARY KEY CHECK (lane BETWEEN 0 AND 63),
  token        TEXT,
  owner        TEXT,
  leased_until INTEGER
) STRICT;

INSERT INTO oncebox_outbox_lanes (lane)
WITH RECURSIVE lanes (lane) AS (SELECT 0 UNION ALL SELECT lane + 1 FROM lanes WHERE lane < 63)
SELECT lane FROM lanes;

-- Relays seen alive: how many there are decides how many lanes each may hold.
CREATE TABLE oncebox_outbox_relays (
  relay      TEXT    PRIMARY KEY,
  live_until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
