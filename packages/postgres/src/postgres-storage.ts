/** The storage on PostgreSQL whose handles are clients of node-postgres. */
import { checkOptions, type Storage } from "@oncebox/core";
import type { ClientBase, Pool } from "pg";
import { assembled } from "./assembly.ts";
import { clientsOfPool } from "./clients.ts";
import { pgHandles } from "./handles/pg.ts";
import { aPool } from "./migrate.ts";
import { type StorageOptions, storageRules } from "./storage-options.ts";

export interface PostgresStorageOptions extends StorageOptions {
  /**
   * Connections to the database that holds the business tables. Stays yours: its settings are not
   * touched, and it is not ended. With `pipeline: true` (pg 8.23 or newer) statements are sent
   * without waiting for the answers before them.
   */
  readonly pool: Pool;
}

/** Throws ConfigurationError that lists every wrong option. Connects to nothing. */
export function postgresStorage(options: PostgresStorageOptions): Storage<ClientBase> {
  checkOptions("postgresStorage", options, { pool: aPool, ...storageRules });
  return assembled(clientsOfPool(options.pool), pgHandles(), options);
}
