/**
 * What a storage adapter brings to its conformance suite: the storage, a place to put effects, and
 * the ways a database can be broken from outside. Everything else is done through the port.
 */
import type { Storage } from "@oncebox/core";

/** A transaction that the storage did not begin, as an application has them. */
export interface OwnTransaction<Tx> {
  readonly tx: Tx;
  readonly commit: () => Promise<unknown>;
  readonly rollback: () => Promise<unknown>;
}

/** A place of its own for the tables of Oncebox, empty at first. */
export interface EmptyPlace<Tx> {
  /** Migrates it, each time over connections of its own, as another process would. */
  readonly migrate: () => Promise<unknown>;
  /** Names of the applied migrations, in the order in which they were applied. */
  readonly applied: () => Promise<readonly string[]>;
  /**
   * Changes what is noted as applied. `edit`: another checksum for the first migration. `forget`:
   * the last one was never applied. `add`: one more, of a later version.
   */
  readonly tamper: (how: "edit" | "forget" | "add") => Promise<unknown>;
  readonly storage: Storage<Tx>;
}

/**
 * `request-lost`: the database never gets the COMMIT. `reply-lost`: it commits, and the answer is
 * lost. `request-late`: the COMMIT is under way when the connection dies, and arrives at `deliver`.
 */
export type CommitFault = "request-lost" | "reply-lost" | "request-late";

/**
 * One fresh context for each case: lanes and tables are nobody else's. The caller closes it
 * afterwards, with force: a failed case leaves transactions open.
 */
export interface StorageUnderTest<Tx> {
  /** Migrated, and without any row. */
  readonly storage: Storage<Tx>;
  /** Another storage over connections of its own on the same tables: acts as another process. */
  readonly another: () => Storage<Tx>;
  /** A user's transaction over a connection of its own. */
  readonly begin: () => Promise<OwnTransaction<Tx>>;

  /** Writes a business row in `tx`. The table has no unique key: doubled effects must show. */
  readonly insertEffect: (tx: Tx, text: string) => Promise<unknown>;
  /** All committed business rows, in any order. */
  readonly effects: () => Promise<readonly string[]>;
  /** Runs a statement in `tx` that the database refuses; rejects with the driver's error. */
  readonly failStatement: (tx: Tx) => Promise<unknown>;
  /** Counts the statements that `work` sends through `tx`. */
  readonly statements: (tx: Tx, work: () => Promise<unknown>) => Promise<number>;
  /** How the database calls the connection of `tx`: whoever blocks others is named so. */
  readonly connectionName: (tx: Tx) => Promise<string>;
  /** Transactions that are open now over any connection of this context. */
  readonly openTransactions: () => Promise<number>;

  /** The ordinary ways to begin and end a transaction; a handle refuses each, and stays whole. */
  readonly plainControls: readonly ((tx: Tx) => unknown)[];
  /**
   * What a handle refuses while other handlers share its transaction, by name: savepoints, settings,
   * nested transactions. Each rejects or throws. Missing where no two handlers ever share one.
   */
  readonly sharedRefusals?: readonly {
    readonly name: string;
    readonly use: (tx: Tx) => unknown;
  }[];
  /** Runs `work` behind a savepoint of `tx`, and takes back all that was written behind that. */
  readonly takeBack: (tx: Tx, work: () => Promise<unknown>) => Promise<unknown>;
  /** Commits behind the handle's back, on a path it cannot refuse, and begins another on request. */
  readonly endSecretly: (tx: Tx, then: { readonly begin: boolean }) => Promise<unknown>;
  /** Ends the connection under `tx` at the database's side; resolves when that is done. */
  readonly breakConnection: (tx: Tx) => Promise<unknown>;
  /** Breaks the next COMMIT that `storage` sends. */
  readonly breakCommit: (fault: CommitFault) => { readonly deliver: () => void };

  readonly emptyPlace: () => Promise<EmptyPlace<Tx>>;
}
