// Owns what one seed decides before a run begins: the sizes, the settings and every fault with its
// time. Values only, so that a failing plan can be printed, cut down and run again.

import { manualClock } from "@oncebox/testing";
import { type Forgetting, forgettingOf } from "./long-stop.ts";

/** Where messages come from. `log`: other producers write into the topic; `outbox`: our own do. */
export type Source = "outbox" | "log";

/** A place where a process can be hit: a request to the database or to Kafka, or its answer. */
export const databaseSteps = [
  "claim",
  "open",
  "handle",
  "advance",
  "lease",
  "read",
  "settle",
  "note-claim",
  "probe",
  "park",
  "take-parked",
  "open-parked",
  "handle-parked",
  "settle-parked",
  "prune",
] as const;
export const commitSteps = ["commit", "commit-parked", "app-commit"] as const;
export const brokerSteps = ["batch", "group-commit", "publish"] as const;
export type Step =
  | (typeof databaseSteps)[number]
  | (typeof commitSteps)[number]
  | (typeof brokerSteps)[number];

/** What is done to a process, or to the answer, when it reaches the step. */
export type StepAct =
  | "kill-before"
  | "kill-after"
  | "freeze-before"
  | "freeze-after"
  | "request-lost"
  | "reply-lost"
  | "late"
  | "commit-lost"
  | "deadlock"
  | "lock-timeout"
  | "unavailable"
  | "stale"
  | "twice"
  | "ahead"
  | "lost"
  | "accepted"
  | "unknown-stored"
  | "unknown-lost"
  | "unknown-late"
  | "refused-message"
  | "refused-topic";

const processActs = ["kill-before", "kill-after", "freeze-before", "freeze-after"] as const;

/** Every act that makes sense at a step: the cells that a long run must all reach. */
export const actsAt: Readonly<Record<Step, readonly StepAct[]>> = {
  claim: [...processActs, "request-lost", "reply-lost", "unavailable", "lock-timeout"],
  open: [...processActs, "request-lost", "reply-lost", "unavailable", "deadlock"],
  handle: [...processActs, "request-lost", "reply-lost", "deadlock"],
  advance: [...processActs, "request-lost", "reply-lost", "deadlock"],
  lease: [...processActs, "request-lost", "reply-lost", "unavailable"],
  read: [...processActs, "request-lost", "reply-lost"],
  settle: [...processActs, "request-lost", "reply-lost", "deadlock"],
  "note-claim": [...processActs, "request-lost", "reply-lost", "commit-lost"],
  probe: [...processActs, "request-lost", "reply-lost", "unavailable"],
  park: [...processActs, "request-lost", "reply-lost", "deadlock"],
  "take-parked": [...processActs, "request-lost", "reply-lost", "unavailable"],
  "open-parked": [...processActs, "request-lost", "reply-lost", "deadlock", "lock-timeout"],
  "handle-parked": [...processActs, "request-lost", "reply-lost", "deadlock", "lock-timeout"],
  "settle-parked": [...processActs, "request-lost", "reply-lost", "unavailable"],
  prune: [...processActs, "request-lost", "reply-lost", "deadlock", "unavailable"],
  commit: [...processActs, "request-lost", "reply-lost", "late"],
  "commit-parked": [...processActs, "request-lost", "reply-lost", "late"],
  "app-commit": ["request-lost", "reply-lost", "late"],
  batch: ["kill-before", "freeze-before", "stale", "twice", "lost", "late", "ahead"],
  "group-commit": ["kill-before", "freeze-before", "lost", "reply-lost", "accepted"],
  publish: [
    ...processActs,
    ...["unknown-stored", "unknown-lost", "unknown-late"],
    ...["refused-message", "refused-topic"],
  ] as StepAct[],
};

/** What happens at a time, whatever the processes do. */
export const timedActs = [
  "kill",
  "freeze",
  "leave",
  "database-cut",
  "database-outage",
  "database-read-only",
  "wake-ups-lost",
  "restore",
  "rebalance",
  "expel",
  "mute",
  "crash",
  "kafka-outage",
  "network-cut",
  "network-down",
  "trouble",
  "new-leader",
  "retention",
  "retention-ahead",
  "truncation",
  "recreation",
  "replacement",
  "compaction",
  "hanging-transaction",
  "pause",
] as const;
export type TimedAct = (typeof timedActs)[number];

export type Fault =
  | {
      readonly at: number;
      readonly worker: number;
      readonly step: Step;
      readonly act: StepAct;
      /** How long a freeze or a delay lasts. */
      readonly ms: number;
    }
  | {
      readonly at: number;
      readonly worker: number;
      readonly step: null;
      readonly act: TimedAct;
      readonly ms: number;
    };

