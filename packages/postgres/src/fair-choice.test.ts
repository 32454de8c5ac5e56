import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { chooseFairly, type SeenRow } from "./fair-choice.ts";

function seen(lane: number, position: number, more: Partial<SeenRow> = {}): SeenRow {
  const key = new Uint8Array();
  const row = { lane, position: BigInt(position), id: "", topic: "", key, value: key, headers: [] };
  return { position: BigInt(position), pending: false, bytes: 10, row, ...more };
}

const plenty = { rows: 100, bytes: 1_000, any: true };
const positions = (choice: ReturnType<typeof chooseFairly>) =>
  choice.rows.map((row) => Number(row.position));

describe("a fair choice", () => {
  const lanes = new Map([
    [1, [seen(1, 1), seen(1, 2), seen(1, 3)]],
    [2, [seen(2, 4), seen(2, 5, { pending: true }), seen(2, 6)]],
  ]);

  it("takes turns, and leaves out what is pending", () => {
    expect(positions(chooseFairly(lanes, plenty))).toEqual([1, 4, 2, 6, 3]);
    expect(chooseFairly(lanes, plenty)).toMatchObject({ bytes: 50, left: false });
    const three = chooseFairly(lanes, { ...plenty, rows: 3 });
    expect([positions(three), three.left]).toEqual([[1, 4, 2], true]);
  });

  it("keeps to its bytes, but for the first row", () => {
    expect(positions(chooseFairly(lanes, { ...plenty, bytes: 29 }))).toEqual([1, 4]);
    expect(positions(chooseFairly(lanes, { ...plenty, bytes: 1 }))).toEqual([1]);
    const none = chooseFairly(lanes, { ...plenty, bytes: 1, any: false });
    expect([positions(none), none.left]).toEqual([[], true]);
  });

  it("takes nothing of a lane behind a row whose content is missing", () => {
    const hole = new Map([
      [1, [seen(1, 1), seen(1, 2, { row: null }), seen(1, 3)]],
      [2, [seen(2, 4), seen(2, 5)]],
    ]);
    const choice = chooseFairly(hole, plenty);
    expect([positions(choice), choice.left]).toEqual([[1, 4, 5], true]);
  });

  it("always takes the lowest rows of a lane, and says whether any were left", () => {
    const lane = fc.array(
      fc.record({ pending: fc.boolean(), bytes: fc.nat(50), fetched: fc.boolean() }),
      { maxLength: 12 },
    );
    fc.assert(
      fc.property(
        fc.array(lane, { maxLength: 6 }),
        fc.nat(30),
        fc.nat(400),
        (shapes, rows, bytes) => {
          const all = new Map(
            shapes.map((shape, index) => [
              index,
              shape.map(({ fetched, ...more }, at) =>
                seen(index, at + 1, { ...more, ...(fetched ? {} : { row: null }) }),
              ),
            ]),
          );
          const choice = chooseFairly(all, { rows, bytes, any: true });
          expect(choice.rows.length).toBeLessThanOrEqual(rows);
          const free = [...all.values()].flat().filter((row) => !row.pending).length;
          expect(choice.left).toBe(choice.rows.length < free);
          for (const [index, list] of all) {
            const taken = choice.rows
              .filter((row) => row.lane === index)
              .map((row) => row.position);
            const lowest = list.filter((row) => !row.pending).map((row) => row.position);
            expect(taken).toEqual(lowest.slice(0, taken.length));
          }
        },
      ),
    );
  });
});
