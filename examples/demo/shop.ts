// Owns the shop: places orders, each a row and a message in one transaction, and keeps a record of
// what it meant to do outside the database. Some orders are rolled back, as in real life.

import { randomUUID } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import { CommitUnknownError, createOutbox } from "@oncebox/core";
import { postgresStorage } from "@oncebox/postgres";
import pg from "pg";
import type { Intent } from "../../test/fixtures/checker.ts";
import { type Order, orderPlaced } from "./orders.ts";
import type { Setting } from "./setting.ts";

/** Orders of one customer are placed one after another, of these many customers side by side. */
const tills = 4;
const customers = 24;
const tickMs = 50;
const declinedEvery = 25;

export interface ShopOptions {
  readonly orders: number;
  /** How long it should take to place them all, at an even pace. */
  readonly durationMs: number;
  /** Each how many orders one is sent a second time, with the same id; 0: none. */
  readonly repeatEvery: number;
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
  #next = 0;
  placed = 0;
  declined = 0;
  repeated = 0;

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
      await this.#placeAtOnce(Math.min(due, end) - this.placed);
      await delay(tickMs);
    }
  }

  async close(): Promise<void> {
    await this.#storage.close();
    await this.#pool.end();
  }

  async #placeAtOnce(count: number): Promise<void> {
    const queues: string[][] = Array.from({ length: tills }, () => []);
    for (let i = 0; i < count; this.#next += 1) {
      const customer = this.#next % customers;
      const declined = this.#next % declinedEvery === declinedEvery - 1;
      queues[customer % tills]?.push(declined ? `declined ${customer}` : `${customer}`);
      if (!declined) i += 1;
    }
    await Promise.all(
      queues.map(async (queue) => {
        for (const entry of queue) {
          const [customer = "", declined] = entry.split(" ").reverse();
          await this.#place(`customer-${customer}`, declined !== undefined);
        }
      }),
    );
  }

  async #place(customer: string, declined: boolean): Promise<void> {
    const number = (this.#counts.get(customer) ?? 0) + 1;
    this.#counts.set(customer, number);
    const order = { id: `${customer}/${number}`, customer, number, cents: 100 + number };
    const intent = { id: randomUUID(), key: customer, sequence: number };
    // Noted before the attempt: until it is answered, nobody knows whether it took place.
    this.#intents.set(intent.id, { ...intent, state: "unknown" });
    try {
      await this.#commit(order, intent.id, declined);
      this.#intents.set(intent.id, { ...intent, state: "acknowledged" });
      this.placed += 1;
    } catch (error) {
      // A lost reply is not a failure: the order stays unknown, and the table will tell.
      if (error instanceof CommitUnknownError) return;
      if (!(error instanceof PaymentDeclined)) throw error;
      this.#intents.set(intent.id, { ...intent, state: "failed" });
      this.declined += 1;
    }
    const { repeatEvery } = this.#options;
    if (!declined && repeatEvery > 0 && this.placed % repeatEvery === 0) {
      await this.#commit(order, intent.id, false);
      this.repeated += 1;
    }
  }

  /** The order and its message: both, or neither. */
  async #commit(order: Order, id: string, declined: boolean): Promise<void> {
    await this.#storage.transaction(async (tx) => {
      await tx.query(
        `INSERT INTO orders (id, customer, cents, message_id) VALUES ($1, $2, $3, $4)
         ON CONFLICT DO NOTHING`,
        [order.id, order.customer, order.cents, id],
      );
      await this.#outbox.enqueue(
        tx,
        this.#topic.message({ key: order.customer, value: order, id }),
      );
      if (declined) throw new PaymentDeclined();
    });
  }
}
