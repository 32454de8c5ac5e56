// Owns the watch over how the core uses its ports: what it must never do even where it happens to go
// well. A partition is claimed by whom it is assigned to; a lane's rows are sent by who holds it; a
// producer sends one batch at a time.

import type { BrokerProducer, OnceboxEvent, OutgoingRecord } from "@oncebox/core";
import { laneOf } from "@oncebox/core";
import type { World } from "./world.ts";

/** What is wrong about each. */
export const manners = {
  strayClaim: "partitions claimed by a process to which they are not assigned",
  strayPublish: "messages sent by a relay that does not hold their lane",
  overlappingSends: "batches sent while another one of the same producer was under way",
} as const;

const encoder = new TextEncoder();
const noKey = new Uint8Array();

export class Manners {
  readonly found: { readonly [K in keyof typeof manners]: string[] } = {
    strayClaim: [],
    strayPublish: [],
    overlappingSends: [],
  };
  readonly #world: World;
  readonly #assigned = new Map<string, ReadonlySet<number>>();
  /** The relay of each process, as the lanes know it. */
  readonly #relays = new Map<string, string>();

  constructor(world: World) {
    this.#world = world;
  }

  event(worker: string, event: OnceboxEvent): void {
    if (event.type === "inbox.assigned") {
      this.#assigned.set(worker, new Set(event.partitions.map(({ partition }) => partition)));
    } else if (event.type === "inbox.claimed") {
      const own = this.#assigned.get(worker)?.has(event.partition) ?? false;
      if (!own) this.found.strayClaim.push(`${event.partition} by ${worker}`);
    } else if (event.type === "outbox.lanes-held") this.#relays.set(worker, event.relay);
  }

  /** The producer of one process, watched. */
  watched(worker: string, producer: BrokerProducer): BrokerProducer {
    let sending = false;
    return {
      ...producer,
      publish: async (records) => {
        if (sending) this.found.overlappingSends.push(worker);
        for (const record of records) this.#checkLane(worker, record);
        sending = true;
        const result = await producer.publish(records);
        sending = false;
        return result;
      },
    };
  }

  #checkLane(worker: string, { topic, key }: OutgoingRecord): void {
    const lane = laneOf(encoder.encode(topic), key ?? noKey);
    const held = this.#world.lane(lane);
    const now = this.#world.clock.now();
    if (held !== null && held.owner === this.#relays.get(worker) && held.leasedUntil >= now) return;
    this.found.strayPublish.push(`lane ${lane} by ${worker} at ${now}`);
  }
}
