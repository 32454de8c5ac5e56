-- The outbox: messages to publish, written in the transactions of the business and deleted when
-- Kafka has confirmed them.

CREATE TABLE outbox_messages (
  -- First column on purpose: defaults are computed in column order, so every row takes its
  -- transaction's id before its position. The relay's floor rests on that order. Do not reorder,
  -- do not drop, do not give the columns by hand.
  xid           xid8        NOT NULL DEFAULT pg_current_xact_id(),
  -- One of 64 slices, by hash of topic and key. Order holds within a lane.
  lane          smallint    NOT NULL CHECK (lane BETWEEN 0 AND 63),
  -- Order of writing. CACHE 1: a session that cached positions would write old ones later.
  position      bigint      GENERATED ALWAYS AS IDENTITY (INCREMENT BY 1 CACHE 1 NO CYCLE),
  created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
  message_id    text        NOT NULL,
  topic         text        NOT NULL,
  -- Bytes as the application gave them, never re-encoded. A null value is a tombstone.
  key           bytea,
  value         bytea,
  -- Two arrays of one length: names may repeat, and their order is kept.
  header_names  text[]      NOT NULL DEFAULT '{}',
  header_values bytea[]     NOT NULL DEFAULT '{}',
  -- The one index: a relay reads each of its lanes upwards from its floor, and deletes by both.
  PRIMARY KEY (lane, position)
)
-- A queue: every row is dead soon. Vacuum by number of dead rows, not by share of an empty table.
WITH (
  autovacuum_vacuum_scale_factor = 0,
  autovacuum_vacuum_threshold = 20000,
  autovacuum_analyze_scale_factor = 0,
  autovacuum_analyze_threshold = 20000
);

-- Values live for milliseconds: compressing them would cost more than it saves.
ALTER TABLE outbox_messages ALTER COLUMN value SET STORAGE EXTERNAL;

-- The 64 lanes. Each has one live holder, fenced by a random token. A lease is counted by this
-- database's clock.
CREATE TABLE outbox_lanes (
  lane         smallint PRIMARY KEY CHECK (lane BETWEEN 0 AND 63),
  token        uuid,
  owner        text,
  leased_until timestamptz,
  -- Every position of this lane at or below it is published and deleted, and none can appear any
  -- more. Reading starts above it, so that rows dead behind an old snapshot cost nothing.
  floor        bigint   NOT NULL DEFAULT 0
)
-- Renewed and raised in place, always: as inbox_partitions.
WITH (fillfactor = 10);

INSERT INTO outbox_lanes (lane) SELECT generate_series(0, 63);

-- Relays seen alive: how many there are decides how many lanes each may hold.
CREATE TABLE outbox_relays (
  relay      text        PRIMARY KEY,
  live_until timestamptz NOT NULL
)
WITH (fillfactor = 10);
