// Owns the shop: places orders, rows and messages in one transaction, and keeps a record of what it
// meant to do outside the database. Some orders are rolled back, as in real life.

import { randomUUID } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import { CommitUnknownError, createOutbox } from "@oncebox/core";
import { postgresStorage } from "@oncebox/postgres";
import pg from "pg";
import type { Intent } from "../../test/fixtures/checker.ts";
import { type Order, orderPlaced } from "./orders.ts";
import type { Setting } from "./setting.ts";

/** Customers are served side by side at so many tills, each always at the same. */
const tills = 4;
const customers = 24;
/** Orders that a customer places at a time: they share a transaction. */
const basketSize = 4;
const declinedEvery = 12;
const tickMs = 50;

export interface ShopOptions {
  readonly orders: number;
  /** How long it should take to place them all, at an even pace. */
  readonly durationMs: number;
  /** Each how many orders one is sent a second time, with the same id; 0: none. */
  readonly repeatEvery: number;
}

interface Placed {
  readonly order: Order;
  readonly messageId: string;
}

class PaymentDeclined extends Error {}

export class Shop {
  readonly #pool: pg.Pool;
  readonly #options: ShopOptions;
  readonly #storage;
  readonly #outbox;
  readonly #topic;
  readonly #intents = new Map<string, Intent>();
  readonly #counts = new Map<string, number>();
  #turn = 0;
  #sinceRepeat = 0;
  placed = 0;
  declined = 0;

  constructor({ databaseUrl, topic }: Setting, options: ShopOptions) {
    this.#pool = new pg.Pool({ connectionString: databaseUrl, max: tills + 2 });
    this.#storage = postgresStorage({ pool: this.#pool });
    this.#outbox = createOutbox({ storage: this.#storage });
    this.#topic = orderPlaced(topic);
    this.#options = options;
  }

  /** What was meant to be sent, and what is known of it. */
  get intents(): Intent[] {
    return [...this.#intents.values()];
  }

  /** Places orders at the shop's pace until there are `share` (0 to 1) of all. */
  async placeUntil(share: number): Promise<void> {
    const { orders, durationMs } = this.#options;
    const end = Math.round(orders * share);
    const first = this.placed;
    const began = performance.now();
    while (this.placed < end) {
      const due = first + Math.ceil(((performance.now() - began) / durationMs) * orders);
      await this.#serve(Math.min(due, end) - this.placed);
      await delay(tickMs);
    }
  }

  async close(): Promise<void> {
    await this.#storage.close();
    await this.#pool.end();
  }

  async #serve(count: number): Promise<void> {
    const queues: (() => Promise<void>)[][] = Array.from({ length: tills }, () => []);
    for (let left = count; left > 0; this.#turn += 1) {
      const customer = this.#turn % customers;
      const declined = this.#turn % declinedEvery === declinedEvery - 1;
      const size = Math.min(basketSize, left);
      queues[customer % tills]?.push(() => this.#place(`customer-${customer}`, size, declined));
      if (!declined) left -= size;
    }
    const work = queues.map(async (queue) => {
      for (const serve of queue) await serve();
    });
    await Promise.all(work);
  }

  async #place(customer: string, size: number, declined: boolean): Promise<void> {
    const orders = Array.from({ length: size }, () => this.#newOrder(customer));
    try {
      await this.#commit(orders, declined);
      this.#note(orders, "acknowledged");
      this.placed += size;
    } catch (error) {
      // A lost reply is not a failure: the orders stay unknown, and the table will tell.
      if (error instanceof CommitUnknownError) return;
      if (!(error instanceof PaymentDeclined)) throw error;
      this.#note(orders, "failed");
      this.declined += size;
      return;
    }
    const { repeatEvery } = this.#options;
    const again = orders.filter(() => repeatEvery > 0 && ++this.#sinceRepeat % repeatEvery === 0);
    if (again.length > 0) await this.#commit(again, false);
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
  async #commit(orders: readonly Placed[], declined: boolean): Promise<void> {
    await this.#storage.transaction(async (tx) => {
      for (const { order, messageId } of orders) {
        await tx.query(
          `INSERT INTO orders (id, customer, cents, message_id) VALUES ($1, $2, $3, $4)
           ON CONFLICT DO NOTHING`,
          [order.id, order.customer, order.cents, messageId],
        );
      }
      const messages = orders.map(({ order, messageId: id }) =>
        this.#topic.message({ key: order.customer, value: order, id }),
      );
      await this.#outbox.enqueue(tx, messages);
      if (declined) throw new PaymentDeclined();
    });
  }
}
