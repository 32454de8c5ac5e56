/** Clients of knex's own pool, with all that the user has set knex to do when a connection is made. */
import type { Knex } from "knex";
import type { Client, Pool } from "pg";
import { aloneOf, type ClientClass, type Clients, clientsOfPool } from "./clients.ts";

/** The pool as knex holds it, which is tarn's. */
interface KnexPool {
  readonly max: number;
  readonly numPendingAcquires: () => number;
}

interface KnexClient {
  /** Gone after `knex.destroy()`. */
  readonly pool?: KnexPool;
  readonly driver: { readonly Client: ClientClass };
  /** Not known yet where the user gave a function that was not asked so far. */
  readonly connectionSettings?: { readonly password?: unknown };
  readonly config: { readonly connectionPool?: object };
  readonly acquireConnection: () => Promise<Client>;
  readonly releaseConnection: (client: Client) => Promise<void>;
}

export function clientsOfKnex(knex: Knex): Clients {
  const own = knex.client as KnexClient;
  const { connectionPool } = own.config;
  // A pool of the driver that was handed to knex.
  if (connectionPool !== undefined && "totalCount" in connectionPool) {
    return clientsOfPool(connectionPool as Pool);
  }
  return {
    size: own.pool?.max ?? 0,
    waiting: () => own.pool?.numPendingAcquires() ?? 0,
    // It may look at an idle connection first, and throw it away.
    free: () => false,
    take: () => own.acquireConnection(),
    giveBack: (client, ended) => {
      // What knex itself looks at before it gives a connection out again.
      if (ended) Object.assign(client, { __knex__disposed: "ended by Oncebox" });
      // Never rejects.
      void own.releaseConnection(client);
    },
    // Given up by the pool itself, after `createTimeoutMillis`.
    making: () => [],
    ranOut: (error) => (error as Error | null)?.name === "KnexTimeoutError",
    alone: (timeoutMs) => aloneOf(own.driver.Client, own.connectionSettings ?? {}, timeoutMs),
    close: () => {},
  };
}
