import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { afterRead, afterSettle, type Floor, floorAt, lowered, risen } from "./floors.ts";

describe("a floor", () => {
  const read = afterRead(floorAt(0n), 20n);

  it("stays while a transaction older than the settling one may be open", () => {
    const settled = afterSettle(read, 20n, 100n);
    expect(risen(settled, 99n, null).floor).toBe(0n);
    expect(risen(settled, 100n, null).floor).toBe(0n);
    expect(risen(settled, 101n, null).floor).toBe(20n);
  });

  it("stays below the lowest row that is not published", () => {
    const settled = afterSettle(read, 20n, 100n);
    expect(risen(settled, 101n, 15n).floor).toBe(14n);
    expect(risen(settled, 101n, 21n).floor).toBe(20n);
  });

  it("rises to what was read before the settling was sent, not to what was read meanwhile", () => {
    const meanwhile = afterRead(read, 50n);
    const settled = afterSettle(meanwhile, 20n, 100n);
    expect(risen(settled, 101n, null).floor).toBe(20n);
  });

  it("never falls but for a sweep", () => {
    const state = { ...floorAt(30n), marks: [{ position: 40n, xid: 5n }] };
    expect(risen(state, 6n, 10n).floor).toBe(30n);
    expect(lowered(state, 10n).floor).toBe(9n);
    expect(lowered(state, 31n).floor).toBe(30n);
  });

  it("keeps its oldest mark while others are added, so that settling does not hold it back", () => {
    let state: Floor = floorAt(0n);
    for (let step = 1n; step <= 50n; step += 1n) {
      state = afterSettle(afterRead(state, step * 10n), step * 10n, step * 2n);
    }
    expect(state.marks).toEqual([
      { position: 10n, xid: 2n },
      { position: 500n, xid: 100n },
    ]);
    const first = risen(state, 3n, null);
    expect(first.floor).toBe(10n);
    expect(risen(first, 101n, null)).toMatchObject({ floor: 500n, marks: [] });
  });
});

/**
 * A model of the database: transactions take an id, then positions, and end in any order. A reader
 * follows the rule. Nothing may ever be committed at or below the floor that is not published.
 */
it("never rises past a row that may still appear", () => {
  const action = fc.constantFrom(
    "begin",
    "write",
    "commit",
    "rollback",
    "read",
    "settle",
    "answer",
  );
  const script = fc.array(fc.tuple(action, fc.nat(7)), { minLength: 100, maxLength: 200 });
  fc.assert(
    fc.property(script, (steps) => {
      const model = new Model();
      for (const [what, which] of steps) model.step(what, which);
    }),
    { numRuns: 1_000 },
  );
});

class Model {
  #nextXid = 1n;
  #nextPosition = 1n;
  readonly #open: { xid: bigint; positions: bigint[] }[] = [];
  #visible: bigint[] = [];
  #pending: bigint[] = [];
  #settling: { xid: bigint; highest: bigint } | null = null;
  #state: Floor = floorAt(0n);

  step(what: string, which: number): void {
    const transaction = this.#open[which % Math.max(1, this.#open.length)];
    // Few at once: then most steps do something.
    if (what === "begin" && this.#open.length < 3) {
      this.#open.push({ xid: this.#takeXid(), positions: [] });
    }
    if (what === "read") this.#read();
    if (what === "settle") this.#settle();
    if (what === "answer") this.#answer();
    if (transaction === undefined) return;
    if (what === "write") transaction.positions.push(this.#takePosition());
    if (what === "commit" || what === "rollback") {
      this.#open.splice(this.#open.indexOf(transaction), 1);
      if (what === "rollback") return;
      for (const position of transaction.positions) {
        expect(position).toBeGreaterThan(this.#state.floor);
        this.#visible.push(position);
      }
    }
  }

  #read(): void {
    const above = this.#visible.filter((position) => position > this.#state.floor);
    expect(above.length).toBe(this.#visible.length);
    const lowest = above.length === 0 ? null : above.reduce((a, b) => (a < b ? a : b));
    const running = [...this.#open, ...(this.#settling ? [this.#settling] : [])];
    const xmin = running.reduce((min, { xid }) => (xid < min ? xid : min), this.#nextXid);
    this.#pending.push(...above.filter((position) => !this.#pending.includes(position)));
    for (const position of above) this.#state = afterRead(this.#state, position);
    this.#state = risen(this.#state, xmin, lowest);
  }

  #settle(): void {
    if (this.#settling !== null) return;
    this.#settling = { xid: this.#takeXid(), highest: this.#state.highest };
  }

  #answer(): void {
    if (this.#settling === null) return;
    const done = new Set(this.#pending);
    this.#visible = this.#visible.filter((position) => !done.has(position));
    this.#pending = [];
    this.#state = afterSettle(this.#state, this.#settling.highest, this.#settling.xid);
    this.#settling = null;
  }

  #takeXid(): bigint {
    this.#nextXid += 1n;
    return this.#nextXid - 1n;
  }

  #takePosition(): bigint {
    this.#nextPosition += 1n;
    return this.#nextPosition - 1n;
  }
}
