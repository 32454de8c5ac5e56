// Owns the trial of one seeded bug: seeds from the first on until one shows it.

import { bundle, type Replacement } from "./bundle.ts";
import { inChild } from "./children.ts";
import type { Task, Told } from "./main.ts";
import type { SeededBug } from "./seeded-bug.ts";

export const seedsMax = 1_000;

export interface Caught {
  /** Null: missed. */
  readonly seed: number | null;
  /** What was found of that which was to be found. */
  readonly findings: readonly string[];
  readonly ms: number;
}

export async function catchBug(bug: SeededBug): Promise<Caught> {
  const { replace, without = [], finds } = bug;
  const began = performance.now();
  using program = await bundle([...without, ...replace]);
  const task: Task = { kind: "run", from: 1, seeds: seedsMax, step: 1, until: finds };
  let last: Told | null = null;
  await inChild<Told>(program.path, task, (told) => {
    last = told;
  });
  const found = Object.keys((last as Told | null)?.findings ?? {});
  const findings = finds.filter((name) => found.includes(name));
  const seed = findings.length === 0 ? null : ((last as Told | null)?.seed ?? null);
  return { seed, findings, ms: performance.now() - began };
}

/** Seeds in which something is found although only other layers are switched off. */
export async function failingSeeds(
  replacements: readonly Replacement[],
  seeds: number,
): Promise<readonly string[]> {
  using program = await bundle(replacements);
  const failing: string[] = [];
  const task: Task = { kind: "run", from: 1, seeds, step: 1, until: [] };
  await inChild<Told>(program.path, task, ({ seed, findings }) => {
    const found = Object.keys(findings).join(", ");
    if (found !== "") failing.push(`${seed}: ${found}`);
  });
  return failing;
}
