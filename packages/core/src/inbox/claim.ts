/**
 * How a worker gets its claim, and how a policy moves a position under it. Each waits as long as it
 * takes, by itself; nothing is kept here.
 */
import type { OnceboxError } from "../errors.ts";
import { within } from "../ports/clock.ts";
import type { PartitionClaim, PartitionRef } from "../ports/storage.ts";
import { backoffMs, backoffs } from "../retry.ts";
import { afterFailure, type Chunk, type ChunkOutcome } from "./chunk.ts";
import { claimError, type GoOn, unregistered } from "./lost-position.ts";
import type { PartitionContext } from "./partition-context.ts";
import { type Cut, killerOf } from "./plan.ts";

type Claiming = Pick<
  PartitionContext,
  "clock" | "observe" | "owner" | "claims" | "claimWaitMs" | "register"
> & {
  readonly storage: Pick<PartitionContext["storage"], "claim" | "noteClaim">;
  readonly left: Pick<Leaving, "said">;
};

/** Claims, again and again; null once the signal is aborted. A claim won too late is given up at once. */
export async function claimPartition(
  context: Claiming,
  ref: PartitionRef,
  ending: AbortSignal,
  failed: (error: OnceboxError) => void,
): Promise<PartitionClaim | null> {
  const { storage, claims, clock, observe, owner, claimWaitMs } = context;
  for (let tries = 1; ; tries += 1) {
    const release = await claims.acquire(ending);
    if (release === null) return null;
    const began = clock.now();
    try {
      await context.left.said();
      const claim = await storage.claim({ ...ref, owner }, claimWaitMs);
      if (claim === null) {
        await context.register(ref.topic);
        throw unregistered(ref);
      }
      if (ending.aborted) {
        await leave(storage, claim);
        return null;
      }
      const { epoch, nextOffset } = claim;
      const ms = clock.now() - began;
      observe({ ...ref, type: "inbox.claimed", epoch, nextOffset, ms });
      return claim;
    } catch (error) {
      const why = claimError(ref, error);
      failed(why);
      observe({ ...ref, type: "inbox.claim-waiting", error: why });
    } finally {
      release();
    }
    await clock.sleep(backoffMs(backoffs.claim, tries, clock.random()), ending);
    if (ending.aborted) return null;
  }
}

/**
 * Says that this process lives though it gives up its claim: so that nobody takes rebalances and
 * outages for messages that kill. Nothing rests on it: it never rejects. Whether it was said.
 */
async function leave(
  storage: Pick<PartitionContext["storage"], "noteClaim">,
  claim: PartitionClaim,
): Promise<boolean> {
  const [said] = await Promise.allSettled([storage.noteClaim(claim, { kind: "left" })]);
  return said.status === "fulfilled";
}

/** Claims that one worker gave up alive, one after another. */
export interface Leaving {
  readonly gaveUp: (claim: PartitionClaim) => void;
  /**
   * Until it was said of the last one; where the database was away, once more. Comes before the next
   * claim, which would else find the own one before it counted. Ends after a second at the latest: a
   * database that does not answer must not hold up a stop.
   * Where an answer alone was lost it is said twice: that grants a message one more process.
   */
  readonly said: () => Promise<unknown>;
}

const leavingMaxMs = 1_000;

export function leavings({
  storage,
  clock,
}: Pick<PartitionContext, "clock"> & {
  readonly storage: Pick<PartitionContext["storage"], "noteClaim">;
}): Leaving {
  let owed: PartitionClaim | null = null;
  let saying: Promise<void> = Promise.resolve();
  const say = async (): Promise<void> => {
    const claim = owed;
    if (claim !== null && (await leave(storage, claim)) && owed === claim) owed = null;
  };
  return {
    gaveUp: (claim) => {
      owed = claim;
      saying = say();
    },
    said: () => {
      saying = saying.then(say);
      return within(clock, leavingMaxMs, saying, null);
    },
  };
}

type Looking = Pick<PartitionContext, "clock" | "database"> & {
  readonly storage: Pick<PartitionContext["storage"], "lostClaims">;
};

/** Whether the claim, at the position it stands at now, is held. Null: the signal was aborted. */
export async function isHeld(
  { storage, clock, database }: Looking,
  claim: PartitionClaim,
  ending: AbortSignal,
): Promise<boolean | null> {
  for (let tries = 1; !ending.aborted; tries += 1) {
    try {
      const lost = await storage.lostClaims([claim]);
      database(null);
      return lost.length === 0;
    } catch (error) {
      database(error);
      await clock.sleep(backoffMs(backoffs.claim, tries, clock.random()), ending);
    }
  }
  return null;
}

type Moving = Pick<PartitionContext, "clock" | "observe" | "owner" | "resolve"> & {
  readonly storage: Pick<PartitionContext["storage"], "seek">;
};

/**
 * A lost position goes on where a policy says, audited like an operator's seek. True: moved, and the
 * claim is void. False: the claim is held no more. Null: the signal was aborted.
 */
export async function goOnFrom(
  context: Moving,
  claim: PartitionClaim,
  goOn: GoOn,
  reason: string,
  ending: AbortSignal,
): Promise<boolean | null> {
  const { storage, clock, observe, owner } = context;
  const { consumer, topic, partition } = claim;
  const ref = { consumer, topic, partition };
  for (let rerun = 1; !ending.aborted; rerun += 1) {
    try {
      const { to, topicId } = await context.resolve(ref, goOn);
      const moved = await storage.seek({
        ...{ consumer, topic, topicId, moves: [{ partition, to }] },
        ...{ replay: false, expected: claim, audit: { actor: `policy of ${owner}`, reason } },
      });
      for (const { from } of moved ?? []) {
        observe({ ...ref, type: "inbox.position-moved", from, to, reason });
      }
      return moved !== null;
    } catch (error) {
      const waitMs = backoffMs(backoffs.global, rerun, clock.random());
      observe({ ...ref, type: "inbox.chunk-rerun", trouble: "global", rerun, waitMs, error });
      await clock.sleep(waitMs, ending);
    }
  }
  return null;
}

/**
 * Processes died here: writes down which message is tried, so that the next one knows, should this one
 * die as well. Null: written, or nothing is tried; else what comes instead of the chunk.
 */
export async function writtenDown(
  { storage, policy }: Pick<PartitionContext, "storage" | "policy">,
  claim: PartitionClaim,
  { records }: Chunk,
  { giveUp }: Cut,
): Promise<ChunkOutcome | null> {
  const offset = records[0]?.offset;
  if (offset === undefined || giveUp !== null) return null;
  const error = policy.onFailure === "block" ? null : killerOf(claim, offset);
  if (error !== null) return { kind: "failed", offset, error };
  try {
    await storage.noteClaim(claim, { kind: "trying", offset });
    return null;
  } catch (caught) {
    return afterFailure(storage, caught);
  }
}
