// Owns short forms of the steps that nearly every script by hand has.

import type { Actor, ScriptRecord, Step } from "./storage-script.ts";

export const register = (by: Actor, ...starts: readonly number[]): Step => {
  return { do: "register", by, starts };
};
export const claim = (by: Actor, as: string, partition = 0): Step => {
  return { do: "claim", by, as, partition };
};
/** By the actor whose name the claim begins with. */
export const open = (name: string, as: string, ...records: readonly ScriptRecord[]): Step => {
  return { do: "open", by: name.charAt(0) as Actor, as, claim: name, records };
};
export const effect = (name: string, text: string): Step => ({ do: "effect", in: name, text });
export const commit = (of: string, to?: number): Step => {
  return to === undefined ? { do: "commit", of } : { do: "commit", of, to };
};
export const rollback = (of: string): Step => ({ do: "rollback", of });
export const fail = (name: string): Step => ({ do: "fail", in: name });
export const seek = (by: Actor, partition: number, to: number, replay = false): Step => {
  return { do: "seek", by, moves: [[partition, to]], replay };
};

/** One partition, claimed by a, with a chunk of two records and an effect of each. */
export const chunk: readonly Step[] = [
  register("a", 0),
  claim("a", "a1"),
  open("a1", "k", 0, 1),
  effect("k", "zero"),
  effect("k", "one"),
];
/** Whoever comes next, and what it finds. */
export const next: readonly Step[] = [
  claim("b", "b1"),
  open("b1", "n", 0, 1, 2),
  effect("n", "two"),
];
