import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { systemClock } from "./clock.ts";

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
