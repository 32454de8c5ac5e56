/**
 * The other side of the comparison: what a careful person writes by hand, at least once, without any
 * inbox. Imports nothing of ours.
 */
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
