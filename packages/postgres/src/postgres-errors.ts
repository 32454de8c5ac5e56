/**
 * What an error of the database or its driver means: whose trouble it is, and which of our errors it
 * becomes. Everything here looks at errors and touches nothing.
 */
import { ConfigurationError, OnceboxError, StorageError, type Trouble } from "@oncebox/core";

/** SQLSTATEs that concern the database as a whole, whichever statement met them. */
const globalStates: ReadonlySet<string> = new Set([
  "53000", // resources exhausted
  "53100", // disk full
  "53200", // out of memory
  "58000", // the server's own system
  "58030", // input/output error of the server
  "25006", // read-only: failed over, and this connection leads to a replica now
]);

/**
 * SQLSTATEs and classes (two characters) that concern it where the server ended or refused the
 * connection with them. As the error of one statement, foreign tables and dblink pass them on from
 * another server, while the connection goes on.
 */
const globalAtTheEnd: ReadonlySet<string> = new Set([
  "08", // connection exception
  "28", // credentials refused: being rotated, or the account is gone
  "3D", // the database does not exist (any more, or yet)
  "53300", // too many connections
  "57P01", // shut down by an administrator
  "57P02", // crash of another backend
  "57P03", // starting up or shutting down
  "57P05", // idle session time-out
]);

/** What proves nothing in answer to COMMIT: wider than the above, since doubt costs a look only. */
const doubtfulStates: ReadonlySet<string> = new Set([
  ...["08", "28", "3D", "53", "57P01", "57P02", "57P03", "57P05", "58", "25006"],
]);

/** SQLSTATEs that concern one transaction, which may pass when it is run again. */
const localStates: ReadonlySet<string> = new Set([
  "40001", // serialization failure
  "40P01", // deadlock
  "55P03", // lock time-out
  "57014", // statement time-out, or cancelled
  "25P03", // idle-in-transaction time-out
  "25P04", // transaction time-out
]);

/** A schema, table or column of ours is not there. */
const missingStates: ReadonlySet<string> = new Set(["3F000", "42P01", "42703"]);

/**
 * Errors of the socket. Only those of our own connections count, as with all that is the trouble of
 * the database as a whole: a handler calls others as well, and other databases by the same driver.
 */
const networkCodes: ReadonlySet<string> = new Set([
  ...["ECONNREFUSED", "ECONNRESET", "ECONNABORTED", "EPIPE", "ETIMEDOUT", "ENOTFOUND"],
  ...[
    "EAI_AGAIN",
    "EHOSTUNREACH",
    "EHOSTDOWN",
    "ENETUNREACH",
    "ENETDOWN",
    "ENOENT",
    "EADDRNOTAVAIL",
  ],
  ...["ERR_SOCKET_CLOSED", "ERR_STREAM_DESTROYED", "ERR_STREAM_WRITE_AFTER_END"],
]);

/** What the driver says where it has no code. */
const lostTexts =
  /^(Connection terminated|Client has encountered a connection error|Client was closed|timeout expired|Cannot use a pool after calling end|This socket has been ended)/;
const neverSentTexts = /^(Client has encountered a connection error|Client was closed)/;
const readTimeoutText = "Query read timeout";
/** What pools say that gave no connection in time, or that were ended: the driver's, and knex's. */
const poolEmptyTexts =
  /^(timeout exceeded when trying to connect|Knex: Timeout acquiring a connection)/;
const poolGoneText = "Unable to acquire a connection";

/** knex puts the statement in front of what the driver says, even in an error that others share. */
const statementInFront =
  /^(select|insert|update|delete|with|merge|create|alter|drop|truncate|begin|commit|rollback|savepoint|release|set|call|do|lock)\b.* - /is;

function driverText(error: unknown): string {
  return textOf(error).replace(statementInFront, "");
}

const depthMax = 10;

/** Errors as one storage sees them: it knows which came out of its own connections. */
export interface StorageErrors {
  /** Remembers that this error came from one of our connections. Returns it. */
  readonly ours: <E>(error: E) => E;
  /** As above, of a connection that a limit of its session has ended: trouble of that transaction. */
  readonly limited: <E>(error: E) => E;
  readonly trouble: (error: unknown) => Trouble;
  /** Our own error for one of a statement of ours; the driver's stays its cause. */
  readonly translated: (doing: string, error: unknown) => OnceboxError;
}

