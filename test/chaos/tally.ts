// Owns the counting of what was done to the workers, from their own logs and from nothing else: a
// plan is a wish, a log is what happened.

import { chunkOf, endsStale, endsTurn } from "./acts.ts";
import type { Crew, Life } from "./crew.ts";
import { isTurnPoint } from "./points.ts";

export interface Tally {
  readonly kills: number;
  /** Kills with a chunk open that was not advanced yet. */
  readonly killsInChunk: number;
  /** Kills with an advance sent and its COMMIT not answered. */
  readonly killsInCommit: number;
  /** Kills between the handler's call for a parked message and the end of its transaction. */
  readonly killsInRedrive: number;
  /** Of those, with COMMIT sent and not answered. */
  readonly killsInRemoval: number;
  /** Kills with a turn given to try a parked message, and nothing of it tried. */
  readonly killsBeforeTry: number;
  /** Pauses of a process that were at least as long as the session. */
  readonly stopsPastSession: number;
  /** Stops about to open a chunk that ended after the partition was claimed by somebody else. */
  readonly staleOpenings: number;
  /** What became of those chunks. */
  readonly fenced: number;
  readonly staleCommits: readonly { readonly applied: number; readonly duplicates: number }[];
  /** Stops inside a turn that ended after another worker was given one for the same message. */
  readonly stopsPastLease: number;
  /** What became of those: refused at the beginning, not committed, committed. */
  readonly staleTurns: Readonly<Record<StaleTurn, number>>;
  /** Turns that ended with their message applied, and with a failure of the handler. */
  readonly redriven: number;
  readonly redrivesFailed: number;
  /** All `inbox.fenced`, whatever led to it. */
  readonly fencedAtAll: number;
  readonly commitsUnknown: number;
  /** From a kill inside a chunk to the first commit of its partition by its next owner. */
  readonly takeoverMs: readonly number[];
  /** Breaks that took effect, by name and statement. */
  readonly broken: ReadonlySet<string>;
}

export type StaleTurn = "fenced" | "failed" | "committed";

export function tallyOf(crew: Crew, sessionTimeoutMs: number): Tally {
  const killed = crew.lives.filter(({ killedAt }) => killedAt !== null);
  const states = killed.map((life) => [...openAtEnd(life).values()]);
  const stops = crew.lives.flatMap((life) => stopsOf(crew, life, sessionTimeoutMs));
  const stale = stops.flatMap(({ staleEnd }) => (staleEnd === null ? [] : [staleEnd]));
  const turns = killed.map(turnAtEnd);
  const turnsAt = (...levels: readonly TurnLevel[]) =>
    turns.filter((level) => level !== null && levels.includes(level)).length;
  const staleTurns = crew.lives.flatMap((life) => staleTurnsOf(crew, life));
  const staleThat = (end: StaleTurn) => staleTurns.filter((each) => each === end).length;
  const steps = (name: string) => crew.heard.filter(({ step }) => step.step === name);
  return {
    kills: killed.length,
    killsInChunk: states.filter((open) => open.includes("handling")).length,
    killsInCommit: states.filter((open) => open.includes("committing")).length,
    killsInRedrive: turnsAt("redriving", "turn-commit"),
    killsInRemoval: turnsAt("turn-commit"),
    killsBeforeTry: turnsAt("turn-taken"),
    stopsPastSession: stops.filter(({ pastSession }) => pastSession).length,
    staleOpenings: stale.length,
    fenced: stale.filter(({ step }) => step === "inbox.fenced").length,
    staleCommits: stale
      .filter(({ step }) => step === "inbox.chunk-committed")
      .map(({ data }) => ({
        applied: Number(data?.applied),
        duplicates: Number(data?.duplicates),
      })),
    stopsPastLease: staleTurns.length,
    staleTurns: {
      ...{ fenced: staleThat("fenced"), failed: staleThat("failed") },
      committed: staleThat("committed"),
    },
    redriven: steps("inbox.redriven").length,
    redrivesFailed: steps("inbox.redrive-failed").length,
    fencedAtAll: steps("inbox.fenced").length,
    commitsUnknown: steps("inbox.commit-unknown").length,
    takeoverMs: killed.flatMap((life) => takeoversOf(crew, life)).sort((a, b) => a - b),
    broken: new Set(steps("broken").map(({ step }) => String(step.data?.name))),
  };
}

