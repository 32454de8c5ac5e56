import { describe, expect, it } from "vitest";
import { ConfigurationError } from "./errors.ts";
import type { Clock } from "./ports/clock.ts";
import { service } from "./service.ts";

/** Stands still, except that whoever sleeps finds the time gone. */
function clockByHand(): Clock & { readonly wake: () => void } {
  let now = 0;
  const sleeping: (() => void)[] = [];
  return {
    now: () => now,
    epochMs: () => 0,
    random: () => 0,
    sleep: (ms) =>
      new Promise((resolve) => {
        sleeping.push(() => {
          now += ms;
          resolve();
        });
      }),
    wake: () => {
      for (const wake of sleeping.splice(0)) wake();
    },
  };
}

function recorded(steps: { start?: () => Promise<void>; stop?: () => Promise<void> } = {}) {
  const calls: string[] = [];
  const clock = clockByHand();
  let signal: AbortSignal | undefined;
  const start = async (stopping: AbortSignal) => {
    signal = stopping;
    calls.push("start");
    await steps.start?.();
  };
  const stop = async (deadlineMs: number) => {
    calls.push(`stop ${deadlineMs}`);
    await steps.stop?.();
  };
  const made = service({ start, stop }, clock);
  return { made, calls, clock, stopping: () => signal?.aborted };
}

describe("a service", () => {
  it("starts once and stops once, however often it is asked", async () => {
    const { made, calls } = recorded();
    await Promise.all([made.start(), made.start()]);
    await made.start();
    await Promise.all([made.stop({ deadlineMs: 5 }), made.stop()]);
    await made.stop();
    expect(calls).toEqual(["start", "stop 5"]);
  });

  it("has ten seconds to stop by default", async () => {
    const { made, calls } = recorded();
    await made.start();
    await made.stop();
    expect(calls).toEqual(["start", "stop 10000"]);
  });

  it.each([Number.NaN, -1, "5", null])("refuses the deadline %s, and runs on", async (wrong) => {
    // Guards: the check. A deadline that is no time would cut everything at once.
    const { made, calls } = recorded();
    await made.start();
    await expect(made.stop({ deadlineMs: wrong as number })).rejects.toThrow(ConfigurationError);
    expect(calls).toEqual(["start"]);
    await made.stop({ deadlineMs: Number.POSITIVE_INFINITY });
    expect(calls).toEqual(["start", "stop Infinity"]);
  });

  it("stops without a start, and does not start after that", async () => {
    const { made, calls } = recorded();
    await made.stop();
    expect(calls).toEqual([]);
    await expect(made.start()).rejects.toThrow("make a new one");
  });

  it("tells a start under way to end, and stops behind it", async () => {
    let go = () => {};
    const { made, calls, stopping } = recorded({
      start: () => new Promise((resolve) => (go = resolve)),
    });
    const started = made.start();
    expect(stopping()).toBe(false);
    const stopped = made.stop();
    expect(stopping()).toBe(true);
    expect(calls).toEqual(["start"]);
    go();
    await Promise.all([started, stopped]);
    expect(calls).toEqual(["start", "stop 10000"]);
  });

  it("stops at half its time where a start does not settle", async () => {
    const { made, calls, clock } = recorded({ start: () => new Promise(() => {}) });
    void made.start();
    const stopped = made.stop({ deadlineMs: 400 });
    await Promise.resolve();
    expect(calls).toEqual(["start"]);
    clock.wake();
    await stopped;
    expect(calls).toEqual(["start", "stop 200"]);
  });

  it("stops what a failed start left behind, and tells only the starter of the failure", async () => {
    const { made, calls } = recorded({ start: () => Promise.reject(new Error("no database")) });
    await expect(made.start()).rejects.toThrow("no database");
    await made.stop();
    expect(calls).toEqual(["start", "stop 10000"]);
  });

  it("tells every stopper when stopping failed", async () => {
    const { made } = recorded({ stop: () => Promise.reject(new Error("stuck")) });
    await made.start();
    await expect(made.stop()).rejects.toThrow("stuck");
    await expect(made.stop()).rejects.toThrow("stuck");
  });

  it("stops at the end of its scope", async () => {
    const { made, calls } = recorded();
    await made.start();
    await made[Symbol.asyncDispose]();
    expect(calls).toEqual(["start", "stop 10000"]);
  });
});
