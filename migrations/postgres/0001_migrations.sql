-- What is installed here, and which database this is.
--
-- Names are unqualified on purpose: the schema is chosen by whoever runs these files, through
-- search_path. They need PostgreSQL 14 or newer and no extension.

-- One row for each file that was run. A file is never edited after a release: its checksum would
-- no longer fit, and every process would refuse to start.
CREATE TABLE migrations (
  number     integer     PRIMARY KEY,
  name       text        NOT NULL,
  -- SHA-256 of the file, in hex.
  checksum   text        NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Exactly one row. The incarnation goes into the metadata of Kafka's group offsets, so that a
-- database that was restored or replaced is told from the one those offsets were written for.
CREATE TABLE meta (
  only_row    boolean PRIMARY KEY DEFAULT true CHECK (only_row),
  incarnation uuid    NOT NULL DEFAULT gen_random_uuid()
);

INSERT INTO meta DEFAULT VALUES;