export interface Plan extends Forgetting {
  readonly seed: number;
  readonly source: Source;
  /** Whether messages carry ids. Without them the fence alone protects; nothing is sent twice then. */
  readonly ids: boolean;
  readonly partitions: number;
  readonly workers: number;
  readonly messages: number;
  readonly keys: number;
  readonly chunkSizeMax: number;
  readonly batchRecordsMax: number;
  /** Length of the phase with faults. */
  readonly spanMs: number;
  /** Share of messages that another producer writes twice. */
  readonly repeats: number;
  /** Share of messages that it writes again long after. */
  readonly lateRepeats: number;
  /** Share of messages written in a transaction, half of which are aborted. */
  readonly transactional: number;
  /** Share of messages whose handler throws: for a while, or until it is mended. */
  readonly failing: number;
  /** Share of messages whose handler ends its process. */
  readonly killing: number;
  /** Share of messages whose handler works behind a savepoint. */
  readonly savepoints: number;
  readonly onFailure: "park" | "block";
  readonly ordering: "partition" | "key";
  readonly localAttemptsMax: number;
  readonly attemptsMax: number;
  /** Whether the operator also acts on what is not dead yet. */
  readonly impatient: boolean;
  /** Share of messages whose handler swallows the error of a failed statement. */
  readonly swallowing: number;
  /** Share of messages whose handler commits its transaction behind our back, once. */
  readonly committing: number;
  /** Share of messages whose handler never ends, once. */
  readonly hanging: number;
  /** Whether the handlers publish. */
  readonly publishing: boolean;
  readonly faults: readonly Fault[];
}

/** Acts that take records away, or set the database back: not where an outbox's rows would be lost. */
const losing: ReadonlySet<TimedAct> = new Set([
  "restore",
  "retention-ahead",
  "truncation",
  "recreation",
  "replacement",
]);

/** What follows after them needs ids: a person moves the position back to the beginning. */
export const needsIds: ReadonlySet<TimedAct> = new Set([
  "retention-ahead",
  "truncation",
  "recreation",
  "replacement",
]);

/**
 * A log that was replaced under its old id is told from it by the last handled record alone. What may
 * take that away, or leave a position without one, happens in no plan with a replacement: it would not
 * be noticed, as docs/guarantees.md says.
 */
const hidesReplacement: ReadonlySet<TimedAct> = new Set([
  "retention",
  "retention-ahead",
  "compaction",
  "hanging-transaction",
]);

/** The most of any plan. */
export const keysMax = 6;
export const partitionsMax = 3;

/** Steps that are taken where something is parked only. */
export const parkedSteps: ReadonlySet<Step> = new Set([
  ...(["probe", "park", "take-parked", "open-parked"] as const),
  ...(["handle-parked", "settle-parked", "commit-parked"] as const),
]);

/** Where a process knows of a turn, or is about to, and has not begun it. */
const turnSteps: ReadonlySet<Step> = new Set(["take-parked", "open-parked"]);
/** Of a turn: the time of a handler and a margin. */
const leaseMs = 7_000;

interface Dice {
  readonly chance: (share: number) => boolean;
  readonly pick: <T>(list: readonly T[]) => T;
}

/** How a plan's handlers run, and what becomes of messages that fail. */
function parkingOf({ failing }: Pick<Plan, "failing">, { chance, pick }: Dice) {
  const onFailure = chance(0.85) ? ("park" as const) : ("block" as const);
  const ordering = chance(0.35) ? ("key" as const) : ("partition" as const);
  return {
    ...{ onFailure, ordering },
    killing: chance(failing > 0 ? 0.2 : 0.1) ? 0.05 : 0,
    savepoints: ordering === "key" && chance(0.4) ? 0.15 : 0,
    localAttemptsMax: pick([1, 2, 3]),
    attemptsMax: pick([2, 4, 6]),
    impatient: chance(0.3),
  };
}

