/** M1: migrations are idempotent, ordered, checksummed and safe from many processes at once. */
import { holds, rejected, same } from "../check.ts";
import { entry, leaseAll, names, read, type StorageCase } from "./arrange.ts";

export const migrationCases: readonly StorageCase[] = [
  {
    promise: "M1",
    name: "an empty place is refused, migrated in order, and migrated once",
    run: async ({ emptyPlace }) => {
      const { migrate, applied, storage } = await emptyPlace();
      await rejected(storage.check(), "schema-missing", "check before the migration");
      await migrate();
      const first = await applied();
      holds(first.length > 0, "a migration must note what it applied");
      same(first, [...first].sort(), "the order of application");
      await storage.check();
      await migrate();
      same(await applied(), first, "what is noted after migrating again");
      await storage.check();
    },
  },
  {
    promise: "M1",
    name: "many processes may migrate at once",
    run: async ({ emptyPlace }) => {
      const { migrate, applied, storage } = await emptyPlace();
      await Promise.all(Array.from({ length: 6 }, () => migrate()));
      const names = await applied();
      same(
        new Set(names).size,
        names.length,
        "the number of migrations noted, doubles not counted",
      );
      await storage.check();
    },
  },
  {
    promise: "M1",
    name: "a migration keeps what is there",
    run: async ({ emptyPlace }) => {
      const { migrate, storage } = await emptyPlace();
      await migrate();
      await storage.transaction((tx) => storage.enqueue(tx, [entry(0, "one")]));
      await migrate();
      same(names((await read(storage, await leaseAll(storage))).rows), ["one"], "the rows kept");
    },
  },
  {
    promise: "M1",
    name: "a migration that was edited after it was applied is refused",
    run: async ({ emptyPlace }) => {
      const { migrate, tamper, storage } = await emptyPlace();
      await migrate();
      await tamper("edit");
      await rejected(storage.check(), "schema-edited", "check of an edited schema");
      await rejected(migrate(), "schema-edited", "a migration of an edited schema");
    },
  },
  {
    promise: "M1",
    name: "an older schema and a newer one are told apart and refused",
    run: async ({ emptyPlace }) => {
      const older = await emptyPlace();
      await older.migrate();
      await older.tamper("forget");
      await rejected(older.storage.check(), "schema-outdated", "check of an older schema");
      const newer = await emptyPlace();
      await newer.migrate();
      await newer.tamper("add");
      await rejected(newer.storage.check(), "schema-newer", "check of a newer schema");
      await rejected(newer.migrate(), "schema-newer", "a migration of a newer schema");
    },
  },
];
