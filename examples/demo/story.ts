// Owns what happens in the demo, and the proof that it did: accidents that only seemed to happen
// would prove nothing. Everything is told by the workers' own logs.

import type { Step } from "../../test/fixtures/step-log.ts";
import { type Cast, patienceMs } from "./cast.ts";
import { DemoFailure } from "./ending.ts";
import type { Screen } from "./screen.ts";
import type { Setting } from "./setting.ts";
import type { Shop } from "./shop.ts";
import { partitions } from "./stage.ts";

export interface Story {
  readonly setting: Setting;
  readonly cast: Cast;
  readonly shop: Shop;
  readonly say: Screen["say"];
}

/** One worker killed inside a chunk, one frozen past its session, while orders keep coming. */
export async function play(story: Story): Promise<void> {
  const { cast, shop, say } = story;
  cast.hire("worker-1", "kill");
  cast.hire("worker-2", "freeze");
  cast.hire("worker-3");
  await cast.settled(["worker-1", "worker-2", "worker-3"], partitions);
  say("  orders and their messages commit in one transaction; some are rolled back");
  say("  a relay carries committed messages to Kafka; 3 workers turn them into invoices");
  await shop.placeUntil(0.15);
  // Told before the orders come that it happens at: there is no later chance.
  await cast.arm("worker-1");
  await Promise.all([shop.placeUntil(0.5), killOne(story)]);
  await cast.arm("worker-2");
  await Promise.all([shop.placeUntil(0.9), freezeOne(story)]);
  await shop.placeUntil(1);
}

async function killOne({ cast, say }: Story): Promise<void> {
  cast.mayEnd("worker-1");
  const worker = cast.worker("worker-1");
  const accident = await worker.waitFor("accident", patienceMs);
  const { code, signal } = await worker.exited;
  if (signal !== "SIGKILL") {
    throw new DemoFailure(`worker-1 was not killed but ended with ${code ?? signal}`);
  }
  const { firstOffset, endOffset } = insideChunk(worker.steps, accident);
  say(
    `  worker-1 killed inside a chunk (${where(accident)}, offsets ${firstOffset} to ${endOffset - 1n}): an invoice written, nothing committed`,
  );
  const heir = await takenOver(cast, "worker-1", accident, endOffset);
  say(`  ${heir.name} was handed the same orders again ${heir.seconds} s later`);
  cast.hire("worker-4");
  await cast.until("worker-4 got no partition", () =>
    cast.worker("worker-4").steps.some(({ step }) => step === "inbox.claimed"),
  );
  say("  worker-4 has joined in its place");
}

async function freezeOne({ setting, cast, say }: Story): Promise<void> {
  const worker = cast.worker("worker-2");
  const accident = await worker.waitFor("accident", patienceMs);
  const { firstOffset, endOffset } = insideChunk(worker.steps, accident);
  say(
    `  worker-2 frozen (SIGSTOP) about to open a chunk (${where(accident)}, offsets ${firstOffset} to ${endOffset - 1n})`,
  );
  const heir = await takenOver(cast, "worker-2", accident, endOffset);
  // Its session counts from its last heartbeat, so a takeover can come a little earlier than that.
  await cast.until("the session lasted", () => Date.now() > accident.at + setting.sessionTimeoutMs);
  say(`  ${heir.name} has committed these orders after ${heir.seconds} s; worker-2 wakes up`);
  worker.kill("SIGCONT");
  const after = () => worker.steps.slice(worker.steps.indexOf(accident) + 1);
  const outcomeNow = () => after().filter(ofPartition(accident)).find(isOutcome);
  await cast.until("worker-2 did not go on", () => outcomeNow() !== undefined);
  const [woken, outcome] = [after()[0], outcomeNow()];
  const pauseMs = (woken?.at ?? 0) - accident.at;
  if (pauseMs <= setting.sessionTimeoutMs) {
    throw new DemoFailure(`worker-2 slept ${pauseMs} ms only, less than its session`);
  }
  const fenced = outcome?.step === "inbox.fenced";
  if (!fenced && !setting.breaks.includes("fence")) {
    throw new DemoFailure(`worker-2 was to be fenced, but: ${outcome?.step}`);
  }
  say(
    fenced
      ? "  worker-2 still wants to handle them, and is fenced: its claim is worth nothing now"
      : "  worker-2 handles them all the same: nobody checks its claim",
  );
}

/** The chunk that an accident happened in. Throws where none was open. */
function insideChunk(steps: readonly Step[], accident: Step) {
  const before = steps.slice(0, steps.indexOf(accident)).filter(ofPartition(accident));
  const opening = before.findLastIndex(({ step }) => step === "inbox.chunk-opening");
  if (opening < 0 || before.slice(opening + 1).some(isOutcome)) {
    const last = before.slice(-5).map(({ step }) => step);
    throw new DemoFailure(`no chunk was open at the accident; the last steps: ${last.join(", ")}`);
  }
  const { firstOffset, endOffset } = before[opening]?.data ?? {};
  return { firstOffset: BigInt(String(firstOffset)), endOffset: BigInt(String(endOffset)) };
}

/** Resolves when another worker has committed the chunk's records. */
async function takenOver(cast: Cast, name: string, accident: Step, endOffset: bigint) {
  const commit = ({ step, data }: Step) =>
    step === "inbox.chunk-committed" && BigInt(String(data?.nextOffset)) >= endOffset;
  const find = () => {
    for (const [other, { steps }] of cast.workers) {
      if (other === name) continue;
      const found = steps.filter(ofPartition(accident)).find((step) => commit(step));
      if (found !== undefined) return { name: other, at: found.at };
    }
    return undefined;
  };
  await cast.until(`nobody took over from ${name}`, () => find() !== undefined);
  const heir = find();
  return {
    name: heir?.name ?? "",
    seconds: (((heir?.at ?? 0) - accident.at) / 1_000).toFixed(1),
  };
}

function ofPartition({ data: place }: Step) {
  return ({ data }: Step) => data?.topic === place?.topic && data?.partition === place?.partition;
}

/** What can become of a chunk once it is about to be opened. */
const outcomes = [
  ...["inbox.chunk-committed", "inbox.fenced", "inbox.commit-unknown", "inbox.chunk-rerun"],
  ...["inbox.blocked", "inbox.displaced", "inbox.chunk-cut"],
];

function isOutcome({ step }: Step): boolean {
  return outcomes.includes(step);
}

function where({ data }: Step): string {
  return `partition ${data?.partition}`;
}
