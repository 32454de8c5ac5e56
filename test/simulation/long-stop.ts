// Owns the long stop that some plans have: all processes are gone or stand still for longer than ids
// are kept, while others write on. Says what the clock shows at a time of the plan, and when a producer
// repeats itself. Values only.

/** How one process spends it; `mid-walk`: it stands still while it prunes ids. */
export type Standing = "kill" | "leave" | "freeze" | "mid-walk";

export const standings: readonly Standing[] = ["kill", "leave", "freeze", "mid-walk"];

export interface LongStop {
  /** In the time of the plan, as faults are: a whole number of the run's ticks. */
  readonly at: number;
  /** In the time of the clock. */
  readonly ms: number;
  /** By the place of each process. */
  readonly how: readonly Standing[];
}

/**
 * So long it is in the time of the plan. What happens in the first half of it is spread over the first
 * minute: what comes within the window of what was handled last. The rest over all the rest.
 */
export const stretchMs = 2_000;
const nearMs = 60_000;

/** Added to the window by the core: what is shorter forgets nothing. */
const marginMs = 900_000;
const tickMs = 500;
const spareTicks = 8;

interface Dice {
  readonly whole: (from: number, to: number) => number;
  readonly chance: (share: number) => boolean;
  readonly pick: <T>(list: readonly T[]) => T;
}

interface Stopping {
  readonly ids: boolean;
  readonly workers: number;
  readonly spanMs: number;
}

export interface Forgetting {
  readonly stop: LongStop | null;
  /** The consumers' deduplication window; null: the default, which no run comes to the end of. */
  readonly windowMs: number | null;
}

export function forgettingOf({ ids, workers, spanMs }: Stopping, dice: Dice): Forgetting {
  const { whole, chance, pick } = dice;
  if (!ids || !chance(0.25)) return { stop: null, windowMs: null };
  const windowMs = pick([60_000, 120_000]);
  const at = whole(spareTicks, spanMs / tickMs - spareTicks) * tickMs;
  const ms = marginMs + windowMs + whole(-60_000, 600_000);
  return {
    stop: { at, ms, how: Array.from({ length: workers }, () => pick(standings)) },
    windowMs,
  };
}

/** What the clock shows then. */
export function clockTime(stop: LongStop | null, at: number): number {
  if (stop === null || at <= stop.at) return at;
  const half = stretchMs / 2;
  const into = Math.min(at - stop.at, stretchMs);
  const near = Math.floor((Math.min(into, half) / half) * nearMs);
  const far = Math.floor((Math.max(into - half, 0) / half) * (stop.ms - nearMs));
  return at - into + near + far;
}

/**
 * When a producer sends again what it sent at a time, both by the clock: within the window, or when all
 * run again.
 */
export function repeatAt(
  { stop, windowMs, spanMs }: Forgetting & { readonly spanMs: number },
  sentAt: number,
  random: () => number,
): number {
  const end = clockTime(stop, spanMs);
  const restart = stop === null ? sentAt : clockTime(stop, stop.at + stretchMs);
  const from = Math.max(sentAt, restart);
  const late = from + random() * (end - from);
  const within = sentAt + random() * (windowMs ?? 0);
  return random() < 0.7 && within < end ? within : late;
}
