/** Memory of a consumer with a million messages before it: the most that its process ever held. */
import { setTimeout as delay } from "node:timers/promises";
import { migrate } from "@oncebox/postgres";
import { spawnWorker } from "../test/fixtures/child.ts";
import { createDatabase } from "../test/fixtures/databases.ts";
import { uniqueName } from "../test/fixtures/names.ts";
import type { Servers } from "./bench.ts";
import { fillTopic } from "./fill-topic.ts";

const messages = 1_000_000;
const measuredMs = 30_000;

export async function backlog({ databaseUrl, brokers }: Servers): Promise<string> {
  const database = await createDatabase(databaseUrl);
  await migrate(database.pool());
  const topic = await fillTopic(brokers, { messages, partitions: 4, bytes: 200 });
  const worker = spawnWorker(new URL("backlog-worker.ts", import.meta.url), {
    env: {
      DATABASE_URL: database.url,
      KAFKA_BROKERS: brokers.join(","),
      TOPIC: topic,
      NAME: uniqueName("backlog"),
    },
  });
  try {
    await worker.waitFor("inbox.chunk-committed");
    await delay(measuredMs);
    worker.kill("SIGTERM");
    const { data } = await worker.waitFor("done");
    return `${messages} messages of 200 bytes in 4 partitions: RSS at most ${data?.rssMib} MiB, ${data?.applied} applied in ${measuredMs / 1_000} s`;
  } finally {
    worker.kill();
    await worker.exited;
    await database.drop();
  }
}
