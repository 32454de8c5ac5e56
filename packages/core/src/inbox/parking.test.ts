import { expect, it } from "vitest";
import { HandlerError } from "../errors.ts";
import { utf8 } from "../message.ts";
import type { Recorded } from "../ports/storage.ts";
import type { GiveUp } from "./failure-policy.ts";
import { sorted } from "./parking.ts";

const record = (offset: number, key: string | null) => ({
  ...{ offset: BigInt(offset), timestamp: 0n, leaderEpoch: 0 },
  ...{ key: key === null ? null : utf8(key), value: null, headers: [] },
});
const records = [record(1, "a"), record(2, "b"), record(3, "a"), record(4, null), record(5, null)];
const allNew: Recorded[] = ["new", "new", "new", "new", "new"];
const giveUp = (offset: number, park = true): GiveUp => ({
  offset: BigInt(offset),
  error: new HandlerError("handler-failed", "no"),
  ...{ attempts: 5, letter: null },
  park: park ? { state: "waiting", attempts: 5, afterMs: 10, error: null } : null,
});
const of = (found: ReturnType<typeof sorted>) => ({
  handled: found.toHandle.map((each) => Number(each.record.offset)),
  parked: found.toPark.map((each) => Number(each.record.offset)),
});

it("handles all that is new", () => {
  expect(of(sorted(records, allNew, null))).toEqual({ handled: [1, 2, 3, 4, 5], parked: [] });
});

it("parks what is given up, and behind it what follows of its key", () => {
  // Guards: order per key; a message handled before the earlier one of its key that failed.
  const found = sorted(records, allNew, giveUp(1));
  expect(of(found)).toEqual({ handled: [2, 4, 5], parked: [1, 3] });
  expect(found.toPark[0]).toMatchObject({ attempts: 5, afterMs: 10 });
  expect(found.toPark[1]).toMatchObject({ state: "waiting", attempts: 0, afterMs: 0, error: null });
});

it("parks a message without a key alone", () => {
  expect(of(sorted(records, allNew, giveUp(4))).parked).toEqual([4]);
});

it("parks what the storage says is held, and what follows of its key", () => {
  const recorded: Recorded[] = ["held", "new", "new", "new", "new"];
  expect(of(sorted(records, recorded, null))).toEqual({ handled: [2, 4, 5], parked: [1, 3] });
});

it("drops without holding up the key", () => {
  const found = sorted(records, allNew, giveUp(1, false));
  expect(of(found)).toEqual({ handled: [2, 3, 4, 5], parked: [] });
  expect(found.dropped).toBe(1);
});

it("tells what it gives up, and nothing where that was done before", () => {
  // Guards: a letter of a message that was handled, or parked by another try, meanwhile.
  for (const park of [true, false]) {
    expect(sorted(records, allNew, giveUp(1, park)).givenUp).toBe(records[0]);
    const recorded: Recorded[] = ["duplicate", "new", "new", "new", "new"];
    expect(sorted(records, recorded, giveUp(1, park)).givenUp).toBeNull();
  }
});

it("leaves out what was done, and tells a conflict", () => {
  const recorded: Recorded[] = ["done", "duplicate", "conflict", "new", "new"];
  const found = sorted(records, recorded, null);
  expect(found.duplicates).toBe(2);
  expect(found.toHandle.map(({ conflict }) => conflict)).toEqual([true, false, false]);
  expect(of(sorted(records, recorded, giveUp(3))).parked).toEqual([3]);
});

it("tells a conflict also behind a parked message of its key", () => {
  // Guards: parked as one that only waits, it would be handled later as if nothing were wrong.
  const recorded: Recorded[] = ["held", "new", "conflict", "new", "new"];
  const found = sorted(records, recorded, null);
  expect(found.toHandle[1]).toMatchObject({ record: { offset: 3n }, conflict: true });
});
