/**
 * Time that stands still until a test moves it, and chance that follows from a seed: whoever waits
 * and jitters through it does the same in every run. Uses no timer; owns the order in which sleepers
 * wake, and nothing else.
 */
import type { Clock } from "@oncebox/core";

export interface ManualClockOptions {
  /**
   * Decides everything that is random.
   * @defaultValue 1
   */
  readonly seed?: number;
  /**
   * Milliseconds since 1970 at the beginning.
   * @defaultValue 1700000000000
   */
  readonly start?: number;
  /**
   * Resolves when nothing is left to be done that does not wait for the time. The next turn of the
   * event loop is faster, where nobody replaces timers or goes round in circles.
   * @defaultValue a hundred turns of the micro-task queue in which nobody asks the clock
   */
  readonly settled?: () => Promise<unknown>;
}

/** The clock of a process that can be stopped for a while, as by SIGSTOP. */
export interface ProcessClock extends Clock {
  /** From now on none of its sleepers wakes. */
  readonly freeze: () => void;
  /** Whoever is due wakes at the clock's next step. */
  readonly thaw: () => void;
  readonly frozen: () => boolean;
}

export interface ManualClock extends Clock {
  /**
   * Moves the time on, and wakes sleepers in order of their times, then of their going to sleep;
   * what each does is settled before the next one wakes.
   */
  readonly advance: (ms: number) => Promise<void>;
  /** Lets everything happen that does not wait for the time. */
  readonly settle: () => Promise<void>;
  /** Goes to where the next sleeper is due and wakes it alone. False where nobody sleeps. */
  readonly step: () => Promise<boolean>;
  /**
   * Steps until it holds. Rejects when that takes more than `limitMs` of the clock's time, or when
   * nobody sleeps any more; default an hour.
   */
  readonly runUntil: (
    holds: () => boolean,
    options?: { readonly limitMs?: number; readonly what?: string },
  ) => Promise<void>;
  /** Steps until nobody sleeps. Rejects after `limitMs`: services that run never stop sleeping. */
  readonly runAll: (options?: { readonly limitMs?: number }) => Promise<void>;
  /** How many sleep now. */
  readonly sleeping: () => number;
  /** The same time for one process, which can be frozen. */
  readonly process: () => ProcessClock;
}

/** Turns of the micro-task queue without anybody asking the clock, after which all has settled. */
const quietTurns = 100;
/** More activity than this without any time passing is an endless loop. */
const turnsMax = 1_000_000;
const hourMs = 3_600_000;
/**
 * A rest that is lost in the rounding of the sum would not move the time, and whoever sleeps until
 * a time has come would never see it.
 */
const shortestSleepMs = 1e-6;

interface Sleeper {
  readonly dueAt: number;
  readonly frozen: () => boolean;
  readonly wake: () => void;
}

/** A clock for tests and simulators. */
export function manualClock(options: ManualClockOptions = {}): ManualClock {
  return new SteppedClock(options);
}

class SteppedClock implements ManualClock {
  readonly #start: number;
  readonly #random: () => number;
  #time = 0;
  /** Counts questions and sleepers: where it stands still, nothing happens any more. */
  #activity = 0;
  /** In the order in which they wake. */
  readonly #sleepers: Sleeper[] = [];

  readonly #settled: (() => Promise<unknown>) | undefined;

  constructor({ seed = 1, start = 1_700_000_000_000, settled }: ManualClockOptions) {
    this.#start = start;
    this.#settled = settled;
    this.#random = seededRandom(seed);
  }

  readonly now = (): number => {
    this.#activity += 1;
    return this.#time;
  };

  readonly epochMs = (): number => this.#start + Math.floor(this.now());

  readonly random = (): number => {
    this.#activity += 1;
    return this.#random();
  };

  readonly sleep = (ms: number, signal?: AbortSignal): Promise<void> =>
    this.#sleep(ms, signal, () => false);

  readonly sleeping = (): number => this.#sleepers.length;

