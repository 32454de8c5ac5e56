// Owns the storages that keep what handlers enqueue until the commit, each in a way that is noticed, made
// at the verbs of a storage, whatever database lies beneath.

import type { OutboxEntry } from "@oncebox/core";
import { opening, wrapped } from "./broken-verbs.ts";

interface Keeping {
  /** As it is kept. */
  readonly kept?: (row: OutboxEntry) => OutboxEntry;
  /** In which order it is written. */
  readonly ordered?: (rows: readonly OutboxEntry[]) => readonly OutboxEntry[];
}

const whole = (row: OutboxEntry) => structuredClone(row);

/** Keeps all rows of a chunk's handles, and writes them with the commit, whatever happened meanwhile. */
function keeping({ kept = whole, ordered = (rows) => rows }: Keeping) {
  return wrapped((storage) => {
    const rows = new WeakMap<object, OutboxEntry[]>();
    return {
      enqueue: async (tx, given) => {
        const chunk = rows.get(tx as object);
        if (chunk === undefined) await storage.enqueue(tx, given);
        else chunk.push(...given.map(kept));
      },
      open: opening(storage, (chunk) => {
        const all: OutboxEntry[] = [];
        return {
          handle: (use) => {
            const handle = chunk.handle(use);
            rows.set(handle.tx as object, all);
            return handle;
          },
          commit: async (...args) => {
            if (all.length > 0) await storage.enqueue(chunk.handle().tx, ordered(all));
            await chunk.commit(...args);
          },
        };
      }),
    };
  });
}

/** By what is wrong with them; the promise that each breaks stands first. */
export const brokenKeeping = {
  "O1: rows of a chunk wait for its commit, also behind a savepoint": keeping({}),
  "O1: rows of a chunk are kept as they were given": keeping({ kept: (row) => row }),
  "O1: rows of a chunk are written by their topic and name": keeping({
    ordered: (rows) => rows.toSorted((a, b) => (a.id < b.id ? -1 : 1)),
  }),
  "O1: rows of a chunk that was rolled back come with the next": wrapped((storage) => {
    const all: OutboxEntry[] = [];
    return {
      open: opening(storage, (chunk) => ({
        rollback: async () => {
          all.push(entryLeftBehind);
          return chunk.rollback();
        },
        commit: async (...args) => {
          const left = all.splice(0);
          // The commit says what is wrong where nothing can be written any more.
          if (left.length > 0) await storage.enqueue(chunk.handle().tx, left).catch(() => {});
          await chunk.commit(...args);
        },
      })),
    };
  }),
} as const;

const entryLeftBehind: OutboxEntry = {
  ...{ lane: 0, id: "left behind", topic: "t", key: null, value: null, headers: [] },
};

const savepoint = "O1 a savepoint takes back what was enqueued behind it, and nothing else";
const ended =
  "O1 enqueue through a handle that has ended is refused, and the chunk commits without it";

/** The cases that notice them, all of them. */
export const noticedKeeping: Readonly<Record<keyof typeof brokenKeeping, readonly string[]>> = {
  "O1: rows of a chunk wait for its commit, also behind a savepoint": [savepoint, ended],
  "O1: rows of a chunk are kept as they were given": [
    savepoint,
    "O1 a row in a handler is as it was when it was enqueued, whatever becomes of its bytes",
    ended,
  ],
  "O1: rows of a chunk are written by their topic and name": [
    "O1 what handlers of a chunk enqueue is there with its commit, in the order of their calls",
    savepoint,
    ended,
    "O1 more rows than anyone keeps are written, in order, and those of an immediate handle behind",
  ],
  "O1: rows of a chunk that was rolled back come with the next": [
    "O1 what handlers of a chunk enqueue is gone with its rollback",
  ],
};
