import { expect, it } from "vitest";
import { endsTransaction, worksOnAll } from "./transaction-control.ts";

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

it.each([
  "BEGIN IMMEDIATE",
  "commit",
  "END",
  "rollback",
  "SAVEPOINT a",
  "release a",
  "/* x */ ROLLBACK -- \n TO a",
  "rollback transaction to savepoint a",
  "PRAGMA foreign_keys = OFF",
  "pragma main . foreign_keys=1",
  "PRAGMA busy_timeout(5)",
  "pragma /* a = b */ defer_foreign_keys -- x\n = on",
  "select 1; savepoint a",
  "select ';' ; savepoint a",
  "select 1 -- it's\n; savepoint a",
  "select 'it''s'; /* ; */ release a",
  'select ";" AS [;], `;`; ; end',
])("%j works on all that is done in the transaction", (text) => {
  expect(worksOnAll(text)).toBe(true);
});

it.each([
  "",
  ";;",
  "select 1;",
  "select 1; select 2",
  "select '; savepoint a'",
  "select ' ''; savepoint a'",
  'select "; commit", [; commit], `; commit`; select 1',
  "select 1 -- ; savepoint a",
  "select 1 /* ; savepoint a */; select 2",
  "PRAGMA foreign_keys",
  "pragma table_info(orders)",
  "PRAGMA main.index_list ('orders')",
  "savepoints",
  "insert or rollback into a values (1)",
  "explain savepoint a",
])("%j does not", (text) => {
  expect(worksOnAll(text)).toBe(false);
});

it("a long text of one statement is read at once", () => {
  const text = `insert into a values ('${"; ' || '".repeat(200_000)}'); select 1`;
  const start = performance.now();
  expect(worksOnAll(text)).toBe(false);
  expect(performance.now() - start).toBeLessThan(1_000);
});
