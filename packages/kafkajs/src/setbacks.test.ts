import { expect, it } from "vitest";
import { ofTrouble, Setbacks } from "./setbacks.ts";

const at = { topic: "t", partition: 0 };
const other = { topic: "t", partition: 1 };

it("leaves a partition out for longer each time, up to a ceiling, until it is cleared", () => {
  const setbacks = new Setbacks();
  expect(setbacks.left(at, 0)).toBe(0);
  const waits: number[] = [];
  let now = 0;
  for (let time = 0; time < 8; time += 1) {
    setbacks.add(at, ofTrouble, now);
    waits.push(setbacks.left(at, now));
    now += waits.at(-1) ?? 0;
    expect(setbacks.left(at, now)).toBe(0);
  }
  expect(waits).toEqual([1_000, 2_000, 4_000, 5_000, 5_000, 5_000, 5_000, 5_000]);
  expect(setbacks.left(other, now)).toBe(0);
  setbacks.clear(at);
  setbacks.add(at, ofTrouble, now);
  expect(setbacks.left(at, now + 400)).toBe(600);
});
