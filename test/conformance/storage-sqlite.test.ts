// The storage suite on SQLite: native, each of whose transactions is one call, and through knex.

import { storageConformance } from "@oncebox/testing";
import type { Knex } from "knex";
import { afterAll, describe, expect, test } from "vitest";
import type { Session } from "../fixtures/sqlite-session.ts";
import { knexCases, leftOut, nativeCases } from "./sqlite-cases.ts";
import { knexUnderTest } from "./sqlite-knex-under-test.ts";
import { endSessions, nativeUnderTest } from "./sqlite-native-under-test.ts";

describe("knexStorage", () => {
  for (const { promise, name, run } of knexCases<Knex.Transaction>()) {
    test(`${promise} ${name}`, async () => {
      const { context, close } = await knexUnderTest();
      try {
        await run(context);
      } finally {
        await close();
      }
    });
  }
});

describe("sqliteStorage", () => {
  afterAll(endSessions);
  for (const { promise, name, run } of nativeCases<Session>()) {
    test(`${promise} ${name}`, async () => {
      const { context, close } = await nativeUnderTest();
      try {
        await run(context);
      } finally {
        await close();
      }
    });
  }
});

test("leaves out only what cannot apply, each with its reason", () => {
  const titles = storageConformance().map(({ promise, name }) => `${promise} ${name}`);
  expect(leftOut.filter((title) => !titles.includes(title))).toEqual([]);
});
