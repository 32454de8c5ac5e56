/**
 * The relay's door bell, for relays of this process: told at once, whichever storage on the same file
 * they use. Those of other processes find the rows by polling; SQLite has no message to send them.
 */
import { resolve } from "node:path";
import type { Wake } from "@oncebox/core";

type Listener = Parameters<Wake["listen"]>[0];

const files = new Map<string, Set<Listener>>();

export interface Bell extends Wake {
  readonly close: () => void;
}

/**
 * `committed` says, one turn after rows were written in a transaction of the caller's, whether that
 * has ended; null where it cannot be known.
 */
export function createWake(file: string, committed: (() => boolean) | null): Bell {
  const path = resolve(file);
  const listeners = files.get(path) ?? new Set<Listener>();
  files.set(path, listeners);
  const own = new Set<Listener>();
  const woken = () => {
    for (const listener of listeners) listener.woken();
  };
  const forget = (listener: Listener) => {
    own.delete(listener);
    listeners.delete(listener);
  };
  return {
    send: woken,
    expect: () => {
      if (committed === null) for (const listener of listeners) listener.expected();
      else {
        queueMicrotask(() => {
          if (committed()) woken();
          else for (const listener of listeners) listener.expected();
        });
      }
    },
    listen: async (listener) => {
      // An object of its own for each call: the same listener may be given twice.
      const entry = { ...listener };
      own.add(entry);
      listeners.add(entry);
      return async () => forget(entry);
    },
    close: () => {
      for (const listener of own) forget(listener);
    },
  };
}
