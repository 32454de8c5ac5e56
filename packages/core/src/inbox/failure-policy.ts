/**
 * What becomes of a message whose handler failed, in three levels: tried again here and now while its
 * partition waits; parked, with those of its key behind it, and tried again beside; dead, until a
 * person acts. Pure decisions; the database's trouble never gets here.
 */
import { type ErrorCode, type OnceboxError, PermanentError } from "../errors.ts";
import type { ParkedError, ParkedOutcome, ToPark } from "../ports/parking.ts";
import { type Backoff, backoffMs, backoffs } from "../retry.ts";
import type { HandlerOptions } from "./handler.ts";

export interface FailurePolicy {
  readonly onFailure: "park" | "block" | "drop";
  /** Tries while the partition waits. */
  readonly localAttemptsMax: number;
  /** Tries altogether, those of a parked message included. */
  readonly attemptsMax: number;
  readonly local: Backoff;
  readonly redrive: Backoff;
  /** Where a copy of what is given up for good goes; null: nowhere. */
  readonly deadLetter: DeadLetter | null;
  /** Whether half of the messages are tried where nobody knows which one failed; else one by one. */
  readonly halves: boolean;
}

export interface DeadLetter {
  readonly topic: string;
  /** Whose names the headers have that say what happened. */
  readonly headers: "connect" | "spring";
  readonly groupId: string;
}

/** What is done with a message instead of handling it, in the transaction that moves past it. */
export interface GiveUp {
  readonly offset: bigint;
  readonly error: OnceboxError;
  /** Tries that failed. */
  readonly attempts: number;
  /** Null: dropped. */
  readonly park: Omit<ToPark, "record"> | null;
  /** Null: no letter is written. */
  readonly letter: DeadLetter | null;
}

export const retryDefaults = {
  localAttemptsMax: 5,
  attemptsMax: 20,
  localBackoffMs: 50,
  localBackoffMaxMs: 1_000,
  redriveBackoffMs: 1_000,
  redriveBackoffMaxMs: 300_000,
};

export function failurePolicy(
  { onFailure = "park", retry = {} }: HandlerOptions,
  halves = false,
  deadLetter: DeadLetter | null = null,
): FailurePolicy {
  const set = Object.entries(retry).filter(([, value]) => value !== undefined);
  const given = { ...retryDefaults, ...Object.fromEntries(set) };
  return {
    ...{ onFailure, halves, deadLetter },
    localAttemptsMax: given.localAttemptsMax,
    attemptsMax: given.attemptsMax,
    local: { initialMs: given.localBackoffMs, maxMs: given.localBackoffMaxMs },
    redrive: { initialMs: given.redriveBackoffMs, maxMs: given.redriveBackoffMaxMs },
  };
}

/** Another try cannot help: the bytes, the id or the author say so. */
const hopeless: ReadonlySet<ErrorCode> = new Set([
  "permanent",
  "value-not-decodable",
  "message-id-conflict",
  "message-kills-process",
] satisfies ErrorCode[]);

function isHopeless(error: OnceboxError): boolean {
  return error instanceof PermanentError || hopeless.has(error.code);
}

/** After the failed try number `attempt`: null where the message is tried again here. */
export function giveUpAfter(
  policy: FailurePolicy,
  failed: { readonly offset: bigint; readonly attempt: number },
  error: OnceboxError,
  random: number,
): GiveUp | null {
  const { offset, attempt } = failed;
  const never = isHopeless(error);
  if (policy.onFailure === "block") return null;
  if (!never && attempt < policy.localAttemptsMax) return null;
  const { deadLetter: letter, onFailure } = policy;
  const given = { offset, error, attempts: attempt };
  if (onFailure === "drop") return { ...given, park: null, letter };
  const { state, afterMs } = nextTry(policy, attempt, never, random);
  const park = { state, attempts: attempt, afterMs, error: parkedErrorOf(error) };
  return { ...given, park, letter: state === "dead" ? letter : null };
}

/** The wait before the next try here, in milliseconds. */
export function localWaitMs(
  policy: FailurePolicy,
  attempt: number,
  error: OnceboxError,
  random: number,
): number {
  if (policy.onFailure !== "block") return backoffMs(policy.local, attempt, random);
  return isHopeless(error) ? backoffs.message.maxMs : backoffMs(backoffs.message, attempt, random);
}

/** What a parked message comes to after its failed try number `attempts`. */
export function afterRedrive(
  policy: FailurePolicy,
  attempts: number,
  error: OnceboxError,
  random: number,
): ParkedOutcome {
  const never = isHopeless(error);
  return { ...nextTry(policy, attempts, never, random), counts: true, error: parkedErrorOf(error) };
}

function nextTry(
  policy: FailurePolicy,
  attempts: number,
  never: boolean,
  random: number,
): { readonly state: "waiting" | "dead"; readonly afterMs: number } {
  if (never || attempts >= policy.attemptsMax) return { state: "dead", afterMs: 0 };
  // One that stood behind another was never tried here.
  const redrives = Math.max(1, attempts - policy.localAttemptsMax + 1);
  return { state: "waiting", afterMs: backoffMs(policy.redrive, redrives, random) };
}

const textMax = 2_000;

/** For a person who reads the table: databases hold no U+0000 in a text. */
export function parkedErrorOf({ code, message }: OnceboxError): ParkedError {
  return { code, text: message.slice(0, textMax).replaceAll("\0", "\uFFFD") };
}
