// The core under thousands of schedules, each decided by one seed: what must hold in all of them,
// what they must have reached, and that a seed says it all.

import { availableParallelism } from "node:os";
import { afterAll, beforeAll, expect, it } from "vitest";
import { bundle, type Program } from "./bundle.ts";
import { runSeeds } from "./children.ts";
import type { Told } from "./main.ts";
import { Reach } from "./reach.ts";

const jobs = availableParallelism();
let program: Program;

beforeAll(async () => {
  program = await bundle();
});
afterAll(() => program[Symbol.dispose]());

it("2,000 seeds: nothing is lost, doubled or out of order, and everything gets done", async () => {
  const reach = new Reach();
  const failed: string[] = [];
  await runSeeds(program.path, { from: 1, seeds: 2_000, jobs }, (told) => {
    reach.add(told);
    const found = Object.keys(told.findings).join(", ");
    if (found !== "") failed.push(`npm run simulate -- --seed ${told.seed} (${found})`);
  });
  expect(failed).toEqual([]);
  expect(reach.seeds).toBe(2_000);
  // A fault that reaches nothing proves nothing.
  expect(reach.missed).toEqual([]);
  expect(reach.least.steps).toBeGreaterThanOrEqual(200);
  expect(reach.least.faults).toBeGreaterThanOrEqual(3);
}, 600_000);

it("50 seeds do the same in two processes", async () => {
  const hashes = async (from: number) => {
    const found = new Map<number, string>();
    const note = ({ seed, hash }: Told) => found.set(seed, hash);
    await runSeeds(program.path, { from, seeds: 50, jobs: 1 }, note);
    return found;
  };
  const [first, second, others] = await Promise.all([hashes(1), hashes(1), hashes(101)]);
  expect(second).toEqual(first);
  expect(new Set([...first.values(), ...others.values()]).size).toBe(100);
}, 300_000);
