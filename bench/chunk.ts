/** A chunk of 100 awaited handlers through the inbox ÷ the same statements without an inbox. */
import { createConsumer, defineTopic, text } from "@oncebox/core";
import { migrate, postgresStorage } from "@oncebox/postgres";
import { createDatabase } from "../test/fixtures/databases.ts";
import type { Servers } from "./bench.ts";
import { compare, rate } from "./figures.ts";
import { drainRate, numberedRecords } from "./memory-feed.ts";
import { accounts, createAccounts, rawChunks, updateText } from "./raw-twin.ts";

const messages = 10_000;
const chunk = 100;

export async function chunkAgainstRaw({ databaseUrl }: Servers): Promise<string> {
  const database = await createDatabase(databaseUrl);
  const pool = database.pool({ pipeline: true });
  await migrate(pool);
  await createAccounts(pool);
  const storage = postgresStorage({ pool });
  const topic = defineTopic({ name: "bench", value: text() });
  const inbox = () =>
    // What a start costs is no part of what a message costs.
    drainRate(
      numberedRecords(messages + chunk, accounts),
      (feed) =>
        createConsumer({ ...feed, storage, chunkSizeMax: chunk }).handle(
          topic,
          async ({ value }, tx) => {
            await tx.query({ name: "raw_update", text: updateText, values: [Number(value)] });
          },
        ),
      chunk,
    );
  try {
    const { ours, theirs, ratio } = await compare(7, inbox, () =>
      rate(messages, () => rawChunks(pool, messages, chunk)),
    );
    return `inbox ${ours.toFixed(0)}/s ÷ raw ${theirs.toFixed(0)}/s = ${ratio.toFixed(2)} (chunks of ${chunk}, awaited, ids)`;
  } finally {
    await database.drop();
  }
}
