// The suite itself on trial: every promise is broken on purpose, and the suite has to notice.

import { storageConformance } from "@oncebox/testing";
import type { ClientBase } from "pg";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { TestDatabase } from "../fixtures/databases.ts";
import { testDatabase } from "../fixtures/servers.ts";
import { brokenStorages } from "./broken-storages.ts";
import { type PostgresVariant, postgresUnderTest } from "./postgres-under-test.ts";

const casesAtOnce = 4;

let database: TestDatabase;
beforeAll(async () => {
  database = await testDatabase();
});
afterAll(() => database.drop());

async function fails(
  variant: PostgresVariant,
  run: ReturnType<typeof storageConformance<ClientBase>>[number]["run"],
): Promise<boolean> {
  const context = await postgresUnderTest(database.url, variant);
  try {
    await run(context);
    return false;
  } catch {
    return true;
  } finally {
    await context.close();
  }
}

async function failing(variant: PostgresVariant): Promise<string[]> {
  const cases = [...storageConformance<ClientBase>().entries()];
  const found: [number, string][] = [];
  const worker = async () => {
    for (let next = cases.shift(); next !== undefined; next = cases.shift()) {
      const [index, { promise, name, run }] = next;
      const a = performance.now();
      if (await fails(variant, run)) found.push([index, `${promise} ${name}`]);
      if (process.env.SLOW && performance.now() - a > 2500)
        console.log(name, performance.now() - a);
    }
  };
  await Promise.all(Array.from({ length: casesAtOnce }, worker));
  return found.sort(([a], [b]) => a - b).map(([, name]) => name);
}

for (const [name, broken] of Object.entries(brokenStorages)) {
  test(name, { timeout: 300_000 }, async () => {
    const found = await failing({ pipeline: true, ...broken });
    console.log(JSON.stringify({ [name]: found }, null, 1));
    expect(found.some((each) => each.startsWith(name.slice(0, 2)))).toBe(true);
  });
}
