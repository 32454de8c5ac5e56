/** The schema as knex installs it: the same record as that of `migrate`, and nothing else disturbed. */
import { knexStorage, migrate, migrationSource } from "@oncebox/postgres/knex";
import type { Knex } from "knex";
import type { Pool } from "pg";
import { afterAll, afterEach, beforeAll, expect, it } from "vitest";
import { openKnex } from "../conformance/knex-under-test.ts";
import type { TestDatabase } from "../fixtures/databases.ts";
import { uniqueName } from "../fixtures/names.ts";
import { testDatabase } from "../fixtures/servers.ts";

let database: TestDatabase;
let admin: Pool;
let knex: Knex;
beforeAll(async () => {
  database = await testDatabase();
  admin = database.pool();
});
afterEach(() => knex.destroy());
afterAll(() => database.drop());

/** A schema's name that is free, and knex' own settings for a table of its own. */
function here(more: Knex.MigratorConfig = {}) {
  const schema = uniqueName("knex");
  knex = openKnex(
    { connectionString: database.url },
    { wrapIdentifier: (name, wrap) => wrap(name), searchPath: ["public"] },
  );
  const tableName = `${schema}_migrations`;
  const config = { migrationSource: migrationSource({ schema }), tableName, ...more };
  const applied = async () => {
    const text = `SELECT number, name, checksum FROM ${schema}.migrations ORDER BY number`;
    return (await admin.query(text)).rows;
  };
  return { schema, tableName, config, applied, storage: knexStorage(knex, { schema }) };
}

it.each([{}, { disableTransactions: true }])(
  "knex.migrate.latest leaves what migrate leaves, with %j",
  async (more) => {
    const { schema, tableName, config, applied, storage } = here(more);
    await expect(storage.check()).rejects.toMatchObject({ code: "schema-missing" });
    const [, names] = await knex.migrate.latest(config);
    await storage.check();
    expect(await migrate(knex, { schema })).toEqual([]);
    expect((await knex.migrate.latest(config))[1]).toEqual([]);
    // knex' own table is where the user has it, not in our schema.
    const { rows } = await admin.query(`SELECT name FROM public.${tableName} ORDER BY id`);
    expect(rows.map(({ name }) => name)).toEqual(names);

    const other = uniqueName("knex");
    const plain = await migrate(knex, { schema: other });
    expect(names).toEqual(plain.map((name) => `oncebox_${name}`));
    const { rows: expected } = await admin.query(
      `SELECT number, name, checksum FROM ${other}.migrations ORDER BY number`,
    );
    expect(await applied()).toEqual(expected);
  },
);

it("passes over what migrate applied before, and refuses a schema that was edited", async () => {
  const { schema, config, applied } = here();
  await migrate(knex, { schema });
  const before = await applied();
  await knex.migrate.latest(config);
  expect(await applied()).toEqual(before);
  await admin.query(`UPDATE ${schema}.migrations SET checksum = 'another' WHERE number = 1`);
  const again = { ...config, tableName: `${schema}_again` };
  await expect(knex.migrate.latest(again)).rejects.toMatchObject({ code: "schema-edited" });
});

it("has no way down", async () => {
  const { config, applied } = here();
  await knex.migrate.latest(config);
  const before = await applied();
  await expect(knex.migrate.rollback(config)).rejects.toThrow(/no way down/);
  expect(await applied()).toEqual(before);
});
