// Owns what PostgreSQL brings to the storage suite: each context is a schema, a proxy and pools of
// its own, told apart from those of others by the name that its connections give themselves.

import type { Storage } from "@oncebox/core";
import { migrate, postgresStorage } from "@oncebox/postgres";
import type { CommitFault, EmptyPlace, StorageUnderTest } from "@oncebox/testing";
import type { ClientBase, Pool, PoolClient, PoolConfig, QueryResult } from "pg";
import { openPool } from "../fixtures/databases.ts";
import { uniqueName } from "../fixtures/names.ts";
import { type FaultProxy, startProxy } from "../fixtures/proxy.ts";

export interface Variant<Tx> {
  readonly pipeline: boolean;
  /** Stands between the suite and each storage. */
  readonly wrap?: (
    storage: Storage<Tx>,
    hooks: Pick<StorageUnderTest<Tx>, "begin" | "endSecretly">,
  ) => Storage<Tx>;
}

export interface PostgresVariant extends Variant<ClientBase> {
  /** Changes each statement on its way to the database, those of users' transactions as well. */
  readonly rewrite?: (text: string) => string;
}

/** How a case works with a handle. */
interface HandleUse<Tx> {
  /** Sends this text, and nothing besides, through the handle. */
  readonly query: (tx: Tx, text: string) => Promise<QueryResult>;
  readonly clientOf: (tx: Tx) => Promise<ClientBase>;
  readonly plainControls: StorageUnderTest<Tx>["plainControls"];
  /** Beside the texts that every shared handle refuses. */
  readonly sharedRefusals: NonNullable<StorageUnderTest<Tx>["sharedRefusals"]>;
}

/** A kind of handles, and what its connections come from. */
export interface HandleKind<Tx, Source> extends HandleUse<Tx> {
  readonly open: (config: PoolConfig) => Source;
  readonly end: (source: Source) => Promise<unknown>;
  readonly storage: (source: Source, schema: string) => Storage<Tx>;
  readonly migrate: (source: Source, schema: string) => Promise<unknown>;
  readonly begin: (source: Source) => ReturnType<StorageUnderTest<Tx>["begin"]>;
}

/** Migrated and empty, left by contexts that were closed: making one takes longer than most cases. */
const freeSchemas: { readonly databaseUrl: string; readonly schema: string }[] = [];

function takeSchema(databaseUrl: string): string {
  const free = freeSchemas.findIndex((each) => each.databaseUrl === databaseUrl);
  return freeSchemas.splice(free, free < 0 ? 0 : 1)[0]?.schema ?? uniqueName("oncebox");
}

