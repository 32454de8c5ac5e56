// Owns what the two services say to each other: the only file that both of them know.

import { defineTopic, json } from "@oncebox/core";

export interface OrderPlaced {
  readonly orderId: string;
  readonly customer: string;
  readonly cents: number;
}

/** Keyed by the customer: the orders of one customer are invoiced in the order they came in. */
export const orderPlaced = (topic: string) =>
  defineTopic({ name: topic, value: json<OrderPlaced>() });
