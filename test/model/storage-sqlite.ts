// Owns SQLite as a side of the scripts: a file for each script, by way of what the conformance suites
// make of it. One writer at a time, no wire: a script is run where it asks for nothing else.

import type { Storage } from "@oncebox/core";
import type { StorageUnderTest } from "@oncebox/testing";
import type { Knex } from "knex";
import { knexUnderTest } from "../conformance/sqlite-knex-under-test.ts";
import { nativeUnderTest } from "../conformance/sqlite-native-under-test.ts";
import type { Session } from "../fixtures/sqlite-session.ts";
import type { Abilities, Actor } from "./storage-script.ts";
import type { StorageSide } from "./storage-side.ts";

const oneWriter = { wire: false, writers: "one", aborts: false } as const;

export const knexAbilities: Abilities = { ...oneWriter, handles: true, behindEnd: "refused" };

/** A handler gets the Database itself, which lives on and can refuse nothing. */
export const nativeAbilities: Abilities = { ...oneWriter, handles: false, behindEnd: "refused" };

export interface SqlitePlace<Tx> {
  readonly side: StorageSide<Tx>;
  readonly close: () => Promise<void>;
}

export async function knexPlace(): Promise<SqlitePlace<Knex.Transaction>> {
  return placeOf("SQLite by knex", knexAbilities, await knexUnderTest());
}

export async function nativePlace(): Promise<SqlitePlace<Session>> {
  return placeOf("SQLite", nativeAbilities, await nativeUnderTest());
}

function placeOf<Tx>(
  name: string,
  abilities: Abilities,
  {
    context,
    close,
  }: { readonly context: StorageUnderTest<Tx>; readonly close: () => Promise<void> },
): SqlitePlace<Tx> {
  const storages = new Map<Actor, Storage<Tx>>([["a", context.storage]]);
  const beyond = (what: string) => () => {
    throw new Error(`${what} is beyond SQLite: the script should have been left out`);
  };
  const side: StorageSide<Tx> = {
    ...{ name, abilities },
    storageOf: (actor) => {
      const storage = storages.get(actor) ?? context.another();
      storages.set(actor, storage);
      return storage;
    },
    begin: context.begin,
    insertEffect: context.insertEffect,
    effects: context.effects,
    failStatement: beyond("a failed statement"),
    endSecretly: context.endSecretly,
    cut: beyond("a cut"),
    breakCommit: beyond("a broken COMMIT"),
    pass: beyond("a clock"),
    // Nothing ever waits for another.
    rest: async ({ pending, open }) => {
      while (pending() > 0) await new Promise((resolve) => setImmediate(resolve));
      const there = await context.openTransactions();
      if (there !== open()) throw new Error(`${there} transactions are open, not ${open()}`);
    },
    outlast: beyond("a wait"),
  };
  return { side, close };
}
