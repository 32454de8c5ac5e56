import fc from "fast-check";
import { expect, it } from "vitest";
import { backoffMs } from "./retry.ts";

const backoff = { initialMs: 50, maxMs: 5_000 };

it("doubles up to its ceiling", () => {
  const waits = [1, 2, 3, 7, 8, 100, 10_000].map((attempt) => backoffMs(backoff, attempt, 1));
  expect(waits).toEqual([50, 100, 200, 3_200, 5_000, 5_000, 5_000]);
});

it("jitters over the whole range, so that nobody comes back together", () => {
  expect(backoffMs(backoff, 3, 0)).toBe(0);
  expect(backoffMs(backoff, 3, 0.5)).toBe(100);
});

it("stays within its bounds whatever it is given", () => {
  fc.assert(
    fc.property(
      fc.record({
        initialMs: fc.integer({ min: 1, max: 1e6 }),
        maxMs: fc.integer({ min: 1, max: 1e9 }),
      }),
      fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER }),
      fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true }),
      (bounds, attempt, random) => {
        const wait = backoffMs(bounds, attempt, random);
        expect(wait >= 0 && wait <= bounds.maxMs).toBe(true);
      },
    ),
  );
});
