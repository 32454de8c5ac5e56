/** Whether this database can be worked with: version of the schema, write access, sequence. */
import { ConfigurationError, type StorageFacts } from "@oncebox/core";
import type { Connection, Connections } from "./connections.ts";
import { checkApplied, readApplied } from "./migrate.ts";
import { migrations } from "./migrations.generated.ts";
import { quoted } from "./queries.ts";

export interface CheckParts {
  readonly connections: Connections;
  readonly schema: string;
  readonly idleInTransactionTimeoutMs: number | null;
}

export async function checkDatabase(parts: CheckParts): Promise<StorageFacts> {
  const { connections, schema, idleInTransactionTimeoutMs } = parts;
  const { poolSize } = connections;
  return connections.with("check of the database", async (connection) => {
    await checkWritable(connection);
    await checkSchema(connection, schema);
    await checkSequence(connection, schema);
    return { pipelined: connection.pipelined, poolSize, idleInTransactionTimeoutMs };
  });
}

async function checkWritable(connection: Connection): Promise<void> {
  const { rows } = await connection.script(
    "SELECT pg_is_in_recovery() AS replica, current_setting('transaction_read_only') AS read_only",
  );
  const [row] = rows as { replica: boolean; read_only: string }[];
  if (row?.replica !== true && row?.read_only !== "on") return;
  const why = row.replica ? "this server is a replica" : "default_transaction_read_only is on";
  throw new ConfigurationError(
    "database-read-only",
    `the database cannot be written to: ${why}. Connect to the primary`,
  );
}

async function checkSchema(connection: Connection, schema: string): Promise<void> {
  const applied = await readApplied(connection.script, schema);
  if (applied === null) {
    throw new ConfigurationError(
      "schema-missing",
      `schema ${schema} is not installed in this database: run migrate(pool, { schema: "${schema}" })`,
      { details: { schema } },
    );
  }
  checkApplied(schema, applied);
  const missing = migrations.slice(applied.length).map((migration) => migration.name);
  if (missing.length === 0) return;
  throw new ConfigurationError(
    "schema-outdated",
    `schema ${schema} lacks migrations (${missing.join(", ")}): run migrate(pool, { schema: "${schema}" })`,
    { details: { schema, missing } },
  );
}

/** Positions must be handed out one by one, upwards and never twice: the order of keys is theirs. */
async function checkSequence(connection: Connection, schema: string): Promise<void> {
  const { rows } = await connection.script(
    `SELECT seqcache::int AS cache, seqincrement::int AS increment, seqcycle AS cycle
     FROM pg_sequence
     WHERE seqrelid = pg_get_serial_sequence('${quoted(schema)}.outbox_messages', 'position')::regclass`,
  );
  const [row] = rows as { cache: number; increment: number; cycle: boolean }[];
  if (row?.cache === 1 && row.increment === 1 && !row.cycle) return;
  throw new ConfigurationError(
    "sequence-unsafe",
    `the sequence of ${schema}.outbox_messages.position must have CACHE 1, INCREMENT 1 and NO CYCLE: any other setting publishes messages of one key out of order`,
    { details: { schema, ...row } },
  );
}
