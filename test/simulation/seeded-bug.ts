// Owns what a seeded bug is: one mechanism removed, and what has to be found without it.

import type { Replacement } from "./bundle.ts";
import type { Finding } from "./verdict.ts";

export interface SeededBug {
  readonly name: string;
  /** The mechanism that it removes. */
  readonly why: string;
  readonly replace: readonly Replacement[];
  /** Other layers, switched off because they would hide it; green by themselves. */
  readonly without?: readonly Replacement[];
  /** Any of these counts. */
  readonly finds: readonly Finding[];
  /** A seed that catches it, where that takes many: `npm test` tries it first. */
  readonly seed?: number;
  /** For what lives in adapters: the test that is red on real servers when it is removed there. */
  readonly real?: string;
}

/** Replacements in one file. */
export function inFile(
  file: string,
  ...changes: readonly (readonly [find: string, by: string])[]
): readonly Replacement[] {
  return changes.map(([find, by]) => ({ file, find, by }));
}
