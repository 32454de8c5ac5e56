/** The storage on PostgreSQL whose handles are transactions of knex. */
import { checkOptions, type Rule, type Storage } from "@oncebox/core";
import type { Knex } from "knex";
import { assembled } from "./assembly.ts";
import { knexHandles } from "./handles/knex.ts";
import { clientsOfKnex } from "./knex-clients.ts";
import { type MigrateOptions, migrateOver } from "./migrate.ts";
import { aSchemaName, defaultSchema } from "./schema.ts";
import { type StorageOptions, storageRules } from "./storage-options.ts";

export type KnexStorageOptions = StorageOptions;

const aKnex: Rule = {
  is: 'a knex on PostgreSQL, not a transaction (`knex({ client: "pg", connection })`)',
  fits: (value) => {
    if (typeof value !== "function") return false;
    const { client, isTransaction } = value as Knex & { readonly isTransaction?: boolean };
    const of = client as { readonly driverName?: string; readonly dialect?: string } | undefined;
    return of?.driverName === "pg" && of.dialect === "postgresql" && isTransaction !== true;
  },
};

/**
 * For a knex on PostgreSQL (`client: "pg"`), with the database that holds the business tables. It
 * stays yours: its pool is used, its settings are not touched, and it is not destroyed. With
 * `pipeline: true` in its `connection` (pg 8.23 or newer) statements of the storage are sent without
 * waiting for the answers before them. Throws ConfigurationError that lists every wrong option;
 * connects to nothing.
 */
export function knexStorage(
  knex: Knex,
  options: KnexStorageOptions = {},
): Storage<Knex.Transaction> {
  checkOptions("knexStorage", { knex, ...options }, { knex: aKnex, ...storageRules });
  return assembled(clientsOfKnex(knex), knexHandles(knex), options);
}

/** As `migrate` of the main entry, through knex's own pool. */
export async function migrate(knex: Knex, options: MigrateOptions = {}): Promise<string[]> {
  checkOptions("migrate", { knex, ...options }, { knex: aKnex, schema: aSchemaName });
  return migrateOver(clientsOfKnex(knex), options.schema ?? defaultSchema);
}
