import { expect, it } from "vitest";
import { endsTransaction } from "./transaction-control.ts";

it.each([
  "begin",
  "BEGIN IMMEDIATE",
  "Begin Exclusive Transaction",
  "commit",
  "COMMIT;",
  "commit transaction",
  "end",
  "END TRANSACTION",
  "rollback",
  "ROLLBACK TRANSACTION",
  "rollback; to",
  "  \n\tcommit",
  "\uFEFFcommit",
  ";; commit",
  "-- a word\ncommit",
  "--\n--\n ; -- x\nrollback",
  "/* a /* does not nest */ commit",
  "/* a */ ; /* b */ rollback /* c */ transaction",
])("%j ends or begins a transaction", (text) => {
  expect(endsTransaction(text)).toBe(true);
});

it.each([
  "",
  ";",
  "-- commit",
  "/* commit",
  "/* a */ select /* b */ commit",
  "select 1",
  "savepoint a",
  "release savepoint a",
  "rollback to a",
  "ROLLBACK TO SAVEPOINT a",
  "rollback transaction to savepoint a",
  "rollback -- \n /* x */ to a",
  "create table commits (a)",
  "beginning",
  "ended",
  "explain commit",
])("%j does not", (text) => {
  expect(endsTransaction(text)).toBe(false);
});
