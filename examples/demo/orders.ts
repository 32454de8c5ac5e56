// Owns the business of the demo: what an order is, its topic, and the tables of both sides.

import { defineTopic, json } from "@oncebox/core";
import { effectColumns } from "../../test/fixtures/history.ts";

export interface Order {
  readonly id: string;
  readonly customer: string;
  /** Counts each customer's orders, so that their order can be checked. */
  readonly number: number;
  readonly cents: number;
}

/** Defined once for the shop that publishes and the billing that handles. */
export const orderPlaced = (name: string) => defineTopic({ name, value: json<Order>() });

/**
 * `invoices` has no unique key beside its counter, on purpose: here nothing but Oncebox keeps an
 * order from being billed twice, and the checker would see it.
 */
export const tables = `
  CREATE TABLE orders (
    id         text PRIMARY KEY,
    customer   text NOT NULL,
    cents      integer NOT NULL,
    message_id text NOT NULL
  );
  CREATE TABLE invoices (${effectColumns},
    order_id text NOT NULL,
    cents    integer NOT NULL
  );`;
