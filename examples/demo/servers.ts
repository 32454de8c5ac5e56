// The demo on real servers: one worker process is killed and one is frozen at the worst moment. Ends
// with one line that says whether anything was lost or done twice.

import { explain, ledger, type Report } from "../../test/fixtures/checker.ts";
import { type OffsetWatch, watchOffsets } from "../../test/fixtures/history.ts";
import type { Step } from "../../test/fixtures/step-log.ts";
import { Cast } from "./cast.ts";
import type { Undo } from "./ending.ts";
import { type DemoOptions, sqlBreaks } from "./options.ts";
import type { Screen } from "./screen.ts";
import { schema } from "./setting.ts";
import { Shop } from "./shop.ts";
import { openStage, type Stage } from "./stage.ts";
import { play } from "./story.ts";
import { drained, verdict } from "./verdict.ts";

/** All orders are placed within about 8 s, fewer sooner, so that the accidents meet some. */
const paceOf = (orders: number) => Math.min(8_000, Math.max(3_000, orders * 4));
const repeatEvery = 20;

export async function runOnServers(
  options: DemoOptions,
  screen: Screen,
  undo: Undo,
): Promise<number> {
  const began = performance.now();
  const seconds = () => ((performance.now() - began) / 1_000).toFixed(1);
  screen.say(`Oncebox demo: ${options.messages} orders become invoices, exactly once`);
  screen.say("  starting PostgreSQL and Kafka, or reaching those that are named …");
  const stage = await openStage(sqlBreaks(options.break), undo);
  screen.say(`  ready after ${seconds()} s`);
  const shop = new Shop(stage.setting, {
    orders: options.messages,
    durationMs: paceOf(options.messages),
    repeatEvery: options.break === "dedupe" ? repeatEvery : 0,
  });
  undo.push(() => shop.close());
  const offsets = await watchOffsets({ ...stage.setting, ...groupOf(stage) });
  undo.push(() => offsets.stop().catch(() => undefined));
  const cast = new Cast(stage.setting, undo);
  screen.follow(progressOf(shop, cast));

  await play({ setting: stage.setting, cast, shop, say: screen.say });
  await drained(stage, cast);
  await cast.dismiss();
  screen.close();
  return conclude(options, screen, stage, cast, shop, offsets, seconds);
}

function groupOf({ setting: { consumer } }: Stage) {
  return { schema, groupId: consumer, consumer };
}

async function conclude(
  options: DemoOptions,
  { say }: Screen,
  stage: Stage,
  cast: Cast,
  shop: Shop,
  offsets: OffsetWatch,
  seconds: () => string,
): Promise<number> {
  const report = await verdict(stage, cast, shop, offsets);
  const problems = [explain(report), ...missing(options, report, cast)].filter((text) => text);
  say(`  checked from the tables, the topic and the workers' logs after ${seconds()} s`);
  for (const problem of problems) say(problem);
  // Read by machines: the last line, and nothing else on it.
  say(ledger(report));
  return report.balanced && problems.length === 0 ? 0 : 1;
}

/** Why this run proves nothing, though the books may balance. */
function missing({ break: broken }: DemoOptions, report: Report, cast: Cast): string[] {
  const problems: string[] = [];
  if (report.redelivered === 0) problems.push("  nothing was delivered twice: proves nothing");
  const heard = [...cast.steps().values()].flat().filter(({ step }) => step === "broken");
  for (const name of sqlBreaks(broken)) {
    if (!heard.some(({ data }) => data?.name === name)) {
      problems.push(`  the break ${name} never took effect: proves nothing`);
    }
  }
  return problems;
}

/** Counts on from where it was: the logs grow long. */
function tally(step: string, field: string): (logs: Iterable<readonly Step[]>) => number {
  const seen = new Map<readonly Step[], number>();
  let total = 0;
  return (logs) => {
    for (const steps of logs) {
      for (const taken of steps.slice(seen.get(steps) ?? 0)) {
        if (taken.step === step) total += Number(taken.data?.[field]);
      }
      seen.set(steps, steps.length);
    }
    return total;
  };
}

function progressOf(shop: Shop, cast: Cast): () => string {
  const published = tally("outbox.published", "messages");
  const invoices = tally("inbox.chunk-committed", "applied");
  return () => {
    const counts = [
      `${shop.placed} orders placed`,
      `${shop.declined} rolled back`,
      `${published([cast.relay.steps])} published`,
      `${invoices(cast.steps().values())} invoices`,
    ];
    return `  … ${counts.join(", ")}`;
  };
}
