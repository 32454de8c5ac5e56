/** How long to wait before trying again. Pure: the caller brings the random number. */

export interface Backoff {
  /** Upper bound of the first wait in milliseconds; doubles with each further one. */
  readonly initialMs: number;
  /** Upper bound of any wait in milliseconds. */
  readonly maxMs: number;
}

/** How long the inbox waits: for trouble of one transaction, of the database, for a message, a claim. */
export const backoffs = {
  local: { initialMs: 20, maxMs: 1_000 },
  global: { initialMs: 100, maxMs: 5_000 },
  message: { initialMs: 50, maxMs: 5_000 },
  claim: { initialMs: 20, maxMs: 500 },
} as const satisfies Record<string, Backoff>;

/** Exponential with full jitter: callers that failed together do not come back together. */
export function backoffMs(backoff: Backoff, attempt: number, random: number): number {
  // 2 ** 30 * 1 ms is 12 days: past it only `maxMs` counts, and the power must not overflow.
  return random * Math.min(backoff.maxMs, backoff.initialMs * 2 ** Math.min(attempt - 1, 30));
}
