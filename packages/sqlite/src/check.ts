/** Whether this database can be worked with: write access, journal, version of the tables. */
import { ConfigurationError, type StorageFacts } from "@oncebox/core";
import type { Database } from "better-sqlite3";
import { checkApplied, readApplied } from "./migrate.ts";
import { migrations } from "./migrations.generated.ts";

/** One writer at a time waits inside one call, so no number of connections is too small. */
const facts: StorageFacts = {
  pipelined: false,
  poolSize: Number.MAX_SAFE_INTEGER,
  idleInTransactionTimeoutMs: null,
};

export function checkDatabase(db: Database): StorageFacts {
  checkWritable(db);
  checkJournal(db);
  checkTables(db);
  return facts;
}

function checkWritable(db: Database): void {
  const queryOnly = Number(db.pragma("query_only", { simple: true })) === 1;
  if (!db.readonly && !queryOnly) return;
  throw new ConfigurationError(
    "database-read-only",
    `the database cannot be written to: ${db.readonly ? "it was opened read-only" : "query_only is on"}`,
  );
}

/**
 * WAL: readers never hold up the writer, and the writer waits for the disk once. In another journal a
 * chunk would wait, inside one call, for every reader; a journal in memory loses the file in a crash.
 */
function checkJournal(db: Database): void {
  const journal = String(db.pragma("journal_mode", { simple: true }));
  const synchronous = Number(db.pragma("synchronous", { simple: true }));
  if (journal === "wal" && synchronous > 0) return;
  const why =
    journal === "wal"
      ? 'synchronous is OFF: set db.pragma("synchronous = FULL")'
      : `its journal_mode is ${journal}: set db.pragma("journal_mode = WAL"), on a file`;
  throw new ConfigurationError(
    "journal-unsafe",
    `the database could lose what it committed, ${why}`,
    {
      details: { journal, synchronous },
    },
  );
}

function checkTables(db: Database): void {
  const applied = readApplied(db);
  if (applied === null) {
    throw new ConfigurationError(
      "schema-missing",
      "the tables are not installed in this database: run migrate(database)",
    );
  }
  checkApplied(applied);
  const missing = migrations.slice(applied.length).map(({ name }) => name);
  if (missing.length === 0) return;
  throw new ConfigurationError(
    "schema-outdated",
    `the database lacks migrations (${missing.join(", ")}): run migrate(database)`,
    { details: { missing } },
  );
}
