// Owns the processes that run seeds: started, read line by line, ended when one says nothing for too
// long. Keeps every core busy.

import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import type { Task, Told } from "./main.ts";

/** A single seed takes a tenth of a second; a child that is silent for so long goes round in circles. */
const silenceMaxMs = 60_000;

/**
 * What was killed in a seed is never ended, and Node keeps each combined signal that somebody listens to:
 * some hundred kilobytes a seed stay until the process ends.
 */
const seedsPerProcess = 1_000;

/** Every line of one child, parsed. Rejects where it fails, or hangs. */
export async function inChild<Line>(
  program: string,
  task: Task,
  each: (line: Line) => void,
): Promise<void> {
  const child = spawn(process.execPath, ["--enable-source-maps", program, JSON.stringify(task)], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  let silent = false;
  const hang = () => {
    silent = true;
    child.kill("SIGKILL");
  };
  let timer = setTimeout(hang, silenceMaxMs);
  const ended = new Promise<number | null>((resolve, reject) => {
    child.once("error", reject);
    child.once("exit", resolve);
  });
  try {
    for await (const line of createInterface({ input: child.stdout })) {
      clearTimeout(timer);
      timer = setTimeout(hang, silenceMaxMs);
      each(JSON.parse(line) as Line);
    }
    const code = await ended;
    if (silent) throw new Error(`a child said nothing for ${silenceMaxMs} ms`);
    if (code !== 0) throw new Error(`a child ended with ${code}`);
  } finally {
    clearTimeout(timer);
    child.kill("SIGKILL");
  }
}

export interface Span {
  readonly from: number;
  readonly seeds: number;
  readonly jobs: number;
}

/** Runs seeds in several processes at once. A seed that hangs or breaks its process is a finding. */
export async function runSeeds(
  program: string,
  { from, seeds: total, jobs }: Span,
  each: (told: Told) => void,
): Promise<void> {
  const one = async (job: number) => {
    let next = from + job;
    const left = () => from + total - next;
    while (left() > 0) {
      const seeds = Math.min(left(), seedsPerProcess * jobs);
      const task: Task = { kind: "run", from: next, seeds, step: jobs, until: [] };
      try {
        await inChild<Told>(program, task, (told) => {
          next = told.seed + jobs;
          each(told);
        });
      } catch (error) {
        const broke = [(error as Error).message];
        each({ seed: next, hash: "", steps: 0, fired: [], findings: { broke } });
        next += jobs;
      }
    }
  };
  await Promise.all(Array.from({ length: jobs }, (_, job) => one(job)));
}
