/**
 * Handles of knex. A caller's transaction is reached through the client beneath it, so that our own
 * statements pass by whatever the user has set knex to do with names and answers. A transaction of the
 * storage is begun and ended on its client as ever; knex is given a stand-in that answers its BEGIN
 * and COMMIT, and each handler a transaction that sends through a guard of its own.
 *
 * Rests on a few parts of knex that are not documented: `client.acquireConnection` within a
 * transaction, `context.client` as what a query is sent by, `parentTransaction`.
 */
import { StorageError } from "@oncebox/core";
import type { Knex } from "knex";
import type { Client, ClientBase } from "pg";
import { sqlState } from "../postgres-errors.ts";
import {
  finished,
  type Handles,
  type Hold,
  notYours,
  type OwnTransaction,
  sharedWithOthers,
} from "./handles.ts";
import { checkHandle, guarded } from "./pg.ts";

type Trx = Knex.Transaction;

/** The client of knex itself: what sends, and where connections come from. */
interface Sender {
  readonly config: { readonly connection?: unknown };
  readonly driverName?: string;
  readonly constructor: { readonly prototype: object };
  acquireConnection: () => Promise<ClientBase>;
  readonly on: {
    (event: "query", listener: (query: { readonly sql: string }) => void): void;
    (event: "query-error", listener: (error: unknown) => void): void;
  };
}

export function knexHandles(knex: Knex): Handles<Trx> {
  const watched = new WeakSet<Trx>();
  // Null: of all handlers of the transaction together.
  const own = new WeakMap<Trx, Hold | null>();
  return {
    own: (client) => ownTransaction(knex, client, own),
    holdOf: (tx) => own.get(tx) ?? undefined,
    clientOf: async (tx) => {
      const client = await senderOf(knex, tx).acquireConnection();
      checkHandle(client);
      checkPlace(knex, tx, client);
      // Between two statements the transaction may end, and its client be another's.
      return guarded(client, { ended: () => tx.isCompleted(), failed: () => {} });
    },
    afterCommit: (tx, then) => {
      const outermost = outermostOf(tx);
      if (watched.has(outermost)) return;
      watched.add(outermost);
      const committed = own.has(outermost) ? outermost.executionPromise : commitOf(outermost);
      committed.then(then, () => {
        // Not committed, as whoever waits for it is told.
      });
    },
    seesEveryCommit: true,
  };
}

function senderOf(knex: Knex, tx: Trx): Sender {
  if (typeof tx !== "function") {
    const isClient = typeof (tx as { query?: unknown } | null)?.query === "function";
    throw invalid(isClient ? "a pg client or pool: it belongs to postgresStorage" : String(tx));
  }
  if (tx.isTransaction !== true) {
    throw invalid("knex itself, which runs each statement in a transaction of its own");
  }
  if (tx.isCompleted()) throw finished();
  const sender = tx.client as Sender;
  const { driverName } = knex.client as Sender;
  if (sender.driverName !== driverName) {
    throw invalid(`a transaction of another database (${sender.driverName})`);
  }
  return sender;
}

/**
 * A transaction of another knex is taken where it is in a database of the same name: host and port
 * differ where only one of the two goes by a pooler.
 */
function checkPlace(knex: Knex, tx: Trx, client: ClientBase): void {
  const own = knex.client as Sender & {
    readonly driver: { readonly Client: new (settings: object) => Client };
    readonly connectionSettings?: object;
  };
  if ((tx.client as Sender).config.connection === own.config.connection) return;
  // Settings made by a function are only known once a connection was made of them.
  if (own.connectionSettings === undefined) return;
  const { database: expected } = new own.driver.Client(own.connectionSettings);
  const { database: found } = client as Client;
  if (found !== expected) {
    throw invalid(`a transaction of another database (${found}, not ${expected})`);
  }
}

function invalid(what: string): StorageError {
  return new StorageError("invalid-handle", `expected an open knex transaction, got ${what}`);
}

function outermostOf(tx: Trx): Trx {
  const { parentTransaction } = tx as { readonly parentTransaction?: Trx };
  return parentTransaction === undefined ? tx : outermostOf(parentTransaction);
}

/**
 * Resolves when a user's transaction has committed. knex resolves one that was rolled back as well,
 * and one whose COMMIT rolled back because a statement before it had failed.
 */
async function commitOf(tx: Trx): Promise<void> {
  let aborted = false;
  let rolledBack = false;
  const sender = tx.client as Sender;
  sender.on("query-error", (error) => {
    if (sqlState(error) !== null) aborted = true;
  });
  sender.on("query", ({ sql }) => {
    if (/^\s*ROLLBACK\s+TO\b/i.test(sql)) aborted = false;
    else if (/^\s*(ROLLBACK|ABORT)\b/i.test(sql)) rolledBack = true;
  });
  await tx.executionPromise;
  if (rolledBack || aborted) throw finished();
}

async function ownTransaction(
  knex: Knex,
  client: ClientBase,
  own: WeakMap<Trx, Hold | null>,
): Promise<OwnTransaction<Trx>> {
  let ours = true;
  const standIn = {
    __knexUid: (client as { readonly __knexUid?: string }).__knexUid,
    query: (_: object, answered: (error: Error | null, result?: object) => void) => {
      if (ours) answered(null, { command: "", rows: [], rowCount: null });
      else answered(notYours("a statement past the handler's own transaction"));
    },
  };
  const base = await knex.transaction(undefined, { connection: standIn });
  ours = false;
  // Of savepoints it is the outermost.
  own.set(base, null);
  return {
    handle: (hold) => {
      const tx = handleOf(base, client, hold);
      own.set(tx, hold);
      return tx;
    },
    over: (committed) => {
      ours = true;
      // Settles `executionPromise`, for whoever waits for the end in a handler.
      if (committed) void base.commit();
      else void base.rollback(finished());
    },
  };
}

/** The transaction as one handler gets it: all of it, but sent through the handler's own guard. */
function handleOf(base: Trx, client: ClientBase, hold: Hold): Trx {
  const guard = guarded(client, hold);
  const { query, stream } = (base.client as Sender).constructor.prototype as Record<
    "query" | "stream",
    unknown
  >;
  const sender = Object.assign(Object.create(base.client as object), {
    acquireConnection: () => Promise.resolve(guard),
    // As for any connection; that of a transaction would insist on the stand-in.
    ...{ query, stream },
  });
  const { context } = base as unknown as { readonly context: object };
  const end = (how: string) => () => Promise.reject(hold.ended() ? finished() : notYours(how));
  // Nested ones are savepoints. knex would go on where one is refused, and only then notice.
  const nested = () => {
    if (hold.ended()) return Promise.reject(finished());
    hold.shared?.refused();
    return Promise.reject(sharedWithOthers("a nested transaction, which is a savepoint"));
  };
  const own: Readonly<Record<PropertyKey, unknown>> = {
    context: Object.assign(Object.create(context), {
      client: sender,
      ...(hold.shared === undefined ? {} : { transaction: nested }),
    }),
    commit: end("commit()"),
    rollback: end("rollback()"),
    savepoint: (...args: Parameters<Trx["transaction"]>) => tx.transaction(...args),
    isCompleted: () => hold.ended() || base.isCompleted(),
  };
  const tx: Trx = new Proxy(base, {
    apply: (_, __, [table, options]: Parameters<Trx>) => tx.queryBuilder().table(table, options),
    get: (target, property, receiver) =>
      Object.hasOwn(own, property) ? own[property] : Reflect.get(target, property, receiver),
  });
  return tx;
}
