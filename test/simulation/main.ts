// Owns the process that runs seeds one after another and tells each outcome as a line of JSON. Made
// into one file by bundle.ts; started by children.ts.

import { planOf } from "./plan.ts";
import { type Outcome, simulate } from "./run.ts";
import { cutDown, shrink } from "./shrink.ts";

/** What a child is asked for, as JSON in its first argument. */
export type Task =
  | {
      readonly kind: "run";
      readonly from: number;
      readonly seeds: number;
      /** Distance between seeds: others run those between. */
      readonly step: number;
      /** Ends at the first seed with one of these findings. */
      readonly until: readonly string[];
    }
  | { readonly kind: "shrink"; readonly seed: number }
  | {
      readonly kind: "trace";
      readonly seed: number;
      readonly faults: readonly number[] | null;
      readonly messages: number | null;
    };

/** An outcome as it crosses from one process to another. */
export interface Told {
  readonly seed: number;
  readonly hash: string;
  readonly steps: number;
  readonly fired: readonly string[];
  readonly findings: Readonly<Record<string, readonly string[]>>;
}

function tell(value: object): void {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}

function told({ seed, hash, steps, fired, findings }: Outcome): Told {
  return { seed, hash, steps, fired, findings: Object.fromEntries(findings) };
}

async function run(task: Task): Promise<void> {
  if (task.kind === "shrink") return tell(await shrink(planOf(task.seed)));
  if (task.kind === "trace") {
    const plan = cutDown(planOf(task.seed), task.faults, task.messages);
    for (const fault of plan.faults) tell({ fault });
    return tell(told(await simulate(plan, { sink: (line) => tell({ line }) })));
  }
  for (let count = 0; count < task.seeds; count += task.step) {
    const outcome = await simulate(planOf(task.from + count));
    tell(told(outcome));
    if (task.until.some((name) => outcome.findings.has(name as never))) return;
  }
}

await run(JSON.parse(process.argv[2] ?? "{}") as Task);
