/**
 * Tries parked messages again: the first of each key, when its time has come, one at a time, in a turn
 * among the chunks. The attempt is written down before each try, so that one which kills the process is counted
 * as well.
 *
 *   taken ──▶ run ──▶ committed: the message is gone
 *               ├──▶ failed: waits again, or dead
 *               ├──▶ trouble of the database: waits again, no attempt spent
 *               ├──▶ unknown, cut: waits again, no attempt spent
 *               └──▶ fenced: another has it, or its turn has run out
 *
 * What was taken too often waits once more before it is given up: who tried it last may be alive.
 */
import { CommitUnknownError, HandlerError, type OnceboxError } from "../errors.ts";
import type { Observer } from "../events.ts";
import { uuidv7 } from "../ids.ts";
import type { Clock } from "../ports/clock.ts";
import type { OutboxEntry } from "../ports/outbox.ts";
import type { ParkedOutcome, ParkedTurn } from "../ports/parking.ts";
import type { StorageVerbs } from "../ports/storage.ts";
import { backoffMs, backoffs } from "../retry.ts";
import { letterOf } from "./dead-letter.ts";
import { afterRedrive, type FailurePolicy } from "./failure-policy.ts";
import { storageFailed } from "./handler-run.ts";
import type { ParkedOutcomeOfRun, RunParked } from "./parked-run.ts";
import type { Permits } from "./permits.ts";

/** On top of the handler's time: for the statements around it. One that comes later is fenced. */
const leaseMarginMs = 5_000;

/**
 * Until a message whose tries are spent is given up as one that ends processes. An outage that outlasts a
 * turn lets another take the message over, and whoever held it says so as soon as it has the database again.
 */
const graceMs = 2 * backoffs.global.maxMs;

/** Reruns of one message under local trouble (deadlock, time-out) before that counts as its failure. */
const localRerunsMax = 10;

export interface RedriveContext {
  readonly consumer: string;
  readonly storage: Pick<
    StorageVerbs,
    "takeParked" | "releaseParked" | "settleParked" | "trouble" | "wake"
  >;
  readonly clock: Clock;
  readonly observe: Observer;
  /** Topics that are handled and not paused now. */
  readonly topics: () => readonly string[];
  readonly handlerOf: (topic: string) => {
    readonly policy: FailurePolicy;
    readonly runParked: RunParked;
  };
  /** Shared with chunks: a message that is suspected of killing the process runs beside nothing. */
  readonly permits: Pick<Permits, "acquire">;
  readonly handlerTimeoutMs: number;
  readonly pollIntervalMs: number;
  readonly cut: AbortSignal;
}

export interface RedriveWorker {
  /** Runs until the signal is aborted; what is being tried then ends, or is cut. Never rejects. */
  readonly run: (stopping: AbortSignal) => Promise<void>;
}

export function redriveWorker(context: RedriveContext): RedriveWorker {
  const { clock, observe, consumer, pollIntervalMs, permits } = context;
  const troubles = new Map<bigint, Troubles>();
  const spared = new Map<bigint, number>();
  const take = taker(context);
  const run = async (stopping: AbortSignal) => {
    let failures = 0;
    while (!stopping.aborted) {
      let waitMs = pollIntervalMs;
      // Before it takes one: a message that waits for a permit would use up its lease, and the attempt.
      const release = await permits.acquire(stopping);
      if (release === null) return;
      try {
        const tried = await takeAndTry(context, take, spared).finally(release);
        failures = 0;
        if (tried !== null) {
          await conclude(context, tried, troubles, stopping);
          waitMs = 0;
        }
      } catch (error) {
        failures += 1;
        waitMs = backoffMs(backoffs.global, failures, clock.random());
        observe({ type: "inbox.redrive-troubled", consumer, waitMs, error });
      }
      if (waitMs > 0) await clock.sleep(waitMs, stopping);
    }
  };
  return { run };
}

interface Tried {
  readonly turn: ParkedTurn;
  readonly outcome: ParkedOutcomeOfRun | Spared;
}

/** Not tried, and not given up yet. */
interface Spared {
  readonly kind: "spared";
}

