import { describe, expect, it } from "vitest";
import type { Clock } from "../ports/clock.ts";
import { atOnce, createSteps, never, type Step } from "./steps.ts";

/** Jumps to the end of a sleep as soon as everything waits; a signal ends it where it is. */
function jumpingClock(): Clock & { time: number } {
  const clock = {
    time: 0,
    now: () => clock.time,
    epochMs: () => clock.time,
    random: () => 1,
    sleep: (ms: number, signal?: AbortSignal) =>
      new Promise<void>((resolve) => {
        if (signal?.aborted) return resolve();
        const timer = setTimeout(() => {
          clock.time += ms;
          resolve();
        });
        signal?.addEventListener("abort", () => {
          clearTimeout(timer);
          resolve();
        });
      }),
  };
  return clock;
}

const idle: Step = { wantedAt: () => never, run: async () => {} };

describe("steps", () => {
  it("run when they are due, and rest until then", async () => {
    const clock = jumpingClock();
    const times: number[] = [];
    let due = 10;
    const run = async (now: number) => {
      times.push(now);
      due += 25;
    };
    const steps = createSteps(clock, { tick: { wantedAt: () => due, run }, idle }, () => {});
    await steps.run(() => times.length === 4);
    expect(times).toEqual([10, 35, 60, 85]);
  });

  it("overlap each other, never themselves", async () => {
    const clock = jumpingClock();
    const running = { a: 0, b: 0 };
    let most = 0;
    let rounds = 0;
    const busy = (name: "a" | "b", ms: number): Step => ({
      wantedAt: () => atOnce,
      run: async () => {
        running[name] += 1;
        rounds += 1;
        expect(running[name]).toBe(1);
        most = Math.max(most, running.a + running.b);
        await clock.sleep(ms);
        running[name] -= 1;
      },
    });
    const steps = createSteps(clock, { a: busy("a", 3), b: busy("b", 7) }, () => {});
    await steps.run((anyRuns) => (rounds >= 20 && !anyRuns && rounds > 0 ? true : rounds > 200));
    expect(most).toBe(2);
  });

  it("come back after a pause that grows while they fail, and tell of it", async () => {
    const clock = jumpingClock();
    const failures: [string, number, unknown][] = [];
    const times: number[] = [];
    const wrong = new Error("no database");
    const run = async (now: number) => {
      times.push(now);
      if (times.length !== 4) throw wrong;
    };
    const steps = createSteps(clock, { read: { wantedAt: () => atOnce, run } }, (...failure) => {
      failures.push(failure);
    });
    await steps.run(() => times.length === 6);
    expect(times.slice(0, 4)).toEqual([0, 50, 150, 350]);
    const waits = failures.map(([name, waitMs, error]) => [name, waitMs, error === wrong]);
    // The fourth passed: the fifth failure is a first one again.
    expect(waits.slice(0, 4)).toEqual([
      ["read", 50, true],
      ["read", 100, true],
      ["read", 200, true],
      ["read", 50, true],
    ]);
  });

  it("take a plain throw for a failure", async () => {
    const clock = jumpingClock();
    const failures: unknown[] = [];
    const run = (): Promise<void> => {
      throw "bug";
    };
    const steps = createSteps(clock, { read: { wantedAt: () => atOnce, run } }, (_, __, error) => {
      failures.push(error);
    });
    await steps.run(() => failures.length === 1);
    expect(failures).toEqual(["bug"]);
  });

  it("lose no bell, wherever it rings", async () => {
    const clock = jumpingClock();
    let wanted = never;
    let runs = 0;
    const run = async () => {
      wanted = never;
      runs += 1;
      // Rings inside a turn: nothing rests at this time.
      if (runs < 5) {
        wanted = atOnce;
        steps.ring();
      }
    };
    const steps = createSteps(clock, { read: { wantedAt: () => wanted, run } }, () => {});
    const done = steps.run(() => runs === 5);
    wanted = atOnce;
    steps.ring();
    await done;
    expect(runs).toBe(5);
    expect(clock.time).toBe(0);
  });

  it("end while one of them hangs", async () => {
    const clock = jumpingClock();
    let cut = false;
    const hanging: Step = { wantedAt: () => atOnce, run: () => new Promise(() => {}) };
    const steps = createSteps(clock, { hanging }, () => {});
    const done = steps.run((running) => cut && running);
    cut = true;
    steps.ring();
    await done;
  });
});
