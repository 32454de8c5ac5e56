/**
 * Handles of knex. What a handler gets is its chunk's transaction, sent through a guard of its own: it
 * is dead when the handler has ended, whenever its queries were made, and it can neither end the
 * transaction nor write outside of it.
 *
 * Rests on a few parts of knex that are not documented: `client.acquireConnection` within a
 * transaction, `context.client` as what a query is sent by.
 */
import { StorageError, TransactionFinishedError } from "@oncebox/core";
import type { Database } from "better-sqlite3";
import type { Knex } from "knex";
import { endsTransaction } from "./transaction-control.ts";

type Trx = Knex.Transaction;
type Call = (...args: unknown[]) => unknown;

/** One handler's hold on a transaction. */
export interface Hold {
  readonly ended: () => boolean;
  /** Throws where the transaction is not open any more. */
  readonly prove: () => void;
}

/** What guards stand before. */
const beneath = new WeakMap<object, { readonly db: Database; readonly hold: Hold }>();

/** The connection under a transaction, and whether its handle has ended. */
export async function connectionOf(
  tx: Trx,
): Promise<{ readonly db: Database; readonly ended: boolean }> {
  const connection: Database = await tx.client.acquireConnection();
  const found = beneath.get(connection);
  if (found === undefined) return { db: connection, ended: tx.isCompleted() };
  return { db: found.db, ended: found.hold.ended() || tx.isCompleted() };
}

/** The transaction as one handler gets it: all of it, but sent through the handler's own guard. */
export function handleOf(base: Trx, db: Database, hold: Hold): Trx {
  const guard = guarded(db, hold);
  beneath.set(guard, { db, hold });
  const { query, stream } = (
    base.client as { readonly constructor: { readonly prototype: object } }
  ).constructor.prototype as Record<"query" | "stream", unknown>;
  const sender = Object.assign(Object.create(base.client as object), {
    acquireConnection: () => Promise.resolve(guard),
    // As for any connection; that of a transaction would insist on its own.
    ...{ query, stream },
  });
  const { context } = base as unknown as { readonly context: object };
  const refuse = (how: string) => () => Promise.reject(hold.ended() ? finished() : notYours(how));
  const own: Readonly<Record<PropertyKey, unknown>> = {
    context: Object.assign(Object.create(context), { client: sender }),
    commit: refuse("commit()"),
    rollback: refuse("rollback()"),
    destroy: refuse("destroy()"),
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

/** A connection that works as the given one while the hold lasts, and the transaction. */
function guarded(db: Database, hold: Hold): Database {
  const calls = new Map<PropertyKey, Call>();
  const guard: Database = new Proxy(db, {
    get: (target, property) => {
      const value: unknown = Reflect.get(target, property, target);
      if (typeof value !== "function" || property === "constructor") return value;
      let call = calls.get(property);
      if (call === undefined) {
        call = (...args) => {
          check(property, args[0], hold);
          const result = Reflect.apply(value as Call, target, args);
          // Chained calls must not lead out of the guard.
          return result === target ? guard : result;
        };
        calls.set(property, call);
      }
      return call;
    },
  });
  return guard;
}

function check(property: PropertyKey, text: unknown, hold: Hold): void {
  if (hold.ended()) throw finished();
  if (property === "close") throw notYours("close()");
  if (typeof text === "string" && endsTransaction(text)) throw notYours(text.trim().slice(0, 30));
  // What is sent after an early end would be committed by itself, and nothing would undo it.
  hold.prove();
}

function notYours(what: string): StorageError {
  return new StorageError(
    "transaction-ended-early",
    `${what}: the transaction is begun and ended by Oncebox; use SAVEPOINT and ROLLBACK TO for a part of it`,
  );
}

export function finished(): TransactionFinishedError {
  return new TransactionFinishedError(
    "this transaction handle was used after its handler or transaction had ended: await everything inside it",
  );
}
