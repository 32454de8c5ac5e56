/**
 * Every error that leaves Oncebox. Subclasses are split by who must act, codes by what happened.
 * Bugs are assertions (`TypeError`, `RangeError`), never this hierarchy. Driver errors are kept as
 * `cause`; adapters translate them in one function each.
 */

/** Closed list of what can go wrong. `docs/errors.md` has one line each: cause and fix. */
export type ErrorCode =
  // ConfigurationError: the developer acts
  | "invalid-options"
  | "schema-missing"
  | "schema-outdated"
  | "schema-newer"
  | "schema-edited"
  | "database-read-only"
  | "pool-too-small"
  | "sequence-unsafe"
  | "journal-unsafe"
  | "group-mismatch"
  | "not-registered"
  | "already-registered"
  | "client-unsupported"
  // InvalidMessageError: the sender acts
  | "invalid-message"
  | "message-too-large"
  | "reserved-header"
  | "value-not-encodable"
  // StorageError: the database, or the connection to it
  | "storage-unavailable"
  | "storage-conflict"
  | "storage-failed"
  | "claim-timeout"
  | "invalid-handle"
  | "transaction-finished"
  | "transaction-aborted"
  | "transaction-ended-early"
  | "transaction-shared"
  | "commit-unknown"
  // BrokerError: Kafka, or the connection to it
  | "topic-missing"
  | "broker-unavailable"
  | "broker-refused"
  | "consumer-crashed"
  | "consumer-silent"
  | "group-active"
  // ClaimLostError: nobody acts, the new owner goes on
  | "claim-lost"
  // HandlerError: the author of the handler acts
  | "handler-failed"
  | "handler-timed-out"
  | "handler-not-synchronous"
  | "value-not-decodable"
  | "message-id-conflict"
  | "message-kills-process"
  | "permanent"
  // PositionError: a person acts, the partition is paused until then
  | "position-out-of-range"
  | "topic-recreated"
  | "topic-deleted"
  | "log-diverged"
  | "record-changed"
  | "position-unreadable"
  | "position-gap"
  | "position-rewound";

export interface ErrorOptions {
  readonly cause?: unknown;
  /** Facts for a log line: names, numbers, limits. Never values of messages, never secrets. */
  readonly details?: Readonly<Record<string, unknown>>;
}

// An ESM and a CJS copy of this module may be loaded side by side; plain `instanceof` is false
// between them, so an error carries the names of its classes under a registered symbol.
const brand = Symbol.for("oncebox.error");

/** Base of all errors of Oncebox: `code` says what happened, `retryable` whether trying again can help. */
export class OnceboxError extends Error {
  /** Name of the class, the same in every copy of it. Own to each class that has one. */
  static readonly kind: string = "OnceboxError";

  readonly code: ErrorCode;
  readonly retryable: boolean;
  readonly details: Readonly<Record<string, unknown>>;
  readonly [brand]: readonly string[];

  constructor(
    code: ErrorCode,
    message: string,
    options: ErrorOptions & { readonly retryable?: boolean } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.retryable = options.retryable ?? false;
    this.details = options.details ?? {};
    this.name = new.target.kind;
    const kinds: string[] = [];
    for (let at = new.target; at.kind !== undefined; at = Object.getPrototypeOf(at)) {
      if (Object.hasOwn(at, "kind")) kinds.push(at.kind);
    }
    this[brand] = kinds;
  }

  static override [Symbol.hasInstance](value: unknown): boolean {
    // A user's own subclass has no name that copies could share: the ordinary rule holds for it.
    if (!Object.hasOwn(this, "kind"))
      return Function.prototype[Symbol.hasInstance].call(this, value);
    if (typeof value !== "object" || value === null) return false;
    return (value as { [brand]?: readonly string[] })[brand]?.includes(this.kind) ?? false;
  }
}

/** The set-up is wrong: an option, a schema version, a pool size, a read-only connection. */
export class ConfigurationError extends OnceboxError {
  static override readonly kind: string = "ConfigurationError";
}

/** A message that must not be sent: nothing was written. */
export class InvalidMessageError extends OnceboxError {
  static override readonly kind: string = "InvalidMessageError";
}

/** The database refused or could not be reached. `retryable` where the same call may pass later. */
export class StorageError extends OnceboxError {
  static override readonly kind: string = "StorageError";
}

/**
 * The reply to a COMMIT was lost: the transaction may have been committed or not. Never treat it as
 * a failure: read the database behind the lock of the row that the transaction held.
 */
export class CommitUnknownError extends StorageError {
  static override readonly kind: string = "CommitUnknownError";
  constructor(message: string, options: ErrorOptions = {}) {
    super("commit-unknown", message, options);
  }
}

/** A transaction handle was used after its transaction, or the handler it was given to, had ended. */
export class TransactionFinishedError extends StorageError {
  static override readonly kind: string = "TransactionFinishedError";
  constructor(message: string, options: ErrorOptions = {}) {
    super("transaction-finished", message, options);
  }
}

/** Kafka refused or could not be reached. `retryable` where the same call may pass later. */
export class BrokerError extends OnceboxError {
  static override readonly kind: string = "BrokerError";
}

/** The claim on a partition was taken over: nothing was written under the old one. */
export class ClaimLostError extends OnceboxError {
  static override readonly kind: string = "ClaimLostError";
  constructor(message: string, options: ErrorOptions = {}) {
    super("claim-lost", message, options);
  }
}

/** A handler failed, or its message could not be given to it. The cause is the handler's own error. */
export class HandlerError extends OnceboxError {
  static override readonly kind: string = "HandlerError";
}

/**
 * The consumer's position and the partition's log do not fit together: messages may be gone, or the
 * log is another one. The partition is paused; a person decides. `details` hold the exact range.
 */
export class PositionError extends OnceboxError {
  static override readonly kind: string = "PositionError";
}

/** Thrown by a handler to say that trying again cannot help. */
export class PermanentError extends OnceboxError {
  static override readonly kind: string = "PermanentError";
  constructor(message: string, options: ErrorOptions = {}) {
    super("permanent", message, options);
  }
}
