// Owns the end of the demo: waits until nothing is left to do, gathers what happened, and has it
// checked.

import { setTimeout as delay } from "node:timers/promises";
import { check, type Report } from "../../test/fixtures/checker.ts";
import {
  deliveriesOf,
  type OffsetWatch,
  readEffects,
  readPositions,
  readTexts,
} from "../../test/fixtures/history.ts";
import { readTopic } from "../../test/fixtures/topic-log.ts";
import { type Cast, patienceMs } from "./cast.ts";
import { DemoFailure } from "./ending.ts";
import { schema } from "./setting.ts";
import type { Shop } from "./shop.ts";
import type { Stage } from "./stage.ts";

/** Resolves when the outbox is empty and every record has an outcome. */
export async function drained(stage: Stage, cast: Cast): Promise<void> {
  const deadline = performance.now() + patienceMs;
  for (;;) {
    cast.checkAlive();
    const { outbox, topic } = await stage.left();
    if (outbox + topic === 0) return;
    if (performance.now() > deadline) {
      throw new DemoFailure(
        `${outbox} messages unpublished and ${topic} unhandled in ${patienceMs} ms`,
      );
    }
    await delay(50);
  }
}

export async function verdict(
  { setting: { databaseUrl, brokers, topic } }: Stage,
  cast: Cast,
  shop: Shop,
  offsets: OffsetWatch,
): Promise<Report> {
  const { records, logEnds } = await readTopic(brokers, topic);
  return check({
    intents: shop.intents,
    committed: await readTexts(databaseUrl, "SELECT message_id FROM orders"),
    records,
    logEnds,
    deliveries: deliveriesOf(cast.steps()),
    effects: await readEffects(databaseUrl, "invoices"),
    positions: await readPositions(databaseUrl, schema),
    offsets: await offsets.stop(),
  });
}
