/**
 * Owns clients taken from the pool: each has an error listener while it is out (a dying connection
 * would end the process else), and goes back only when it is known to be clean. Statements sent here
 * are watched for their answers, as are connections that are being made. Never changes the pool's
 * settings, and never ends a pool.
 *
 *   (pool) ──acquire──▶ out ──release──▶ (pool)
 *                        │
 *                        └──destroy──▶ (gone)
 */
import { StorageError } from "@oncebox/core";
import type { Client, QueryResult, QueryResultRow } from "pg";
import type { AnswerWatch } from "./answer-watch.ts";
import type { Clients } from "./clients.ts";
import { endsConnection, isLimit, type StorageErrors } from "./postgres-errors.ts";
import type { Statement } from "./queries.ts";
import { ownTypes } from "./wire.ts";

export interface Connection {
  readonly client: Client;
  /**
   * Whether statements are sent without waiting for the answers before them. Each is still answered
   * by itself: after one that failed, the later ones of its transaction fail with 25P02.
   */
  readonly pipelined: boolean;
  /** Whether the connection is known to have ended. */
  readonly lost: () => boolean;
  /** Takes note of an error that one of its statements ended with. Returns it. */
  readonly saw: <E>(error: E) => E;
  /** Whether a limit of the session ended it: that is the trouble of who was too slow, no outage. */
  readonly limited: () => boolean;
  readonly run: <R extends QueryResultRow>(statement: Statement) => Promise<QueryResult<R>>;
  /** Not watched for its answer: statements of handlers may stand before it, and they bound it. */
  readonly runBehindHandlers: (statement: Statement) => Promise<QueryResult>;
  /** Rows as arrays: cheaper where there are many. */
  readonly runForArrays: <R extends readonly unknown[]>(statement: Statement) => Promise<R[]>;
  /** One or more statements as plain text. The result is that of the last. */
  readonly script: (text: string) => Promise<QueryResult>;
  /** From now on each statement may wait so long for locks, on top of the time for its answer. */
  readonly mayWait: (lockWaitMs: number) => void;
  /** Back to the pool. Only when no transaction is open. */
  readonly release: () => void;
  /** Ends the socket at once, whatever runs on it. */
  readonly destroy: () => void;
}

export interface Connections {
  /** Throws StorageError `storage-unavailable`, or `storage-conflict` where only the pool is empty. */
  readonly acquire: () => Promise<Connection>;
  /** Acquires, works, and gives back what is clean; destroys after any failure. */
  readonly with: <R>(doing: string, work: (connection: Connection) => Promise<R>) => Promise<R>;
  /** A connection that was not taken from the pool, as part of a transaction of its owner. */
  readonly statementOf: (statement: Statement) => object;
  readonly poolSize: number;
}

export interface ConnectionOptions {
  readonly clients: Clients;
  readonly preparedStatements: boolean;
  readonly acquireTimeoutMs: number;
  readonly errors: StorageErrors;
  readonly answers: AnswerWatch;
}

export function connections(options: ConnectionOptions): Connections {
  const { clients, errors, answers } = options;
  const statementOf = ({ name, text, values, prepare }: Statement) => ({
    ...(prepare && options.preparedStatements ? { name } : {}),
    text,
    values: [...values],
    types: ownTypes,
  });
  const acquire = async () => {
    // Ends with the last of the pool's idle clients at the latest: a new one is not suspected.
    for (;;) {
      const client = await takeClient(options);
      if (!answers.suspects(client)) return connectionOf(client, statementOf, options);
      end(clients, client);
    }
  };
  return {
    acquire,
    statementOf,
    poolSize: clients.size,
    with: async (doing, work) => {
      const connection = await acquire();
      try {
        const result = await work(connection);
        connection.release();
        return result;
      } catch (error) {
        connection.destroy();
        throw errors.translated(doing, error);
      }
    },
  };
}

