/**
 * `npm run simulate -- --seeds N --from S`: thousands of hostile schedules against the core, each
 * decided by one seed. The last line is `seeds N anomalies M`; any anomaly is exit code 1. A failing
 * seed is cut down to few faults, and the command that replays it is printed.
 *
 *   --seeds N       how many (default 2000)
 *   --from S        the first (default 1)
 *   --jobs J        processes at once (default: one for each core)
 *   --progress F    keeps the next seed in this file, and goes on from it
 *   --seed S        this one only, with its trace; --faults 1,4 and --messages N cut it down
 */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import { bundle } from "./bundle.ts";
import { inChild, runSeeds } from "./children.ts";
import type { Told } from "./main.ts";
import { Reach } from "./reach.ts";
import type { Shrunk } from "./shrink.ts";

const { values } = parseArgs({
  options: {
    seeds: { type: "string", default: "2000" },
    from: { type: "string", default: "1" },
    jobs: { type: "string", default: String(availableParallelism()) },
    progress: { type: "string" },
    seed: { type: "string" },
    faults: { type: "string" },
    messages: { type: "string" },
  },
});

function whole(name: string, text: string, least: number): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < least) {
    throw new TypeError(`--${name} takes a whole number from ${least}, not ${text}`);
  }
  return value;
}

const shrunkMax = 5;

function explained({ seed, hash, findings }: Told): string {
  const lists = Object.entries(findings).map(([name, list]) => {
    const shown = list.slice(0, 4).map((line) => `\n    ${line}`);
    return `\n  ${name}: ${list.length}${shown.join("")}`;
  });
  return `seed ${seed} (${hash})${lists.join("")}`;
}

function replay({ seed, faults, messages }: Shrunk): string {
  const left = faults.length === 0 ? "none" : faults.join(",");
  return `npm run simulate -- --seed ${seed} --faults ${left} --messages ${messages}`;
}

async function many(): Promise<number> {
  const { progress } = values;
  const first = whole("from", values.from, 1);
  const seeds = whole("seeds", values.seeds, 1);
  const jobs = whole("jobs", values.jobs, 1);
  const from =
    progress !== undefined && existsSync(progress)
      ? whole("progress", readFileSync(progress, "utf8").trim(), first)
      : first;
  using program = await bundle();
  const reach = new Reach();
  const failed: Told[] = [];
  const done = new Set<number>();
  let next = from;
  await runSeeds(program.path, { from, seeds: first + seeds - from, jobs }, (told) => {
    reach.add(told);
    if (Object.keys(told.findings).length > 0) {
      failed.push(told);
      console.log(explained(told));
    }
    done.add(told.seed);
    while (done.delete(next)) next += 1;
    if (progress !== undefined) writeFileSync(progress, `${next}\n`);
    if (reach.seeds % 500 === 0) console.log(`seeds ${reach.seeds} anomalies ${failed.length}`);
  });
  for (const { seed } of failed.slice(0, shrunkMax)) {
    await inChild<Shrunk>(program.path, { kind: "shrink", seed }, (shrunk) => {
      console.log(`${replay(shrunk)}\n  ${shrunk.findings.join(", ")}; ${shrunk.steps} steps`);
    });
  }
  console.log(reach.table());
  console.log(`seeds ${reach.seeds} anomalies ${failed.length}`);
  return failed.length;
}

async function one(seed: number): Promise<number> {
  const faults = values.faults === "none" ? [] : (values.faults?.split(",") ?? null);
  const task = {
    ...({ kind: "trace", seed } as const),
    faults: faults?.map((text) => whole("faults", text, 0)) ?? null,
    messages: values.messages === undefined ? null : whole("messages", values.messages, 1),
  };
  using program = await bundle();
  let anomalies = 0;
  await inChild<Told & { readonly line?: string; readonly fault?: object }>(
    program.path,
    task,
    (told) => {
      if (told.line !== undefined) console.log(told.line);
      else if (told.fault !== undefined) console.log(`plan ${JSON.stringify(told.fault)}`);
      else {
        anomalies = Object.keys(told.findings).length === 0 ? 0 : 1;
        console.log(explained(told));
      }
    },
  );
  console.log(`seeds 1 anomalies ${anomalies}`);
  return anomalies;
}

const anomalies =
  values.seed === undefined ? await many() : await one(whole("seed", values.seed, 1));
process.exitCode = anomalies > 0 ? 1 : 0;
