import type { StorageError } from "@oncebox/core";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { answerWatch } from "./answer-watch.ts";

/** Past the timer, and past the turn that reads sockets before anything is judged. */
async function pass(ms: number): Promise<void> {
  await vi.advanceTimersByTimeAsync(ms);
  await vi.advanceTimersByTimeAsync(0);
}

describe("B17: a statement that is not answered", () => {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ["setTimeout", "setImmediate", "performance"] });
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  it("is told when its time is over, not before, and once", async () => {
    const watch = answerWatch(1_000);
    const errors: StorageError[] = [];
    watch.sent(0, (error) => errors.push(error));
    await pass(990);
    expect(errors).toEqual([]);
    await pass(20);
    await pass(5_000);
    expect(errors).toMatchObject([{ code: "storage-unavailable", retryable: true }]);
  });

  it("is not told of when the answer came, however many were sent before and behind it", async () => {
    const watch = answerWatch(1_000);
    const silent = vi.fn();
    for (let i = 0; i < 50; i += 1) {
      const awaited = watch.sent(0, silent);
      await pass(90);
      watch.answered(awaited);
    }
    await pass(5_000);
    expect(silent).not.toHaveBeenCalled();
  });

  it("has its own time, whatever the timer was armed for", async () => {
    const watch = answerWatch(1_000);
    const told: string[] = [];
    watch.sent(5_000, () => told.push("waits for a lock"));
    await pass(1_500);
    watch.sent(0, () => told.push("later"));
    await pass(900);
    expect(told).toEqual([]);
    // The timer looks once in each time-out, and where something is due.
    await pass(1_000);
    expect(told).toEqual(["later"]);
    await pass(2_700);
    expect(told).toEqual(["later", "waits for a lock"]);
  });

  it("has one timer for all, and none when nothing is awaited", async () => {
    const watch = answerWatch(1_000);
    const all = Array.from({ length: 100 }, () => watch.sent(0, () => {}));
    expect(vi.getTimerCount()).toBe(1);
    for (const one of all) watch.answered(one);
    await pass(1_010);
    expect(vi.getTimerCount()).toBe(0);
  });

  // A process that stood still (SIGSTOP, a long turn) finds its timers due and its answers unread.
  it("is given one turn to be read when the process stood still", async () => {
    const watch = answerWatch(1_000);
    const silent = vi.fn();
    const awaited = watch.sent(0, silent);
    vi.advanceTimersByTime(1_000);
    watch.answered(awaited);
    await pass(5_000);
    expect(silent).not.toHaveBeenCalled();
  });

  it("makes suspect whatever was last heard before it was sent, and nothing else", async () => {
    const watch = answerWatch(1_000);
    const [idle, later, unknown] = [{}, {}, {}];
    watch.heard(idle);
    await pass(10);
    watch.sent(0, () => {});
    await pass(10);
    watch.heard(later);
    expect([idle, later, unknown].map(watch.suspects)).toEqual([false, false, false]);
    await pass(1_500);
    expect([idle, later, unknown].map(watch.suspects)).toEqual([true, false, false]);
    watch.heard(idle);
    expect(watch.suspects(idle)).toBe(false);
  });
});
