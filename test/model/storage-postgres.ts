// Owns PostgreSQL as a side of the scripts. A place is a schema with a proxy and a pool for each
// actor, used by one script after another: making one takes longer than most scripts. What waits is
// asked of the server, which knows it, and never told by the time that has passed.

import type { Storage } from "@oncebox/core";
import { migrate, postgresStorage } from "@oncebox/postgres";
import type { ClientBase, Pool, PoolConfig } from "pg";
import { openPool } from "../fixtures/databases.ts";
import { uniqueName } from "../fixtures/names.ts";
import { type FaultProxy, startProxy } from "../fixtures/proxy.ts";
import type { Actor } from "./storage-script.ts";
import type { Expected, StorageSide } from "./storage-side.ts";

export interface PostgresPlace {
  readonly side: StorageSide<ClientBase>;
  readonly schema: string;
  /** What no script may leave behind: rows that do not belong to a consumer. */
  readonly empty: () => Promise<unknown>;
  readonly close: () => Promise<unknown>;
}

interface Process {
  readonly proxy: FaultProxy;
  readonly pool: Pool;
  readonly storage: Storage<ClientBase>;
}

const actors: readonly Actor[] = ["a", "b", "c"];

/** How long a step may take to come to rest: only a defect is waited for so long. */
const restMs = 10_000;

export async function postgresPlace(
  databaseUrl: string,
  { pipeline }: { readonly pipeline: boolean },
): Promise<PostgresPlace> {
  const name = uniqueName("model");
  const schema = uniqueName("model");
  const common: PoolConfig = {
    connectionString: databaseUrl,
    application_name: name,
    // Nothing here stops the server.
    options: "-c synchronous_commit=off",
    max: 8,
  };
  const admin = openPool({ ...common, application_name: `${name} admin`, max: 2 });
  const application = openPool(common);
  await migrate(admin, { schema });
  await admin.query(`CREATE TABLE ${schema}.effects (text text NOT NULL)`);
  const gone = new Gone();
  const processes = new Map<Actor, Process>();
  for (const actor of actors) {
    const made = await openProcess({ ...common, pipeline }, databaseUrl, schema);
    gone.watch(made.pool);
    processes.set(actor, made);
  }
  gone.watch(application);
  const of = (actor: Actor) => processes.get(actor) as Process;
  const side: StorageSide<ClientBase> = {
    name: pipeline ? "PostgreSQL, pipelined" : "PostgreSQL",
    abilities: { wire: true, writers: "many", aborts: true, handles: true, behindEnd: "stands" },
    storageOf: (actor) => of(actor).storage,
    begin: async () => {
      const tx = await application.connect();
      await tx.query("BEGIN");
      const end = (how: string) => () => tx.query(how).finally(() => tx.release());
      return { tx, commit: end("COMMIT"), rollback: end("ROLLBACK") };
    },
    insertEffect: (tx, text) => tx.query(`INSERT INTO ${schema}.effects VALUES ('${text}')`),
    effects: async () => {
      const { rows } = await admin.query(`SELECT text FROM ${schema}.effects`);
      return rows.map(({ text }) => text as string);
    },
    failStatement: (tx) => tx.query("SELECT 1 / 0"),
    // A guard looks at the first statement of a text only.
    endSecretly: (tx, { begin }) => tx.query(`SELECT 1; COMMIT${begin ? "; BEGIN" : ""}`),
    cut: async (tx) => {
      const { rows } = await tx.query("SELECT pg_backend_pid()::int AS pid");
      const pid = Number(rows[0]?.pid);
      await admin.query("SELECT pg_terminate_backend($1, 5000)", [pid]);
      await gone.heard(pid);
    },
    breakCommit: (actor, fault) => breakCommit(of(actor), fault),
    pass: (ms) => admin.query(laterText(schema, ms)),
    rest: (expected) => rest(admin, name, expected),
    outlast: async (ended) => {
      await until(() => ended(), "a call that waits for a time");
    },
  };
  return {
    side,
    schema,
    empty: () => admin.query(emptyText(schema)),
    close: async () => {
      await Promise.all([...processes.values()].map(({ proxy }) => proxy.close()));
      for (const { pool } of processes.values()) pool.end().catch(() => {});
      application.end().catch(() => {});
      await admin.end();
    },
  };
}

