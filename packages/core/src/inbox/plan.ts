/**
 * How a partition goes on after what happened: which messages run alone or in order, how often one
 * was tried, how large chunks may be, what is given up. Pure decisions over offsets.
 */
import type { OnceboxError } from "../errors.ts";
import { HandlerError } from "../errors.ts";
import type { PartitionClaim, PartitionRef } from "../ports/storage.ts";
import { backoffMs, backoffs } from "../retry.ts";
import type { Chunk } from "./chunk.ts";
import { type FailurePolicy, type GiveUp, giveUpAfter, localWaitMs } from "./failure-policy.ts";
import { afterCommit, afterFailure, chunkCut, type Isolation } from "./isolation.ts";

/** Reruns of a chunk under local trouble (deadlock, time-out) before its messages run one by one. */
const localRerunsMax = 10;

/** Claims in a row that ended with their process before messages run one by one, written down. */
const stalledClaimsMax = 3;

/** Claims that ended with their process at the same message, tried alone, before it is given up. */
const killsMax = 2;

/** Commits in a row after which chunks that were halved down to one are as large as they may be. */
const growthCommits = 64;

export interface Plan {
  readonly isolation: Isolation | null;
  /** Most messages in a chunk of isolated ones. */
  readonly isolatedMax: number;
  /** Of the first isolated message. */
  readonly giveUp: GiveUp | null;
  /** Chunks that begin below it run their handlers one after another. */
  readonly orderedUntil: bigint;
  /** Below it, each message that runs alone is written down before. */
  readonly carefulUntil: bigint;
  /** Most messages in a chunk, now. */
  readonly sizeMax: number;
  /** Of the chunk at hand, in a row, under this kind of trouble. */
  readonly reruns: number;
  readonly rerunsOf: "global" | "local";
}

export function freshPlan(chunkSizeMax: number): Plan {
  return {
    ...{ isolation: null, isolatedMax: 1 },
    ...{ giveUp: null, orderedUntil: 0n, carefulUntil: 0n },
    ...{ sizeMax: chunkSizeMax, reruns: 0, rerunsOf: "global" },
  };
}

/** Of a claim just won: what belonged to the one before is gone, what the database bore out stays. */
export function planOfClaim(plan: Plan, claim: PartitionClaim, chunkSizeMax: number): Plan {
  const fresh = { ...freshPlan(chunkSizeMax), sizeMax: plan.sizeMax };
  if (claim.stalledClaims <= stalledClaimsMax && claim.trying === null) return fresh;
  // Processes died here, one after another, or one that tried a message alone: it may be one of the next.
  const from = claim.nextOffset;
  const until = from + BigInt(chunkSizeMax);
  return { ...fresh, isolation: { from, until, attempts: 0 }, carefulUntil: until };
}

/** How the next chunk is cut and run. */
export interface Cut {
  readonly recordsMax: number;
  readonly before: bigint | null;
  readonly inOrder: boolean;
  readonly attempt: number;
  readonly giveUp: GiveUp | null;
  /** Whether what is tried has to be written down before. */
  readonly careful: boolean;
}

export function cutOf(plan: Plan, nextOffset: bigint): Cut {
  const { isolation, isolatedMax, giveUp, orderedUntil, carefulUntil, sizeMax } = plan;
  const { alone, before } = chunkCut(isolation, nextOffset);
  return {
    ...{ recordsMax: alone ? Math.min(isolatedMax, sizeMax) : sizeMax, before },
    inOrder: nextOffset < orderedUntil,
    attempt: (isolation?.attempts ?? 0) + 1,
    giveUp: alone && isolatedMax === 1 ? giveUp : null,
    careful: alone && nextOffset < carefulUntil,
  };
}

/** A message that was being tried alone when process after process died is given up, dead. */
export function killerOf(
  { trying, topic, partition }: PartitionClaim,
  offset: bigint,
): OnceboxError | null {
  if (trying === null || trying.offset !== offset || trying.claims < killsMax) return null;
  return new HandlerError(
    "message-kills-process",
    `${trying.claims} processes in a row ended while the handler of ${topic} ran for ${topic}/${partition}@${offset} alone`,
    { details: { topic, partition, offset, claims: trying.claims } },
  );
}

export interface AfterFailedChunk {
  readonly plan: Plan;
  /** The message that failed; null where nobody knows which. */
  readonly failed: { readonly offset: bigint; readonly attempt: number } | null;
  readonly waitMs: number;
  /** Where the letter should have gone that could not be written; null: it was no letter that failed. */
  readonly letterTo: string | null;
}

/** A chunk failed, at this offset or nobody knows where. */
export function planAfterFailure(
  plan: Plan,
  chunk: Chunk,
  failure: { readonly offset: bigint | null; readonly error: OnceboxError },
  policy: FailurePolicy,
  random: number,
): AfterFailedChunk {
  const { error } = failure;
  const { isolation, failed, wait } = afterFailure(plan.isolation, chunk, failure.offset);
  // Of what failed before and stands behind, nothing was decided: it will be tried again.
  const isolatedMax = isolatedAfter(chunk, failed, policy);
  const next: Plan = { ...plan, isolation, isolatedMax, giveUp: null, reruns: 0 };
  if (failed === null) return { plan: next, failed, waitMs: 0, letterTo: null };
  const before = plan.giveUp?.offset === failed.offset ? plan.giveUp : null;
  const letterTo = unwrittenLetter(before, failure);
  if (before !== null && letterTo !== null) {
    // The copy must not hold up its partition: given up without it.
    return { plan: { ...next, giveUp: { ...before, letter: null } }, failed, waitMs: 0, letterTo };
  }
  const giveUp = before ?? giveUpAfter(policy, failed, error, random);
  if (giveUp !== null) {
    // To give it up has failed as well (no right to write there?): tried again, not as fast as it goes.
    const waitMs = before === null ? 0 : backoffMs(backoffs.message, failed.attempt, random);
    return { plan: { ...next, giveUp }, failed, waitMs, letterTo };
  }
  const waitMs = wait ? localWaitMs(policy, failed.attempt, error, random) : 0;
  return { plan: next, failed, waitMs, letterTo };
}

