// Owns the count of what the faults have hit: a fault that never reaches its step proves nothing.

import { standings } from "./long-stop.ts";
import type { Told } from "./main.ts";
import { actsAt, type Step, timedActs } from "./plan.ts";

/** Every fault at every step where it makes sense, and every happening at rest and under load. */
const cells: readonly string[] = [
  ...Object.entries(actsAt).flatMap(([step, acts]) => acts.map((act) => `${step}/${act}`)),
  ...timedActs.flatMap((act) => [`${act}/busy`, `${act}/idle`]),
  ...standings.map((how) => `long-stop/${how}`),
];

export class Reach {
  readonly #counts = new Map<string, number>(cells.map((cell) => [cell, 0]));
  seeds = 0;
  /** The least of any seed: a run with nothing in it proves nothing. */
  readonly least = { steps: Number.POSITIVE_INFINITY, faults: Number.POSITIVE_INFINITY };
  #steps = 0;
  #faults = 0;

  add({ fired, steps }: Told): void {
    this.seeds += 1;
    this.#steps += steps;
    this.#faults += fired.length;
    this.least.steps = Math.min(this.least.steps, steps);
    this.least.faults = Math.min(this.least.faults, fired.length);
    for (const cell of fired) this.#counts.set(cell, (this.#counts.get(cell) ?? 0) + 1);
  }

  /** Cells that nothing has reached. */
  get missed(): readonly string[] {
    return cells.filter((cell) => this.#counts.get(cell) === 0);
  }

  table(): string {
    const rows = [...(Object.keys(actsAt) as Step[]), "long-stop", "at a time"].map((row) => {
      const own = cells.filter((cell) => {
        return row === "at a time" ? /\/(busy|idle)$/.test(cell) : cell.startsWith(`${row}/`);
      });
      const shown = own.map((cell) => {
        const name = row === "at a time" ? cell : cell.slice(row.length + 1);
        return `${name} ${this.#counts.get(cell)}`;
      });
      return `${row}: ${shown.join(", ")}`;
    });
    const mean = (sum: number) => (sum / Math.max(1, this.seeds)).toFixed(1);
    const { steps, faults } = this.least;
    const amounts = `${mean(this.#steps)} steps (least ${steps}), ${mean(this.#faults)} faults (least ${faults})`;
    return `${rows.join("\n")}\nper seed: ${amounts}`;
  }
}
