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
}

/** From the first seed on; with a shortcut the one that the bug names is tried before them. */
export async function catchBug(bug: SeededBug, { shortcut = false } = {}): Promise<Caught> {
  const { replace, without = [] } = bug;
  using program = await bundle([...without, ...replace]);
  if (shortcut && bug.seed !== undefined) {
    const caught = await trial(program.path, bug, bug.seed, 1);
    if (caught.seed !== null) return caught;
  }
  return await trial(program.path, bug, 1, seedsMax);
}

async function trial(
  program: string,
  { finds }: SeededBug,
  from: number,
  seeds: number,
): Promise<Caught> {
  const caught = { seed: null as number | null, findings: [] as readonly string[] };
  const task: Task = { kind: "run", from, seeds, step: 1, until: finds };
  await inChild<Told>(program, task, (told) => {
    caught.findings = finds.filter((name) => told.findings[name] !== undefined);
    caught.seed = caught.findings.length === 0 ? null : told.seed;
  });
  return caught;
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