function connectionOf(
  client: Client,
  statementOf: (statement: Statement) => object,
  { clients, errors, answers }: ConnectionOptions,
): Connection {
  let lost = false;
  let limited = false;
  let out = true;
  let lockWaitMs = 0;
  const onEnd = (error?: unknown) => {
    lost = true;
    limited ||= isLimit(error);
    // The same that a stream of a handler ends with, which nobody else sees.
    errors.ours(error);
  };
  client.on("error", onEnd);
  client.on("end", onEnd);
  const saw = <E>(error: E): E => {
    // The server says so to the statement that runs; the end of the socket comes later.
    if (endsConnection(error)) lost = true;
    return limited ? errors.limited(error) : errors.ours(error);
  };
  const silent = (error: Error) => {
    lost = true;
    // The driver hands the error to everything that waits on this connection.
    client.connection?.stream?.destroy(error);
  };
  // The driver's types know only its own parsers' kind of `types`.
  const query = client.query as (config: object | string) => Promise<QueryResult>;
  const send = async (config: object | string) => {
    const awaited = answers.sent(lockWaitMs, silent);
    try {
      return await query.call(client, config);
    } catch (error) {
      throw saw(error);
    } finally {
      answers.answered(awaited);
    }
  };
  const sendUnwatched = async (config: object) => {
    try {
      return await query.call(client, config);
    } catch (error) {
      throw saw(error);
    }
  };
  return {
    client,
    pipelined: isPipelined(client),
    lost: () => lost,
    limited: () => limited,
    saw,
    runBehindHandlers: (statement) => sendUnwatched(statementOf(statement)),
    run: <R extends QueryResultRow>(statement: Statement) =>
      send(statementOf(statement)) as Promise<QueryResult<R>>,
    runForArrays: async <R extends readonly unknown[]>(statement: Statement) => {
      const config = { ...statementOf(statement), rowMode: "array" };
      const { rows } = await send(config);
      return rows as unknown as R[];
    },
    script: async (text) => {
      const result = (await send(text)) as QueryResult | QueryResult[];
      const last = Array.isArray(result) ? result.at(-1) : result;
      if (last === undefined) throw new TypeError("the driver answered a statement with nothing");
      return last;
    },
    mayWait: (ms) => {
      lockWaitMs = ms;
    },
    release: () => {
      if (!out) return;
      out = false;
      answers.heard(client);
      // The pool puts its own listener on before ours goes.
      clients.giveBack(client, lost);
      client.removeListener("error", onEnd);
      client.removeListener("end", onEnd);
    },
    destroy: () => {
      if (!out) return;
      out = false;
      // Our listener stays on, for what the dying socket says.
      end(clients, client);
    },
  };
}

/**
 * The driver waits for answers on a pipelined connection before it ends it: a statement that hangs
 * would keep it for ever. So the socket goes first.
 */
function end(clients: Clients, client: Client): void {
  client.connection?.stream?.destroy();
  clients.giveBack(client, true);
}

/** Whether the driver sends statements at once on this client (pg >= 8.23 with `pipeline: true`). */
export function isPipelined(client: object): boolean {
  return (client as { readonly pipeline?: unknown }).pipeline === true;
}

async function takeClient({ clients, acquireTimeoutMs, errors, answers }: ConnectionOptions) {
  let timer: NodeJS.Timeout | undefined;
  // Where one is free it comes without any waiting.
  const free = clients.free();
  const waiting = clients.take();
  try {
    if (free) return await waiting;
    watchMaking(clients, answers);
    // A pool may wait for ever; a wait without a ceiling would hide that it is too small.
    const expired = new Promise<"expired">((resolve) => {
      timer = setTimeout(resolve, acquireTimeoutMs, "expired");
    });
    const client = await Promise.race([waiting, expired]);
    if (client !== "expired") return client;
    // Our turn came too late for the look above.
    watchMaking(clients, answers);
    waiting.then(
      (late) => clients.giveBack(late, false),
      () => {},
    );
  } catch (error) {
    if (!clients.ranOut(error)) throw errors.translated("no connection to the database", error);
  } finally {
    clearTimeout(timer);
  }
  throw await exhausted(clients, acquireTimeoutMs);
}

/**
 * A pool of the driver waits for ever, by default, for a server that takes a connection and says
 * nothing: each try would keep a place of the pool, until none is left for anyone. So what is being
 * made now is watched like a statement, whoever asked for it: the pool tells nobody for whom it makes
 * a client.
 */
function watchMaking(clients: Clients, answers: AnswerWatch): void {
  for (const client of clients.making()) {
    if (watched.has(client)) continue;
    watched.add(client);
    const awaited = answers.sent(0, (error) => client.connection?.stream?.destroy(error));
    const answered = () => answers.answered(awaited);
    client.once("connect", answered).once("end", answered);
  }
}

const watched = new WeakSet<object>();

const probeMs = 5_000;
const probes = new WeakMap<Clients, Promise<unknown>>();

/**
 * The pool gave no connection in time: either the database is gone, or all connections are in use.
 * One connection of its own, outside of the pool, tells which; never more than one at a time.
 */
async function exhausted(clients: Clients, waitedMs: number): Promise<StorageError> {
  const running = probes.get(clients) ?? probe(clients).finally(() => probes.delete(clients));
  probes.set(clients, running);
  const details = { poolSize: clients.size, waiting: clients.waiting(), waitedMs };
  try {
    await running;
  } catch (cause) {
    return new StorageError("storage-unavailable", "no connection to the database", {
      ...{ cause, details, retryable: true },
    });
  }
  return new StorageError(
    "storage-conflict",
    `all ${details.poolSize} connections of the pool were in use for ${waitedMs} ms, though the database answers: make the pool larger, or do not take a second connection inside a handler`,
    { details, retryable: true },
  );
}

async function probe(clients: Clients): Promise<void> {
  const client = clients.alone(probeMs);
  client.on("error", () => {});
  try {
    await client.connect();
    await client.query("SELECT 1");
  } finally {
    client.connection?.stream?.destroy();
  }
}
