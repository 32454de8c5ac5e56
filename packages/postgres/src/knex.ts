export { migrationSource } from "./knex-migrations.ts";
export { type KnexStorageOptions, knexStorage, migrate } from "./knex-storage.ts";
export type { MigrateOptions } from "./migrate.ts";
