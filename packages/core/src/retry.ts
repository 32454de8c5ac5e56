/** How long to wait before trying again. Pure: the caller brings the random number. */

export interface Backoff {
  /** Upper bound of the first wait in milliseconds; doubles with each further one. */
  readonly initialMs: number;
  /** Upper bound of any wait in milliseconds. */
  readonly maxMs: number;
}

/** Exponential with full jitter: callers that failed together do not come back together. */
export function backoffMs(backoff: Backoff, attempt: number, random: number): number {
  // 2 ** 30 * 1 ms is 12 days: past it only `maxMs` counts, and the power must not overflow.
  return random * Math.min(backoff.maxMs, backoff.initialMs * 2 ** Math.min(attempt - 1, 30));
}