const chunkEnds = new Set([
  "inbox.chunk-committed",
  "inbox.fenced",
  "inbox.chunk-rerun",
  "inbox.blocked",
  "inbox.commit-unknown",
  "inbox.displaced",
  "inbox.chunk-cut",
]);

/** By partition, how far a worker was with its open chunks when it ended. */
function openAtEnd({ steps }: Life): Map<number, "handling" | "committing"> {
  const open = new Map<number, "handling" | "committing">();
  for (const { step, data } of steps) {
    const partition = Number(data?.partition);
    if (step === "inbox.chunk-opening") open.set(partition, "handling");
    else if (step === "advance") open.set(partition, "committing");
    else if (step === "commit-answered" || chunkEnds.has(step)) open.delete(partition);
  }
  return open;
}

const turnLevels = ["turn-taken", "redriving", "turn-commit"] as const;

type TurnLevel = (typeof turnLevels)[number];

const turnEnds = new Set([
  "turn-ended",
  "inbox.redriven",
  "inbox.redrive-failed",
  "inbox.redrive-troubled",
]);

/** How far a worker was with the parked message that it tried when it ended; null: it tried none. */
function turnAtEnd({ steps }: Life): TurnLevel | null {
  let level: TurnLevel | null = null;
  for (const { step, data } of steps) {
    const reached = turnLevels.find((each) => each === step);
    if (reached !== undefined) level = reached;
    else if (turnEnds.has(step) || (step === "turn-opened" && data?.held !== true)) level = null;
  }
  return level;
}

/** What became of turns that were stopped until another worker was given one for their message. */
function staleTurnsOf(crew: Crew, { name, steps }: Life): StaleTurn[] {
  return steps.flatMap((frozen, index) => {
    const thawed = steps[index + 1];
    const { point, id } = frozen.data ?? {};
    if (frozen.step !== "frozen" || thawed?.step !== "thawed" || !isTurnPoint(point)) return [];
    const taken = crew.heard.some(
      ({ worker, step: { step, data, at } }) =>
        worker !== name &&
        step === "turn-taken" &&
        data?.id === id &&
        at >= frozen.at &&
        at <= thawed.at,
    );
    if (!taken) return [];
    const end = steps.slice(index).find((step) => endsTurn(step, String(id)));
    if (end?.step === "turn-opened") return ["fenced"];
    return [end?.data?.ok === true ? "committed" : "failed"];
  });
}

interface Stop {
  readonly pastSession: boolean;
  /** The end of a chunk that was about to be opened when its partition went to somebody else. */
  readonly staleEnd: Life["steps"][number] | null;
}

function stopsOf(crew: Crew, { name, steps }: Life, sessionTimeoutMs: number): Stop[] {
  return steps.flatMap((frozen, index) => {
    const thawed = steps[index + 1];
    if (frozen.step !== "frozen" || thawed?.step !== "thawed") return [];
    const pastSession = thawed.at - frozen.at >= sessionTimeoutMs;
    if (isTurnPoint(frozen.data?.point)) return [{ pastSession, staleEnd: null }];
    const chunk = chunkOf(frozen.data ?? {});
    const takenOver = crew.heard.some(
      ({ worker, step }) =>
        worker !== name &&
        step.step === "inbox.claimed" &&
        Number(step.data?.partition) === chunk.partition &&
        BigInt(String(step.data?.epoch)) > chunk.epoch &&
        step.at <= thawed.at,
    );
    const staleEnd =
      frozen.data?.point === "opening" && takenOver
        ? steps.slice(index).find((step) => endsStale({ worker: name, step }, name, chunk))
        : undefined;
    return [{ pastSession, staleEnd: staleEnd ?? null }];
  });
}

function takeoversOf(crew: Crew, { name, steps, killedAt }: Life): number[] {
  const frozen = steps.at(-1);
  if (killedAt === null || frozen?.step !== "frozen" || isTurnPoint(frozen.data?.point)) return [];
  const { partition, epoch } = chunkOf(frozen.data ?? {});
  const next = crew.heard.find(
    ({ worker, step }) =>
      worker !== name &&
      step.step === "inbox.chunk-committed" &&
      Number(step.data?.partition) === partition &&
      BigInt(String(step.data?.epoch)) > epoch,
  );
  return next === undefined ? [] : [next.step.at - killedAt];
}
