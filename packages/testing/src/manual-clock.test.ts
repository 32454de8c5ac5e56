import { expect, it } from "vitest";
import { manualClock } from "./manual-clock.ts";

it("wakes sleepers by their times, then in the order in which they went to sleep", async () => {
  const clock = manualClock({ start: 1_000 });
  const woken: string[] = [];
  const sleeper = async (name: string, ms: number) => {
    await clock.sleep(ms);
    woken.push(`${name} at ${clock.now()}`);
  };
  const all = [sleeper("b", 20), sleeper("a", 10), sleeper("c", 20), sleeper("late", 31)];
  await clock.advance(30);
  expect(woken).toEqual(["a at 10", "b at 20", "c at 20"]);
  expect([clock.now(), clock.epochMs(), clock.sleeping()]).toEqual([30, 1_030, 1]);
  await clock.runAll();
  await Promise.all(all);
  expect(woken.at(-1)).toBe("late at 31");
});

it("settles what one sleeper starts before the next one wakes", async () => {
  const clock = manualClock();
  const trace: string[] = [];
  const chain = async (name: string) => {
    await clock.sleep(5);
    for (let turn = 0; turn < 60; turn += 1) await Promise.resolve();
    trace.push(name);
    await clock.sleep(0);
    trace.push(`${name} again`);
  };
  const both = [chain("first"), chain("second")];
  await clock.advance(5);
  expect(trace).toEqual(["first", "second", "first again", "second again"]);
  await Promise.all(both);
});

it("reaches the time that somebody sleeps until, however small the rest is", async () => {
  // Guards shortestSleepMs: sums of fractions stop a hair short, and a hair of a sleep moves nothing.
  const clock = manualClock();
  await clock.advance(5_782.580123456789);
  const until = clock.now() + 1e-13 + 4e-13;
  const waiting = async () => {
    for (let naps = 0; naps < 10; naps += 1) {
      if (clock.now() > until) return naps;
      await clock.sleep(1e-13);
    }
    return "never";
  };
  const waited = waiting();
  await clock.runAll();
  expect(await waited).toBe(1);
});

it("ends a sleep by its signal, before and while it lasts", async () => {
  const clock = manualClock();
  await clock.sleep(10, AbortSignal.abort());
  const enough = new AbortController();
  const sleeping = clock.sleep(10, enough.signal);
  enough.abort();
  await sleeping;
  expect([clock.now(), clock.sleeping()]).toEqual([0, 0]);
});

it("runs until something holds, and says what did not happen", async () => {
  const clock = manualClock();
  let ticks = 0;
  const stop = new AbortController();
  const ticking = (async () => {
    while (!stop.signal.aborted) {
      await clock.sleep(10, stop.signal);
      ticks += 1;
    }
  })();
  await clock.runUntil(() => ticks === 3);
  expect(clock.now()).toBe(30);
  const never = clock.runUntil(() => false, { limitMs: 100, what: "the end" });
  await expect(never).rejects.toThrow("the end did not happen: 100 ms passed");
  await expect(clock.runAll({ limitMs: 100 })).rejects.toThrow("1 still sleep");
  stop.abort();
  await ticking;
  await expect(clock.runUntil(() => false)).rejects.toThrow("nobody sleeps any more");
});

it("freezes one process while time goes on for the others", async () => {
  const clock = manualClock();
  const frozen = clock.process();
  const woken: string[] = [];
  const sleep = async (name: string, of: typeof frozen | typeof clock) => {
    await of.sleep(10);
    woken.push(`${name} at ${of.now()}`);
  };
  const both = [sleep("frozen", frozen), sleep("other", clock)];
  frozen.freeze();
  await clock.advance(50);
  expect([woken, frozen.frozen()]).toEqual([["other at 10"], true]);
  frozen.thaw();
  await clock.advance(0);
  await Promise.all(both);
  expect(woken).toEqual(["other at 10", "frozen at 50"]);
});

it("draws the same numbers for the same seed, evenly spread", () => {
  const draws = (seed: number) => {
    const { random } = manualClock({ seed });
    return Array.from({ length: 1_000 }, random);
  };
  expect(draws(7)).toEqual(draws(7));
  expect(draws(7)).not.toEqual(draws(8));
  const numbers = draws(7);
  expect(Math.min(...numbers)).toBeGreaterThanOrEqual(0);
  expect(Math.max(...numbers)).toBeLessThan(1);
  expect(numbers.reduce((sum, each) => sum + each, 0) / 1_000).toBeCloseTo(0.5, 1);
});
