// The invoice service: turns orders that were placed into invoices, each once, and shows them.

import { createConsumer } from "@oncebox/core";
import { kafkajsBroker } from "@oncebox/kafkajs";
import { knexStorage } from "@oncebox/postgres/knex";
import { readConfig } from "./config.ts";
import { databaseTrouble, openDatabase } from "./database.ts";
import { createApp, listen, present } from "./http.ts";
import { findInvoice, issueInvoice } from "./invoices.ts";
import { live, notRunning, orExit } from "./lifecycle.ts";
import { log, logEvents } from "./log.ts";
import { orderPlaced } from "./messages.ts";

const config = await orExit(() => readConfig(process.env, { port: 3002 }));
const database = openDatabase(config.databaseUrl);
const storage = knexStorage(database, {
  // A frozen process must not hold its partitions for longer than its membership lasts.
  idleInTransactionTimeoutMs: Math.floor((config.sessionTimeoutMs * 2) / 3),
});
const broker = kafkajsBroker({
  clientId: "invoice-service",
  brokers: [...config.brokers],
  sessionTimeoutMs: config.sessionTimeoutMs,
  heartbeatIntervalMs: Math.ceil(config.sessionTimeoutMs / 10),
  maxWaitMs: Math.min(250, Math.floor(config.sessionTimeoutMs / 20)),
});
const consumer = createConsumer({ name: config.consumer, storage, broker, observer: logEvents });
consumer.handle(orderPlaced(config.topic), issueInvoice);

const app = createApp({
  notLive: () => {
    const { live, reasons } = consumer.health();
    return live ? [] : reasons;
  },
  notReady: async () =>
    present(notRunning(), ...consumer.health().reasons, await databaseTrouble(database)),
});

app.get("/invoices/:orderId", async (context) => {
  const invoice = await findInvoice(database, context.req.param("orderId"));
  return invoice === undefined
    ? context.json({ error: "no invoice for this order yet" }, 404)
    : context.json(invoice);
});

const http = await orExit(() => listen(app, config.host, config.port));
log("info", "http.listening", { port: http.port });

await live({
  deadlineMs: config.stopDeadlineMs,
  start: () => consumer.start(),
  stops: [
    { name: "http", stop: http.close },
    { name: "consumer", stop: (deadlineMs) => consumer.stop({ deadlineMs }) },
    { name: "broker", stop: () => broker.close() },
    { name: "storage", stop: () => storage.close() },
    { name: "database", stop: () => database.destroy() },
  ],
});
