// Owns the storages that break one sentence each about the letters of a turn, at the verbs of a storage,
// whatever database lies beneath.

import { wrapped } from "./broken-verbs.ts";

/** By what is wrong with them; the promise that each breaks stands first. */
export const brokenLetters = {
  "I6: a turn's letters are left out": wrapped((storage) => ({
    settleParked: (turn, outcome) => storage.settleParked(turn, outcome),
  })),
  "I6: a turn's letters are written behind its death": wrapped((storage) => ({
    settleParked: async (turn, outcome, letters = []) => {
      const held = await storage.settleParked(turn, outcome);
      if (held) await storage.transaction((tx) => storage.enqueue(tx, letters));
      return held;
    },
  })),
  "I6: a turn's letters are written before its death": wrapped((storage) => ({
    settleParked: async (turn, outcome, letters = []) => {
      await storage.transaction((tx) => storage.enqueue(tx, letters));
      return storage.settleParked(turn, outcome);
    },
  })),
} as const;

/** The cases that notice them, all of them. */
export const noticedLetters: Readonly<Record<keyof typeof brokenLetters, readonly string[]>> = {
  "I6: a turn's letters are left out": [
    "I6 a turn that is settled as dead leaves its letters, as they were given",
    "I6 a turn whose letters cannot be written is not settled, and none of them is there",
  ],
  "I6: a turn's letters are written behind its death": [
    "I6 a turn whose letters cannot be written is not settled, and none of them is there",
  ],
  "I6: a turn's letters are written before its death": [
    "I6 a turn that is held no more leaves no letter",
  ],
};
