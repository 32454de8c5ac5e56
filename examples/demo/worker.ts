// A worker of the billing: turns orders into invoices until it is told to end. What the demo does to
// it on top (log its steps, have an accident, send broken statements) is in rig.ts.

import { createConsumer } from "@oncebox/core";
import { kafkajsBroker } from "@oncebox/kafkajs";
import { postgresStorage } from "@oncebox/postgres";
import pg from "pg";
import { orderPlaced } from "./orders.ts";
import { rig } from "./rig.ts";
import { fromArguments } from "./setting.ts";

const { name, databaseUrl, brokers, topic, consumer: consumerName, ...told } = fromArguments();
const { sessionTimeoutMs, accident, breaks } = told;
const { observer, handling, written, poolOptions } = rig(accident, breaks);

const pool = new pg.Pool({ connectionString: databaseUrl, ...poolOptions });
const storage = postgresStorage({
  pool,
  // A frozen process must not hold its partitions longer than its membership lasts.
  idleInTransactionTimeoutMs: sessionTimeoutMs / 2,
});
const broker = kafkajsBroker({
  clientId: name,
  brokers: [...brokers],
  sessionTimeoutMs,
  heartbeatIntervalMs: sessionTimeoutMs / 10,
});

const consumer = createConsumer({ name: consumerName, storage, broker, observer }).handle(
  orderPlaced(topic),
  async (message, tx) => {
    const { id, key, value: order, partition, offset } = message;
    handling(message);
    // The invoice and the fact that this order was handled commit together, or not at all.
    await tx.query(
      `INSERT INTO invoices
         (message_id, key, sequence, topic, partition, record_offset, worker, order_id, cents)
       VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
      [id, key, order.number, topic, partition, offset, name, order.id, order.cents],
    );
    written(message);
  },
);
await consumer.start();

process.once("SIGTERM", async () => {
  await consumer.stop();
  await broker.close();
  await storage.close();
  await pool.end();
});
