/** What a database is told apart by must mean the same on each: a number is one step, everywhere. */
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { root } from "./documents.ts";

const filesOf = (dialect: string) => readdirSync(join(root, "migrations", dialect)).sort();

it("migrations have the same numbers and names in every dialect", () => {
  const [first = "", ...others] = readdirSync(join(root, "migrations"));
  expect(others.length).toBeGreaterThan(0);
  for (const dialect of others) expect(filesOf(dialect), dialect).toEqual(filesOf(first));
});
