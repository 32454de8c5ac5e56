// Owns the shop: places orders, rows and messages in one transaction, and keeps a record of what it
// meant to do outside the database. Some orders are rolled back, as in real life.

import { randomUUID } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import { createOutbox, type SyncOutbox, type SyncStorage } from "@oncebox/core";
import type { Database } from "better-sqlite3";
import type { Intent } from "../../../test/fixtures/checker.ts";
import { type Order, orderPlaced } from "../orders.ts";
import { topic } from "./world.ts";

const customers = 24;
/** Orders that a customer places at a time: they share a transaction. */
const basketSize = 4;
const declinedEvery = 12;
const tickMs = 20;
/** More at once would keep everybody else of this process from their turn. */
const basketsPerTick = 10;

interface Placed {
  readonly order: Order;
  readonly messageId: string;
}

class PaymentDeclined extends Error {}

export class Shop {
  readonly #storage: SyncStorage<Database>;
  readonly #outbox: SyncOutbox<Database>;
  readonly #orders: number;
  readonly #durationMs: number;
  readonly #topic = orderPlaced(topic);
  readonly #intents = new Map<string, Intent>();
  readonly #counts = new Map<string, number>();
  #turn = 0;
  placed = 0;
  declined = 0;

  /** `durationMs`: how long it should take to place them all, at an even pace. */
  constructor(storage: SyncStorage<Database>, orders: number, durationMs: number) {
    this.#storage = storage;
    this.#outbox = createOutbox({ storage });
    this.#orders = orders;
    this.#durationMs = durationMs;
  }

  get orders(): number {
    return this.#orders;
  }

  /** What was meant to be sent, and what is known of it. */
  get intents(): Intent[] {
    return [...this.#intents.values()];
  }

  /** Places orders at the shop's pace until there are `share` (0 to 1) of all. */
  async placeUntil(share: number): Promise<void> {
    const end = Math.round(this.#orders * share);
    const first = this.placed;
    const began = performance.now();
    while (this.placed < end) {
      const passed = (performance.now() - began) / this.#durationMs;
      const due = Math.min(end, first + Math.ceil(passed * this.#orders));
      for (let baskets = 0; this.placed < due && baskets < basketsPerTick; baskets += 1) {
        this.#serve(Math.min(basketSize, end - this.placed));
      }
      await delay(tickMs);
    }
  }

  #serve(size: number): void {
    const customer = `customer-${this.#turn % customers}`;
    const declined = this.#turn % declinedEvery === declinedEvery - 1;
    this.#turn += 1;
    const orders = Array.from({ length: size }, () => this.#newOrder(customer));
    try {
      this.#commit(orders, declined);
    } catch (error) {
      if (!(error instanceof PaymentDeclined)) throw error;
      this.#note(orders, "failed");
      this.declined += size;
      return;
    }
    this.#note(orders, "acknowledged");
    this.placed += size;
  }

  /** Noted before the attempt: until that is answered, nobody knows whether it took place. */
  #newOrder(customer: string): Placed {
    const number = (this.#counts.get(customer) ?? 0) + 1;
    this.#counts.set(customer, number);
    const order = { id: `${customer}/${number}`, customer, number, cents: 100 + number };
    const placed = { order, messageId: randomUUID() };
    this.#note([placed], "unknown");
    return placed;
  }

  #note(orders: readonly Placed[], state: Intent["state"]): void {
    for (const { order, messageId: id } of orders) {
      this.#intents.set(id, { id, key: order.customer, sequence: order.number, state });
    }
  }

  /** The orders and their messages: all, or none. */
  #commit(orders: readonly Placed[], declined: boolean): void {
    this.#storage.transactionSync((tx) => {
      const insert = tx.prepare(
        "INSERT INTO orders (id, customer, cents, message_id) VALUES (?, ?, ?, ?)",
      );
      for (const { order, messageId } of orders) {
        insert.run(order.id, order.customer, order.cents, messageId);
      }
      this.#outbox.enqueue(
        tx,
        orders.map(({ order, messageId: id }) =>
          this.#topic.message({ key: order.customer, value: order, id }),
        ),
      );
      if (declined) throw new PaymentDeclined();
    });
  }
}
