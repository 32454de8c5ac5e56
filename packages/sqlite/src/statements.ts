/** Statements prepared once for each connection, and the values that go in and come out. */
import type { Database, Statement } from "better-sqlite3";

const statements = new WeakMap<Database, Map<string, Statement>>();

/** Integers come out as bigint, whatever the connection's own default is. */
export function prepared(db: Database, text: string): Statement {
  let known = statements.get(db);
  if (known === undefined) {
    known = new Map();
    statements.set(db, known);
  }
  let statement = known.get(text);
  if (statement === undefined) {
    statement = db.prepare(text).safeIntegers(true);
    known.set(text, statement);
  }
  return statement;
}

export type Value = string | bigint | Uint8Array | null;

/** Runs a statement that returns no rows; how many it changed. */
export function run(db: Database, text: string, ...values: readonly Value[]): number {
  return prepared(db, text).run(...values).changes;
}

export function one<Row>(db: Database, text: string, ...values: readonly Value[]): Row | undefined {
  return prepared(db, text).get(...values) as Row | undefined;
}

export function all<Row>(db: Database, text: string, ...values: readonly Value[]): readonly Row[] {
  return prepared(db, text).all(...values) as Row[];
}

/** As SQLite binds it as an integer: a number would go in as a float. */
export function int(value: number): bigint;
export function int(value: number | null): bigint | null;
export function int(value: number | null): bigint | null {
  return value === null ? null : BigInt(value);
}

export function numberOf(value: bigint): number;
export function numberOf(value: bigint | null): number | null;
export function numberOf(value: bigint | null): number | null {
  return value === null ? null : Number(value);
}
