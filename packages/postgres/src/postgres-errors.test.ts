import { CommitUnknownError, HandlerError, StorageError } from "@oncebox/core";
import { describe, expect, it } from "vitest";
import { endsConnection, provesRollback, sqlState, storageErrors } from "./postgres-errors.ts";

const server = (code: string, severity = "ERROR") =>
  Object.assign(new Error("said the server"), { code, severity });
const network = (code: string) => Object.assign(new Error(code), { code });

describe("trouble", () => {
  const errors = storageErrors();
  const ours = (error: Error) => errors.trouble(errors.ours(error));

  it.each(["53000", "53100", "53200", "58000", "58030", "25006"])(
    "%s concerns the database as a whole, whatever met it",
    (code) => expect(ours(server(code))).toBe("global"),
  );

  // Guards the severity: as the error of one statement they came from a foreign table or a dblink,
  // while this very connection goes on.
  it.each([
    "08000",
    "08001",
    "08003",
    "08004",
    "08006",
    "28P01",
    "3D000",
    "53300",
    "57P01",
    "57P03",
  ])("%s concerns the database where it ended the connection, and else its author", (code) => {
    for (const severity of ["FATAL", "PANIC", "ВАЖНО"]) {
      expect(ours(server(code, severity))).toBe("global");
      expect(endsConnection(server(code, severity))).toBe(/^(08|57)/.test(code));
    }
    expect(ours(server(code))).toBeNull();
    expect(endsConnection(server(code))).toBe(false);
    // An answer to COMMIT is believed by no severity.
    expect(provesRollback(server(code))).toBe(false);
  });

  it.each(["40001", "40P01", "55P03", "57014", "25P03", "25P04"])(
    "%s concerns one transaction",
    (code) => expect(errors.trouble(server(code))).toBe("local"),
  );

  it.each(["23505", "42P01", "22012", "P0001", "XX000", "25P02", "53400", "58P01", "58P02"])(
    "%s is its author's",
    (code) => expect(ours(server(code))).toBeNull(),
  );

  it("knows what the driver says without a code", () => {
    for (const text of [
      "Connection terminated",
      "Connection terminated unexpectedly",
      "Connection terminated due to connection timeout",
      "timeout expired",
      "Client has encountered a connection error and is not queryable",
      "Client was closed and is not queryable",
      "Cannot use a pool after calling end on the pool",
    ]) {
      expect(ours(new Error(text))).toBe("global");
    }
    expect(errors.trouble(new Error("Query read timeout"))).toBe("local");
  });

  // Guards the proof of origin: a handler may work with another database, by the same driver.
  it("blames this database for no error that came from elsewhere", () => {
    const foreign = [
      ...["Connection terminated unexpectedly", "timeout expired"].map((text) => new Error(text)),
      ...["Client was closed and is not queryable", "Unable to acquire a connection"].map(
        (text) => new Error(text),
      ),
      ...["57P01", "57P02", "57P03", "53300", "08006", "28P01"].map((code) =>
        server(code, "FATAL"),
      ),
      ...["53100", "53200", "58030", "25006"].map((code) => server(code)),
    ];
    for (const error of foreign) {
      expect(errors.trouble(error)).toBeNull();
      expect(errors.trouble(new Error("in a handler", { cause: error }))).toBeNull();
      // The proof reaches through what a driver or a pool puts around it.
      expect(ours(new AggregateError([error]))).toBe("global");
      expect(errors.trouble(error)).toBe("global");
    }
  });

  it("knows it behind the statement that knex puts in front, and what pools say", () => {
    const lost = "Connection terminated unexpectedly";
    for (const statement of ["insert into a values (' - ')", "SELECT 1 -\n- 1", "COMMIT;"]) {
      expect(ours(new Error(`${statement} - ${lost}`))).toBe("global");
    }
    expect(provesRollback(new Error("begin; - Client was closed and is not queryable"))).toBe(true);
    // A handler's own words.
    expect(ours(new Error(`the till said - ${lost}`))).toBeNull();
    expect(errors.trouble(new Error("timeout exceeded when trying to connect"))).toBe("local");
    const knex = "Knex: Timeout acquiring a connection. The pool is probably full.";
    expect(errors.trouble(new Error(knex))).toBe("local");
    expect(ours(new Error("Unable to acquire a connection"))).toBe("global");
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
    const ended = errors.ours(server("57P01", "FATAL"));
    expect(errors.trouble(new CommitUnknownError("x", { cause: ended }))).toBe("global");
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
