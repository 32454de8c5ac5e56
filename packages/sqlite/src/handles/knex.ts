/**
 * Handles of knex. What a handler gets is its chunk's transaction behind a guard: it is dead when the
 * handler has ended, and it cannot end the transaction.
 */
import { StorageError, TransactionFinishedError } from "@oncebox/core";
import type { Knex } from "knex";

type Call = (...args: unknown[]) => unknown;

const refused: ReadonlySet<PropertyKey> = new Set(["commit", "rollback", "destroy"]);

/** A transaction that works as the given one until `ended` says otherwise. */
export function guarded(trx: Knex.Transaction, ended: () => boolean): Knex.Transaction {
  const calls = new Map<PropertyKey, Call>();
  return new Proxy(trx, {
    apply: (target, _, args) => {
      if (ended()) throw finished();
      return Reflect.apply(target as unknown as Call, undefined, args);
    },
    get: (target, property) => {
      if (property === "isCompleted") return () => ended() || target.isCompleted();
      const value: unknown = Reflect.get(target, property, target);
      if (typeof value !== "function") return value;
      let call = calls.get(property);
      if (call === undefined) {
        call = callOf(target, property, ended);
        calls.set(property, call);
      }
      return call;
    },
  });
}

function callOf(target: Knex.Transaction, property: PropertyKey, ended: () => boolean): Call {
  return (...args) => {
    if (ended()) throw finished();
    if (refused.has(property)) {
      throw new StorageError(
        "transaction-ended-early",
        `${String(property)}() on a transaction that is not the handler's to end`,
      );
    }
    return Reflect.apply(Reflect.get(target, property, target) as Call, target, args);
  };
}

export function finished(): TransactionFinishedError {
  return new TransactionFinishedError(
    "this transaction handle was used after its handler or transaction had ended: await everything inside it",
  );
}
