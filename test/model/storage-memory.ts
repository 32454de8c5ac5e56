// Owns the memory storage as a side of the scripts: one database, a storage for each actor, all on a
// clock that only the script moves.

import {
  beginTransaction,
  behind,
  type MemoryStorage,
  type MemoryTx,
  manualClock,
  memoryDatabase,
  memoryStorage,
} from "@oncebox/testing";
import type { Actor } from "./storage-script.ts";
import type { StorageSide } from "./storage-side.ts";

/** `wrap` stands between the scripts and each storage. */
export function memorySide(
  wrap: (storage: MemoryStorage) => MemoryStorage = (storage) => storage,
): StorageSide<MemoryTx> {
  const clock = manualClock();
  const database = memoryDatabase({ clock });
  const storages = new Map<Actor, MemoryStorage>();
  return {
    name: "memory",
    abilities: { wire: true, writers: "many", aborts: true, handles: true, behindEnd: "stands" },
    storageOf: (actor) => {
      // The real ones are given no time to end what is idle, nor is this one.
      const options = { database, name: actor, idleInTransactionTimeoutMs: null };
      const storage = storages.get(actor) ?? wrap(memoryStorage(options));
      storages.set(actor, storage);
      return storage;
    },
    begin: () => beginTransaction(database),
    insertEffect: (tx, text) => tx.append("effects", text),
    effects: async () => database.rows<string>("effects"),
    failStatement: (tx) => behind(tx).failStatement(),
    endSecretly: (tx, then) => behind(tx).endSecretly(then),
    cut: async (tx) => behind(tx).cut(),
    breakCommit: (actor, fault) => {
      const { faults } = database;
      faults.onCommit = ({ client }) => (client === actor ? fault : null);
      return {
        deliver: () => faults.deliverLateCommits(),
        disarm: async () => {
          faults.onCommit = null;
        },
      };
    },
    pass: (ms) => clock.advance(ms),
    rest: async ({ open }) => {
      await clock.settle();
      const there = database.openTransactions();
      if (there !== open()) throw new Error(`${there} transactions are open, not ${open()}`);
    },
    outlast: (ended) => clock.runUntil(ended),
  };
}
