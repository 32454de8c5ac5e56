// Owns the trial of the storage suite: adapters that are broken on purpose, and a table that says which
// cases notice what, all of them, so that a case that loses its bite shows. A run tries those and some
// of their neighbours; `npm run test:long` tries every adapter on every case.

import type { storageConformance } from "@oncebox/testing";
import { expect, test } from "vitest";
import type { Made } from "./postgres-under-test.ts";

type Case<Tx> = ReturnType<typeof storageConformance<Tx>>[number];

interface Trial<Tx, Broken> {
  /** By what is wrong with them; the promise that each breaks stands first. */
  readonly broken: Readonly<Record<string, Broken>>;
  /** Titles of cases, by the same names. */
  readonly noticed: Readonly<Record<string, readonly string[]>>;
  /** Those that apply to this adapter. */
  readonly cases: readonly Case<Tx>[];
  /** These race for real: whether they meet a break is up to chance, so they are in no list. */
  readonly byChance?: readonly string[];
  /** How many cases run at once: several where most of a case is waiting for a server. */
  readonly casesAtOnce: number;
  readonly make: (broken: Broken) => Promise<Made<Tx>>;
  /** Called after each adapter. */
  readonly after?: () => void;
}

/** Every adapter on every case takes minutes: `npm run test:long`. */
const whole = process.env.WHOLE_SUITES === "1";

/** One test for each broken adapter. */
export function tryBroken<Tx, Broken>(trial: Trial<Tx, Broken>): void {
  const { broken, noticed, byChance = [] } = trial;
  for (const [name, each] of Object.entries(broken)) {
    const expected = noticed[name] ?? [];
    test(name, { timeout: 300_000 }, async () => {
      const found = await failing(trial, each, triedOn(trial.cases, name, expected));
      trial.after?.();
      expect(found.filter((title) => !byChance.includes(title))).toEqual(expected);
      expect(expected.some((title) => title.startsWith(name.slice(0, 2)))).toBe(true);
    });
  }
}

/** Promises that have a case, and those that a broken adapter breaks: to be the same. */
export function promisesOf(
  cases: readonly Pick<Case<unknown>, "promise">[],
  ...broken: readonly object[]
): { readonly promised: readonly string[]; readonly broken: readonly string[] } {
  const names = broken.flatMap((each) => Object.keys(each));
  const sorted = (list: readonly string[]) => [...new Set(list)].sort();
  return {
    promised: sorted(cases.map(({ promise }) => promise)),
    broken: sorted(names.map((name) => name.slice(0, 2))),
  };
}

export function titleOf({ promise, name }: Pick<Case<unknown>, "promise" | "name">): string {
  return `${promise} ${name}`;
}

/** One in so many of the neighbours is tried; each adapter has others. */
const neighboursShare = 6;

/** Those that must fail, and some of their neighbours, which must not: all cases where all are wanted. */
function triedOn<Tx>(
  cases: readonly Case<Tx>[],
  name: string,
  expected: readonly string[],
): readonly Case<Tx>[] {
  return cases.filter((each, index) => {
    const near = each.promise === name.slice(0, 2) && (index + name.length) % neighboursShare === 0;
    return whole || near || expected.includes(titleOf(each));
  });
}

/** The cases that fail, in the order of the suite. */
async function failing<Tx, Broken>(
  { make, casesAtOnce }: Trial<Tx, Broken>,
  broken: Broken,
  tried: readonly Case<Tx>[],
): Promise<string[]> {
  const results: boolean[] = [];
  const queue = tried.entries();
  const worker = async () => {
    for (const [index, each] of queue) results[index] = await fails(await make(broken), each);
  };
  await Promise.all(Array.from({ length: casesAtOnce }, worker));
  return tried.filter((_, index) => results[index]).map(titleOf);
}

async function fails<Tx>({ context, close }: Made<Tx>, { run }: Case<Tx>): Promise<boolean> {
  try {
    await run(context);
    return false;
  } catch {
    return true;
  } finally {
    await close();
  }
}
