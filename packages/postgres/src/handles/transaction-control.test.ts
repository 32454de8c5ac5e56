import { expect, it } from "vitest";
import { endsTransaction } from "./transaction-control.ts";

it.each([
  "begin",
  "BEGIN ISOLATION LEVEL SERIALIZABLE",
  "Start Transaction",
  "commit",
  "COMMIT;",
  "commit and chain",
  "COMMIT PREPARED 'x'",
  "end",
  "rollback",
  "ROLLBACK WORK",
  "rollback transaction",
  "rollback prepared 'x'",
  "abort",
  "prepare transaction 'x'",
  "  \n\tcommit",
  ";; commit",
  "-- a word\ncommit",
  "--\n--\n ; -- x\nrollback",
  "/* a /* nested */ comment */ commit",
  "/* a */ ; /* b */ prepare /* c */ transaction 'x'",
  "rollback /* work */ work",
])("%j ends or begins a transaction", (text) => {
  expect(endsTransaction(text)).toBe(true);
});

it.each([
  "",
  ";",
  "-- commit",
  "/* commit",
  "select 1",
  "savepoint a",
  "release savepoint a",
  "rollback to a",
  "ROLLBACK TO SAVEPOINT a",
  "rollback work to a",
  "rollback transaction to savepoint a",
  "rollback -- \n /* x */ to a",
  "prepare plan as select 1",
  "create table commits ()",
  "beginning",
  "ended",
  "call commit()",
  "execute p",
  "explain select 1",
])("%j does not", (text) => {
  expect(endsTransaction(text)).toBe(false);
});
