/** The migrations as knex runs them: the same text, the same record of what was applied. */
import { ConfigurationError, checkOptions } from "@oncebox/core";
import type { Knex } from "knex";
import type { Client, QueryResult } from "pg";
import { applyUpTo, type MigrateOptions } from "./migrate.ts";
import { type Migration, migrations } from "./migrations.generated.ts";
import { aSchemaName, defaultSchema } from "./schema.ts";

/**
 * For `knex.migrate.latest({ migrationSource: migrationSource(), tableName })`. Wants a `tableName` of
 * its own beside migrations of yours. What `migrate` applied before is passed over, and the other way
 * round. There is no way down: `down` throws ConfigurationError `schema-newer`.
 */
export function migrationSource(options: MigrateOptions = {}): Knex.MigrationSource<Migration> {
  checkOptions("migrationSource", options, { schema: aSchemaName });
  const schema = options.schema ?? defaultSchema;
  return {
    getMigrations: async () => [...migrations],
    getMigrationName: ({ name }) => `oncebox_${name}`,
    getMigration: async ({ number, name }) => ({
      // Whole or not at all, whatever the user's migrations do.
      config: { transaction: true },
      up: async (trx) => {
        const client: Client = await trx.client.acquireConnection();
        await undisturbed(client, () =>
          applyUpTo((text) => client.query(text) as Promise<QueryResult>, schema, number),
        );
      },
      down: async () => {
        throw new ConfigurationError(
          "schema-newer",
          `migration ${name} of schema ${schema} has no way down: an older version of Oncebox refuses a newer schema. Restore it from a backup, or drop the schema`,
          { details: { schema, migration: name } },
        );
      },
    }),
  };
}

/** Settings of the transaction as they were: knex goes on in it, with its own table and yours. */
async function undisturbed(client: Client, work: () => Promise<unknown>): Promise<void> {
  const settings = ["search_path", "lock_timeout"];
  const { rows } = await client.query<{ value: string }>(
    "SELECT current_setting(name) AS value FROM unnest($1::text[]) WITH ORDINALITY AS s (name, place) ORDER BY place",
    [settings],
  );
  await work();
  for (const [index, name] of settings.entries()) {
    await client.query("SELECT set_config($1, $2, true)", [name, rows[index]?.value]);
  }
}
