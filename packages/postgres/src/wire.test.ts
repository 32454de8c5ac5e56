import { expect, it } from "vitest";
import { headersOf, nameFromStored, storedName } from "./wire.ts";

// Guards header names and topics against U+0000, which a column of text cannot hold.
it.each([
  ["plain", "plain"],
  ["", ""],
  ["\0", "\\0"],
  ["\\", "\\\\"],
  ["\\0", "\\\\0"],
  ["a\\\0\\b", "a\\\\\\0\\\\b"],
])("the name %j is stored as %j, and read as it was", (name, stored) => {
  expect(storedName(name)).toBe(stored);
  expect(nameFromStored(stored)).toBe(name);
});

it("reads headers in their order, names repeated, values null", () => {
  expect(headersOf('["a","b","a"]', '{"\\\\x01",NULL,"\\\\x"}')).toEqual([
    ["a", Buffer.of(1)],
    ["b", null],
    ["a", Buffer.alloc(0)],
  ]);
});
