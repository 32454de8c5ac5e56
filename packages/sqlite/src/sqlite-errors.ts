/**
 * What an error of SQLite or its driver means: whose trouble it is, and which of our errors it
 * becomes. Everything here looks at errors and touches nothing.
 */
import { ConfigurationError, OnceboxError, StorageError, type Trouble } from "@oncebox/core";

/** Result codes that concern the file as a whole; longer codes begin with one of them. */
const globalCodes: ReadonlySet<string> = new Set([
  ...["FULL", "IOERR", "CANTOPEN", "NOMEM", "CORRUPT", "NOTADB", "READONLY", "PERM"],
]);

/** Result codes that may pass when the transaction is run again: somebody else holds a lock. */
const localCodes: ReadonlySet<string> = new Set(["BUSY", "LOCKED", "PROTOCOL", "SCHEMA"]);

// knex puts the statement in front of it.
const closedText = /(^| - )The database connection is not open/;
const missingText = /no such (table|column): (main\.)?oncebox_/;
const depthMax = 10;

export function trouble(error: unknown): Trouble {
  let link = error;
  for (let depth = 0; depth < depthMax && isObject(link); depth += 1) {
    const found = troubleOf(link);
    if (found !== null) return found;
    link = (link as { readonly cause?: unknown }).cause;
  }
  return null;
}

function troubleOf(error: object): Trouble {
  if (error instanceof OnceboxError) {
    if (error.code === "storage-unavailable") return "global";
    if (error.code === "storage-conflict" || error.code === "claim-timeout") return "local";
    return null;
  }
  const code = primaryCode(error);
  if (code !== null) {
    if (localCodes.has(code)) return "local";
    return globalCodes.has(code) ? "global" : null;
  }
  // A pool of one that is never given back is out of reach like a database that does not answer.
  if ((error as Error).name === "KnexTimeoutError") return "global";
  return closedText.test(textOf(error)) ? "global" : null;
}

/** SQLITE_IOERR_FSYNC → IOERR; null for what is no error of SQLite. */
export function primaryCode(error: unknown): string | null {
  const code = isObject(error) ? (error as { readonly code?: unknown }).code : null;
  if (typeof code !== "string") return null;
  return /^SQLITE_([A-Z]+)/.exec(code)?.[1] ?? null;
}

/** Whether the write lock, or the connection, was in use: to be tried again. */
export function isBusy(error: unknown): boolean {
  return trouble(error) === "local";
}

/** Our own error for one of a statement of ours; the driver's stays its cause. */
export function translated(doing: string, error: unknown): OnceboxError {
  if (error instanceof OnceboxError) return error;
  const text = textOf(error);
  const code = primaryCode(error);
  const details = code === null ? {} : { sqliteCode: (error as { readonly code: string }).code };
  if (missingText.test(text)) {
    return new ConfigurationError(
      "schema-missing",
      `${doing}: ${text}. The tables are not installed, or lack migrations: run migrate(database)`,
      { cause: error, details },
    );
  }
  const found = trouble(error);
  return new StorageError(codes[found ?? "none"], `${doing}: ${text}`, {
    cause: error,
    retryable: found !== null,
    details,
  });
}

const codes = {
  global: "storage-unavailable",
  local: "storage-conflict",
  none: "storage-failed",
} as const;

function textOf(error: unknown): string {
  return error instanceof Error ? error.message : "a value that is no error was thrown";
}

function isObject(value: unknown): value is object {
  return typeof value === "object" && value !== null;
}
