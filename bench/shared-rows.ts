/**
 * Chunks whose messages update the same rows, of one partition and of four at once: transactions that
 * take the same locks in other orders end in deadlocks, and chunks shrink until they do not.
 */
import { createConsumer, defineTopic, type OnceboxEvent, text } from "@oncebox/core";
import { migrate, postgresStorage } from "@oncebox/postgres";
import { createDatabase } from "../test/fixtures/databases.ts";
import type { Servers } from "./bench.ts";
import { median, rate } from "./figures.ts";
import { memoryFeed, numberedRecords } from "./memory-feed.ts";
import { accounts, createAccounts, updateText } from "./raw-twin.ts";

const messages = 8_000;
const chunk = 100;
const rounds = 3;

export async function sharedRows({ databaseUrl }: Servers): Promise<string> {
  const database = await createDatabase(databaseUrl);
  const pool = database.pool({ pipeline: true, max: 8 });
  await migrate(pool);
  await createAccounts(pool);
  const storage = postgresStorage({ pool });
  let runs = 0;
  const drained = async (partitions: number) => {
    runs += 1;
    // All partitions hold the same ids: without them the rows alone are shared.
    const records = numberedRecords(messages / partitions, accounts).map((record) => {
      return { ...record, headers: [] };
    });
    const left = new Set(Array.from({ length: partitions }, (_, partition) => partition));
    let reruns = 0;
    let done = () => {};
    const all = new Promise<void>((resolve) => {
      done = resolve;
    });
    const observer = (event: OnceboxEvent) => {
      if (event.type === "inbox.chunk-rerun") reruns += 1;
      if (event.type !== "inbox.chunk-committed") return;
      if (event.nextOffset >= BigInt(records.length)) left.delete(event.partition);
      if (left.size === 0) done();
    };
    const broker = memoryFeed(records, partitions);
    await using consumer = createConsumer({
      ...{ name: `shared-${runs}`, broker, storage, observer, chunkSizeMax: chunk },
    }).handle(defineTopic({ name: "bench", value: text() }), async (_, tx) => {
      const id = Math.floor(Math.random() * accounts);
      await tx.query({ name: "raw_update", text: updateText, values: [id] });
    });
    const perSecond = await rate(messages, async () => {
      await consumer.start();
      await all;
    });
    return { perSecond, reruns };
  };
  try {
    const sides: string[] = [];
    for (const partitions of [1, 4]) {
      const found = [];
      for (let round = 0; round < rounds; round += 1) found.push(await drained(partitions));
      const perSecond = median(found.map((each) => each.perSecond));
      const reruns = median(found.map((each) => each.reruns));
      const name = partitions === 1 ? "1 partition" : `${partitions} partitions`;
      sides.push(`${name} ${perSecond.toFixed(0)}/s (${reruns} chunks run again)`);
    }
    return `${sides.join(", ")} (one random row of ${accounts} a message, chunks of ${chunk})`;
  } finally {
    await database.drop();
  }
}
