/**
 * M1: brings a database to this version, in one transaction: whole, or not at all; by one process,
 * however many start at once. DDL itself lives in migrations/sqlite/*.sql.
 */
import { ConfigurationError, checkOptions, having } from "@oncebox/core";
import type { Database } from "better-sqlite3";
import { type Access, writing } from "./locking.ts";
import { migrations } from "./migrations.generated.ts";

/** How long to wait for other processes that write to the same file. */
const queueTimeoutMs = 60_000;

export interface AppliedMigration {
  readonly number: number;
  readonly name: string;
  readonly checksum: string;
}

export const aDatabase = having("a better-sqlite3 Database", "prepare", "pragma", "exec");

/**
 * Applies what is missing and returns its names, in order; none where all was there. Throws
 * ConfigurationError `schema-newer` or `schema-edited` and changes nothing.
 */
export async function migrate(database: Database): Promise<string[]> {
  checkOptions("migrate", { database }, { database: aDatabase });
  return migrateWith({ use: async (work) => work(database) });
}

export function migrateWith(access: Pick<Access, "use">): Promise<string[]> {
  const waiting: Access = { use: access.use, busyTimeoutMs: queueTimeoutMs };
  return writing(waiting, { doing: "migration" }, (db) => {
    const applied = readApplied(db);
    checkApplied(applied ?? []);
    const missing = migrations.slice(applied?.length ?? 0);
    for (const { number, name, checksum, sql } of missing) {
      db.exec(sql);
      db.prepare("INSERT INTO oncebox_migrations (number, name, checksum) VALUES (?, ?, ?)").run(
        BigInt(number),
        name,
        checksum,
      );
    }
    return missing.map(({ name }) => name);
  });
}

/** In order of number; null where nothing is installed. */
export function readApplied(db: Database): readonly AppliedMigration[] | null {
  const found = db
    .prepare("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'oncebox_migrations'")
    .get();
  if (found === undefined) return null;
  return db
    .prepare("SELECT number, name, checksum FROM oncebox_migrations ORDER BY number")
    .safeIntegers(false)
    .all() as AppliedMigration[];
}

/** Throws where the database knows what we do not, or knows it otherwise. */
export function checkApplied(applied: readonly AppliedMigration[]): void {
  const newer = applied.slice(migrations.length);
  if (newer.length > 0) {
    const names = newer.map((migration) => migration.name);
    throw new ConfigurationError(
      "schema-newer",
      `the database has migrations that this version does not know (${names.join(", ")}): a newer version of @oncebox/sqlite has migrated it. Update this process`,
      { details: { unknown: names } },
    );
  }
  for (const [index, { name, checksum }] of applied.entries()) {
    const expected = migrations[index];
    if (expected === undefined || (name === expected.name && checksum === expected.checksum)) {
      continue;
    }
    throw new ConfigurationError(
      "schema-edited",
      `migration ${name} is not the one that this version has (${expected.name}): a file was edited after it was run, or another version was installed. Never edit a migration; install the version that ran it`,
      { details: { migration: name } },
    );
  }
}