export function storageErrors(): StorageErrors {
  const fromOurConnections = new WeakSet<object>();
  const fromLimited = new WeakSet<object>();
  const remember = (error: unknown) => {
    for (const link of chainOf(error)) fromOurConnections.add(link);
  };
  const trouble = (error: unknown): Trouble => {
    for (const link of chainOf(error)) {
      if (fromLimited.has(link)) return "local";
      const found = troubleOf(link, fromOurConnections.has(link));
      if (found !== null) return found;
    }
    return null;
  };
  return {
    ours: (error) => {
      remember(error);
      return error;
    },
    limited: (error) => {
      remember(error);
      if (isObject(error)) fromLimited.add(error);
      return error;
    },
    trouble,
    translated: (doing, error) => {
      if (error instanceof OnceboxError) return error;
      remember(error);
      const found = trouble(error);
      const state = sqlState(error);
      if (state !== null && missingStates.has(state)) {
        return new ConfigurationError(
          "schema-missing",
          `${doing}: ${textOf(error)}. The schema is not installed, or lacks migrations: run migrate(pool)`,
          { cause: error, details: { sqlState: state } },
        );
      }
      return new StorageError(codes[found ?? "none"], `${doing}: ${textOf(error)}`, {
        cause: error,
        retryable: found !== null,
        ...(state === null ? {} : { details: { sqlState: state } }),
      });
    },
  };
}

const codes = {
  global: "storage-unavailable",
  local: "storage-conflict",
  none: "storage-failed",
} as const;

function troubleOf(error: object, ours: boolean): Trouble {
  if (error instanceof OnceboxError) {
    if (error.code === "storage-unavailable") return "global";
    if (error.code === "storage-conflict" || error.code === "claim-timeout") return "local";
    return null;
  }
  const state = sqlState(error);
  if (state !== null) {
    if (localStates.has(state)) return "local";
    const ended = !ofOneStatement(error) && isAmong(globalAtTheEnd, state);
    return ours && (globalStates.has(state) || ended) ? "global" : null;
  }
  const text = driverText(error);
  if (text === readTimeoutText || poolEmptyTexts.test(text)) return "local";
  if (!ours) return null;
  if (lostTexts.test(text) || text === poolGoneText) return "global";
  const code = (error as { readonly code?: unknown }).code;
  return typeof code === "string" && networkCodes.has(code) ? "global" : null;
}

/** By the state itself, or by its class. */
function isAmong(states: ReadonlySet<string>, state: string): boolean {
  return states.has(state) || states.has(state.slice(0, 2));
}

/**
 * Whether the session goes on after it. Servers translate the word; one that says it in another
 * language than English is taken to have ended the session, where the state can mean that.
 */
function ofOneStatement(error: unknown): boolean {
  return isObject(error) && (error as { readonly severity?: unknown }).severity === "ERROR";
}

/** The error, then its causes: object-relational mappers wrap the driver's error in several ways. */
function chainOf(error: unknown): object[] {
  const chain: object[] = [];
  const queue: unknown[] = [error];
  while (queue.length > 0 && chain.length < depthMax) {
    const link = queue.shift();
    if (!isObject(link) || chain.includes(link)) continue;
    chain.push(link);
    const { cause, driverError, original, errors } = link as Readonly<Record<string, unknown>>;
    queue.push(cause, driverError, original);
    // An AggregateError: several addresses of one host were tried.
    if (Array.isArray(errors)) queue.push(...errors.slice(0, depthMax));
  }
  return chain;
}

/** The five characters of an error that the server sent; null for any other error. */
export function sqlState(error: unknown): string | null {
  if (!isObject(error)) return null;
  const { code, severity } = error as { readonly code?: unknown; readonly severity?: unknown };
  // Node's own codes (EPIPE) have five characters as well, but no severity.
  if (typeof code !== "string" || !/^[0-9A-Z]{5}$/.test(code)) return null;
  return typeof severity === "string" || /^\d/.test(code) ? code : null;
}

/**
 * Whether an error in answer to COMMIT proves that nothing was committed. Not where the connection
 * or the server went down meanwhile: it may have been committed before that.
 */
export function provesRollback(error: unknown): boolean {
  if (neverSent(error)) return true;
  const state = sqlState(error);
  if (state === null) return false;
  // Ended while it waited for a command: COMMIT had not arrived.
  if (state === "25P03") return true;
  if (state === "25P04" || state === "40003" || state.startsWith("XX")) return false;
  return !isAmong(doubtfulStates, state);
}

/** Whether no statement can be sent on this connection after the error. */
export function endsConnection(error: unknown): boolean {
  const state = sqlState(error);
  if (state === null) return isObject(error) && lostTexts.test(driverText(error));
  return !ofOneStatement(error) && isAmong(endingStates, state);
}

/** Whether a time-out of the session ended it: idle in a transaction, or a transaction too long. */
export function isLimit(error: unknown): boolean {
  const state = sqlState(error);
  return state === "25P03" || state === "25P04";
}

const endingStates: ReadonlySet<string> = new Set([
  ...["08", "57P01", "57P02", "57P03", "57P05", "25P03", "25P04"],
]);

/** Whether the driver refused to send, knowing that the connection was gone. */
export function neverSent(error: unknown): boolean {
  return isObject(error) && neverSentTexts.test(driverText(error));
}

export function textOf(error: unknown): string {
  if (error instanceof Error) return error.message;
  try {
    return String(error);
  } catch {
    // A handler may throw an object without a text form.
    return "a value that cannot be shown";
  }
}

function isObject(value: unknown): value is object {
  return typeof value === "object" && value !== null;
}
