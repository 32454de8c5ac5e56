export { migrate } from "./migrate.ts";
export { type SqliteStorageOptions, sqliteStorage } from "./sqlite-storage.ts";
