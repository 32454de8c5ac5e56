import { expect, test } from "vitest";
import { difference, firstDifference } from "./comparison.ts";

const left = { name: "memory", lines: ["1 claim: epoch 1", "2 open: new"] };

test("equal lists have no difference", () => {
  expect(firstDifference(left.lines, [...left.lines])).toBeNull();
  expect(difference(["1 claim"], left, { ...left, name: "real" })).toBeNull();
});

test("the first difference is marked, in words, in length and in order", () => {
  expect(firstDifference(["a", "b"], ["b", "a"])).toBe(0);
  expect(firstDifference(["a", "b"], ["a"])).toBe(1);
  expect(firstDifference(["a"], ["a", "b"])).toBe(1);
  const real = { name: "real", lines: ["1 claim: epoch 1", "2 open: waits", "3 more"] };
  expect(difference(["  1 claim", "  2 open"], left, real)).toMatchInlineSnapshot(`
    "the script
      1 claim
      2 open

        memory           | real
        ---------------- | --------
        1 claim: epoch 1 | 1 claim: epoch 1
    >>> 2 open: new      | 2 open: waits
        (nothing)        | 3 more"
  `);
});
