// The memory storage against real databases: every script has the same outcomes on both, step by
// step, and leaves the same rows.

import { setTimeout as delay } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import type { TestDatabase } from "../fixtures/databases.ts";
import { testDatabase } from "../fixtures/servers.ts";
import { difference } from "./comparison.ts";
import { comparable, interleaved, serial } from "./storage-generated.ts";
import { memorySide } from "./storage-memory.ts";
import { type PostgresPlace, postgresPlace } from "./storage-postgres.ts";
import { run } from "./storage-run.ts";
import { fits, inWords, type Script } from "./storage-script.ts";
import { inboxScripts } from "./storage-scripts-inbox.ts";
import { outboxScripts } from "./storage-scripts-outbox.ts";
import { troubleScripts } from "./storage-scripts-trouble.ts";
import type { StorageSide } from "./storage-side.ts";
import { knexAbilities, knexPlace, nativeAbilities, nativePlace } from "./storage-sqlite.ts";

const byHand: readonly Script[] = [...inboxScripts, ...troubleScripts, ...outboxScripts];
const seeds = Array.from({ length: 20 }, (_, n) => n + 1);
const serials = seeds.map(serial);
const overlapping = seeds.map(interleaved);

const lockedOutText = `
  SELECT FROM pg_locks WHERE NOT granted AND relation = ($1 || '.effects')::regclass`;

const oneEffect: Script = {
  name: "one effect",
  steps: [
    { do: "begin", as: "t1" },
    { do: "effect", in: "t1", text: "e2" },
    { do: "commit", of: "t1" },
  ],
};

async function sameAsMemory<Tx>(script: Script, real: StorageSide<Tx>): Promise<void> {
  const memory = memorySide();
  const model = { name: memory.name, lines: await run(script, memory) };
  const reality = { name: real.name, lines: await run(script, real) };
  const found = difference(inWords(script.steps), model, reality);
  if (found !== null) expect.fail(`\n${found}\n`);
}

let database: TestDatabase;
beforeAll(async () => {
  database = await testDatabase();
});
afterAll(() => database.drop());

describe.each([true, false])("PostgreSQL, pipeline: %s", (pipeline) => {
  let place: PostgresPlace;
  beforeAll(async () => {
    place = await postgresPlace(database.url, { pipeline });
  });
  afterAll(() => place.close());

  // Guards the look for who blocks in `rest`: autovacuum may lock the table of effects for a moment.
  test("a call that waits for a stranger is not at rest", async () => {
    await place.empty();
    const stranger = database.pool({ max: 1 });
    await stranger.query("BEGIN");
    await stranger.query(`LOCK TABLE ${place.schema}.effects`);
    const compared = sameAsMemory(oneEffect, place.side);
    const watcher = database.pool({ max: 1 });
    await vi.waitUntil(
      async () => (await watcher.query(lockedOutText, [place.schema])).rowCount === 1,
    );
    await delay(300);
    await stranger.query("COMMIT");
    await compared;
  });

  // What a pipeline changes is the way of the statements: fewer scripts show it.
  const made = pipeline ? overlapping : overlapping.slice(0, 6);
  for (const script of [...byHand, ...made]) {
    test(script.name, async () => {
      await place.empty();
      const fair = made.includes(script) ? await comparable(script, memorySide) : script;
      await sameAsMemory(fair, place.side);
    });
  }
});

const sqlite = [
  { name: "SQLite, native", abilities: nativeAbilities, open: nativePlace },
  { name: "SQLite by knex", abilities: knexAbilities, open: knexPlace },
];
for (const { name, abilities, open } of sqlite) {
  describe(name, () => {
    const fitting = [...byHand, ...serials].filter((each) => fits(each, abilities));
    for (const script of fitting) {
      test(script.name, async () => {
        const { side, close } = await open();
        try {
          await sameAsMemory(script, side as StorageSide<unknown>);
        } finally {
          await close();
        }
      });
    }
  });
}
