/** A conformance suite is data: a list of these. Any test runner can run it, and a person can read it. */
import { within } from "./check.ts";

/** One check of one numbered promise of a port. */
export interface ConformanceCase<Context> {
  /** The promise's number, such as `I2`: see ARCHITECTURE.md. */
  readonly promise: string;
  /** What must hold, in one line; unique within its suite. */
  readonly name: string;
  /**
   * Resolves where the promise is kept, rejects with ConformanceError or the adapter's own error
   * where it is not; always within 30 seconds. May leave transactions open when it fails: the
   * caller throws the context away.
   */
  readonly run: (context: Context) => Promise<void>;
}

/** What waits for ever in a broken adapter must not hold up the run. */
const caseLimitMs = 30_000;

export function bounded<Context>(given: ConformanceCase<Context>): ConformanceCase<Context> {
  const what = `the case "${given.promise} ${given.name}"`;
  return { ...given, run: (context) => within(caseLimitMs, given.run(context), what) };
}
