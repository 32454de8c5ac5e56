// The outbox relay as a process of its own: carries committed messages to Kafka until it is told to
// end.

import { createOutboxRelay } from "@oncebox/core";
import { kafkajsBroker } from "@oncebox/kafkajs";
import { postgresStorage } from "@oncebox/postgres";
import pg from "pg";
import { stepData } from "../../test/fixtures/history.ts";
import { stepLog } from "../../test/fixtures/step-log.ts";
import { fromArguments } from "./setting.ts";

const { name, databaseUrl, brokers } = fromArguments();
const log = stepLog();

const pool = new pg.Pool({ connectionString: databaseUrl });
const storage = postgresStorage({ pool });
const broker = kafkajsBroker({ clientId: name, brokers: [...brokers] });

const relay = createOutboxRelay({
  storage,
  broker,
  observer: (event) => log(event.type, stepData(event)),
});
await relay.start();
log("started");

process.once("SIGTERM", async () => {
  await relay.stop();
  await broker.close();
  await storage.close();
  await pool.end();
});
