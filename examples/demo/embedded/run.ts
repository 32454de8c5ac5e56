// The demo without servers: everything in one process, on a SQLite file and a broker in memory, with
// accidents where the two could come apart. Real processes die in the other form only.

import { check, explain, ledger, type Report } from "../../../test/fixtures/checker.ts";
import type { Undo } from "../ending.ts";
import type { DemoOptions } from "../options.ts";
import { bar, type Screen } from "../screen.ts";
import { Cast } from "./cast.ts";
import {
  type OffsetWatch,
  readCommitted,
  readEffects,
  readPositions,
  watchOffsets,
} from "./history.ts";
import { Process } from "./process.ts";
import { Shop } from "./shop.ts";
import { play } from "./story.ts";
import { left, logEndsOf, offsetPairs, openWorld, recordsOf, type World } from "./world.ts";

/** All orders are placed within about 2.5 s, or 800 in a second where there are many. */
const paceOf = (orders: number) => Math.max(2_500, orders * 1.25);

export async function runEmbedded(
  options: DemoOptions,
  screen: Screen,
  undo: Undo,
): Promise<number> {
  const began = performance.now();
  const { say } = screen;
  const withoutIds = options.break === "dedupe";
  const world = await openWorld(withoutIds, undo);
  say(`Oncebox demo: ${options.messages} orders become invoices, exactly once`);
  say(
    "  all in this process, without a server: a SQLite file and a broker in memory; a crash cuts",
  );
  say("  off one participant. --servers has PostgreSQL and Kafka, and kills real processes");
  const cast = new Cast(world, undo);
  const shopkeeper = new Process("shop", world.open(), world.broker.cluster);
  undo.push(() => shopkeeper.end());
  const shop = new Shop(shopkeeper.storage, options.messages, paceOf(options.messages));
  const offsets = watchOffsets(() => offsetPairs(world));
  undo.push(() => offsets.stop().catch(() => undefined));
  screen.follow(progressOf(screen, shop, cast));

  await play({ world, cast, shop, say, withoutIds });
  await cast.until("messages were left", async () => (await left(world)) === 0);
  await cast.dismiss();
  screen.close();
  const report = await verdict(world, cast, shop, offsets);
  const seconds = ((performance.now() - began) / 1_000).toFixed(1);
  say(`  checked from the tables and the broker's log after ${seconds} s`);
  const problems = [explain(report), ...missing(withoutIds, report, world)].filter((text) => text);
  for (const problem of problems) say(problem);
  // Read by machines: the last line, and nothing else on it.
  say(ledger(report));
  return report.balanced && problems.length === 0 ? 0 : 1;
}

async function verdict(
  world: World,
  cast: Cast,
  shop: Shop,
  offsets: OffsetWatch,
): Promise<Report> {
  const { database } = world;
  return check({
    intents: shop.intents,
    committed: readCommitted(database),
    records: recordsOf(world),
    logEnds: await logEndsOf(world),
    deliveries: cast.deliveries,
    effects: readEffects(database),
    positions: readPositions(database),
    offsets: await offsets.stop(),
  });
}

/** Why this run proves nothing, though the books may balance. */
function missing(withoutIds: boolean, report: Report, world: World): string[] {
  const problems: string[] = [];
  if (report.redelivered === 0) problems.push("  nothing was delivered twice: proves nothing");
  if (withoutIds && world.broken() === 0) {
    problems.push("  the break dedupe never took effect: proves nothing");
  }
  return problems;
}

function progressOf({ terminal }: Screen, shop: Shop, cast: Cast): () => string {
  return () => {
    const counts = [
      `${shop.placed} orders placed`,
      `${shop.declined} rolled back`,
      `${cast.published} published`,
      `${cast.invoices} invoices`,
    ];
    if (!terminal) return `  … ${counts.join(", ")}`;
    return `  ${bar(cast.invoices / shop.orders)} ${cast.invoices} of ${shop.orders} invoices`;
  };
}