/** No handler runs for what is given up: what fails at its offset by name is its letter. */
function unwrittenLetter(
  before: GiveUp | null,
  { offset, error }: { readonly offset: bigint | null; readonly error: OnceboxError },
): string | null {
  // A database that was slow is asked again.
  if (before === null || offset !== before.offset || error.code === "handler-timed-out")
    return null;
  return before.letter?.topic ?? null;
}

/** The event that says what became of a chunk that failed. */
export function toldOfFailure(
  { waitMs, letterTo }: Pick<AfterFailedChunk, "waitMs" | "letterTo">,
  failed: NonNullable<AfterFailedChunk["failed"]>,
  error: OnceboxError,
) {
  if (letterTo === null) return { type: "inbox.blocked", ...failed, waitMs, error } as const;
  const { offset } = failed;
  return { type: "inbox.letter-failed", offset, deadLetterTopic: letterTo, error } as const;
}

/** One message that is known runs alone; of a batch that failed as a whole, its half. */
function isolatedAfter(
  { records }: Chunk,
  failed: AfterFailedChunk["failed"],
  { halves }: FailurePolicy,
): number {
  return failed === null && halves ? Math.ceil(records.length / 2) : 1;
}

/** Handlers that ran at once failed: which of them, shows the same chunk in order. */
export function planInOrder(plan: Plan, { endOffset }: Chunk): Plan {
  const orderedUntil = endOffset > plan.orderedUntil ? endOffset : plan.orderedUntil;
  return { ...plan, orderedUntil, reruns: 0 };
}

/** The database was in trouble: the same again. Null: for too long, and by this chunk alone. */
export function planAfterTrouble(
  plan: Plan,
  trouble: "global" | "local",
  random: number,
): { readonly plan: Plan; readonly waitMs: number } | null {
  const reruns = plan.rerunsOf === trouble ? plan.reruns + 1 : 1;
  if (trouble === "local" && reruns > localRerunsMax) return null;
  // Chunks that share rows with those of other partitions collapse unless they get smaller.
  const sizeMax = trouble === "local" ? Math.max(1, plan.sizeMax >> 1) : plan.sizeMax;
  const waitMs = backoffMs(backoffs[trouble], reruns, random);
  return { plan: { ...plan, sizeMax, reruns, rerunsOf: trouble }, waitMs };
}

export interface AfterCommittedChunk {
  readonly plan: Plan;
  /** A message that had failed is behind the position: tries that failed, and what was given up. */
  readonly passed: { readonly attempts: number; readonly giveUp: GiveUp | null } | null;
}

export function planAfterCommit(
  plan: Plan,
  nextOffset: bigint,
  { halves }: Pick<FailurePolicy, "halves">,
  chunkSizeMax: number,
): AfterCommittedChunk {
  const { isolation, passed } = afterCommit(plan.isolation, nextOffset);
  const gaveUp = plan.giveUp !== null && nextOffset > plan.giveUp.offset ? plan.giveUp : null;
  const grown = Math.min(chunkSizeMax, plan.sizeMax + Math.ceil(chunkSizeMax / growthCommits));
  const attempts = plan.isolation?.attempts ?? 0;
  const careful = nextOffset < plan.carefulUntil;
  return {
    plan: {
      ...plan,
      ...{ isolation, reruns: 0, sizeMax: grown },
      // What was halved grows again; what is written down stays one by one.
      isolatedMax: isolation !== null && halves && !careful ? plan.isolatedMax * 2 : 1,
      giveUp: gaveUp === null ? plan.giveUp : null,
    },
    passed: passed || gaveUp !== null ? { attempts, giveUp: gaveUp } : null,
  };
}

/** The event that says what became of a message which had failed. */
export function toldOf(
  { attempts, giveUp }: NonNullable<AfterCommittedChunk["passed"]>,
  offset: bigint,
) {
  if (giveUp === null) return { type: "inbox.unblocked", offset, attempts } as const;
  const { error, park } = giveUp;
  const given = { offset, attempts: giveUp.attempts, error };
  if (park === null) return { type: "inbox.dropped", ...given } as const;
  return { type: "inbox.parked", state: park.state, ...given } as const;
}

/** Alone, a message that keeps meeting trouble of the database has failed by itself. */
export function keptMeetingTrouble(
  { topic, partition }: PartitionRef,
  { firstOffset }: Chunk,
  cause: unknown,
): HandlerError {
  const times = localRerunsMax + 1;
  const text = `a chunk of ${topic}/${partition} from ${firstOffset} met trouble in the database ${times} times in a row`;
  return new HandlerError("handler-failed", text, { cause });
}
