/**
 * The other side of the comparison: what a careful person writes by hand, at least once, without any
 * inbox. Imports nothing of ours.
 */
import type { Kafka } from "kafkajs";
import type { Pool } from "pg";

export const accounts = 10_000;

export async function createAccounts(pool: Pool): Promise<void> {
  await pool.query("CREATE TABLE accounts (id int PRIMARY KEY, total bigint NOT NULL DEFAULT 0)");
  await pool.query("INSERT INTO accounts (id) SELECT generate_series(0, $1 - 1)", [accounts]);
}

export const updateText = "UPDATE accounts SET total = total + 1 WHERE id = $1";

/** One transaction per `chunk` messages, each message one awaited statement. */
export async function rawChunks(pool: Pool, messages: number, chunk: number): Promise<void> {
  for (let from = 0; from < messages; from += chunk) {
    const client = await pool.connect();
    try {
      await client.query("BEGIN");
      for (let i = from; i < Math.min(messages, from + chunk); i += 1) {
        await client.query({ name: "raw_update", text: updateText, values: [i % accounts] });
      }
      await client.query("COMMIT");
    } finally {
      client.release();
    }
  }
}

/** `eachBatch` with one transaction a batch and the same awaited statement; messages per second. */
export async function rawEachBatch(
  kafka: Kafka,
  pool: Pool,
  topic: string,
  groupId: string,
  messages: number,
  partitionsAtOnce: number,
): Promise<number> {
  const consumer = kafka.consumer({ groupId, maxWaitTimeInMs: 250 });
  await consumer.connect();
  await consumer.subscribe({ topics: [topic], fromBeginning: true });
  let began = 0;
  let counted = 0;
  let seen = 0;
  await new Promise<void>((resolve, reject) => {
    const run = consumer.run({
      partitionsConsumedConcurrently: partitionsAtOnce,
      eachBatch: async ({ batch }) => {
        const client = await pool.connect();
        try {
          await client.query("BEGIN");
          for (const { value } of batch.messages) {
            const id = Number.parseInt(String(value), 10);
            await client.query({ name: "raw_update", text: updateText, values: [id] });
          }
          await client.query("COMMIT");
        } finally {
          client.release();
        }
        seen += batch.messages.length;
        // From the first commit on, as the other side counts.
        if (began === 0) began = performance.now();
        else counted += batch.messages.length;
        if (seen >= messages) resolve();
      },
    });
    run.catch(reject);
  });
  const perSecond = (counted * 1_000) / (performance.now() - began);
  await consumer.disconnect();
  return perSecond;
}
