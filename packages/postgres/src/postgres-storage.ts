/**
 * The storage on PostgreSQL, through a node-postgres pool. Puts the parts together; owns nothing but
 * the listener that keeps a dying idle connection from ending the process.
 */
import {
  ClaimLostError,
  checkOptions,
  integer,
  type OutboxEntry,
  type Rule,
  type Storage,
} from "@oncebox/core";
import type { ClientBase, Pool, QueryResult } from "pg";
import { answerWatch } from "./answer-watch.ts";
import { checkDatabase } from "./check.ts";
import { openChunk } from "./chunk.ts";
import { type Connections, connections } from "./connections.ts";
import { checkHandle } from "./handles/pg.ts";
import { createLanes } from "./lanes.ts";
import { aPool } from "./migrate.ts";
import { createNames } from "./names.ts";
import { type OperatorQueries, operatorQueries } from "./operator-queries.ts";
import { type OutboxQueries, outboxQueries } from "./outbox-queries.ts";
import { partitionVerbs } from "./partitions.ts";
import { type StorageErrors, storageErrors } from "./postgres-errors.ts";
import { type InboxQueries, inboxQueries } from "./queries.ts";
import { recordIds } from "./record-ids.ts";
import { registrationVerbs } from "./registration.ts";
import { aSchemaName, defaultSchema } from "./schema.ts";
import { seekVerbs } from "./seek.ts";
import { runTransaction } from "./transaction.ts";
import { createWake } from "./wake.ts";

export interface PostgresStorageOptions {
  /**
   * Connections to the database that holds the business tables. Stays yours: its settings are not
   * touched, and it is not ended. With `pipeline: true` (pg 8.23 or newer) statements are sent
   * without waiting for the answers before them.
   */
  readonly pool: Pool;
  /**
   * The schema that `migrate` installed.
   * @defaultValue "oncebox"
   */
  readonly schema?: string;
  /**
   * Whether statements are prepared once for each connection. Faster; to be turned off behind a
   * pooler that gives each transaction another server connection.
   * @defaultValue true
   */
  readonly preparedStatements?: boolean;
  /**
   * After how many milliseconds an idle transaction of a chunk is ended by the database, so that a
   * frozen process does not hold its partitions for ever; null: never. Shorter hands over sooner,
   * but a handler must not wait longer between two statements.
   * @defaultValue 20_000
   */
  readonly idleInTransactionTimeoutMs?: number | null;
  /**
   * How many milliseconds to wait for a connection of the pool.
   * @defaultValue 15_000
   */
  readonly acquireTimeoutMs?: number;
  /**
   * How many milliseconds a statement of the storage itself may stay without an answer before its
   * connection is destroyed, waits for locks that have a limit of their own not counted. Shorter
   * notices sooner that the database vanished without a word (a cable, a firewall, a host); but a
   * database that only is that slow then has to do its work again. Statements of handlers are bounded
   * by the consumer's `handlerTimeoutMs`.
   * @defaultValue 30_000
   */
  readonly answerTimeoutMs?: number;
}

const dayMs = 86_400_000;
const idleTimeout = integer(1, dayMs);
const aBoolean: Rule = {
  is: "true or false",
  fits: (value) => typeof value === "boolean",
  optional: true,
};

