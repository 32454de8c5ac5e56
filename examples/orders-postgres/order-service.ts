// The order service: takes orders over HTTP, and relays their messages to Kafka.

import { randomUUID } from "node:crypto";
import { CommitUnknownError, createOutbox, createOutboxRelay } from "@oncebox/core";
import { kafkajsBroker } from "@oncebox/kafkajs";
import { knexStorage } from "@oncebox/postgres/knex";
import { HTTPException } from "hono/http-exception";
import { readConfig } from "./config.ts";
import { databaseTrouble, openDatabase } from "./database.ts";
import { createApp, listen, present } from "./http.ts";
import { live, notRunning, orExit } from "./lifecycle.ts";
import { log, logEvents } from "./log.ts";
import { orderPlaced } from "./messages.ts";
import { findOrder, orderFrom, placeOrder } from "./orders.ts";

const config = await orExit(() => readConfig(process.env, { port: 3001 }));
const database = openDatabase(config.databaseUrl);
const storage = knexStorage(database);
const broker = kafkajsBroker({ clientId: "order-service", brokers: [...config.brokers] });
const relay = createOutboxRelay({ storage, broker, observer: logEvents });
const tables = {
  database,
  storage,
  outbox: createOutbox({ storage }),
  topic: orderPlaced(config.topic),
};

const app = createApp({
  notLive: () => [],
  // An outage of Kafka does not make it unready: orders are taken, and their messages wait.
  notReady: async () => present(notRunning(), await databaseTrouble(database)),
});

app.post("/orders", async (context) => {
  const order = orderFrom(await context.req.json().catch(() => undefined), randomUUID);
  try {
    const outcome = await placeOrder(tables, order);
    if (outcome === "other") {
      throw new HTTPException(409, { message: `another order has the id ${order.id}` });
    }
    return context.json(order, outcome === "placed" ? 201 : 200);
  } catch (error) {
    if (!(error instanceof CommitUnknownError)) throw error;
    log("warn", "order.commit-unknown", { order: order.id, error });
    const message = `unknown whether order ${order.id} was placed: place it again under this id`;
    throw new HTTPException(503, { message });
  }
});

app.get("/orders/:id", async (context) => {
  const order = await findOrder(tables, context.req.param("id"));
  return order === undefined ? context.json({ error: "no such order" }, 404) : context.json(order);
});

const http = await orExit(() => listen(app, config.host, config.port));
log("info", "http.listening", { port: http.port });

await live({
  deadlineMs: config.stopDeadlineMs,
  start: () => relay.start(),
  stops: [
    { name: "http", stop: http.close },
    { name: "relay", stop: (deadlineMs) => relay.stop({ deadlineMs }) },
    { name: "broker", stop: () => broker.close() },
    { name: "storage", stop: () => storage.close() },
    { name: "database", stop: () => database.destroy() },
  ],
});
