// Owns what PostgreSQL brings to the storage suite: each context is a schema, a proxy and pools of
// its own, told apart from those of others by the name that its connections give themselves.

import type { Storage } from "@oncebox/core";
import { migrate, postgresStorage } from "@oncebox/postgres";
import type { CommitFault, EmptyPlace, StorageUnderTest } from "@oncebox/testing";
import type { ClientBase, Pool, PoolConfig } from "pg";
import { openPool } from "../fixtures/databases.ts";
import { uniqueName } from "../fixtures/names.ts";
import { type FaultProxy, startProxy } from "../fixtures/proxy.ts";

export type PostgresUnderTest = StorageUnderTest<ClientBase>;

export interface PostgresVariant {
  readonly pipeline: boolean;
  /** Changes each statement of the storages, and of migrations, on its way to the database. */
  readonly rewrite?: (text: string) => string;
  /** Stands between the suite and each storage. */
  readonly wrap?: (storage: Storage<ClientBase>, context: PostgresUnderTest) => Storage<ClientBase>;
}

/** Migrated and empty, left by contexts that were closed: making one takes longer than most cases. */
const freeSchemas = new Map<string, string[]>();

const tables = [
  ...["effects", "inbox_messages", "inbox_partitions", "consumers", "sources"],
  ...["outbox_messages", "outbox_relays"],
];

/** Back to what a migration leaves. Waits for transactions that still hold rows. */
function emptied(schema: string): string {
  const lanes = "token = NULL, owner = NULL, leased_until = NULL, floor = 0";
  return [
    ...tables.map((table) => `DELETE FROM ${schema}.${table}`),
    `UPDATE ${schema}.outbox_lanes SET ${lanes}`,
  ].join("; ");
}

/**
 * Makes a context in a database that the caller drops; `close` ends it by force, whatever a failed
 * case left open.
 */
export async function postgresUnderTest(
  databaseUrl: string,
  { pipeline, rewrite, wrap = (storage) => storage }: PostgresVariant,
): Promise<PostgresUnderTest & { readonly close: () => Promise<void> }> {
  const name = uniqueName("conformance");
  const schema = freeSchemas.get(databaseUrl)?.pop() ?? uniqueName("oncebox");
  const url = new URL(databaseUrl);
  const proxy = await startProxy(Number(url.port), url.hostname);
  const throughProxy = new URL(url);
  throughProxy.host = `127.0.0.1:${proxy.port}`;
  const pools: Pool[] = [];
  const pool = (config: PoolConfig = {}) => {
    const made = openPool({
      connectionString: url.href,
      application_name: name,
      // Nothing here stops the server, and waiting for its disk takes most of the time else.
      options: "-c synchronous_commit=off",
      ...config,
    });
    pools.push(made);
    return made;
  };
  const testedPool = (config: PoolConfig) => {
    const made = pool({ pipeline, max: 6, ...config });
    if (rewrite !== undefined) made.on("connect", (client) => rewriteOn(client, rewrite));
    return made;
  };
  const storageOn = (config: PoolConfig, on = schema) =>
    wrap(postgresStorage({ pool: testedPool(config), schema: on }), context);
  const own = pool();
  const admin = pool({ application_name: `${name} admin` });
  await migrate(own, { schema });
  await own.query(`CREATE TABLE IF NOT EXISTS ${schema}.effects (text text NOT NULL)`);
  const context: PostgresUnderTest & { readonly close: () => Promise<void> } = {
    ...faultsOf(admin, proxy),
    // Through the proxy, so that its commits can be cut.
    get storage() {
      storage ??= storageOn({ connectionString: throughProxy.href });
      return storage;
    },
    another: () => storageOn({}),
    begin: async () => {
      const tx = await own.connect();
      await tx.query("BEGIN");
      const end = (how: string) => () => tx.query(how).finally(() => tx.release());
      return { tx, commit: end("COMMIT"), rollback: end("ROLLBACK") };
    },
    insertEffect: (tx, text) => tx.query(`INSERT INTO ${schema}.effects VALUES ($1)`, [text]),
    effects: async () => {
      const { rows } = await admin.query<{ text: string }>(`SELECT text FROM ${schema}.effects`);
      return rows.map((row) => row.text);
    },
    openTransactions: async () => {
      const { rows } = await admin.query<{ count: number }>(
        `SELECT count(*)::int FROM pg_stat_activity
         WHERE application_name = $1 AND xact_start IS NOT NULL`,
        [name],
      );
      return rows[0]?.count ?? 0;
    },
    emptyPlace: async () => {
      const empty = uniqueName("empty");
      return placeOf(own, empty, () => testedPool({ max: 1 }), storageOn({}, empty));
    },
    close: async () => {
      await admin.query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1",
        [name],
      );
      await proxy.close();
      await admin.query(emptied(schema));
      await admin.end();
      freeSchemas.set(databaseUrl, [...(freeSchemas.get(databaseUrl) ?? []), schema]);
      // Clients that a failed case has not given back would make these wait for ever.
      for (const each of pools) if (!each.ended && !each.ending) each.end().catch(() => {});
    },
  };
  let storage: Storage<ClientBase> | undefined;
  return context;
}

