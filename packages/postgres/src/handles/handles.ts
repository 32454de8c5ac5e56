/**
 * What differs between kinds of handles: how a transaction of the storage is given to a handler, and
 * how the client under a caller's own transaction is found. All statements are the same beneath.
 */
import { type OutboxEntry, StorageError, TransactionFinishedError } from "@oncebox/core";
import type { ClientBase } from "pg";

/** One handler's hold on a transaction. */
export interface Hold {
  readonly ended: () => boolean;
  /** A statement of the handler failed: kept, in case that it swallows the error. */
  readonly failed: (error: unknown) => void;
  /** A text of several statements is sent: only its first was looked at. */
  readonly several?: () => void;
  /** Other handlers use the transaction at the same time: what is refused for it is told. */
  readonly shared?: { readonly refused: () => void } | undefined;
  /** Rows of the outbox that need not be sent at once. */
  readonly later?:
    | {
        /** Keeps rows for the commit. Null: they are to be sent as ever. */
        readonly keep: (rows: readonly OutboxEntry[]) => Promise<void> | null;
        /** A savepoint is about to be sent: what was kept before it must not be taken back with it. */
        readonly savepoint: () => void;
      }
    | undefined;
}

/** Handles of one open transaction of the storage. */
export interface OwnTransaction<Tx> {
  /** Dead once the hold has ended; refuses to begin or end the transaction. */
  readonly handle: (hold: Hold) => Tx;
  /** The transaction is over. */
  readonly over: (committed: boolean) => void;
}

export interface Handles<Tx> {
  /** For a transaction that was begun on this client. */
  readonly own: (client: ClientBase) => OwnTransaction<Tx> | Promise<OwnTransaction<Tx>>;
  /** Throws StorageError `invalid-handle`, or TransactionFinishedError where it has ended. */
  readonly clientOf: (tx: Tx) => ClientBase | Promise<ClientBase>;
  /** The hold that the handle was made for; undefined where it is none of the storage's own. */
  readonly holdOf: (tx: Tx) => Hold | undefined;
  /** Calls back once this transaction has committed, where its end is seen from here. */
  readonly afterCommit: (tx: Tx, then: () => void) => void;
  /** Whether the end of every transaction is seen, and not only of the storage's own. */
  readonly seesEveryCommit: boolean;
}

export function finished(): TransactionFinishedError {
  return new TransactionFinishedError(
    "this transaction handle was used after its handler or transaction had ended: await everything inside it",
  );
}

export function notYours(what: string): StorageError {
  return new StorageError(
    "transaction-ended-early",
    `${what}: the transaction is begun and ended by Oncebox; use SAVEPOINT and ROLLBACK TO for a part of it`,
  );
}

export function sharedWithOthers(what: string): StorageError {
  return new StorageError(
    "transaction-shared",
    `${what}: other handlers use this transaction at the same time, and it would work on theirs as well. With ordering "partition", where handlers run one after another, savepoints and settings work`,
  );
}
