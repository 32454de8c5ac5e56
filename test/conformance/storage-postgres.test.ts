// The storage suite on PostgreSQL, with a pipelined pool and with a plain one.

import { storageConformance } from "@oncebox/testing";
import type { ClientBase } from "pg";
import { afterAll, beforeAll, describe, test } from "vitest";
import type { TestDatabase } from "../fixtures/databases.ts";
import { testDatabase } from "../fixtures/servers.ts";
import { postgresUnderTest } from "./postgres-under-test.ts";

let database: TestDatabase;
beforeAll(async () => {
  database = await testDatabase();
});
afterAll(() => database.drop());

describe.each([true, false])("postgresStorage, pipeline: %s", (pipeline) => {
  for (const { promise, name, run } of storageConformance<ClientBase>()) {
    test(`${promise} ${name}`, async () => {
      const { context, close } = await postgresUnderTest(database.url, { pipeline });
      try {
        await run(context);
      } finally {
        await close();
      }
    });
  }
});
