// Owns what a person does during a run: about partitions whose position was lost, and about messages
// that are parked.

import { createOperator, type OnceboxEvent } from "@oncebox/core";
import { memoryStorage } from "@oncebox/testing";
import type { Happenings } from "./happenings.ts";
import type { ParkedWatch } from "./parked.ts";
import type { Quirks } from "./quirks.ts";
import type { Worker } from "./worker.ts";
import { consumerName, orders, type World } from "./world.ts";

interface Operated {
  readonly workers: readonly Worker[];
  readonly happenings: Happenings;
  readonly quirks: Quirks;
  readonly parked: ParkedWatch;
}

export class Operations {
  readonly #world: World;
  readonly #operated: Operated;
  readonly #operator;
  /** Partitions that wait for a person. */
  readonly #waiting = new Set<number>();
  /** Parked messages about which something is being done. */
  readonly #acting = new Set<bigint>();
  #healed = false;

  constructor(world: World, operated: Operated) {
    this.#world = world;
    this.#operated = operated;
    const { database, outside } = world;
    const storage = memoryStorage({ database, name: "operator" });
    this.#operator = createOperator({ storage, broker: outside, actor: "simulator" });
  }

  event(event: OnceboxEvent): void {
    if (event.type === "inbox.displaced" && event.paused) this.#waiting.add(event.partition);
  }

  /** From now on nothing is done but what has to be. */
  heal(): void {
    this.#healed = true;
  }

  /** Whether nothing waits for a person, or for its turn. */
  get done(): boolean {
    const { parked, quirks } = this.#operated;
    if (this.#waiting.size > 0 || this.#acting.size > 0) return false;
    // What is left dead holds up those behind it, for ever.
    return parked.rows().every(({ isHead, state, message }) => {
      return !isHead || (state === "dead" && quirks.of(message).end === "leave");
    });
  }

  act(): void {
    this.#seek();
    this.#sort();
  }

  #seek(): void {
    const { workers, happenings } = this.#operated;
    // An operator's seek may have been undone by a restore: the status says so still.
    for (const worker of workers) for (const at of worker.displaced) this.#waiting.add(at);
    for (const partition of this.#waiting) {
      const seeking = this.#operator.seek({
        ...{ consumer: consumerName, topic: orders.name, partitions: [partition] },
        ...{ to: "earliest", replay: false, reason: "the log has lost records" },
      });
      seeking.then(
        () => {
          this.#waiting.delete(partition);
          this.#world.forgetPositions(partition);
          happenings.moved.add(partition);
          this.#world.trace.note("operator", `seek ${partition}`);
        },
        // The database or Kafka is away: tried again.
        () => undefined,
      );
    }
  }

  /** What is dead is mended and tried again, skipped, or left; an impatient one does not wait for that. */
  #sort(): void {
    const { parked, quirks } = this.#operated;
    const early = this.#world.plan.impatient && !this.#healed;
    for (const { id, state, attempts, message } of parked.rows()) {
      const { end } = quirks.of(message);
      if (this.#acting.has(id) || (state !== "dead" && !(early && attempts > 1))) continue;
      if (end === "skip") this.#change("skip", id);
      else if (state !== "dead") this.#change("redrive", id);
      else if (end === "redrive") {
        quirks.mend(message);
        this.#change("redrive", id);
      }
    }
  }

  #change(action: "redrive" | "skip", id: bigint): void {
    this.#acting.add(id);
    const choice = { consumer: consumerName, ids: [id], reason: "it failed for too long" };
    this.#operator[action](choice).then(
      (changed) => {
        this.#acting.delete(id);
        this.#world.trace.note("operator", `${action} ${id}: ${changed}`);
      },
      // The database is away: tried again.
      () => this.#acting.delete(id),
    );
  }
}
