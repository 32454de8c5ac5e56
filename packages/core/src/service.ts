/** One contract for everything that runs: started once, stopped once, however often it is asked. */

/** Something that runs until it is stopped. */
export interface Service {
  /** Resolves when it runs. A second call returns the first one's promise. */
  readonly start: () => Promise<void>;
  /**
   * Finishes what is under way and ends, by the deadline (milliseconds, default 10,000). Safe to
   * call twice, before `start` has resolved, or without a start. A stopped service stays stopped.
   */
  readonly stop: (options?: { readonly deadlineMs?: number }) => Promise<void>;
  readonly [Symbol.asyncDispose]: () => Promise<void>;
}

const defaultDeadlineMs = 10_000;

/**
 * Makes a service of a start that gets a signal for "stop was asked" and a stop. The stop runs after
 * the start has settled, and only where the start was called.
 */
export function service(steps: {
  readonly start: (stopping: AbortSignal) => Promise<void>;
  readonly stop: (deadlineMs: number) => Promise<void>;
}): Service {
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
    stopped ??= (async () => {
      stopping.abort();
      if (started === undefined) return;
      // A start that failed has told its caller so; what it left behind still has to end.
      await started.catch(() => undefined);
      await steps.stop(options.deadlineMs ?? defaultDeadlineMs);
    })();
    return stopped;
  };
  return { start, stop, [Symbol.asyncDispose]: () => stop() };
}
