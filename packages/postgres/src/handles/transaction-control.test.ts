import { expect, it } from "vitest";
import { endsTransaction, reachesOthers } from "./transaction-control.ts";

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

// Guards reachesOthers: handlers that share a transaction must not undo or set anything for each other.
it.each([
  "begin",
  "start transaction",
  "commit",
  "END",
  "abort",
  "rollback",
  "ROLLBACK TO a",
  "rollback work to savepoint a",
  "prepare transaction 'x'",
  "savepoint a",
  " /* x */ ; SAVEPOINT a",
  "release a",
  "release savepoint a",
  "set x = 1",
  "SET LOCAL x TO 1",
  "set constraints all deferred",
  "set role r",
  "reset all",
  "discard all",
  "select set_config('x', $1, true)",
  "select pg_catalog.set_config ('x', $1, true)",
  "select 1; savepoint a",
  "select 'a; b'; -- c\n set local x = 1",
  'select ";" from t; reset x',
  "select $$;$$; release a",
  "select $a$ $b$ ; $a$; release a",
  "select a$b from t; savepoint a; select c$b$ from t",
  "select $1::text; /* ; */ discard all",
  // It cannot be told where these end.
  "select 'a; b",
  "select 'it\\'; select '",
  "select e'\\'; savepoint a; --'",
  "select 1; select $$ x; savepoint a",
])("%j reaches others in the same transaction", (text) => {
  expect(reachesOthers(text)).toBe(true);
});

it.each([
  "",
  ";",
  "select 1",
  "select 1;",
  "select 1 ; -- done",
  "select 1; select 2",
  "lock table t",
  "lock table t in exclusive mode; delete from t",
  "prepare p as select 1",
  "execute p",
  "insert into t values ('commit; rollback')",
  "insert into t values ('it''s; savepoint a')",
  "insert into t values ($$; savepoint a$$)",
  "insert into t values ($x$; savepoint $$ a; $x$)",
  'select "; savepoint a"',
  "select 1 -- ; savepoint a",
  "select 1 /* ; savepoint a /* ; */ ; */",
  "select 'a\\b'",
  "update t set a = 1",
  "select settings from t",
  "declare c cursor for select 1",
  "notify channel",
])("%j does not reach others", (text) => {
  expect(reachesOthers(text)).toBe(false);
});