type Take = () => Promise<ParkedTurn | null>;

/**
 * Takes what is due first; null: nothing is. Where an answer was lost, nobody knows whether something was
 * taken: it is given back before anything else is, or an outage would spend an attempt.
 */
function taker({ storage, consumer, clock, handlerTimeoutMs, ...context }: RedriveContext): Take {
  let unanswered: string | null = null;
  return async () => {
    if (unanswered !== null) await storage.releaseParked({ consumer, token: unanswered });
    unanswered = null;
    const topics = context.topics();
    if (topics.length === 0) return null;
    const token = uuidv7(clock);
    unanswered = token;
    const leaseMs = handlerTimeoutMs + leaseMarginMs;
    const [turn = null] = await storage.takeParked({ consumer, topics, limit: 1, leaseMs, token });
    unanswered = null;
    return turn;
  };
}

/**
 * One at a time: a process that dies has spent an attempt of the one message it was trying, and of no
 * other. Null: nothing is due.
 */
async function takeAndTry(
  context: RedriveContext,
  take: Take,
  spared: Map<bigint, number>,
): Promise<Tried | null> {
  const { clock, handlerTimeoutMs, cut } = context;
  const turn = await take();
  if (turn === null) return null;
  const { policy, runParked } = context.handlerOf(turn.topic);
  const attempt = turn.attempts;
  if (attempt <= policy.attemptsMax) {
    spared.delete(turn.id);
    return { turn, outcome: await runParked({ turn, attempt, cut, clock, handlerTimeoutMs }) };
  }
  if (spared.get(turn.id) === attempt) {
    spared.delete(turn.id);
    return { turn, outcome: { kind: "failed", error: spent(turn) } };
  }
  spared.set(turn.id, attempt);
  return { turn, outcome: { kind: "spared" } };
}

async function conclude(
  context: RedriveContext,
  { turn, outcome: cameTo }: Tried,
  troubles: Map<bigint, Troubles>,
  stopping: AbortSignal,
): Promise<void> {
  const { policy } = context.handlerOf(turn.topic);
  let outcome = cameTo;
  const before = troubles.get(turn.id) ?? { kind: "global", times: 0 };
  const met = troublesAfter(before, outcome);
  const tooOften = met.kind === "local" && met.times > localRerunsMax;
  if (met.times > 0 && !tooOften) troubles.set(turn.id, met);
  else troubles.delete(turn.id);
  if (outcome.kind === "trouble" && tooOften) {
    outcome = { kind: "failed", error: troubleOf(turn, outcome.error) };
  }
  const settled = settlement(policy, turn, outcome, met.times, context.clock.random());
  const letter = settled?.state === "dead" ? letterFor(context, turn, outcome) : null;
  const held = settled === null || (await settle(context, turn, settled, letter, stopping));
  tell(context, turn, held ? outcome : { kind: "fenced" }, settled);
}

/** Of one message, in a row, of one kind. */
interface Troubles {
  readonly kind: "global" | "local";
  readonly times: number;
}

function troublesAfter(before: Troubles, outcome: Tried["outcome"]): Troubles {
  if (outcome.kind !== "trouble") return { ...before, times: 0 };
  const kind = outcome.trouble;
  return { kind, times: before.kind === kind ? before.times + 1 : 1 };
}

/** The letter of what died; null: none is asked for, or it cannot be written, which is told. */
function letterFor(
  context: RedriveContext,
  turn: ParkedTurn,
  outcome: Tried["outcome"],
): OutboxEntry | null {
  const { deadLetter } = context.handlerOf(turn.topic).policy;
  if (deadLetter === null || outcome.kind !== "failed") return null;
  const { record, attempts, token } = turn;
  try {
    return letterOf(deadLetter, turn, record, { attempts, error: outcome.error, token });
  } catch (error) {
    tellUnwritten(context, turn, deadLetter.topic, error);
    return null;
  }
}

/**
 * Until the database has it: else an outage under the handler would spend an attempt after all. False
 * where another has the turn.
 */
