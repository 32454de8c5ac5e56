/**
 * Runs a handful of steps that overlap each other, never themselves: each turn begins every step
 * that is due, then rests until one of them ends, a bell rings or the next one is due. A step that
 * fails is due again after a pause. Nothing is lost between two turns, because a bell that rings
 * outside a rest cuts the next one short, and what is due is worked out anew each time.
 */
import { type Clock, noReason } from "../ports/clock.ts";
import { backoffMs } from "../retry.ts";

export interface Step {
  /** When there is something to do, as far as is known now. */
  readonly wantedAt: (now: number) => number;
  readonly run: (now: number) => Promise<void>;
}

export interface Steps {
  /** Runs until `ended` answers true; it is asked once a turn, with whether a step is under way. */
  readonly run: (ended: (running: boolean) => boolean) => Promise<void>;
  readonly ring: () => void;
}

/** Before and after any time of any clock. */
export const atOnce = Number.NEGATIVE_INFINITY;
export const never = Number.POSITIVE_INFINITY;

const troubleBackoff = { initialMs: 50, maxMs: 5_000 };

/** A turn now and then, whatever the steps say. */
const restMaxMs = 60_000;

/** The pause behind the n-th failure in a row. */
export function pauseMs(clock: Clock, attempt: number): number {
  return backoffMs(troubleBackoff, attempt, clock.random());
}

export function createSteps<Name extends string>(
  clock: Clock,
  steps: Readonly<Record<Name, Step>>,
  failed: (name: Name, waitMs: number, error: unknown) => void,
): Steps {
  const all = (Object.entries(steps) as [Name, Step][]).map(([name, step]) => {
    return { name, step, running: false, failures: 0, notBefore: atOnce };
  });
  let rung = false;
  let nap = new AbortController();
  const ring = () => {
    rung = true;
    nap.abort(noReason);
  };
  const dueAt = (one: (typeof all)[number], now: number) =>
    one.running ? never : Math.max(one.notBefore, one.step.wantedAt(now));
  const begin = async (one: (typeof all)[number], now: number) => {
    one.running = true;
    try {
      await one.step.run(now);
      one.failures = 0;
    } catch (error) {
      one.failures += 1;
      const waitMs = pauseMs(clock, one.failures);
      one.notBefore = clock.now() + waitMs;
      failed(one.name, waitMs, error);
    }
    one.running = false;
    ring();
  };
  const rest = async () => {
    if (!rung) {
      const now = clock.now();
      const until = Math.min(now + restMaxMs, ...all.map((one) => dueAt(one, now)));
      nap = new AbortController();
      await clock.sleep(Math.max(0, until - now), nap.signal);
    }
    rung = false;
  };
  const run = async (ended: (running: boolean) => boolean) => {
    while (!ended(all.some((one) => one.running))) {
      const now = clock.now();
      for (const one of all) if (dueAt(one, now) <= now) void begin(one, now);
      await rest();
    }
  };
  return { run, ring };
}