/** Throws ConfigurationError that lists every wrong option. Connects to nothing. */
export function postgresStorage(options: PostgresStorageOptions): Storage<ClientBase> {
  checkOptions("postgresStorage", options, {
    pool: aPool,
    schema: aSchemaName,
    preparedStatements: aBoolean,
    idleInTransactionTimeoutMs: {
      ...idleTimeout,
      is: `${idleTimeout.is}, or null`,
      fits: (value) => value === null || idleTimeout.fits(value),
    },
    acquireTimeoutMs: integer(1, dayMs),
    // Less than this is an ordinary pause of a healthy server.
    answerTimeoutMs: integer(100, dayMs),
  });
  const { pool, schema = defaultSchema, idleInTransactionTimeoutMs = 20_000 } = options;
  const { answerTimeoutMs = 30_000 } = options;
  const errors = storageErrors();
  const parts = {
    errors,
    queries: inboxQueries(schema),
    operator: operatorQueries(schema),
    connections: connections({
      pool,
      errors,
      preparedStatements: options.preparedStatements ?? true,
      acquireTimeoutMs: options.acquireTimeoutMs ?? 15_000,
      answers: answerWatch(answerTimeoutMs),
    }),
  };
  const outbox = outboxQueries(schema);
  const wake = createWake({
    connections: parts.connections,
    channel: `oncebox_${schema}`.slice(0, 63),
    askEveryMs: answerTimeoutMs,
  });
  // An idle connection that dies is no news: the next one to be used says whether the database is
  // there. Without a listener the pool would end the process.
  const ignore = () => {};
  pool.on("error", ignore);
  return {
    ...partsOf({ ...parts, schema, outbox, idleInTransactionTimeoutMs, woken: wake.send }),
    wake: { send: wake.send, expect: wake.expect, listen: wake.listen },
    close: async () => {
      await wake.close();
      pool.removeListener("error", ignore);
    },
  };
}

interface Parts {
  readonly connections: Connections;
  readonly queries: InboxQueries;
  readonly operator: OperatorQueries;
  readonly outbox: OutboxQueries;
  readonly errors: StorageErrors;
  readonly schema: string;
  readonly idleInTransactionTimeoutMs: number | null;
  readonly woken: () => void;
}

function partsOf(parts: Parts): Omit<Storage<ClientBase>, "wake" | "close"> {
  const { connections: pooled, queries, errors } = parts;
  const { consumerId, ...partitions } = partitionVerbs(parts);
  const chunkParts = {
    ...parts,
    names: createNames(queries),
    terminate: (xid: bigint) => {
      pooled
        .with("end of a cut transaction", (connection) => connection.run(queries.terminate(xid)))
        .catch(() => {
          // It ends by itself, at the latest with the statement that it runs.
        });
    },
  };
  // Handles of transactions whose commit is seen here, with whether rows were written through them.
  const enqueuedIn = new WeakMap<object, { enqueued: boolean }>();
  return {
    ...partitions,
    ...registrationVerbs(parts),
    ...seekVerbs(parts),
    ...createLanes(pooled, parts.outbox),
    check: () => checkDatabase(parts),
    trouble: errors.trouble,
    recordIds: (tx, consumer, ids) => recordIds(parts, tx, consumer, ids),
    open: async (claim, records) => {
      const consumer = await consumerId(claim.consumer);
      if (consumer === null) {
        throw new ClaimLostError(`consumer ${claim.consumer} is not registered in this database`);
      }
      return openChunk(chunkParts, claim, consumer, records);
    },
    enqueue: async (tx, rows) => {
      await enqueue(parts, tx, rows);
      const transaction = enqueuedIn.get(tx);
      if (transaction !== undefined) transaction.enqueued = true;
    },
    transaction: async (work) => {
      const transaction = { enqueued: false };
      const result = await runTransaction(parts, (tx) => {
        enqueuedIn.set(tx, transaction);
        return work(tx);
      });
      if (transaction.enqueued) parts.woken();
      return result;
    },
  };
}

/** O1. One statement, whatever the number of rows. */
async function enqueue(
  { connections: pooled, outbox, errors }: Parts,
  tx: ClientBase,
  rows: readonly OutboxEntry[],
): Promise<void> {
  checkHandle(tx);
  if (rows.length === 0) return;
  const query = tx.query as (config: object) => Promise<QueryResult>;
  try {
    await query.call(tx, pooled.statementOf(outbox.enqueue(rows)));
  } catch (error) {
    throw errors.translated("enqueue", error);
  }
}
