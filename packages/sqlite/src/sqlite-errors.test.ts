import { StorageError } from "@oncebox/core";
import Database from "better-sqlite3";
import { describe, expect, it } from "vitest";
import { primaryCode, translated, trouble } from "./sqlite-errors.ts";

function sqliteError(code: string, message = "failed"): Error {
  return new Database.SqliteError(message, code);
}

describe("trouble", () => {
  it.each(["SQLITE_BUSY", "SQLITE_BUSY_SNAPSHOT", "SQLITE_LOCKED"])("%s is local", (code) => {
    expect(trouble(sqliteError(code))).toBe("local");
  });

  it.each([
    ...["SQLITE_FULL", "SQLITE_IOERR", "SQLITE_IOERR_FSYNC", "SQLITE_CANTOPEN"],
    ...["SQLITE_CORRUPT", "SQLITE_READONLY_DBMOVED"],
  ])("%s is global", (code) => {
    expect(trouble(sqliteError(code))).toBe("global");
  });

  it.each(["SQLITE_CONSTRAINT_UNIQUE", "SQLITE_ERROR", "SQLITE_MISMATCH"])(
    "%s is its author's",
    (code) => {
      expect(trouble(sqliteError(code))).toBe(null);
    },
  );

  it("a closed connection is global, also where knex puts the statement before it", () => {
    const database = new Database(":memory:");
    database.close();
    const closed = () => database.prepare("SELECT 1");
    expect(closed).toThrow();
    try {
      closed();
    } catch (error) {
      expect(trouble(error)).toBe("global");
      const { message } = error as Error;
      expect(trouble(new TypeError(`SELECT 1 - ${message}`))).toBe("global");
    }
  });

  it("is found in a cause, and not in a handler's own error", () => {
    const wrapped = new Error("outer", { cause: sqliteError("SQLITE_BUSY") });
    expect(trouble(wrapped)).toBe("local");
    expect(trouble(new Error("SQLITE_BUSY"))).toBe(null);
    expect(trouble("SQLITE_BUSY")).toBe(null);
  });
});

describe("translated", () => {
  it("keeps the driver's error, and says whether trying again can help", () => {
    const cause = sqliteError("SQLITE_BUSY", "database is locked");
    const error = translated("claim", cause);
    expect(error).toMatchObject({ code: "storage-conflict", retryable: true, cause });
    expect(translated("claim", error)).toBe(error);
    expect(translated("claim", sqliteError("SQLITE_FULL")).code).toBe("storage-unavailable");
    expect(translated("claim", sqliteError("SQLITE_CONSTRAINT")).code).toBe("storage-failed");
  });

  it("knows tables of ours that are missing, and leaves those of others alone", () => {
    const ours = sqliteError("SQLITE_ERROR", "no such table: oncebox_meta");
    expect(translated("claim", ours).code).toBe("schema-missing");
    const theirs = sqliteError("SQLITE_ERROR", "no such table: orders");
    expect(translated("claim", theirs).code).toBe("storage-failed");
  });
});

it("primaryCode leaves out what a longer code adds", () => {
  expect(primaryCode(sqliteError("SQLITE_IOERR_FSYNC"))).toBe("IOERR");
  expect(primaryCode(new StorageError("storage-failed", "ours"))).toBe(null);
});
