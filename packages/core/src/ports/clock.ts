/**
 * The clock port: the only door to time and chance. Everything that waits or jitters goes through
 * it, so that a test or a simulator can own both. Time that decides who owns what is not here: it
 * comes from the database.
 */
export interface Clock {
  /** Monotonic milliseconds from an arbitrary start. For waiting and for measuring. */
  readonly now: () => number;
  /** Milliseconds since 1970. For ids and headers, never for decisions. */
  readonly epochMs: () => number;
  /** Resolves after `ms`, however long, or at once when `signal` is aborted. Never rejects. */
  readonly sleep: (ms: number, signal?: AbortSignal) => Promise<void>;
  /** Uniform in [0, 1), unpredictable: jitter and the random part of ids. */
  readonly random: () => number;
}

/** Given to `abort` where nobody reads the reason: the error it makes up else costs more than a sleep. */
export const noReason = "over";

const twoToMinus53 = 2 ** -53;

/** A longer timer fires at once: longer sleeps are made of slices. */
const timerMaxMs = 2 ** 31 - 1;

/** The clock of this machine. */
export const systemClock: Clock = {
  now: () => performance.now(),
  epochMs: () => Date.now(),
  sleep: (ms, signal) =>
    new Promise((resolve) => {
      if (signal?.aborted) return resolve();
      const done = () => {
        clearTimeout(timer);
        signal?.removeEventListener("abort", done);
        resolve();
      };
      let leftMs = ms;
      let timer: ReturnType<typeof setTimeout>;
      const next = () => {
        const sliceMs = Math.min(leftMs, timerMaxMs);
        leftMs -= sliceMs;
        timer = setTimeout(leftMs > 0 ? next : done, sliceMs);
      };
      next();
      signal?.addEventListener("abort", done, { once: true });
    }),
  random: () => {
    const [high = 0, low = 0] = crypto.getRandomValues(new Uint32Array(2));
    return ((high >>> 5) * 2 ** 26 + (low >>> 6)) * twoToMinus53;
  },
};

/** What the work answers, or `late` after so long; the work goes on then, and nobody hears of it. */
export async function within<T, Late>(
  clock: Pick<Clock, "sleep">,
  ms: number,
  work: Promise<T>,
  late: Late,
): Promise<T | Late> {
  const enough = new AbortController();
  try {
    return await Promise.race([work, clock.sleep(ms, enough.signal).then(() => late)]);
  } finally {
    enough.abort(noReason);
  }
}
