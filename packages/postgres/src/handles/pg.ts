/**
 * Handles of node-postgres. What a handler gets is its transaction's client behind a guard: it is
 * dead when the handler has ended, and it cannot end the transaction or give the client away.
 */
import { StorageError, TransactionFinishedError } from "@oncebox/core";
import type { ClientBase } from "pg";
import { endsTransaction } from "./transaction-control.ts";

/** One handler's hold on a transaction. */
export interface Hold {
  readonly ended: () => boolean;
  /** A statement of the handler failed: kept, in case that it swallows the error. */
  readonly failed: (error: unknown) => void;
  /** A text of several statements is sent: only its first was looked at. */
  readonly several?: () => void;
}

type Call = (...args: unknown[]) => unknown;

const refused: ReadonlySet<PropertyKey> = new Set(["release", "end", "connect"]);

/** A client that works as the given one while the hold lasts. */
export function guarded(client: ClientBase, hold: Hold): ClientBase {
  const calls = new Map<PropertyKey, Call>();
  const guard: ClientBase = new Proxy(client, {
    get: (target, property) => {
      const value: unknown = Reflect.get(target, property, target);
      if (typeof value !== "function") return value;
      let call = calls.get(property);
      if (call === undefined) {
        call = property === "query" ? queryOf(target, hold) : callOf(target, property, hold);
        calls.set(property, call);
      }
      return call;
    },
  });
  const callOf = (target: ClientBase, property: PropertyKey, of: Hold): Call => {
    if (property === "constructor") return target.constructor as unknown as Call;
    return (...args) => {
      if (of.ended()) throw finished();
      if (refused.has(property)) {
        throw new StorageError(
          "transaction-ended-early",
          `${String(property)}() on the client of a transaction that is not the handler's to end`,
        );
      }
      const result = (Reflect.get(target, property, target) as Call).apply(target, args);
      // Chained calls (on().on()) must not lead out of the guard.
      return result === target ? guard : result;
    };
  };
  return guard;
}

function queryOf(target: ClientBase, hold: Hold): Call {
  return (...args) => {
    const [query] = args;
    const text = textOf(query);
    const problem = hold.ended() ? finished() : refusalOf(text);
    if (problem !== null) return refuse(args, problem);
    if (text === "" || /;\s*\S/.test(text)) hold.several?.();
    const result = (target.query as Call).apply(target, args);
    if (!(result instanceof Promise)) return result;
    return result.catch((error: unknown) => {
      hold.failed(error);
      throw error;
    });
  };
}

/** Says no in the way the call was made: by callback, by throwing (a stream), or by rejecting. */
function refuse(args: readonly unknown[], problem: Error): unknown {
  const callback = args.find((arg) => typeof arg === "function") as Call | undefined;
  if (callback !== undefined) {
    queueMicrotask(() => callback(problem));
    return undefined;
  }
  const [query] = args;
  if (typeof (query as { submit?: unknown } | null)?.submit === "function") throw problem;
  return Promise.reject(problem);
}

function refusalOf(text: string): Error | null {
  if (!endsTransaction(text)) return null;
  return new StorageError(
    "transaction-ended-early",
    `${text.trim().slice(0, 30)}: the transaction is begun and ended by Oncebox; use SAVEPOINT and ROLLBACK TO for a part of it`,
  );
}

function textOf(query: unknown): string {
  if (typeof query === "string") return query;
  const { text, cursor } = (query ?? {}) as { text?: unknown; cursor?: { text?: unknown } };
  if (typeof text === "string") return text;
  // pg-query-stream keeps its text in a cursor.
  return typeof cursor?.text === "string" ? cursor.text : "";
}

function finished(): TransactionFinishedError {
  return new TransactionFinishedError(
    "this transaction handle was used after its handler or transaction had ended: await everything inside it",
  );
}

/**
 * Throws StorageError `invalid-handle` unless this is a client that may hold a transaction. What
 * cannot be known without asking the server is left to the statement.
 */
export function checkHandle(tx: unknown): asserts tx is ClientBase {
  if (typeof tx === "function") {
    throw invalid("a function: a knex transaction belongs to knexStorage");
  }
  if (typeof tx !== "object" || tx === null || typeof (tx as ClientBase).query !== "function") {
    throw invalid("something without query()");
  }
  if ("totalCount" in tx && "idleCount" in tx) {
    throw invalid("a pool, which runs each statement in a transaction of its own");
  }
  const { readyForQuery } = tx as { readonly readyForQuery?: unknown };
  const status = (tx as Partial<ClientBase>).getTransactionStatus?.();
  // The status is that of the last answer: while one is awaited, BEGIN may be on its way.
  if (status === "I" && readyForQuery === true) {
    throw invalid("a client without an open transaction (never begun, ended, or released)");
  }
}

function invalid(what: string): StorageError {
  return new StorageError(
    "invalid-handle",
    `expected a pg client inside an open transaction, got ${what}`,
  );
}
