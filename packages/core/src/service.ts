/** One contract for everything that runs: started once, stopped once, however often it is asked. */
import { ConfigurationError } from "./errors.ts";
import { type Clock, systemClock, within } from "./ports/clock.ts";

/** Something that runs until it is stopped. */
export interface Service {
  /** Resolves when it runs. A second call returns the first one's promise. */
  readonly start: () => Promise<void>;
  /**
   * Finishes what is under way and ends, by the deadline (milliseconds, default 10,000; Infinity:
   * none). Safe to call twice, before `start` has resolved, or without a start. A stopped service
   * stays stopped. Rejects with ConfigurationError for a deadline that is no time, and runs on.
   */
  readonly stop: (options?: { readonly deadlineMs?: number }) => Promise<void>;
  readonly [Symbol.asyncDispose]: () => Promise<void>;
}

const defaultDeadlineMs = 10_000;

/**
 * Makes a service of a start that gets a signal for "stop was asked" and a stop that gets the time
 * left. The stop runs after the start has settled, or at the deadline where it does not settle, and
 * only where the start was called.
 */
export function service(
  steps: {
    readonly start: (stopping: AbortSignal) => Promise<void>;
    readonly stop: (deadlineMs: number) => Promise<void>;
  },
  clock: Clock = systemClock,
): Service {
  const stopping = new AbortController();
  let started: Promise<void> | undefined;
  let stopped: Promise<void> | undefined;
  const start = () => {
    if (started === undefined) {
      started = stopping.signal.aborted
        ? Promise.reject(new TypeError("a stopped service cannot be started again: make a new one"))
        : steps.start(stopping.signal);
    }
    return started;
  };
  const stop = (options: { readonly deadlineMs?: number } = {}) => {
    const { deadlineMs = defaultDeadlineMs } = options;
    if (!isTime(deadlineMs)) return Promise.reject(noDeadline(deadlineMs));
    stopped ??= (async () => {
      const began = clock.now();
      stopping.abort();
      if (started === undefined) return;
      // A start that failed has told its caller so; what it left behind still has to end.
      const settled = started.catch(() => undefined);
      await within(clock, deadlineMs / 2, settled, undefined);
      await steps.stop(Math.max(0, deadlineMs - (clock.now() - began)));
    })();
    return stopped;
  };
  return { start, stop, [Symbol.asyncDispose]: () => stop() };
}

function isTime(ms: unknown): ms is number {
  return typeof ms === "number" && ms >= 0;
}

function noDeadline(given: unknown): ConfigurationError {
  return new ConfigurationError(
    "invalid-options",
    `stop: deadlineMs must be a number of milliseconds from 0 to Infinity, not ${String(given)}`,
  );
}
