/**
 * Handles of node-postgres. What a handler gets is its transaction's client behind a guard: it is
 * dead when the handler has ended, and it cannot end the transaction or give the client away.
 */
import { StorageError } from "@oncebox/core";
import type { ClientBase } from "pg";
import { finished, type Handles, type Hold, notYours, sharedWithOthers } from "./handles.ts";
import { endsTransaction, reachesOthers } from "./transaction-control.ts";

export function pgHandles(): Handles<ClientBase> {
  return {
    own: (client) => {
      const afterwards = new Set<() => void>();
      return {
        handle: (hold) => guarded(client, hold, afterwards),
        over: (committed) => {
          if (committed) for (const then of afterwards) then();
        },
      };
    },
    clientOf: (tx) => {
      checkHandle(tx);
      return tx;
    },
    holdOf: (tx) => ownOf(tx)?.hold,
    afterCommit: (tx, then) => {
      ownOf(tx)?.afterwards?.add(then);
    },
    seesEveryCommit: false,
  };
}

type Call = (...args: unknown[]) => unknown;

const refused: ReadonlySet<PropertyKey> = new Set(["release", "end", "connect"]);

/** Asked of a guard alone, which answers with what it was made for: a map beside it would cost more. */
const ownDoors = Symbol("doors of a guard");

function ownOf(tx: ClientBase): Doors | undefined {
  return (tx as { readonly [ownDoors]?: Doors } | null)?.[ownDoors];
}

/** A client that works as the given one while the hold lasts. */
export function guarded(
  client: ClientBase,
  hold: Hold,
  afterwards: Set<() => void> | null = null,
): ClientBase {
  const doors = new Doors(hold, afterwards);
  const guard = new Proxy(client, doors);
  doors.guard = guard;
  return guard;
}

/** One for each handler of each message, so nothing is made here before it is asked for. */
class Doors implements ProxyHandler<ClientBase> {
  guard: ClientBase | undefined;
  readonly hold: Hold;
  /** What to do after the commit, where that is seen here. */
  readonly afterwards: Set<() => void> | null;
  #query: Call | undefined;
  #calls: Map<PropertyKey, Call> | undefined;

  constructor(hold: Hold, afterwards: Set<() => void> | null) {
    this.hold = hold;
    this.afterwards = afterwards;
  }

  get(target: ClientBase, property: PropertyKey): unknown {
    if (property === "query") {
      this.#query ??= queryOf(target, this.hold);
      return this.#query;
    }
    if (property === ownDoors) return this;
    const value: unknown = Reflect.get(target, property, target);
    if (typeof value !== "function" || property === "constructor") return value;
    this.#calls ??= new Map();
    let call = this.#calls.get(property);
    if (call === undefined) {
      call = this.#callOf(target, property);
      this.#calls.set(property, call);
    }
    return call;
  }

  #callOf(target: ClientBase, property: PropertyKey): Call {
    return (...args) => {
      if (this.hold.ended()) throw finished();
      if (refused.has(property)) {
        throw new StorageError(
          "transaction-ended-early",
          `${String(property)}() on the client of a transaction that is not the handler's to end`,
        );
      }
      const result = (Reflect.get(target, property, target) as Call).apply(target, args);
      // Chained calls (on().on()) must not lead out of the guard.
      return result === target ? this.guard : result;
    };
  }
}

function queryOf(target: ClientBase, hold: Hold): Call {
  const failed = (error: unknown) => {
    hold.failed(error);
    throw error;
  };
  return (...args) => {
    const [query] = args;
    const text = textOf(query);
    const problem = hold.ended() ? finished() : refusalOf(text, hold);
    if (problem !== null) return refuse(args, problem);
    if (!text || /;\s*\S/.test(text)) hold.several?.();
    // Our own statement comes here only where it passed by what is kept: through a client of another.
    const flushes = hold.later !== undefined && (!text || /savepoint|oncebox_enqueue/i.test(text));
    if (flushes) hold.later?.savepoint();
    const result = (target.query as Call).apply(target, watched(args, hold));
    if (!(result instanceof Promise)) return result;
    return result.then(undefined, failed);
  };
}

/** With a callback that tells of a failure before the caller hears of it. */
function watched(args: unknown[], hold: Hold): unknown[] {
  const last = args.length - 1;
  const callback = args[last];
  if (last === 0 || typeof callback !== "function") return args;
  return args.with(last, (error: unknown, ...rest: unknown[]) => {
    if (error) hold.failed(error);
    return (callback as Call)(error, ...rest);
  });
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

/** `text` is null where it is not known what will be sent. */
function refusalOf(text: string | null, { shared }: Hold): Error | null {
  if (shared !== undefined && (text === null || reachesOthers(text))) {
    shared.refused();
    return sharedWithOthers(text === null ? "a query without a text" : beginningOf(text));
  }
  if (text === null || !endsTransaction(text)) return null;
  return notYours(beginningOf(text));
}

function beginningOf(text: string): string {
  return text.trim().slice(0, 30);
}

function textOf(query: unknown): string | null {
  if (typeof query === "string") return query;
  const { text, cursor } = (query ?? {}) as { text?: unknown; cursor?: { text?: unknown } };
  if (typeof text === "string") return text;
  // pg-query-stream keeps its text in a cursor.
  return typeof cursor?.text === "string" ? cursor.text : null;
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

export function invalid(what: string): StorageError {
  return new StorageError(
    "invalid-handle",
    `expected a pg client inside an open transaction, got ${what}`,
  );
}
