/** What a memory database says when it refuses: errors as of a driver, and what they mean. */
import { OnceboxError, StorageError, type Trouble } from "@oncebox/core";

/** How a statement or a connection may fail. */
export type DatabaseFailure =
  | "connection-lost"
  | "unavailable"
  | "read-only"
  | "deadlock"
  | "lock-timeout"
  | "statement-timeout"
  | "transaction-aborted"
  | "bad-statement";

const troubles: Readonly<Record<DatabaseFailure, Trouble>> = {
  "connection-lost": "global",
  unavailable: "global",
  "read-only": "global",
  deadlock: "local",
  "lock-timeout": "local",
  "statement-timeout": "local",
  "transaction-aborted": null,
  "bad-statement": null,
};

/** An error of the memory database itself, as a driver would throw it. */
export class MemoryDatabaseError extends Error {
  override readonly name = "MemoryDatabaseError";
  readonly failure: DatabaseFailure;
  /** Whether the statement was never sent: its outcome is known. */
  readonly neverSent: boolean;

  constructor(failure: DatabaseFailure, message: string, neverSent = false) {
    super(message);
    this.failure = failure;
    this.neverSent = neverSent;
  }
}

export function connectionLost(neverSent: boolean): MemoryDatabaseError {
  return new MemoryDatabaseError("connection-lost", "the connection was lost", neverSent);
}

const depthMax = 10;

/** Whose trouble an error is, its causes included. */
export function troubleOf(error: unknown): Trouble {
  let link = error;
  for (let depth = 0; link instanceof Error && depth < depthMax; depth += 1) {
    if (link instanceof MemoryDatabaseError) return troubles[link.failure];
    if (link instanceof OnceboxError) {
      if (link.code === "storage-unavailable") return "global";
      if (link.code === "storage-conflict" || link.code === "claim-timeout") return "local";
    }
    link = link.cause;
  }
  return null;
}

const codes = {
  global: "storage-unavailable",
  local: "storage-conflict",
  none: "storage-failed",
} as const;

/** Our own error for one of the database; what is ours already stays. */
export function translated(doing: string, error: unknown): unknown {
  if (!(error instanceof MemoryDatabaseError)) return error;
  const trouble = troubleOf(error);
  return new StorageError(codes[trouble ?? "none"], `${doing}: ${error.message}`, {
    cause: error,
    retryable: trouble !== null,
  });
}
