// Owns orders: what one is, and that it is placed together with its message, or not at all.

import type { Outbox, Storage, Topic } from "@oncebox/core";
import { HTTPException } from "hono/http-exception";
import type { Knex } from "knex";
import type { OrderPlaced } from "./messages.ts";
import { isUuid } from "./uuid.ts";

export interface Order {
  readonly id: string;
  readonly customer: string;
  readonly cents: number;
}

export interface OrderTables {
  readonly database: Knex;
  readonly storage: Storage<Knex.Transaction>;
  readonly outbox: Outbox<Knex.Transaction>;
  readonly topic: Topic<OrderPlaced, OrderPlaced>;
}

const columns = ["id", "customer", "cents"] as const;

/**
 * `placed`: committed, with its message. `known`: it was placed before, as it is. `other`: its id is
 * that of another order. Throws CommitUnknownError where nobody can say whether it was committed: to
 * place it again is harmless.
 */
export function placeOrder(
  { storage, outbox, topic }: OrderTables,
  order: Order,
): Promise<"placed" | "known" | "other"> {
  return storage.transaction(async (trx) => {
    const inserted = await trx<Order>("orders")
      .insert(order)
      .onConflict("id")
      .ignore()
      .returning("id");
    if (inserted.length === 0) {
      const found = await trx<Order>("orders")
        .where({ id: order.id })
        .first(...columns);
      return found?.customer === order.customer && found.cents === order.cents ? "known" : "other";
    }
    const { id: orderId, customer, cents } = order;
    const value = { orderId, customer, cents };
    await outbox.enqueue(trx, topic.message({ key: customer, value }));
    return "placed";
  });
}

export async function findOrder({ database }: OrderTables, id: string): Promise<Order | undefined> {
  return isUuid(id)
    ? database<Order>("orders")
        .where({ id })
        .first(...columns)
    : undefined;
}

/** An order from the body of a request. Throws HTTPException 400. */
export function orderFrom(body: unknown, newId: () => string): Order {
  const { id = newId(), customer, cents } = (body ?? {}) as Readonly<Record<string, unknown>>;
  const problems: string[] = [];
  if (!isUuid(id)) problems.push("id must be a UUID");
  if (typeof customer !== "string" || !/^.{1,200}$/u.test(customer)) {
    problems.push("customer must be text of 1 to 200 characters");
  }
  if (!Number.isInteger(cents) || Number(cents) < 1 || Number(cents) > 100_000_000) {
    problems.push("cents must be a whole number from 1 to 100000000");
  }
  if (problems.length > 0) throw new HTTPException(400, { message: problems.join("; ") });
  return { id: String(id).toLowerCase(), customer: String(customer), cents: Number(cents) };
}