async function settle(
  context: RedriveContext,
  turn: ParkedTurn,
  settled: ParkedOutcome,
  letter: OutboxEntry | null,
  stopping: AbortSignal,
): Promise<boolean> {
  const { storage, clock, observe, consumer } = context;
  let letters = letter === null ? [] : [letter];
  for (let tries = 1; ; tries += 1) {
    try {
      const held = await storage.settleParked(turn, settled, letters);
      if (held && letters.length > 0) storage.wake.send();
      return held;
    } catch (error) {
      const refused = storage.trouble(error) === null && !(error instanceof CommitUnknownError);
      if (letter !== null && letters.length > 0 && refused) {
        // The copy must not keep the message's end from being written.
        tellUnwritten(context, turn, letter.topic, error);
        letters = [];
        continue;
      }
      const waitMs = backoffMs(backoffs.global, tries, clock.random());
      observe({ type: "inbox.redrive-troubled", consumer, waitMs, error });
      // Its lease runs out, and the attempt counts.
      if (stopping.aborted) return true;
      await clock.sleep(waitMs, stopping);
    }
  }
}

function tellUnwritten(
  { observe }: RedriveContext,
  { consumer, topic, partition, record: { offset } }: ParkedTurn,
  deadLetterTopic: string,
  cause: unknown,
): void {
  const error = storageFailed("a letter", cause);
  const at = { consumer, topic, partition, offset };
  observe({ ...at, type: "inbox.letter-failed", deadLetterTopic, error });
}

/** What to write of a turn; null: nothing, it is over or another's. `times`: of trouble in a row. */
export function settlement(
  policy: FailurePolicy,
  turn: ParkedTurn,
  outcome: Tried["outcome"],
  times: number,
  random: number,
): ParkedOutcome | null {
  // None of these is the message's failure: the attempt that was counted before is taken back. Where
  // the commit did arrive after all, there is nothing left to write to.
  const again = (afterMs: number): ParkedOutcome => ({
    ...{ state: "waiting", counts: false, afterMs, error: null },
  });
  switch (outcome.kind) {
    case "failed":
      return afterRedrive(policy, turn.attempts, outcome.error, random);
    case "trouble":
      return again(backoffMs(backoffs[outcome.trouble], times, random));
    case "unknown":
      return again(backoffMs(backoffs.global, 1, random));
    case "cut":
      return again(0);
    case "spared":
      return again(graceMs);
    default:
      return null;
  }
}

function tell(
  { observe }: RedriveContext,
  turn: ParkedTurn,
  outcome: Tried["outcome"],
  settled: ParkedOutcome | null,
): void {
  const { consumer, topic, partition, id, attempts, record } = turn;
  const at = { consumer, topic, partition, id, offset: record.offset, attempts };
  if (outcome.kind === "committed") observe({ ...at, type: "inbox.redriven" });
  else if (outcome.kind === "fenced") observe({ ...at, type: "inbox.redrive-fenced" });
  else if (outcome.kind === "failed" && settled !== null) {
    const { state, afterMs } = settled;
    observe({ ...at, type: "inbox.redrive-failed", state, afterMs, error: outcome.error });
  } else if (outcome.kind === "trouble" || outcome.kind === "unknown") {
    const { error } = outcome;
    const waitMs = settled?.afterMs ?? 0;
    observe({ type: "inbox.redrive-troubled", consumer, waitMs, error });
  }
}

/** By processes that died while they tried it, most often: what fails alive is dead at once. */
function spent({ topic, partition, record, attempts }: ParkedTurn): HandlerError {
  const { offset } = record;
  return new HandlerError(
    "message-kills-process",
    `the tries of ${topic}/${partition}@${offset} are spent: the last one ended with its process, or attemptsMax was lowered since`,
    { details: { topic, partition, offset, attempts: attempts - 1 } },
  );
}

function troubleOf({ topic, partition, record }: ParkedTurn, cause: unknown): OnceboxError {
  const at = `${topic}/${partition}@${record.offset}`;
  return new HandlerError("handler-failed", `the database was in trouble under ${at}`, { cause });
}
