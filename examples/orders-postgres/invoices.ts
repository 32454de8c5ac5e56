// Owns invoices: how an order that was placed becomes one.

import type { Run } from "@oncebox/core";
import type { Knex } from "knex";
import type { OrderPlaced } from "./messages.ts";
import { isUuid } from "./uuid.ts";

interface Invoice {
  readonly number: number;
  readonly order_id: string;
  readonly customer: string;
  readonly cents: number;
}

/** The invoice, the message's id and the next offset commit together, or not at all. */
export const issueInvoice: Run<OrderPlaced, Knex.Transaction> = async ({ value }, trx) => {
  const { orderId, customer, cents } = value;
  await trx<Invoice>("invoices").insert({ order_id: orderId, customer, cents });
};

export async function findInvoice(database: Knex, orderId: string) {
  if (!isUuid(orderId)) return undefined;
  const found = await database<Invoice>("invoices")
    .where({ order_id: orderId })
    .orderBy("number")
    .first();
  return found && { number: found.number, orderId, customer: found.customer, cents: found.cents };
}