function rewriteOn(client: ClientBase, rewrite: (text: string) => string): void {
  const query = client.query as (...args: unknown[]) => unknown;
  client.query = ((config: string | { readonly text: string }, ...rest: unknown[]) => {
    const changed =
      typeof config === "string" ? rewrite(config) : { ...config, text: rewrite(config.text) };
    return query.call(client, changed, ...rest);
  }) as ClientBase["query"];
}

/** How a connection of PostgreSQL is looked at and broken. */
function faultsOf(admin: Pool, proxy: FaultProxy) {
  const connectionName = async (tx: ClientBase) => {
    const { rows } = await tx.query<{ pid: number }>("SELECT pg_backend_pid() AS pid");
    return String(rows[0]?.pid);
  };
  return {
    connectionName,
    failStatement: (tx) => tx.query("SELECT 1 / 0"),
    statements: async (tx, work) => {
      const { query } = tx;
      let count = 0;
      tx.query = ((...args: Parameters<typeof query>) => {
        count += 1;
        return query.apply(tx, args);
      }) as typeof query;
      await work();
      tx.query = query;
      return count;
    },
    endPlainly: (tx) => tx.query("COMMIT"),
    // A guard looks at the first statement of a text only.
    endSecretly: (tx, { begin }) => tx.query(`SELECT 1; COMMIT${begin ? "; BEGIN" : ""}`),
    breakConnection: async (tx) => {
      const pid = await connectionName(tx);
      await admin.query("SELECT pg_terminate_backend($1, 5000)", [pid]);
    },
    breakCommit: (fault) => {
      breakNextCommit(proxy, fault);
      return { deliver: () => proxy.release() };
    },
  } satisfies Partial<PostgresUnderTest>;
}

function breakNextCommit(proxy: FaultProxy, fault: CommitFault): void {
  proxy.onChunk = (direction, _, bytes) => {
    const reply = fault === "reply-lost";
    // As the server says it: the command's name as text that ends with a zero.
    const found =
      direction === (reply ? "toClient" : "toServer") &&
      bytes.includes(reply ? "COMMIT\0" : "COMMIT");
    if (!found) return "pass";
    proxy.onChunk = undefined;
    if (fault !== "request-late") return "cut";
    // Only once the chunk is held: cutting at once would lose it.
    setImmediate(() => proxy.cutClients());
    return "hold";
  };
}

function placeOf(
  admin: Pool,
  schema: string,
  ownPool: () => Pool,
  storage: Storage<ClientBase>,
): EmptyPlace<ClientBase> {
  const table = `${schema}.migrations`;
  const changes = {
    edit: `UPDATE ${table} SET checksum = 'another' WHERE number = 1`,
    forget: `DELETE FROM ${table} WHERE number = (SELECT max(number) FROM ${table})`,
    add: `INSERT INTO ${table} (number, name, checksum)
          SELECT max(number) + 1, '9999_later', 'unknown' FROM ${table}`,
  };
  return {
    storage,
    migrate: async () => {
      const pool = ownPool();
      try {
        await migrate(pool, { schema });
      } finally {
        await pool.end();
      }
    },
    applied: async () => {
      const { rows } = await admin.query<{ name: string }>(
        `SELECT name FROM ${table} ORDER BY applied_at, number`,
      );
      return rows.map((row) => row.name);
    },
    tamper: (how) => admin.query(changes[how]),
  };
}
