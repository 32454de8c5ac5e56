// Owns what PostgreSQL brings to the storage suite: each context is a schema, a proxy and pools of
// its own, told apart from those of others by the name that its connections give themselves.

import type { Storage } from "@oncebox/core";
import { migrate, postgresStorage } from "@oncebox/postgres";
import type { CommitFault, EmptyPlace, StorageUnderTest } from "@oncebox/testing";
import type { ClientBase, Pool, PoolClient, PoolConfig } from "pg";
import { openPool } from "../fixtures/databases.ts";
import { uniqueName } from "../fixtures/names.ts";
import { type FaultProxy, startProxy } from "../fixtures/proxy.ts";

export type PostgresUnderTest = StorageUnderTest<ClientBase>;

export interface PostgresVariant {
  readonly pipeline: boolean;
  /** Changes each statement on its way to the database, those of users' transactions as well. */
  readonly rewrite?: (text: string) => string;
  /** Stands between the suite and each storage. */
  readonly wrap?: (
    storage: Storage<ClientBase>,
    hooks: Pick<PostgresUnderTest, "begin" | "endSecretly">,
  ) => Storage<ClientBase>;
}

/** Migrated and empty, left by contexts that were closed: making one takes longer than most cases. */
const freeSchemas: { readonly databaseUrl: string; readonly schema: string }[] = [];

function takeSchema(databaseUrl: string): string {
  const free = freeSchemas.findIndex((each) => each.databaseUrl === databaseUrl);
  return freeSchemas.splice(free, free < 0 ? 0 : 1)[0]?.schema ?? uniqueName("oncebox");
}

const tables = [
  ...["effects", "inbox_messages", "inbox_partitions", "consumers", "sources"],
  ...["audit_log", "outbox_messages", "outbox_relays"],
];

/** Back to what a migration leaves. Waits for transactions that still hold rows. */
function emptied(schema: string): string {
  const lanes = "token = NULL, owner = NULL, leased_until = NULL, floor = 0";
  return [
    ...tables.map((table) => `DELETE FROM ${schema}.${table}`),
    `UPDATE ${schema}.outbox_lanes SET ${lanes}`,
  ].join("; ");
}

interface Pools {
  /** In the name of the context: what it does is counted and, at the end, cut. */
  readonly make: (config?: PoolConfig) => Pool;
  /** Looks and cuts; never part of a case. */
  readonly admin: Pool;
  readonly close: () => Promise<void>;
}

function poolsOf(databaseUrl: string, name: string): Pools {
  const pools: Pool[] = [];
  const make = (config: PoolConfig = {}) => {
    const pool = openPool({
      connectionString: databaseUrl,
      application_name: name,
      // Nothing here stops the server, and waiting for its disk takes most of the time else.
      options: "-c synchronous_commit=off",
      ...config,
    });
    pools.push(pool);
    return pool;
  };
  const admin = make({ application_name: `${name} admin` });
  return {
    make,
    admin,
    close: async () => {
      await admin.end();
      // Clients that a failed case has not given back would make these wait for ever.
      for (const pool of pools) if (!pool.ending) pool.end().catch(() => {});
    },
  };
}

/**
 * Makes a context in a database that the caller drops; `close` ends it by force, whatever a failed
 * case left open.
 */
export async function postgresUnderTest(
  databaseUrl: string,
  { pipeline, rewrite, wrap = (storage) => storage }: PostgresVariant,
): Promise<{ readonly context: PostgresUnderTest; readonly close: () => Promise<void> }> {
  const name = uniqueName("conformance");
  const schema = takeSchema(databaseUrl);
  const url = new URL(databaseUrl);
  const proxy = await startProxy(Number(url.port), url.hostname);
  url.host = `127.0.0.1:${proxy.port}`;
  const pools = poolsOf(databaseUrl, name);
  const testedPool = (config: PoolConfig = {}) => {
    const pool = pools.make({ pipeline, max: 6, ...config });
    if (rewrite !== undefined) pool.on("connect", (client) => rewriteOn(client, rewrite));
    return pool;
  };
  const own = testedPool({ max: 20 });
  await migrate(own, { schema });
  await own.query(`CREATE TABLE IF NOT EXISTS ${schema}.effects (text text NOT NULL)`);
  const hooks = {
    ...faultsOf(pools.admin, proxy),
    ...ledgerOf(pools.admin, schema, name),
    begin: async () => {
      const tx = await own.connect();
      await tx.query("BEGIN");
      const end = (how: string) => () => tx.query(how).finally(() => tx.release());
      return { tx, commit: end("COMMIT"), rollback: end("ROLLBACK") };
    },
  };
  const storageOn = (pool: Pool, on = schema) => wrap(postgresStorage({ pool, schema: on }), hooks);
  const context: PostgresUnderTest = {
    ...hooks,
    // Through the proxy, so that its commits can be cut.
    storage: storageOn(testedPool({ connectionString: url.href })),
    another: () => storageOn(testedPool()),
    emptyPlace: async () => {
      const empty = uniqueName("empty");
      return placeOf(own, empty, testedPool, storageOn(testedPool(), empty));
    },
  };
  const close = async () => {
    await pools.admin.query(
      "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1",
      [name],
    );
    await proxy.close();
    await pools.admin.query(emptied(schema));
    await pools.close();
    freeSchemas.push({ databaseUrl, schema });
  };
  return { context, close };
}

/** Where effects are written, and what is open. */
function ledgerOf(admin: Pool, schema: string, name: string) {
  return {
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
  } satisfies Partial<PostgresUnderTest>;
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
    plainControls: [
      ...["BEGIN", "COMMIT", "ROLLBACK", " end;"].map((text) => (tx: ClientBase) => tx.query(text)),
      (tx) => (tx as PoolClient).release(),
    ],
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
