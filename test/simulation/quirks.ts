// Owns what is wrong with a message, or with its handler: drawn once per message, whoever handles it
// first, and spent with every run. Knows nothing of processes and databases.

import type { Plan } from "./plan.ts";

export interface Quirk {
  /** Runs that throw; infinite: until somebody mends it. */
  throws: number;
  /** Whether the healing mends it; else it is dead before a person does. */
  readonly heals: boolean;
  /** Whether what it throws says that another try cannot help. */
  readonly permanent: boolean;
  /** Runs that swallow the error of a failed statement. */
  swallows: number;
  /** Runs that commit their transaction behind our back. */
  commits: number;
  /** Runs that never end. */
  hangs: number;
  /** Runs that end their process; infinite: until somebody mends it. */
  kills: number;
  /** Whether it works behind a savepoint, part of which it undoes. */
  readonly savepoint: boolean;
  /** How long it takes before it writes, in milliseconds. */
  readonly slowMs: number;
  /** What a person does when it is dead. */
  readonly end: "redrive" | "skip" | "leave";
}

export class Quirks {
  readonly #plan: Plan;
  readonly #random: () => number;
  readonly #known = new Map<string, Quirk>();
  #healed = false;

  constructor(plan: Plan, random: () => number) {
    this.#plan = plan;
    this.#random = random;
  }

  of(id: string): Quirk {
    const known = this.#known.get(id) ?? this.#draw();
    this.#known.set(id, known);
    return known;
  }

  /** The handlers are mended, most of them. */
  heal(): void {
    this.#healed = true;
    for (const quirk of this.#known.values()) if (quirk.heals) quirk.throws = 0;
  }

  /** The handler of this message is mended by hand. */
  mend(id: string): void {
    const quirk = this.of(id);
    quirk.throws = 0;
    quirk.kills = 0;
  }

  #draw(): Quirk {
    const { failing, swallowing, committing, hanging, killing, savepoints, onFailure, ordering } =
      this.#plan;
    const random = this.#random;
    const hit = (share: number) => share > 0 && random() < share;
    const throws = hit(failing) ? this.#throws() : 0;
    const heals = onFailure === "block" || random() < 0.5;
    const kills = hit(killing) ? this.#kills() : 0;
    return {
      throws: this.#healed && heals ? 0 : throws,
      heals,
      permanent: throws > 0 && random() < 0.2,
      swallows: hit(swallowing) ? 1 : 0,
      commits: hit(committing) ? 1 : 0,
      hangs: hit(hanging) ? 1 : 0,
      kills,
      savepoint: hit(savepoints),
      slowMs: ordering === "key" && random() < 0.5 ? random() * 20 : 0,
      end: (["redrive", "skip", "leave"] as const)[Math.floor(random() * 3)] ?? "redrive",
    };
  }

  #throws(): number {
    const random = this.#random;
    const kind = random();
    if (kind < 0.4) return 1 + Math.floor(random() * 2);
    return kind < 0.7 ? 3 + Math.floor(random() * 4) : Number.POSITIVE_INFINITY;
  }

  /** Once; often enough to be tried alone, and once there; or for ever. */
  #kills(): number {
    const { onFailure } = this.#plan;
    const kind = this.#random();
    if (onFailure === "block" || kind < 0.3) return 1;
    return kind < 0.6 ? 4 : Number.POSITIVE_INFINITY;
  }
}
