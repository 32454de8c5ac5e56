export { type MigrateOptions, migrate } from "./migrate.ts";
export { type PostgresStorageOptions, postgresStorage } from "./postgres-storage.ts";
