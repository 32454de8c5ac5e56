/**
 * A clock that stands still until a test moves it, for the tests of this package: the one of
 * @oncebox/testing depends on it. No part of the package: nothing but tests imports it.
 */
import type { Clock } from "./ports/clock.ts";

/** Everything that does not wait for the clock has happened: the fakes beside it do no I/O. */
export async function settled(): Promise<void> {
  for (let turn = 0; turn < 100; turn += 1) await Promise.resolve();
}

/** Far more than anything asks for the time before it rests. */
const looksMax = 10_000;

/** Wakes who sleeps in the order of their times. */
export function clockByHand() {
  let time = 0;
  let looks = 0;
  const sleeping = new Set<{ readonly until: number; readonly wake: () => void }>();
  const clock: Clock = {
    now: () => {
      looks += 1;
      // What goes round without a rest would hang the test instead of failing it.
      if (looks > looksMax) throw new Error("the time was asked for without end");
      return time;
    },
    epochMs: () => 0,
    random: () => 0.5,
    sleep: (ms, signal) =>
      new Promise((resolve) => {
        if (signal?.aborted) return resolve();
        const one = {
          until: time + ms,
          wake: () => {
            sleeping.delete(one);
            signal?.removeEventListener("abort", one.wake);
            resolve();
          },
        };
        sleeping.add(one);
        signal?.addEventListener("abort", one.wake, { once: true });
      }),
  };
  const advance = async (ms: number) => {
    const end = time + ms;
    for (;;) {
      await settled();
      looks = 0;
      const [next] = [...sleeping].sort((a, b) => a.until - b.until);
      if (next === undefined || next.until > end) break;
      time = next.until;
      next.wake();
    }
    time = end;
  };
  return { clock, advance };
}
