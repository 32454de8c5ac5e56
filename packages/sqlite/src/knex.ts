export { knexStorage, migrate, type SqliteKnexStorageOptions } from "./knex-storage.ts";
