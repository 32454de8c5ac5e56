/**
 * `npm run seeded-bugs`: runs each seeded bug until the simulator catches it. One line for each, then
 * `caught N of N`; one that is missed is exit code 1. An argument names those to run: `-- claim`.
 */
import { availableParallelism } from "node:os";
import { catchBug } from "./catching.ts";
import type { SeededBug } from "./seeded-bug.ts";
import { seededBugs } from "./seeded-bugs.ts";

const [part = ""] = process.argv.slice(2);
const bugs = seededBugs.filter(({ name }) => name.includes(part));
const queue = bugs.values();
let caught = 0;

async function shown(bug: SeededBug): Promise<string> {
  const { seed, findings } = await catchBug(bug);
  return seed === null ? "missed" : `caught by seed ${seed}: ${findings.join(", ")}`;
}

async function work(): Promise<void> {
  for (const bug of queue) {
    const how = await shown(bug).catch((error: Error) => `broke: ${error.message}`);
    if (how.startsWith("caught")) caught += 1;
    console.log(`${how} (${bug.name})`);
  }
}

await Promise.all(Array.from({ length: Math.min(2, availableParallelism()) }, work));
console.log(`caught ${caught} of ${bugs.length}`);
process.exitCode = caught === bugs.length && caught > 0 ? 0 : 1;
