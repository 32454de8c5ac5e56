// Owns the relays and consumers of a run, and what their events say: what was handed to whom, and how
// far they have come. What happens to them is the story's.

import {
  createConsumer,
  createOutboxRelay,
  type Message,
  type OnceboxEvent,
  type Service,
} from "@oncebox/core";
import type { Database } from "better-sqlite3";
import type { Delivery } from "../../../test/fixtures/checker.ts";
import { DemoFailure, type Undo } from "../ending.ts";
import { type Order, orderPlaced } from "../orders.ts";
import { Process, times } from "./process.ts";
import { billing, topic, type World } from "./world.ts";

/** Longest wait for anything that has to happen: generous, since machines may be busy. */
const patienceMs = 30_000;
const lookEveryMs = 10;

export interface Actor {
  readonly process: Process;
  /** Oldest first; nothing is added by the dead. */
  readonly events: readonly OnceboxEvent[];
}

/** Where the story may have an accident happen. */
export interface Cues {
  readonly event?: (event: OnceboxEvent, process: Process) => void;
  /** An invoice was written, in a transaction that is still open. */
  readonly written?: (message: Message<Order>, tx: Database, process: Process) => void;
  /** A verb of the storage is about to be called. */
  readonly called?: (verb: string, args: readonly unknown[], process: Process) => void;
}

export class Cast {
  /** Records handed to chunks, by consumers of all times. */
  readonly deliveries: Delivery[] = [];
  published = 0;
  invoices = 0;
  duplicates = 0;
  readonly #world: World;
  readonly #undo: Undo;
  readonly #services: { readonly process: Process; readonly service: Service }[] = [];

  constructor(world: World, undo: Undo) {
    this.#world = world;
    this.#undo = undo;
  }

  async relay(name: string, cues: Cues = {}): Promise<Actor> {
    const { process, events, observer } = this.#enter(name, cues, this.#world.open());
    const { storage, broker, clock } = process;
    const { leaseDurationMs } = times;
    await this.#run(
      process,
      createOutboxRelay({ storage, broker, clock, observer, leaseDurationMs }),
    );
    return { process, events };
  }

  async consumer(name: string, cues: Cues = {}): Promise<Actor> {
    const { process, events, observer } = this.#enter(name, cues, this.#world.openForConsumer());
    const { storage, broker, clock } = process;
    const consumer = createConsumer({ name: billing, storage, broker, clock, observer }).handle(
      orderPlaced(topic),
      (message, tx) => {
        const { id, key, value: order, partition, offset } = message;
        // The invoice and the fact that this order was handled commit together, or not at all.
        tx.prepare(
          `INSERT INTO invoices
             (message_id, key, sequence, topic, partition, record_offset, worker, order_id, cents)
           VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
        ).run(id, key, order.number, topic, partition, offset, name, order.id, order.cents);
        cues.written?.(message, tx, process);
      },
    );
    await this.#run(process, consumer);
    return { process, events };
  }

  /** Resolves when it holds. */
  async until(otherwise: string, holds: () => boolean | Promise<boolean>): Promise<void> {
    const deadline = performance.now() + patienceMs;
    while (!(await holds())) {
      if (performance.now() > deadline) throw new DemoFailure(`${otherwise} in ${patienceMs} ms`);
      await new Promise((resolve) => setTimeout(resolve, lookEveryMs));
    }
  }

  /** Ends all who live, in good order. */
  async dismiss(): Promise<void> {
    for (const { process, service } of this.#services.splice(0)) {
      if (process.alive) await service.stop();
      await process.end();
    }
  }

  #enter(name: string, cues: Cues, database: Database) {
    const called = (verb: string, args: readonly unknown[]) => cues.called?.(verb, args, process);
    const process = new Process(name, database, this.#world.broker.cluster, called);
    const events: OnceboxEvent[] = [];
    const observer = process.observed((event) => {
      events.push(event);
      this.#tally(name, event);
      cues.event?.(event, process);
    });
    return { process, events, observer };
  }

  async #run(process: Process, service: Service): Promise<void> {
    if (this.#services.length === 0) this.#undo.push(() => this.dismiss());
    this.#services.push({ process, service });
    await service.start();
  }

  #tally(worker: string, event: OnceboxEvent): void {
    if (event.type === "outbox.published") this.published += event.messages;
    if (event.type === "inbox.chunk-opening") {
      const { partition, firstOffset, endOffset, messages } = event;
      this.deliveries.push({ worker, topic, partition, firstOffset, endOffset, messages });
    }
    if (event.type !== "inbox.chunk-committed") return;
    this.invoices += event.applied;
    this.duplicates += event.duplicates;
  }
}
