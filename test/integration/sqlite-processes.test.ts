// Four processes on one SQLite file, all with the same consumer and assignments that overlap, each
// killed again and again in the middle of a transaction: no message lost, none handled twice.

import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { migrate } from "@oncebox/sqlite";
import type Database from "better-sqlite3";
import { expect, test } from "vitest";
import { openDatabase, temporaryFolder } from "../conformance/sqlite-knex-under-test.ts";
import { spawnWorker, type Worker } from "../fixtures/child.ts";
import { feedPartitions, isRepeat } from "../fixtures/sqlite-feed.ts";

const sizeOfPartition = 1_250;
const processes = 4;
const killsMin = 4;

function countOf(database: Database.Database, text: string): number {
  return database.prepare(text).pluck().get() as number;
}

test("B15: 10,000 messages, four processes, kills: nothing lost, nothing doubled", async () => {
  const { folder, remove } = temporaryFolder();
  const file = join(folder, "main.db");
  const database = openDatabase(file);
  await migrate(database);
  database.exec("CREATE TABLE effects (partition INTEGER, offset INTEGER, value TEXT)");
  const workers = new Set<Worker>();
  const tally = { kills: 0, fenced: 0, over: false };
  /** One place among the four: whoever is killed there is followed by another. */
  const place = async (index: number) => {
    for (let life = 0; !tally.over; life += 1) {
      const seed = index * 1_000 + life * 7 + 1;
      const worker = spawnWorker(
        new URL("../fixtures/workers/sqlite-consumer.ts", import.meta.url),
        {
          args: [file, String(sizeOfPartition), String(seed)],
        },
      );
      workers.add(worker);
      // After so many messages, a chunk is most often open.
      const last = 500 + ((seed * 7_919) % 900);
      const step = (data?: Record<string, unknown>) => Number(data?.handled ?? 0) >= last;
      await Promise.race([worker.waitFor(({ data }) => step(data)).catch(() => {}), worker.exited]);
      // Nothing but our own kill may end it.
      const killed = !tally.over;
      worker.kill();
      const { signal } = await worker.exited;
      if (killed) expect(signal, worker.output()).toBe("SIGKILL");
      if (killed) tally.kills += 1;
      tally.fenced += worker.steps.filter((each) => each.step === "fenced").length;
      workers.delete(worker);
    }
  };
  const places = Promise.all(Array.from({ length: processes }, (_, index) => place(index)));
  try {
    const total = feedPartitions * sizeOfPartition;
    const position = "SELECT coalesce(sum(next_offset), 0) FROM oncebox_inbox_partitions";
    while (countOf(database, position) < total) {
      await Promise.race([delay(50), places]);
    }
  } finally {
    tally.over = true;
    for (const worker of workers) worker.kill();
    await places;
  }
  const repeats = Array.from({ length: sizeOfPartition }, (_, n) => BigInt(n)).filter(isRepeat);
  const expected = feedPartitions * (sizeOfPartition - repeats.length);
  const found = {
    effects: countOf(database, "SELECT count(*) FROM effects"),
    distinct: countOf(database, "SELECT count(DISTINCT value) FROM effects"),
    published: countOf(database, "SELECT count(*) FROM oncebox_outbox_messages"),
    ids: countOf(database, "SELECT count(DISTINCT message_id) FROM oncebox_outbox_messages"),
  };
  expect(found).toEqual({
    ...{ effects: expected, distinct: expected },
    ...{ published: expected, ids: expected },
  });
  // Without these it would have shown nothing.
  expect(tally.kills).toBeGreaterThanOrEqual(killsMin);
  expect(tally.fenced).toBeGreaterThan(0);
  database.close();
  remove();
}, 60_000);
