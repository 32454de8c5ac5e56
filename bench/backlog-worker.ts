/** A consumer in a process of its own, for `backlog.ts`: says how much memory it took at most. */
import { createConsumer, defineTopic, text } from "@oncebox/core";
import { kafkajsBroker } from "@oncebox/kafkajs";
import { postgresStorage } from "@oncebox/postgres";
import { openPool } from "../test/fixtures/databases.ts";
import { stepLog } from "../test/fixtures/step-log.ts";

const { DATABASE_URL: connectionString, KAFKA_BROKERS = "", TOPIC = "", NAME = "" } = process.env;
const step = stepLog();
let applied = 0;
let rss = 0;
setInterval(() => {
  rss = Math.max(rss, process.memoryUsage().rss);
}, 20);

const consumer = createConsumer({
  name: NAME,
  storage: postgresStorage({ pool: openPool({ connectionString, pipeline: true }) }),
  broker: kafkajsBroker({ clientId: "backlog", brokers: KAFKA_BROKERS.split(",") }),
  observer: (event) => {
    if (event.type !== "inbox.chunk-committed") return;
    if (applied === 0) step(event.type, {});
    applied += event.applied;
  },
}).handle(defineTopic({ name: TOPIC, value: text() }), async (_, tx) => {
  await tx.query("SELECT 1");
});
process.once("SIGTERM", () => {
  step("done", { applied, rssMib: Math.ceil(rss / 2 ** 20) });
});
await consumer.start();
