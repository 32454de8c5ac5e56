/** A consumer in a process of its own, for `takeover.ts` to kill. */
import { createConsumer, defineTopic, text } from "@oncebox/core";
import { kafkajsBroker } from "@oncebox/kafkajs";
import { postgresStorage } from "@oncebox/postgres";
import { openPool } from "../test/fixtures/databases.ts";
import { stepLog } from "../test/fixtures/step-log.ts";

const { DATABASE_URL: connectionString, KAFKA_BROKERS = "", TOPIC = "", NAME = "" } = process.env;
const step = stepLog();

const consumer = createConsumer({
  name: NAME,
  storage: postgresStorage({
    pool: openPool({ connectionString, pipeline: true }),
    idleInTransactionTimeoutMs: 3_000,
  }),
  broker: kafkajsBroker({
    clientId: "takeover",
    brokers: KAFKA_BROKERS.split(","),
    sessionTimeoutMs: 6_000,
    heartbeatIntervalMs: 1_000,
  }),
  observer: (event) => {
    if (event.type === "inbox.chunk-opening" || event.type === "inbox.chunk-committed") {
      step(event.type, { partition: event.partition });
    }
    if (event.type === "inbox.assigned") step(event.type, { count: event.partitions.length });
  },
}).handle(defineTopic({ name: TOPIC, value: text() }), async (_, tx) => {
  await tx.query("SELECT pg_sleep(0.002)");
});
await consumer.start();
