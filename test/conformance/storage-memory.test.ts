// The storage suite on the memory storage. Time is the machine's: the suite waits by it.

import {
  beginTransaction,
  behind,
  type MemoryTx,
  memoryDatabase,
  memoryStorage,
  type StorageUnderTest,
  storageConformance,
} from "@oncebox/testing";
import { describe, expect, test } from "vitest";

/** What a database in memory has nothing to show for, and why. */
const inapplicable: Readonly<Record<string, string>> = {
  "M1 an empty place is refused, migrated in order, and migrated once": "it has no schema",
  "M1 many processes may migrate at once": "it has no schema",
  "M1 a migration keeps what is there": "it has no schema",
  "M1 a migration that was edited after it was applied is refused": "it has no schema",
  "M1 an older schema and a newer one are told apart and refused": "it has no schema",
  "T1 a transaction's handle refuses to begin or end it, and stays whole":
    "a handle of MemoryTx has no way to begin or end anything",
  "I5 a chunk's handle refuses to begin or end the transaction, and stays whole":
    "a handle of MemoryTx has no way to begin or end anything",
  "I5 a shared handle refuses to begin or end the transaction as any other does":
    "a handle of MemoryTx has no way to begin or end anything",
};

function memoryUnderTest(): StorageUnderTest<MemoryTx> {
  const database = memoryDatabase();
  const storage = memoryStorage({ database });
  return {
    storage,
    another: () => memoryStorage({ database }),
    begin: () => beginTransaction(database),
    insertEffect: (tx, text) => tx.append("effects", text),
    effects: async () => database.rows<string>("effects"),
    failStatement: (tx) => behind(tx).failStatement(),
    statements: async (tx, work) => {
      const { statements } = behind(tx);
      const before = statements();
      await work();
      return statements() - before;
    },
    connectionName: async (tx) => behind(tx).connection,
    openTransactions: async () => database.openTransactions(),
    plainControls: [],
    sharedRefusals: [
      { name: "a savepoint", use: (tx) => tx.savepoint(async () => tx.append("effects", "no")) },
    ],
    takeBack: async (tx, work) => {
      const taken = new Error("taken back");
      const working = tx.savepoint(async () => {
        await work();
        throw taken;
      });
      await working.catch((error: unknown) => {
        if (error !== taken) throw error;
      });
    },
    endSecretly: async (tx, then) => behind(tx).endSecretly(then),
    breakConnection: async (tx) => behind(tx).cut(),
    breakCommit: (fault) => database.faults.breakNextCommit(fault, storage.name),
    emptyPlace: () => Promise.reject(new Error("a memory storage has no schema")),
  };
}

const cases = storageConformance<MemoryTx>().map((each) => {
  return { ...each, title: `${each.promise} ${each.name}` };
});

describe("memoryStorage", () => {
  for (const { title, run } of cases.filter(({ title }) => !(title in inapplicable))) {
    test(title, () => run(memoryUnderTest()));
  }

  test("leaves out only what cannot apply, each with its reason", () => {
    const titles = cases.map(({ title }) => title);
    expect(Object.keys(inapplicable).filter((title) => !titles.includes(title))).toEqual([]);
  });
});
