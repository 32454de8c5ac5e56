import { CommitUnknownError, HandlerError, StorageError } from "@oncebox/core";
import { describe, expect, it } from "vitest";
import { provesRollback, sqlState, storageErrors } from "./postgres-errors.ts";

const server = (code: string) =>
  Object.assign(new Error("said the server"), { code, severity: "ERROR" });
const network = (code: string) => Object.assign(new Error(code), { code });

describe("trouble", () => {
  const errors = storageErrors();

  it.each(["08006", "57P01", "57P02", "57P03", "53100", "53300", "58030", "25006", "28P01"])(
    "%s concerns the database as a whole",
    (code) => expect(errors.trouble(server(code))).toBe("global"),
  );

  it.each(["40001", "40P01", "55P03", "57014", "25P03", "25P04"])(
    "%s concerns one transaction",
    (code) => expect(errors.trouble(server(code))).toBe("local"),
  );

  it.each(["23505", "42P01", "22012", "P0001", "XX000", "25P02"])("%s is its author's", (code) =>
    expect(errors.trouble(server(code))).toBeNull(),
  );

  it("knows what the driver says without a code", () => {
    for (const text of [
      "Connection terminated",
      "Connection terminated unexpectedly",
      "Connection terminated due to connection timeout",
      "Client has encountered a connection error and is not queryable",
      "Client was closed and is not queryable",
      "Cannot use a pool after calling end on the pool",
    ]) {
      expect(errors.trouble(new Error(text))).toBe("global");
    }
    expect(errors.trouble(new Error("Query read timeout"))).toBe("local");
  });

  it("knows it behind the statement that knex puts in front, and what pools say", () => {
    const lost = "Connection terminated unexpectedly";
    for (const statement of ["insert into a values (' - ')", "SELECT 1 -\n- 1", "COMMIT;"]) {
      expect(errors.trouble(new Error(`${statement} - ${lost}`))).toBe("global");
    }
    expect(provesRollback(new Error("begin; - Client was closed and is not queryable"))).toBe(true);
    // A handler's own words.
    expect(errors.trouble(new Error(`the till said - ${lost}`))).toBeNull();
    expect(errors.trouble(new Error("timeout exceeded when trying to connect"))).toBe("local");
    const knex = "Knex: Timeout acquiring a connection. The pool is probably full.";
    expect(errors.trouble(new Error(knex))).toBe("local");
    expect(errors.trouble(new Error("Unable to acquire a connection"))).toBe("global");
  });

  it("tells a broken connection of ours from one that a handler made to somewhere else", () => {
    const error = network("ECONNRESET");
    const wrapped = new TypeError("fetch failed", { cause: error });
    expect(errors.trouble(wrapped)).toBeNull();
    errors.ours(error);
    expect(errors.trouble(wrapped)).toBe("global");
    expect(storageErrors().trouble(wrapped)).toBeNull();
  });

  it("finds the driver's error under others, and survives a circle", () => {
    const deadlock = server("40P01");
    expect(errors.trouble(new HandlerError("handler-failed", "x", { cause: deadlock }))).toBe(
      "local",
    );
    expect(errors.trouble(Object.assign(new Error("orm"), { driverError: deadlock }))).toBe(
      "local",
    );
    expect(errors.trouble(new AggregateError([new Error("a"), deadlock]))).toBe("local");
    const circle = new Error("circle");
    circle.cause = circle;
    expect(errors.trouble(circle)).toBeNull();
    for (const value of [null, undefined, "text", 7]) expect(errors.trouble(value)).toBeNull();
  });

  it("knows its own errors again", () => {
    const translated = errors.translated("x", network("ECONNREFUSED"));
    expect(translated).toMatchObject({ code: "storage-unavailable", retryable: true });
    expect(errors.trouble(translated)).toBe("global");
    expect(errors.translated("x", server("40001"))).toMatchObject({ code: "storage-conflict" });
    expect(errors.translated("x", server("23505"))).toMatchObject({
      code: "storage-failed",
      retryable: false,
      details: { sqlState: "23505" },
    });
    expect(errors.translated("x", server("42P01"))).toMatchObject({ code: "schema-missing" });
    const own = new StorageError("claim-timeout", "x");
    expect(errors.translated("y", own)).toBe(own);
    expect(errors.trouble(new CommitUnknownError("x", { cause: server("57P01") }))).toBe("global");
  });
});

it("tells a SQLSTATE from a code of the operating system", () => {
  expect(sqlState(server("P0001"))).toBe("P0001");
  expect(sqlState(network("EPIPE"))).toBeNull();
  expect(sqlState(network("40001"))).toBe("40001");
});

it("believes only answers of a living server that nothing was committed", () => {
  for (const code of ["23505", "40001", "22012", "25P02", "25P03"]) {
    expect(provesRollback(server(code))).toBe(true);
  }
  for (const code of ["57P01", "57P02", "08006", "53100", "25P04", "40003", "XX000"]) {
    expect(provesRollback(server(code))).toBe(false);
  }
  expect(provesRollback(new Error("Connection terminated unexpectedly"))).toBe(false);
  expect(provesRollback(new Error("Query read timeout"))).toBe(false);
  expect(provesRollback(new Error("Client was closed and is not queryable"))).toBe(true);
});
