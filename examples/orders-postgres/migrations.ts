// Owns the tables of the two services, as migrations of knex. Oncebox's own tables come from its own
// source, and are recorded in a table of their own.

import { migrationSource } from "@oncebox/postgres/knex";
import type { Knex } from "knex";

const business: readonly (Knex.Migration & { readonly name: string })[] = [
  {
    name: "0001_orders",
    up: async (trx) => {
      await trx.schema.createTable("orders", (table) => {
        table.uuid("id").primary();
        table.text("customer").notNullable();
        table.integer("cents").notNullable();
        table.timestamp("placed_at").notNullable().defaultTo(trx.fn.now());
      });
    },
    down: async (trx) => {
      await trx.schema.dropTable("orders");
    },
  },
  {
    // Not unique by order, on purpose: nothing but the inbox keeps an order from being invoiced twice,
    // and the test of this example counts. In a service of yours make it unique all the same.
    name: "0002_invoices",
    up: async (trx) => {
      await trx.schema.createTable("invoices", (table) => {
        table.increments("number");
        table.uuid("order_id").notNullable().index();
        table.text("customer").notNullable();
        table.integer("cents").notNullable();
        table.timestamp("issued_at").notNullable().defaultTo(trx.fn.now());
      });
    },
    down: async (trx) => {
      await trx.schema.dropTable("invoices");
    },
  },
];

const businessSource: Knex.MigrationSource<(typeof business)[number]> = {
  getMigrations: async () => [...business],
  getMigrationName: ({ name }) => name,
  getMigration: async (migration) => migration,
};

/** Brings both kinds of tables up to date; does nothing where they are. */
export async function migrateAll(database: Knex): Promise<void> {
  await database.migrate.latest({ migrationSource: businessSource });
  await database.migrate.latest({
    migrationSource: migrationSource(),
    tableName: "oncebox_knex_migrations",
  });
}
