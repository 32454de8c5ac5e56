// The simulator on trial: every mechanism that is removed has to be noticed, and what is switched off
// beside it must not be what was noticed.

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { catchBug, failingSeeds } from "./catching.ts";
import { seededBugs } from "./seeded-bugs.ts";

const layers = new Map(
  seededBugs.flatMap(({ without }) => {
    return without === undefined ? [] : [[JSON.stringify(without), without] as const];
  }),
);

/** WHOLE_SUITES=1 looks for each bug from the first seed on, and at more seeds for what is switched off. */
const whole = process.env.WHOLE_SUITES === "1";

/** Each runs in a process of its own: two at a time. */
describe.concurrent("seeded bugs", { timeout: 300_000 }, () => {
  for (const bug of seededBugs) {
    it(bug.name, async () => {
      const { seed } = await catchBug(bug, { shortcut: !whole });
      expect(seed, `none of ${bug.finds.join(", ")}`).not.toBeNull();
    });
  }

  for (const [index, without] of [...layers.values()].entries()) {
    it(`what is switched off beside them is found by nothing, ${index + 1}`, async () => {
      expect(await failingSeeds(without, whole ? 300 : 60)).toEqual([]);
    });
  }
});

it("what notices them on real servers is there", () => {
  const folders = ["conformance", "integration", "chaos"].map((name) =>
    join(import.meta.dirname, "..", name),
  );
  const texts = folders.flatMap((folder) =>
    readdirSync(folder)
      .filter((name) => name.endsWith(".ts"))
      .map((name) => readFileSync(join(folder, name), "utf8")),
  );
  const named = seededBugs.flatMap(({ real }) => real ?? []);
  const missing = named.filter((title) => !texts.some((text) => text.includes(`"${title}"`)));
  expect(missing).toEqual([]);
});

it("no two have one name", () => {
  const names = seededBugs.map(({ name }) => name);
  expect(new Set(names).size).toBe(names.length);
});
