// Owns what a storage brings to the scripts: storages of actors on one database, the ways to break
// it, and how to tell that nothing moves any more.

import type { Storage } from "@oncebox/core";
import type { CommitFault, OwnTransaction } from "@oncebox/testing";
import type { Abilities, Actor } from "./storage-script.ts";

/** What the runner knows of a database when a step was made. */
export interface Expected {
  /** Calls that have not come to an end. */
  readonly pending: () => number;
  /** Transactions that are open, those of pending calls included. */
  readonly open: () => number;
}

export interface StorageSide<Tx> {
  readonly name: string;
  readonly abilities: Abilities;
  readonly storageOf: (actor: Actor) => Storage<Tx>;
  readonly begin: () => Promise<OwnTransaction<Tx>>;
  readonly insertEffect: (tx: Tx, text: string) => Promise<unknown>;
  readonly effects: () => Promise<readonly string[]>;
  readonly failStatement: (tx: Tx) => Promise<unknown>;
  readonly endSecretly: (tx: Tx, then: { readonly begin: boolean }) => Promise<unknown>;
  /** Resolves when the client knows. */
  readonly cut: (tx: Tx) => Promise<unknown>;
  /** Breaks the next COMMIT of the actor until it is disarmed. */
  readonly breakCommit: (
    actor: Actor,
    fault: CommitFault,
  ) => { readonly deliver: () => void; readonly disarm: () => Promise<unknown> };
  readonly pass: (ms: number) => Promise<unknown>;
  /**
   * Resolves when nothing moves any more: each pending call waits for a lock, and the database holds
   * as many transactions as there should be. Rejects where it does not come to that.
   */
  readonly rest: (expected: Expected) => Promise<void>;
  /** Resolves when a call ended that waits for a time. */
  readonly outlast: (ended: () => boolean) => Promise<void>;
}
