// Owns the life of a service's process: it starts, runs until a signal, and stops in order by its
// deadline. Exit codes: 0 stopped as asked, 1 could not start or could not stop in time, 130 and 143
// cut off by a second signal.

import { BadEnvironment } from "./config.ts";
import { log } from "./log.ts";

export interface Stopping {
  readonly name: string;
  /** Ends within `deadlineMs`. */
  readonly stop: (deadlineMs: number) => Promise<unknown>;
}

export interface Life {
  readonly deadlineMs: number;
  readonly start: () => Promise<void>;
  /** In the order in which they are stopped. */
  readonly stops: readonly Stopping[];
}

let current: "starting" | "running" | "stopping" = "starting";

/** For the readiness probe: why this process is not at work; null where it is. */
export function notRunning(): string | null {
  return current === "running" ? null : `the service is ${current}`;
}

/** Does what it is told before there is a service; what is wrong is said without a stack. */
export async function orExit<T>(prepare: () => T | Promise<T>): Promise<T> {
  try {
    return await prepare();
  } catch (error) {
    if (error instanceof BadEnvironment) console.error(error.message);
    else log("error", "service.failed", { error });
    process.exit(1);
  }
}

const exitCodes = { SIGINT: 130, SIGTERM: 143 } as const;
// npm passes on a signal that the terminal has sent to all of its group: the same one, twice.
const doubledWithinMs = 1_000;

/** Resolves when it has started. A second signal, a second later, ends the process the hard way. */
export async function live({ deadlineMs, start, stops }: Life): Promise<void> {
  let ending: Promise<void> | undefined;
  const end = (code: number, why: string) => {
    ending ??= stopAll(code, why);
    return ending;
  };
  const stopAll = async (code: number, why: string) => {
    log("info", "service.stopping", { why, deadlineMs });
    current = "stopping";
    const deadline = performance.now() + deadlineMs;
    setTimeout(() => {
      log("error", "service.stop-overdue", { deadlineMs });
      process.exit(1);
    }, deadlineMs);
    let exitCode = code;
    for (const [index, { name, stop }] of stops.entries()) {
      // What comes later needs its share of the time, too; what nobody needed is left to it.
      const leftMs = deadline - performance.now();
      const shareMs = index === stops.length - 1 ? leftMs : leftMs * 0.8;
      await stop(Math.max(0, shareMs)).catch((error) => {
        log("error", "service.stop-failed", { part: name, error });
        exitCode = 1;
      });
    }
    log("info", "service.stopped", { exitCode });
    process.exit(exitCode);
  };
  let asked = Number.POSITIVE_INFINITY;
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    process.on(signal, () => {
      const now = performance.now();
      if (now - asked > doubledWithinMs) {
        log("warn", "service.stop-cut", { why: signal });
        process.exit(exitCodes[signal]);
      }
      asked = Math.min(asked, now);
      void end(0, signal);
    });
  }
  try {
    await start();
    if (ending !== undefined) return;
    current = "running";
    log("info", "service.started");
  } catch (error) {
    // A start that is cut off by a stop rejects as well.
    if (ending === undefined) log("error", "service.failed", { error });
    await end(1, "the start failed");
  }
}
