import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { type Clock, systemClock, within } from "./clock.ts";

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

const day = 86_400_000;

/** Whether the sleep is over after each of these days. */
async function overAfter(ms: number, ...days: readonly number[]): Promise<boolean[]> {
  let over = false;
  void systemClock.sleep(ms).then(() => {
    over = true;
  });
  const answers: boolean[] = [];
  let now = 0;
  for (const until of days) {
    await vi.advanceTimersByTimeAsync((until - now) * day);
    now = until;
    answers.push(over);
  }
  return answers;
}

it("sleeps for longer than a timer of the machine can", async () => {
  // Guards: the slices. A timer of more than 2^31 - 1 milliseconds, 24.8 days, fires at once.
  expect(await overAfter(60 * day, 1, 59, 60)).toEqual([false, false, true]);
  expect(await overAfter(Number.POSITIVE_INFINITY, 1, 400)).toEqual([false, false]);
});

it("ends a long sleep when it is aborted, in any slice", async () => {
  const end = new AbortController();
  const slept = systemClock.sleep(Number.POSITIVE_INFINITY, end.signal);
  await vi.advanceTimersByTimeAsync(30 * day);
  end.abort();
  await slept;
  expect(vi.getTimerCount()).toBe(0);
});

it("waits for work for so long, and leaves no timer behind", async () => {
  expect(await within(systemClock, 100, Promise.resolve("done"), "late")).toBe("done");
  const failing = Promise.reject(new Error("failed"));
  await expect(within(systemClock, 100, failing, "late")).rejects.toThrow("failed");
  expect(vi.getTimerCount()).toBe(0);
  const answer = within(systemClock, 100, new Promise(() => {}), "late");
  await vi.advanceTimersByTimeAsync(100);
  expect(await answer).toBe("late");
});

it("ends the wait without the price of a reason", async () => {
  // Guards: noReason. An error made up for nobody costs more than the sleep.
  const reasons: unknown[] = [];
  const clock: Pick<Clock, "sleep"> = {
    sleep: (_, signal) =>
      new Promise(() => {
        signal?.addEventListener("abort", () => reasons.push(signal.reason));
      }),
  };
  await within(clock, 100, Promise.resolve(), "late");
  expect(reasons).toEqual(["over"]);
});
