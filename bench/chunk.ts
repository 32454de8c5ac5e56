/** A chunk of 100 awaited handlers through the inbox ÷ the same statements without an inbox. */
import { type BrokerRecord, createConsumer, defineTopic, text } from "@oncebox/core";
import { migrate, postgresStorage } from "@oncebox/postgres";
import { createDatabase } from "../test/fixtures/databases.ts";
import type { Servers } from "./bench.ts";
import { compare, rate } from "./figures.ts";
import { memoryFeed } from "./memory-feed.ts";
import { accounts, createAccounts, rawChunks, updateText } from "./raw-twin.ts";

const messages = 10_000;
const chunk = 100;

function recordsWithIds(): BrokerRecord[] {
  return Array.from({ length: messages }, (_, i) => ({
    offset: BigInt(i),
    timestamp: 0n,
    leaderEpoch: null,
    key: Buffer.from(String(i % accounts)),
    value: Buffer.from(String(i % accounts)),
    headers: [["id", Buffer.from(crypto.randomUUID())]],
  }));
}

export async function chunkAgainstRaw({ databaseUrl }: Servers): Promise<string> {
  const database = await createDatabase(databaseUrl);
  const pool = database.pool({ pipeline: true });
  await migrate(pool);
  await createAccounts(pool);
  const storage = postgresStorage({ pool });
  const topic = defineTopic({ name: "bench", value: text() });
  let run = 0;
  const inbox = async () => {
    run += 1;
    let left = messages;
    let done = () => {};
    const drained = new Promise<void>((resolve) => {
      done = resolve;
    });
    await using consumer = createConsumer({
      name: `bench-${run}`,
      storage,
      broker: memoryFeed(recordsWithIds()),
      chunkSizeMax: chunk,
      observer: (event) => {
        if (event.type !== "inbox.chunk-committed") return;
        left -= event.applied;
        if (left === 0) done();
      },
    }).handle(topic, async ({ value }, tx) => {
      await tx.query({ name: "raw_update", text: updateText, values: [Number(value)] });
    });
    // Awaited here: otherwise the service would be disposed of first.
    return await rate(messages, async () => {
      await consumer.start();
      await drained;
    });
  };
  try {
    const { ours, theirs, ratio } = await compare(7, inbox, () =>
      rate(messages, () => rawChunks(pool, messages, chunk)),
    );
    return `inbox ${ours.toFixed(0)}/s ÷ raw ${theirs.toFixed(0)}/s = ${ratio.toFixed(2)} (chunks of ${chunk}, awaited, ids)`;
  } finally {
    await database.drop();
  }
}
