// Owns the way from a failing plan to a small one that fails in the same way: faults and messages are
// left out as long as a finding stays.

import type { Plan } from "./plan.ts";
import { simulate } from "./run.ts";

export interface Shrunk {
  readonly seed: number;
  /** Places in the list of the plan's faults. */
  readonly faults: readonly number[];
  readonly messages: number;
  readonly steps: number;
  readonly findings: readonly string[];
}

const triesMax = 120;

/** The plan with these faults and so many messages only; null: all. */
export function cutDown(
  plan: Plan,
  faults: readonly number[] | null,
  messages: number | null,
): Plan {
  return {
    ...plan,
    faults: faults === null ? plan.faults : plan.faults.filter((_, at) => faults.includes(at)),
    messages: messages ?? plan.messages,
  };
}

export async function shrink(plan: Plan): Promise<Shrunk> {
  const wanted = new Set((await simulate(plan)).findings.keys());
  let faults: readonly number[] = plan.faults.map((_, at) => at);
  let { messages } = plan;
  let tries = 0;
  const fails = async (fewer: readonly number[], count: number) => {
    tries += 1;
    if (tries > triesMax) return false;
    const { findings } = await simulate(cutDown(plan, fewer, count));
    return [...findings.keys()].some((name) => wanted.has(name));
  };
  // Halves first, then one by one.
  for (
    let size = Math.ceil(faults.length / 2);
    size >= 1;
    size = size > 1 ? Math.ceil(size / 2) : 0
  ) {
    for (let from = 0; from < faults.length; ) {
      const fewer = [...faults.slice(0, from), ...faults.slice(from + size)];
      if (await fails(fewer, messages)) faults = fewer;
      else from += size;
    }
  }
  for (let fewer = Math.floor(messages / 2); fewer >= 1; fewer = Math.floor(fewer / 2)) {
    if (!(await fails(faults, fewer))) break;
    messages = fewer;
  }
  const { steps, findings } = await simulate(cutDown(plan, faults, messages));
  return { seed: plan.seed, faults, messages, steps, findings: [...findings.keys()] };
}
