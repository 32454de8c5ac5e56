/**
 * Where connections come from: a pool that belongs to the user. Decides nothing about when one is
 * taken or whether it may be used again; never changes the pool's settings, and never ends it.
 */
import type { Client, Pool, PoolClient } from "pg";

export interface Clients {
  /** How many there may be at once. */
  readonly size: number;
  /** How many callers wait for one. */
  readonly waiting: () => number;
  /** Whether one would come without any waiting. */
  readonly free: () => boolean;
  readonly take: () => Promise<Client>;
  /** `ended`: its connection is gone, and it must not be given to anyone. */
  readonly giveBack: (client: Client, ended: boolean) => void;
  /** Those whose connections are being made, whoever asked; none where the pool ends that by itself. */
  readonly making: () => readonly Client[];
  /** Whether `take` failed because the pool's own patience ended: says nothing about the database. */
  readonly ranOut: (error: unknown) => boolean;
  /** One more, outside of the pool and not connected yet; gives up after `timeoutMs`. */
  readonly alone: (timeoutMs: number) => Client;
  /** From now on an idle connection that dies is the user's to notice again. */
  readonly close: () => void;
}

/** A class of the driver, as the pool holds it: the one that the user's own copy of it has. */
export type ClientClass = new (options: object) => Client;

/** Clients of a node-postgres pool. */
export function clientsOfPool(pool: Pool): Clients {
  const inside = pool as unknown as {
    readonly Client: ClientClass;
    readonly _clients?: readonly (Client & { readonly _connecting?: boolean })[];
  };
  // An idle connection that dies is no news: the next one to be used says whether the database is
  // there. Without a listener the pool would end the process.
  const ignore = () => {};
  pool.on("error", ignore);
  return {
    size: pool.options.max,
    waiting: () => pool.waitingCount,
    free: () => pool.idleCount > pool.waitingCount,
    take: () => pool.connect(),
    giveBack: (client, ended) => (client as PoolClient).release(ended),
    making: () => inside._clients?.filter((client) => client._connecting === true) ?? [],
    ranOut: (error) => /timeout exceeded when trying to connect/.test(String(error)),
    // The pool hides its password from enumeration.
    alone: (timeoutMs) => aloneOf(inside.Client, pool.options, timeoutMs),
    close: () => {
      pool.removeListener("error", ignore);
    },
  };
}

/** `settings` may hide its password from enumeration. */
export function aloneOf(
  Class: ClientClass,
  settings: { readonly password?: unknown },
  timeoutMs: number,
): Client {
  const { password } = settings;
  const times = { connectionTimeoutMillis: timeoutMs, query_timeout: timeoutMs };
  return new Class({ ...settings, password, ...times });
}
