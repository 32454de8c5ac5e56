// The storage suite on PostgreSQL through knex, with pipelined connections and with plain ones.

import { storageConformance } from "@oncebox/testing";
import type { Knex } from "knex";
import { afterAll, beforeAll, describe, test } from "vitest";
import type { TestDatabase } from "../fixtures/databases.ts";
import { testDatabase } from "../fixtures/servers.ts";
import { knexUnderTest } from "./knex-under-test.ts";

let database: TestDatabase;
beforeAll(async () => {
  database = await testDatabase();
});
afterAll(() => database.drop());

describe.each([true, false])("knexStorage, pipeline: %s", (pipeline) => {
  for (const { promise, name, run } of storageConformance<Knex.Transaction>()) {
    test(`${promise} ${name}`, async () => {
      const { context, close } = await knexUnderTest(database.url, { pipeline });
      try {
        await run(context);
      } finally {
        await close();
      }
    });
  }
});