export function planOf(seed: number): Plan {
  const { random } = manualClock({ seed });
  const whole = (from: number, to: number) => from + Math.floor(random() * (to - from + 1));
  const pick = <T>(list: readonly T[]) => list[whole(0, list.length - 1)] as T;
  const chance = (share: number) => random() < share;
  const source: Source = chance(0.5) ? "outbox" : "log";
  const ids = source === "outbox" || chance(0.6);
  const workers = whole(2, 3);
  const spanMs = whole(8, 16) * 1_000;
  const settings = {
    ...{ seed, source, ids, workers, spanMs },
    partitions: whole(1, partitionsMax),
    messages: whole(16, 48),
    keys: whole(2, keysMax),
    chunkSizeMax: pick([1, 3, 8, 20]),
    batchRecordsMax: pick([1, 4, 50]),
    repeats: source === "log" && ids && chance(0.5) ? 0.2 : 0,
    transactional: source === "log" && chance(0.5) ? 0.4 : 0,
    failing: chance(0.5) ? 0.15 : 0,
    swallowing: chance(0.2) ? 0.05 : 0,
    // Without an id nobody can tell what such a handler has committed (inbox.md, B8).
    committing: ids && chance(0.2) ? 0.1 : 0,
    publishing: source === "outbox" || chance(0.5),
  };
  // A swarm: each run knows some faults only, so that none hides all others.
  const timed = timedActs.filter(
    (act) =>
      // It goes with few other settings.
      chance(act === "restore" ? 0.9 : 0.5) &&
      (source === "log" || !losing.has(act)) &&
      (ids || !needsIds.has(act)) &&
      // What was published before is not unpublished by a restore.
      (act !== "restore" || !settings.publishing),
  );
  if (timed.includes("restore")) timed.push("restore", "restore");
  const parking = parkingOf(settings, { chance, pick });
  const parks = settings.failing > 0 && parking.onFailure === "park";
  const steps = (Object.keys(actsAt) as Step[]).filter(
    (step) =>
      // Drawn below, where ids are forgotten.
      step !== "prune" &&
      // What needs something parked, where something is: and then often.
      chance(parkedSteps.has(step) ? 0.9 : 0.6) &&
      (source === "outbox" || step !== "app-commit") &&
      (parks || !parkedSteps.has(step)),
  );
  // Most runs come to these seldom.
  steps.push(...steps.filter((step) => parkedSteps.has(step)));
  const drawn = Array.from({ length: whole(4, 14) }, (): Fault => {
    const common = { at: whole(0, spanMs), worker: whole(0, workers - 1), ms: whole(1, 9_000) };
    if (steps.length > 0 && (timed.length === 0 || chance(0.65))) {
      const step = pick(steps);
      const act = pick(actsAt[step]);
      // Long enough for another process to take the same message.
      const isLong = act.startsWith("freeze") && turnSteps.has(step);
      return { ...common, ms: common.ms + (isLong ? leaseMs : 0), step, act };
    }
    return { ...common, step: null, act: timed.length > 0 ? pick(timed) : "kill" };
  });
  const hanging = chance(0.2) ? 0.05 : 0;
  const replaced = drawn.some(({ act }) => act === "replacement");
  const forgetting = forgettingOf(settings, { whole, chance, pick });
  // A first one that is lost would leave its repeat behind its successors.
  const repeating = forgetting.stop !== null && source === "log" && chance(0.7);
  const restored = drawn.some(({ act }) => act === "restore");
  // So would one that retention takes, once handled, where the position is set back afterwards.
  const losesRepeated = (act: Fault["act"]) =>
    needsIds.has(act as TimedAct) || (restored && (act === "retention" || act === "compaction"));
  const faults = drawn.filter(({ act }) => {
    if (repeating && losesRepeated(act)) return false;
    return !replaced || !hidesReplacement.has(act as TimedAct);
  });
  // Below a position that a seek left, an early commit is taken for the time before (decision 0019).
  const sought = faults.some(({ act }) => needsIds.has(act as TimedAct));
  if (forgetting.stop !== null) {
    for (let more = whole(0, 2); more > 0; more -= 1) {
      const common = { at: whole(0, spanMs), worker: whole(0, workers - 1), ms: whole(1, 9_000) };
      faults.push({ ...common, step: "prune", act: pick(actsAt.prune) });
    }
  }
  if (parking.onFailure === "park" && parking.killing > 0 && chance(0.6)) {
    // What is tried alone seldom meets anything else: its claim is given up by who lives.
    for (let more = 2 * workers; more > 0; more -= 1) {
      const common = { at: whole(0, spanMs), worker: more % workers, ms: whole(1, 9_000) };
      faults.push({ ...common, step: "note-claim", act: "commit-lost" });
    }
  }
  return {
    ...{ ...settings, ...parking, ...forgetting, hanging },
    lateRepeats: repeating ? 0.4 : 0,
    // Beside others it would also commit what they have half done.
    committing: sought || parking.ordering === "key" ? 0 : settings.committing,
    transactional: replaced ? 0 : settings.transactional,
    faults: faults.sort((a, b) => a.at - b.at),
  };
}
