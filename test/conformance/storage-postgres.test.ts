// The storage suite on PostgreSQL, with a pipelined pool and with a plain one.

import { storageConformance } from "@oncebox/testing";
import type { ClientBase } from "pg";
import { describe, inject, test } from "vitest";
import { postgresUnderTest } from "./postgres-under-test.ts";

describe.each([true, false])("postgresStorage, pipeline: %s", (pipeline) => {
  for (const { promise, name, run } of storageConformance<ClientBase>()) {
    test(`${promise} ${name}`, async () => {
      const context = await postgresUnderTest(inject("databaseUrl"), { pipeline });
      try {
        await run(context);
      } finally {
        await context.close();
      }
    });
  }
});
