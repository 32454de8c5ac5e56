// Owns the business of the demo: what an order is, and its topic.

import { defineTopic, json } from "@oncebox/core";

export interface Order {
  readonly id: string;
  readonly customer: string;
  /** Counts each customer's orders, so that their order can be checked. */
  readonly number: number;
  readonly cents: number;
}

/** Defined once for the shop that publishes and the billing that handles. */
export const orderPlaced = (name: string) => defineTopic({ name, value: json<Order>() });
