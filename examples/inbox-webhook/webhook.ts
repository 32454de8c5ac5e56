// Owns the webhook: an event and its effect commit together, once, however often it is sent.

import { CommitUnknownError, createInbox } from "@oncebox/core";
import { postgresStorage } from "@oncebox/postgres";
import { Hono } from "hono";
import { bodyLimit } from "hono/body-limit";
import type pg from "pg";
import { eventFrom, isGenuine, type PaymentReceived } from "./events.ts";

const bodyBytesMax = 64 * 1024;

export function createWebhook(pool: pg.Pool, secret: string): Hono {
  const storage = postgresStorage({ pool });
  const inbox = createInbox({ name: "payments", storage });

  /** Of several at the same time, one is new, and the others wait until it is committed. */
  const receive = (event: PaymentReceived, body: Uint8Array) =>
    storage.transaction(async (tx) => {
      const seen = await inbox.once(tx, { source: "provider", id: event.id, value: body });
      if (seen === "new") {
        await tx.query(
          `INSERT INTO balances (account, cents) VALUES ($1, $2)
           ON CONFLICT (account) DO UPDATE SET cents = balances.cents + EXCLUDED.cents`,
          [event.account, event.cents],
        );
      }
      return seen;
    });

  const app = new Hono();
  app.get("/healthz", (context) => context.json({ ok: true }));
  app.post("/webhooks/payments", bodyLimit({ maxSize: bodyBytesMax }), async (context) => {
    // The bytes that were signed: what is decoded, or parsed and written anew, need not be the same.
    const body = new Uint8Array(await context.req.arrayBuffer());
    const signature = context.req.header("x-signature") ?? "";
    if (!isGenuine(body, signature, secret)) return context.json({ error: "not signed" }, 401);
    const event = eventFrom(body);
    if (event === null) return context.json({ error: "not a payment" }, 400);
    const seen = await receive(event, body);
    if (seen !== "conflict") return context.json({ event: event.id, seen });
    // To send it again cannot help: somebody has to look.
    console.error(`event ${event.id} came again with another body`);
    return context.json({ error: `event ${event.id} was another one before` }, 409);
  });
  app.onError((error, context) => {
    const { name, message } = error;
    console.error(`${context.req.path} failed: ${name}: ${message}`);
    // Also where nobody knows whether it was committed: if so, it will be a duplicate.
    const unknown = error instanceof CommitUnknownError;
    return context.json({ error: "send it again" }, unknown ? 503 : 500);
  });
  return app;
}
