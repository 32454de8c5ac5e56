export { type KnexStorageOptions, knexStorage, migrate } from "./knex-storage.ts";
