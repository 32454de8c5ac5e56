-- What is installed here, and which database this is.
--
-- SQLite knows no schemas to choose from: every table is named oncebox_ something. These files need
-- SQLite 3.42 or newer (STRICT tables, RETURNING, unixepoch('subsec')).

-- One row for each file that was run. A file is never edited after a release: its checksum would
-- no longer fit, and every process would refuse to start.
CREATE TABLE oncebox_migrations (
  number     INTEGER PRIMARY KEY,
  name       TEXT    NOT NULL,
  -- SHA-256 of the file, in hex.
  checksum   TEXT    NOT NULL,
  -- Milliseconds since 1970, here and in every column of time below.
  applied_at INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS INTEGER))
) STRICT;

-- Exactly one row. The incarnation goes into the metadata of Kafka's group offsets, so that a
-- database that was restored or replaced is told from the one those offsets were written for.
CREATE TABLE oncebox_meta (
  only_row    INTEGER PRIMARY KEY DEFAULT 1 CHECK (only_row = 1),
  incarnation TEXT    NOT NULL DEFAULT (lower(hex(randomblob(16))))
) STRICT;

INSERT INTO oncebox_meta DEFAULT VALUES;
