/** Options that every storage on PostgreSQL has, whatever its handles are. */
import { integer, type Rule } from "@oncebox/core";
import { aSchemaName, defaultSchema } from "./schema.ts";

export interface StorageOptions {
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
   * After how many milliseconds an idle transaction of a chunk, a claim or a seek is ended by the
   * database, so that a frozen process does not hold its partitions for ever; null: never. Shorter
   * hands over sooner, but a handler must not wait longer between two statements.
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

export const storageRules = {
  schema: aSchemaName,
  preparedStatements: aBoolean,
  idleInTransactionTimeoutMs: {
    ...idleTimeout,
    is: `${idleTimeout.is}, or null`,
    fits: (value: unknown) => value === null || idleTimeout.fits(value),
  },
  acquireTimeoutMs: integer(1, dayMs),
  // Less than this is an ordinary pause of a healthy server.
  answerTimeoutMs: integer(100, dayMs),
};

export function withDefaults(options: StorageOptions): Required<StorageOptions> {
  const {
    schema = defaultSchema,
    preparedStatements = true,
    idleInTransactionTimeoutMs = 20_000,
    acquireTimeoutMs = 15_000,
    answerTimeoutMs = 30_000,
  } = options;
  return {
    ...{ schema, preparedStatements },
    ...{ idleInTransactionTimeoutMs, acquireTimeoutMs, answerTimeoutMs },
  };
}
