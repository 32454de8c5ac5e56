/**
 * One walk over the message ids of a name, in short steps with pauses between them, so that nobody waits
 * long for any. Says how much is kept on top of a window. Decides nothing about when, or whose ids.
 */
import { integer, type Rule } from "../options.ts";
import type { Clock } from "../ports/clock.ts";
import type { LogEnd, Pruned, PruneRequest } from "../ports/pruning.ts";

/**
 * On top of the window, and for each time that is not exact: the clocks of producers, what they still
 * try to send, transactions that are open (15 minutes is the most that Kafka grants by default).
 */
const marginMs = 900_000;

/** How far ahead of the database's clock a record's time may be and still be somebody's clock. */
const aheadMsMax = 3_600_000;

/** Ids of one step: some ten milliseconds of the database. */
const stepSize = 2_000;
const pauseMs = 100;

/** What a window may be, in milliseconds: from a minute to a hundred years. */
export const aWindowMs: Rule = integer(60_000, 100 * 366 * 86_400_000);

/** What is walked over. */
export interface WalkedIds {
  readonly consumer: string;
  readonly windowMs: number;
  /** Where the logs ended, and when that was asked, by the database's clock. */
  readonly ends: readonly LogEnd[];
  readonly askedAt: number;
}

export interface WalkSteps {
  readonly clock: Pick<Clock, "sleep">;
  /** Aborted: the step that is under way is the last one. */
  readonly stopping: AbortSignal | undefined;
  /** Null: it was not made, and no other follows. */
  readonly step: (request: PruneRequest) => Promise<Pruned | null>;
}

/** What each step has done, behind the step. Throws what a step rejects with. */
export async function* walkOverIds(
  { consumer, windowMs, ends, askedAt }: WalkedIds,
  { clock, stopping, step }: WalkSteps,
): AsyncGenerator<Pruned> {
  let from: string | null = null;
  do {
    const request = { consumer, ends, askedAt, aheadMsMax, limit: stepSize, from };
    const pruned: Pruned | null = await step({ ...request, windowMs: windowMs + marginMs });
    if (pruned === null) return;
    yield pruned;
    from = pruned.next;
    if (from !== null) await clock.sleep(pauseMs, stopping);
  } while (from !== null && !stopping?.aborted);
}
