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
import { endsTransaction, worksOnAll } from "./transaction-control.ts";

type Trx = Knex.Transaction;
type Call = (...args: unknown[]) => unknown;

/** One handler's hold on a transaction. */
export interface Hold {
  readonly ended: () => boolean;
  /** Throws where the transaction is not open any more. */
  readonly prove: () => void;
  /**
   * Other handlers use the transaction at the same time: `refuse` is told each time that something was
   * refused because of them. Null: nobody else does.
   */
  readonly shared: { readonly refuse: () => void } | null;
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
  const refuse = (how: string) => () =>
    Promise.reject(hold.ended() ? finished() : refusal(how, hold));
  const own: Readonly<Record<PropertyKey, unknown>> = {
    context: Object.assign(Object.create(context), { client: sender }),
    commit: refuse("commit()"),
    rollback: refuse("rollback()"),
    destroy: refuse("destroy()"),
    // knex would go on with what runs in it, and send that without a savepoint.
    ...(hold.shared === null ? {} : { transaction: refuse("transaction()") }),
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

/** Methods of the driver that work on more than rows, as `worksOnAll` says of texts. */
const methodsOnAll: ReadonlySet<PropertyKey> = new Set([
  ...["transaction", "unsafeMode", "defaultSafeIntegers", "loadExtension"],
]);

function check(property: PropertyKey, argument: unknown, hold: Hold): void {
  if (hold.ended()) throw finished();
  if (property === "close") throw refusal("close()", hold);
  const text = property === "pragma" ? `PRAGMA ${argument}` : argument;
  if (typeof text === "string") {
    const refused = hold.shared === null ? endsTransaction(text) : worksOnAll(text);
    if (refused) throw refusal(text.trim().slice(0, 30), hold);
  }
  if (hold.shared !== null && methodsOnAll.has(property)) {
    throw refusal(`${String(property)}()`, hold);
  }
  // What is sent after an early end would be committed by itself, and nothing would undo it.
  hold.prove();
}

function refusal(what: string, { shared }: Hold): StorageError {
  if (shared !== null) {
    shared.refuse();
    return new StorageError(
      "transaction-shared",
      `${what}: other handlers use this transaction at the same time, and it would work on theirs as well; with ordering "partition" each has the transaction for itself`,
    );
  }
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