  readonly process = (): ProcessClock => {
    let frozen = false;
    return {
      now: this.now,
      epochMs: this.epochMs,
      random: this.random,
      sleep: (ms, signal) => this.#sleep(ms, signal, () => frozen),
      freeze: () => {
        frozen = true;
      },
      thaw: () => {
        frozen = false;
      },
      frozen: () => frozen,
    };
  };

  readonly settle = async (): Promise<void> => {
    if (this.#settled === undefined) return this.#quiet();
    await this.#settled();
  };

  async #quiet(): Promise<void> {
    let known = this.#activity;
    let quiet = 0;
    for (let turn = 0; quiet < quietTurns; turn += 1) {
      if (turn > turnsMax) throw new Error("no end of work while the clock stands still");
      await Promise.resolve();
      quiet = known === this.#activity ? quiet + 1 : 0;
      known = this.#activity;
    }
  }

  readonly step = async (): Promise<boolean> => {
    await this.settle();
    return this.#wakeNext(Number.POSITIVE_INFINITY);
  };

  readonly advance = async (ms: number): Promise<void> => {
    const end = this.#time + ms;
    await this.settle();
    while (await this.#wakeNext(end)) {
      // One after another, each settled.
    }
    this.#time = end;
  };

  readonly runUntil: ManualClock["runUntil"] = async (holds, options = {}) => {
    const { limitMs = hourMs, what = "what is waited for" } = options;
    const end = this.#time + limitMs;
    await this.settle();
    while (!holds()) {
      if (await this.#wakeNext(end)) continue;
      const why = this.#sleepers.length === 0 ? "nobody sleeps any more" : `${limitMs} ms passed`;
      throw new Error(`${what} did not happen: ${why}`);
    }
  };

  readonly runAll: ManualClock["runAll"] = async ({ limitMs = hourMs } = {}) => {
    const end = this.#time + limitMs;
    await this.settle();
    while (await this.#wakeNext(end)) {
      // One after another, each settled.
    }
    if (this.#sleepers.length === 0) return;
    throw new Error(`${this.#sleepers.length} still sleep after ${limitMs} ms`);
  };

  async #wakeNext(end: number): Promise<boolean> {
    const place = this.#sleepers.findIndex((each) => !each.frozen());
    const next = this.#sleepers[place];
    if (next === undefined || next.dueAt > end) return false;
    this.#sleepers.splice(place, 1);
    // One that was frozen may be due in the past.
    this.#time = Math.max(this.#time, next.dueAt);
    next.wake();
    await this.settle();
    return true;
  }

  #sleep(ms: number, signal: AbortSignal | undefined, frozen: () => boolean): Promise<void> {
    this.#activity += 1;
    return new Promise((resolve) => {
      if (signal?.aborted) return resolve();
      const sleeper: Sleeper = {
        dueAt: this.#time + (ms > 0 ? Math.max(ms, shortestSleepMs) : 0),
        frozen,
        wake: () => {
          this.#activity += 1;
          signal?.removeEventListener("abort", cut);
          resolve();
        },
      };
      const cut = () => {
        const place = this.#sleepers.indexOf(sleeper);
        if (place >= 0) this.#sleepers.splice(place, 1);
        sleeper.wake();
      };
      signal?.addEventListener("abort", cut, { once: true });
      this.#sleepers.splice(this.#placeOf(sleeper.dueAt), 0, sleeper);
    });
  }

  /** Behind everyone who is due then or before: they went to sleep earlier. */
  #placeOf(dueAt: number): number {
    let low = 0;
    let high = this.#sleepers.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#sleepers[middle]?.dueAt ?? 0) <= dueAt) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/** Numbers in [0, 1) that follow from the seed (mulberry32, two draws for 53 bits). */
export function seededRandom(seed: number): () => number {
  let state = seed | 0;
  const draw = () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return (mixed ^ (mixed >>> 14)) >>> 0;
  };
  return () => ((draw() >>> 5) * 2 ** 26 + (draw() >>> 6)) * 2 ** -53;
}
