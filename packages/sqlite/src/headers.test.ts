// Guards that what is parked or published is found again byte for byte.
import { expect, test } from "vitest";
import { headersOf, hexOf, pairsOf } from "./headers.ts";

test("headers keep their order, names that repeat, empty values and those that are null", () => {
  const all = Uint8Array.from({ length: 256 }, (_, n) => n);
  const headers = [
    ["b", all],
    ["a", null],
    ["b", new Uint8Array(0)],
    ["", new Uint8Array([0])],
    ['\u0000 \\ " \u{1f4e6} \ud800', null],
  ] as const;
  const read = headersOf(JSON.stringify(pairsOf(headers)));
  const plain = read.map(([name, bytes]) => [name, bytes === null ? null : new Uint8Array(bytes)]);
  expect(plain).toEqual(headers);
});

test("of bytes that lie in a larger buffer only their own are written", () => {
  const { buffer } = new Uint8Array([1, 2, 3, 4, 5]);
  expect(hexOf(new Uint8Array(buffer, 1, 3))).toBe("020304");
  expect(hexOf(new Uint8Array(0))).toBe("");
  expect(hexOf(null)).toBeNull();
});
