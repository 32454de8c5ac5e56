// Owns the SQLite file of a run: how it is opened, its tables, and the break that has consumers
// forget which messages they have seen.

import type { Database } from "better-sqlite3";
import { DemoFailure } from "../ending.ts";

/** Opens the file once more, for a process of its own. */
export type OpenDatabase = () => Database;

/** Throws DemoFailure where better-sqlite3 cannot be loaded, and says what helps. */
export async function databaseAt(file: string): Promise<OpenDatabase> {
  const Sqlite = await loaded();
  return () => {
    const database = new Sqlite(file);
    database.pragma("journal_mode = WAL");
    database.pragma("synchronous = FULL");
    return database;
  };
}

async function loaded() {
  try {
    const { default: Sqlite } = await import("better-sqlite3");
    // Its compiled part is looked for when the first database is opened, not before.
    new Sqlite(":memory:").close();
    return Sqlite;
  } catch (error) {
    throw new DemoFailure(
      `better-sqlite3 cannot be loaded: ${firstLine(error)}
  Its compiled part comes with the installation, for one version of Node and one platform.
  Try "npm rebuild better-sqlite3"; where scripts of packages are switched off, or another Node has
  installed it, "npm ci" with this one. Or run "npm run demo -- --servers", which needs no SQLite.`,
    );
  }
}

function firstLine(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split("\n")[0] ?? "";
}

/**
 * `invoices` has no unique key beside its counter, on purpose: here nothing but Oncebox keeps an
 * order from being billed twice, and the checker would see it.
 */
export const tables = `
  CREATE TABLE orders (
    id         TEXT PRIMARY KEY,
    customer   TEXT NOT NULL,
    cents      INTEGER NOT NULL,
    message_id TEXT NOT NULL
  ) STRICT;
  CREATE TABLE invoices (
    position      INTEGER PRIMARY KEY AUTOINCREMENT,
    message_id    TEXT NOT NULL,
    key           TEXT NOT NULL,
    sequence      INTEGER NOT NULL,
    topic         TEXT NOT NULL,
    partition     INTEGER NOT NULL,
    record_offset INTEGER NOT NULL,
    worker        TEXT NOT NULL,
    order_id      TEXT NOT NULL,
    cents         INTEGER NOT NULL
  ) STRICT;`;

const recording = /\bINSERT INTO oncebox_inbox_messages\b/;

/**
 * The same connection, which writes ids where nobody looks for them. `broken` is called each time: a
 * break that never took effect proves nothing.
 */
export function forgetful(database: Database, broken: () => void): Database {
  database.exec(`CREATE TEMP TABLE unread (
    consumer, source, id, topic, partition, record_offset, record_time, checksum)`);
  const prepare = database.prepare.bind(database);
  const rewriting = (text: string) => {
    if (!recording.test(text)) return prepare(text);
    broken();
    return prepare(text.replace(recording, "INSERT INTO temp.unread"));
  };
  return Object.assign(database, { prepare: rewriting });
}
