/**
 * M1: brings a schema to this version, in one transaction under one lock: whole, or not at all; by
 * one process, however many start at once. DDL itself lives in migrations/postgres/*.sql.
 */
import { createHash } from "node:crypto";
import { ConfigurationError, checkOptions, having } from "@oncebox/core";
import type { Pool, QueryResult } from "pg";
import { noAnswerWatch } from "./answer-watch.ts";
import { type Clients, clientsOfPool } from "./clients.ts";
import { connections } from "./connections.ts";
import { rollBack } from "./handler-transaction.ts";
import { type Migration, migrations } from "./migrations.generated.ts";
import { storageErrors } from "./postgres-errors.ts";
import { quoted } from "./queries.ts";
import { aSchemaName, defaultSchema } from "./schema.ts";

export interface MigrateOptions {
  /**
   * The schema to install into; created where it is missing.
   * @defaultValue "oncebox"
   */
  readonly schema?: string;
}

export interface AppliedMigration {
  readonly number: number;
  readonly name: string;
  readonly checksum: string;
}

/** How long to wait for other processes that migrate the same schema. */
const queueTimeoutMs = 60_000;
/** How long DDL may wait for a lock: whatever queues behind it waits as well. */
const ddlLockTimeoutMs = 5_000;

/**
 * Applies what is missing and returns its names, in order; none where all was there. Throws
 * ConfigurationError `schema-newer` or `schema-edited` and changes nothing.
 */
export async function migrate(pool: Pool, options: MigrateOptions = {}): Promise<string[]> {
  checkOptions("migrate", { pool, ...options }, { pool: aPool, schema: aSchemaName });
  const clients = clientsOfPool(pool);
  try {
    return await migrateOver(clients, options.schema ?? defaultSchema);
  } finally {
    clients.close();
  }
}

export async function migrateOver(clients: Clients, schema: string): Promise<string[]> {
  const errors = storageErrors();
  const acquireTimeoutMs = queueTimeoutMs;
  const answers = noAnswerWatch();
  const parts = { clients, preparedStatements: false, acquireTimeoutMs, errors, answers };
  const connection = await connections(parts).acquire();
  try {
    await connection.script("BEGIN ISOLATION LEVEL READ COMMITTED");
    const applied = await applyUpTo(connection.script, schema, migrations.length);
    await connection.script("COMMIT");
    connection.release();
    return applied;
  } catch (error) {
    await rollBack(connection);
    throw errors.translated(`migration of schema ${schema}`, error);
  }
}

export const aPool = having("a pg Pool", "connect", "query");

/** Sends text of one or more statements; the result is that of the last. */
export type Script = (text: string) => Promise<QueryResult>;

/**
 * Within a transaction, applies what is missing up to this number, as `migrate`; returns its names.
 * Leaves `lock_timeout` and `search_path` changed until the transaction ends.
 */
export async function applyUpTo(script: Script, schema: string, last: number): Promise<string[]> {
  await script(
    `SET LOCAL lock_timeout = ${queueTimeoutMs}; SELECT pg_advisory_xact_lock(${lockKeyOf(schema)})`,
  );
  const applied = await readApplied(script, schema);
  checkApplied(schema, applied ?? []);
  const missing = migrations.slice(applied?.length ?? 0, last);
  if (missing.length > 0) await apply(script, schema, missing);
  return missing.map((migration) => migration.name);
}

async function apply(script: Script, schema: string, missing: readonly Migration[]): Promise<void> {
  await script(`SET LOCAL lock_timeout = ${ddlLockTimeoutMs}`);
  // Looked up first: creating it needs a right that a role may lack where a DBA has made it.
  const { rowCount } = await script(`SELECT FROM pg_namespace WHERE nspname = '${schema}'`);
  if (rowCount === 0) await script(`CREATE SCHEMA ${quoted(schema)}`);
  await script(`SET LOCAL search_path = ${quoted(schema)}`);
  for (const { number, name, checksum, sql } of missing) {
    await script(sql);
    await script(
      `INSERT INTO migrations (number, name, checksum) VALUES (${number}, '${name}', '${checksum}')`,
    );
  }
}

/** In order of number; null where the schema is not installed. */
export async function readApplied(
  script: Script,
  schema: string,
): Promise<readonly AppliedMigration[] | null> {
  const table = `${quoted(schema)}.migrations`;
  const { rows } = await script(`SELECT to_regclass('${table}') IS NOT NULL AS found`);
  if ((rows as { found: boolean }[])[0]?.found !== true) return null;
  const applied = await script(`SELECT number, name, checksum FROM ${table} ORDER BY number`);
  return applied.rows as AppliedMigration[];
}

/** Throws where the database knows what we do not, or knows it otherwise. */
export function checkApplied(schema: string, applied: readonly AppliedMigration[]): void {
  const newer = applied.slice(migrations.length);
  if (newer.length > 0) {
    const names = newer.map((migration) => migration.name);
    throw new ConfigurationError(
      "schema-newer",
      `schema ${schema} has migrations that this version does not know (${names.join(", ")}): a newer version of @oncebox/postgres has migrated it. Update this process`,
      { details: { schema, unknown: names } },
    );
  }
  for (const [index, { name, checksum }] of applied.entries()) {
    const expected = migrations[index];
    if (expected === undefined || (name === expected.name && checksum === expected.checksum)) {
      continue;
    }
    throw new ConfigurationError(
      "schema-edited",
      `migration ${name} of schema ${schema} is not the one that this version has (${expected.name}): a file was edited after it was run, or another version was installed. Never edit a migration; install the version that ran it`,
      { details: { schema, migration: name } },
    );
  }
}

/** An advisory lock of the whole database, so the schema's name is part of it. */
function lockKeyOf(schema: string): bigint {
  const hash = createHash("sha256").update(`oncebox migrate ${schema}`).digest();
  return hash.readBigInt64BE(0);
}