async function openProcess(
  common: PoolConfig,
  databaseUrl: string,
  schema: string,
): Promise<Process> {
  const url = new URL(databaseUrl);
  const proxy = await startProxy(Number(url.port), url.hostname);
  url.host = `127.0.0.1:${proxy.port}`;
  const pool = openPool({ ...common, connectionString: url.href });
  return { proxy, pool, storage: postgresStorage({ pool, schema }) };
}

/** Which connections the client knows to have ended. */
class Gone {
  readonly #pids = new Set<number>();

  watch(pool: Pool): void {
    pool.on("connect", (client) => {
      const { processID } = client as unknown as { readonly processID: number };
      client.once("error", () => this.#pids.add(processID));
      client.once("end", () => this.#pids.add(processID));
    });
  }

  heard(pid: number): Promise<void> {
    return until(() => this.#pids.has(pid), "the end of a connection");
  }
}

function breakCommit({ proxy, pool }: Process, fault: string) {
  const reply = fault === "reply-lost";
  proxy.onChunk = (direction, _, bytes) => {
    // The whole text of a statement, or the server's name of it: both end with a zero.
    const found = direction === (reply ? "toClient" : "toServer") && bytes.includes("COMMIT\0");
    if (!found) return "pass";
    proxy.onChunk = undefined;
    if (fault !== "request-late") return "cut";
    // Only once the chunk is held: cutting at once would lose it.
    setImmediate(() => proxy.cutClients());
    return "hold";
  };
  return {
    deliver: () => proxy.release(),
    disarm: async () => {
      proxy.onChunk = undefined;
      // Nobody is given a connection that is dead and not known to be.
      await until(() => pool.idleCount <= proxy.connections, "the end of idle connections");
    },
  };
}

/** As if so much time had passed: leases run out by the server's clock. */
function laterText(schema: string, ms: number): string {
  const by = `interval '${ms} milliseconds'`;
  return `
    UPDATE ${schema}.outbox_lanes SET leased_until = leased_until - ${by};
    UPDATE ${schema}.outbox_relays SET live_until = live_until - ${by}`;
}

function emptyText(schema: string): string {
  const lanes = "token = NULL, owner = NULL, leased_until = NULL, floor = 0";
  return `
    DELETE FROM ${schema}.effects; DELETE FROM ${schema}.outbox_messages;
    DELETE FROM ${schema}.outbox_relays; UPDATE ${schema}.outbox_lanes SET ${lanes}`;
}

/**
 * In one look: who waits for a lock of another of ours, and transactions that are open. Whoever waits
 * for a stranger, as for autovacuum, which truncates a table, still moves.
 */
const lookText = `
  WITH ours AS (SELECT pid FROM pg_stat_activity WHERE application_name = $1)
  SELECT count(DISTINCT l.pid) FILTER (
      WHERE pg_blocking_pids(l.pid) && ARRAY(SELECT pid FROM ours))::int AS waiting,
    count(DISTINCT a.pid) FILTER (
      WHERE a.xact_start IS NOT NULL OR a.state = 'idle in transaction (aborted)')::int AS open
  FROM pg_stat_activity a LEFT JOIN pg_locks l ON l.pid = a.pid AND NOT l.granted
  WHERE a.application_name = $1`;

async function rest(admin: Pool, name: string, { pending, open }: Expected): Promise<void> {
  let seen = "";
  const atRest = async () => {
    const before = pending();
    const { rows } = await admin.query(lookText, [name]);
    const { waiting, open: there } = rows[0] as { readonly waiting: number; readonly open: number };
    seen = `${pending()} calls are pending and ${waiting} wait, ${there} transactions of ${open()} are open`;
    return before === pending() && waiting === before && there === open();
  };
  await until(atRest, "rest").catch(() => {
    throw new Error(`no rest within ${restMs} ms: ${seen}`);
  });
}

async function until(holds: () => boolean | Promise<boolean>, what: string): Promise<void> {
  const deadline = performance.now() + restMs;
  while (!(await holds())) {
    if (performance.now() > deadline) throw new Error(`${what} did not come in ${restMs} ms`);
    await new Promise((resolve) => setImmediate(resolve));
  }
}
