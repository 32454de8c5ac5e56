// A small shop. Orders are placed with a message about them; billing makes an invoice of each, and
// says so by a message of its own. It is given its database and its broker, so that a test can bring
// its own.

import {
  type Broker,
  type Clock,
  createConsumer,
  createOutbox,
  createOutboxRelay,
  defineTopic,
  json,
} from "@oncebox/core";
import { migrate, sqliteStorage } from "@oncebox/sqlite";
import type { Database } from "better-sqlite3";

export interface Order {
  readonly id: string;
  readonly customer: string;
  readonly cents: number;
}

export const orderPlaced = defineTopic({ name: "orders.placed", value: json<Order>() });
export const invoiceMade = defineTopic({
  name: "invoices.made",
  value: json<{ readonly order: string; readonly cents: number }>(),
});

/** What one customer may have ordered, all orders together. */
export const creditCentsMax = 100_000;

export class CreditExceeded extends Error {}

export interface ShopOptions {
  /** A connection to a file: `journal_mode = WAL`, and `synchronous = FULL`, which each needs anew. */
  readonly database: Database;
  readonly broker: Broker;
  /** Time and chance; for tests. */
  readonly clock?: Clock;
}

/** Installs what is missing: the tables of Oncebox, and the shop's own. */
export async function install(database: Database): Promise<void> {
  await migrate(database);
  database.exec(`
    CREATE TABLE IF NOT EXISTS orders (
      id TEXT PRIMARY KEY, customer TEXT NOT NULL, cents INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE IF NOT EXISTS invoices (
      number INTEGER PRIMARY KEY, order_id TEXT NOT NULL, cents INTEGER NOT NULL
    ) STRICT;`);
}

export function createShop({ database, broker, clock }: ShopOptions) {
  const storage = sqliteStorage({ database });
  const own = clock === undefined ? {} : { clock };
  const outbox = createOutbox({ storage, ...own });
  const relay = createOutboxRelay({ storage, broker, ...own });
  const consumer = createConsumer({ name: "billing", storage, broker, ...own }).handle(
    orderPlaced,
    ({ value: { id, cents } }, tx, { outbox: publish }) => {
      // The invoice, the message about it and the fact that this order was handled: all, or none.
      tx.prepare("INSERT INTO invoices (order_id, cents) VALUES (?, ?)").run(id, cents);
      publish.enqueue(invoiceMade.message({ key: id, value: { order: id, cents } }));
    },
  );
  return {
    consumer,
    relay,
    /** The order and its message commit together, or not at all. Throws CreditExceeded. */
    placeOrder: (order: Order): void => {
      storage.transactionSync((tx) => {
        const { id, customer, cents } = order;
        tx.prepare("INSERT INTO orders (id, customer, cents) VALUES (?, ?, ?)").run(
          ...[id, customer, cents],
        );
        outbox.enqueue(tx, orderPlaced.message({ key: customer, value: order }));
        // Only what this database knows is asked in here. A payment is taken by a consumer of the
        // message, with its idempotency key: a rollback would not give the money back.
        const ordered = tx
          .prepare("SELECT sum(cents) FROM orders WHERE customer = ?")
          .pluck()
          .get(customer) as number;
        if (ordered > creditCentsMax) {
          throw new CreditExceeded(`order ${id} is above the credit of ${customer}`);
        }
      });
    },
  };
}
