/**
 * Locks of rows, held until their transaction ends. Who waits gets them in the order of asking; a
 * circle of waiting is a deadlock of whoever closes it. Knows names and holders, no rows.
 */
import type { Clock } from "@oncebox/core";
import { MemoryDatabaseError } from "./database-error.ts";

/** Given to `abort`: making one up costs more than all the rest of a statement. */
const noReason = "over";

interface Waiter {
  readonly holder: object;
  readonly given: () => void;
  readonly failed: (error: Error) => void;
}

interface Lock {
  holder: object;
  readonly queue: Waiter[];
}

export class Locks {
  readonly #clock: Clock;
  readonly #locks = new Map<string, Lock>();
  /** What each holder waits for: one lock at a time. */
  readonly #waiting = new Map<object, string>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  holderOf(name: string): object | null {
    return this.#locks.get(name)?.holder ?? null;
  }

  /** True where it was taken now, false where it was held before. Rejects with a time-out or deadlock. */
  async acquire(holder: object, name: string, timeoutMs: number | null): Promise<boolean> {
    const lock = this.#locks.get(name);
    if (lock === undefined) {
      this.#locks.set(name, { holder, queue: [] });
      return true;
    }
    if (lock.holder === holder) return false;
    if (this.#closesCircle(holder, lock)) {
      throw new MemoryDatabaseError("deadlock", `deadlock detected while waiting for ${name}`);
    }
    await this.#wait(holder, name, lock, timeoutMs);
    return true;
  }

  /** Gives it to whoever has waited longest. */
  release(holder: object, name: string): void {
    const lock = this.#locks.get(name);
    if (lock?.holder !== holder) return;
    const next = lock.queue.shift();
    if (next === undefined) {
      this.#locks.delete(name);
      return;
    }
    lock.holder = next.holder;
    this.#waiting.delete(next.holder);
    next.given();
  }

  /** Whoever waits waits no more: its connection is gone. */
  cut(holder: object, error: () => Error): void {
    const name = this.#waiting.get(holder);
    if (name === undefined) return;
    const queue = this.#locks.get(name)?.queue ?? [];
    const place = queue.findIndex((each) => each.holder === holder);
    const [waiter] = place < 0 ? [] : queue.splice(place, 1);
    this.#waiting.delete(holder);
    waiter?.failed(error());
  }

  #wait(holder: object, name: string, lock: Lock, timeoutMs: number | null): Promise<void> {
    this.#waiting.set(holder, name);
    const over = new AbortController();
    const waiting = new Promise<void>((given, failed) => {
      lock.queue.push({ holder, given, failed });
    });
    if (timeoutMs !== null) {
      const late = this.#clock.sleep(timeoutMs, over.signal).then(() => {
        if (over.signal.aborted || this.#waiting.get(holder) !== name) return;
        this.cut(
          holder,
          () =>
            new MemoryDatabaseError("lock-timeout", `${name} stayed locked for ${timeoutMs} ms`),
        );
      });
      late.catch(() => undefined);
    }
    return waiting.finally(() => over.abort(noReason));
  }

  #closesCircle(holder: object, lock: Lock): boolean {
    const seen = new Set<object>();
    for (let at: Lock | undefined = lock; at !== undefined; ) {
      if (at.holder === holder) return true;
      if (seen.has(at.holder)) return false;
      seen.add(at.holder);
      const next = this.#waiting.get(at.holder);
      at = next === undefined ? undefined : this.#locks.get(next);
    }
    return false;
  }
}