const tables = [
  ...["effects", "inbox_messages", "inbox_partitions", "parked_messages", "consumers", "sources"],
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

/** What a connection of a context is made with; what it does is counted and, at the end, cut. */
function connectionOf(databaseUrl: string, name: string): PoolConfig {
  return {
    connectionString: databaseUrl,
    application_name: name,
    // Nothing here stops the server, and waiting for its disk takes most of the time else.
    options: "-c synchronous_commit=off",
  };
}

const setting = ["oncebox.any", "1"];

/** Each works on the whole transaction, or on the session. */
const reachingTexts = [
  ...[
    "SAVEPOINT a",
    "RELEASE a",
    "ROLLBACK TO a",
    "SET LOCAL oncebox.any = 1",
    "RESET oncebox.any",
  ],
  ...["SET CONSTRAINTS ALL DEFERRED", "DISCARD ALL", "PREPARE TRANSACTION 'a'"],
  ...["SELECT set_config('oncebox.any', '1', true)", "SELECT 1; SAVEPOINT a"],
];

/** Clients of node-postgres, out of its pool. */
function poolKind(rewrite: PostgresVariant["rewrite"]): HandleKind<ClientBase, Pool> {
  return {
    open: (config) => {
      const pool = openPool(config);
      if (rewrite !== undefined) pool.on("connect", (client) => rewriteOn(client, rewrite));
      return pool;
    },
    end: (pool) => pool.end(),
    storage: (pool, schema) => postgresStorage({ pool, schema }),
    migrate: (pool, schema) => migrate(pool, { schema }),
    begin: async (pool) => {
      const tx = await pool.connect();
      await tx.query("BEGIN");
      const end = (how: string) => () => tx.query(how).finally(() => tx.release());
      return { tx, commit: end("COMMIT"), rollback: end("ROLLBACK") };
    },
    query: (tx, text) => tx.query(text),
    clientOf: async (tx) => tx,
    plainControls: [
      ...["BEGIN", "COMMIT", "ROLLBACK", " end;"].map((text) => (tx: ClientBase) => tx.query(text)),
      (tx) => (tx as PoolClient).release(),
    ],
    sharedRefusals: [
      {
        name: "a statement with values",
        use: (tx) => tx.query({ text: "SELECT set_config($1, $2, true)", values: setting }),
      },
    ],
  };
}

export interface Made<Tx> {
  readonly context: StorageUnderTest<Tx>;
  readonly close: () => Promise<void>;
}

export function postgresUnderTest(
  databaseUrl: string,
  variant: PostgresVariant,
): Promise<Made<ClientBase>> {
  return underTest(poolKind(variant.rewrite), databaseUrl, variant);
}

/**
 * Makes a context in a database that the caller drops; `close` ends it by force, whatever a failed
 * case left open.
 */
export async function underTest<Tx, Source>(
  kind: HandleKind<Tx, Source>,
  databaseUrl: string,
  { pipeline, wrap = (storage) => storage }: Variant<Tx>,
): Promise<Made<Tx>> {
  const name = uniqueName("conformance");
  const schema = takeSchema(databaseUrl);
  const url = new URL(databaseUrl);
  const proxy = await startProxy(Number(url.port), url.hostname);
  url.host = `127.0.0.1:${proxy.port}`;
  const common = connectionOf(databaseUrl, name);
  // Looks and cuts; never part of a case.
  const admin = openPool({ ...common, application_name: `${name} admin` });
  const sources: Source[] = [];
  const open = (config: PoolConfig = {}) => {
    const source = kind.open({ ...common, pipeline, max: 6, ...config });
    sources.push(source);
    return source;
  };
  const own = open({ max: 20 });
  await kind.migrate(own, schema);
  await admin.query(`CREATE TABLE IF NOT EXISTS ${schema}.effects (text text NOT NULL)`);
  const hooks = {
    ...faultsOf(kind, admin, proxy),
    ...ledgerOf(kind, admin, schema, name),
    begin: () => kind.begin(own),
  };
  const storageOn = (source: Source, on = schema) => wrap(kind.storage(source, on), hooks);
  const context: StorageUnderTest<Tx> = {
    ...hooks,
    // Through the proxy, so that its commits can be cut.
    storage: storageOn(open({ connectionString: url.href })),
    another: () => storageOn(open()),
    emptyPlace: async () => {
      const empty = uniqueName("empty");
      return placeOf(kind, admin, empty, open, storageOn(open(), empty));
    },
  };
  const close = async () => {
    await admin.query(
      "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1",
      [name],
    );
    await proxy.close();
    await admin.query(emptied(schema));
    await admin.end();
    // Clients that a failed case has not given back would make these wait for ever.
    for (const source of sources) kind.end(source).catch(() => {});
    freeSchemas.push({ databaseUrl, schema });
  };
  return { context, close };
}

/** Where effects are written, and what is open. */
function ledgerOf<Tx>(kind: HandleUse<Tx>, admin: Pool, schema: string, name: string) {
  return {
    insertEffect: (tx, text) => kind.query(tx, `INSERT INTO ${schema}.effects VALUES ('${text}')`),
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
  } satisfies Partial<StorageUnderTest<Tx>>;
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
function faultsOf<Tx>(kind: HandleUse<Tx>, admin: Pool, proxy: FaultProxy) {
  const { query, plainControls } = kind;
  const texts = reachingTexts.map((text) => ({ name: text, use: (tx: Tx) => query(tx, text) }));
  const connectionName = async (tx: Tx) => {
    const { rows } = await query(tx, "SELECT pg_backend_pid()::int AS pid");
    return String(rows[0]?.pid);
  };
  return {
    connectionName,
    plainControls,
    sharedRefusals: [...texts, ...kind.sharedRefusals],
    failStatement: (tx) => query(tx, "SELECT 1 / 0"),
    statements: async (tx, work) => {
      const client = await kind.clientOf(tx);
      const send = client.query;
      let count = 0;
      client.query = ((...args: Parameters<typeof send>) => {
        count += 1;
        return send.apply(client, args);
      }) as typeof send;
      await work();
      client.query = send;
      return count;
    },
    takeBack: async (tx, work) => {
      await query(tx, "SAVEPOINT a");
      await work();
      await query(tx, "ROLLBACK TO a");
    },
    // A guard looks at the first statement of a text only.
    endSecretly: (tx, { begin }) => query(tx, `SELECT 1; COMMIT${begin ? "; BEGIN" : ""}`),
    breakConnection: async (tx) => {
      const pid = await connectionName(tx);
      await admin.query("SELECT pg_terminate_backend($1, 5000)", [pid]);
    },
    breakCommit: (fault) => {
      breakNextCommit(proxy, fault);
      return { deliver: () => proxy.release() };
    },
  } satisfies Partial<StorageUnderTest<Tx>>;
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

function placeOf<Tx, Source>(
  kind: HandleKind<Tx, Source>,
  admin: Pool,
  schema: string,
  open: () => Source,
  storage: Storage<Tx>,
): EmptyPlace<Tx> {
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
      await kind.migrate(open(), schema);
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
