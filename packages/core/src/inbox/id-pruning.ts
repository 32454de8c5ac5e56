/**
 * Forgets message ids that lie before the window: from time to time one walk over all ids of the
 * consumer (id-walk.ts), beside the chunks. What may go is the storage's to
 * find, from the rows of all partitions, those of other processes as well; how wide the window is, and
 * which partitions have nothing left to read, is told from here. Never deletes by this machine's clock.
 *
 *   rest ──▶ ask Kafka where the logs end ──▶ step ──▶ pause ──▶ step … ──▶ rest
 *                                              └──▶ trouble: back off, and begin anew
 */
import type { Observer } from "../events.ts";
import type { Broker } from "../ports/broker.ts";
import type { Clock } from "../ports/clock.ts";
import type { LogEnd, Pruned, PruneRequest } from "../ports/pruning.ts";
import type { StorageVerbs } from "../ports/storage.ts";
import { backoffMs, backoffs } from "../retry.ts";
import { walkOverIds } from "./id-walk.ts";
import type { Permits } from "./permits.ts";

/** Between two walks: a hundredth of the window, so that the table grows by that on top, in bounds. */
const restMsMin = 1_000;
const restMsMax = 3_600_000;
/** Before the first one: a process that is started again and again must get to it. */
const firstRestMs = 60_000;

export interface PruningContext {
  /** Of the consumer. */
  readonly name: string;
  readonly storage: Pick<StorageVerbs, "positions" | "pruneIds">;
  readonly broker: Pick<Broker, "offsets">;
  readonly clock: Clock;
  readonly observe: Observer;
  /** For a connection of the pool. */
  readonly permits: Pick<Permits, "acquire">;
  /** Null: nothing is ever deleted. */
  readonly deduplicationWindowMs: number | null;
}

/** Walks and rests until the signal is aborted; a step that is under way then ends. Never rejects. */
export async function pruneIds(context: PruningContext, stopping: AbortSignal): Promise<void> {
  const { clock, observe, name: consumer, deduplicationWindowMs: windowMs } = context;
  if (windowMs === null) return;
  const restMs = Math.min(Math.max(windowMs / 100, restMsMin), restMsMax);
  const tellHeldBack = heldBackTeller(context);
  let failures = 0;
  let waitMs = Math.min(restMs, firstRestMs);
  for (;;) {
    await clock.sleep(waitMs, stopping);
    if (stopping.aborted) return;
    try {
      tellHeldBack(await walk(context, windowMs, stopping));
      failures = 0;
      waitMs = restMs;
    } catch (error) {
      failures += 1;
      waitMs = backoffMs(backoffs.global, failures, clock.random());
      observe({ type: "inbox.pruning-troubled", consumer, waitMs, error });
    }
  }
}

/** All ids once. What the first step found; null: there was none before the stop. */
async function walk(
  { name: consumer, storage, broker, clock, observe, permits }: PruningContext,
  windowMs: number,
  stopping: AbortSignal,
): Promise<Pruned | null> {
  const known = await endsOf({ name: consumer, storage, broker });
  const step = async (request: PruneRequest): Promise<Pruned | null> => {
    const release = await permits.acquire(stopping);
    return release === null ? null : storage.pruneIds(request).finally(release);
  };
  let first: Pruned | null = null;
  let ids = 0;
  try {
    const over = { consumer, windowMs, ...known };
    for await (const pruned of walkOverIds(over, { clock, stopping, step })) {
      first ??= pruned;
      ids += pruned.deleted;
    }
  } finally {
    const before = first?.before ?? null;
    if (ids > 0 && before !== null) observe({ type: "inbox.pruned", consumer, ids, before });
  }
  return first;
}

/**
 * Of all topics that the consumer was ever registered for. Where Kafka does not say, their partitions
 * count as far as their last record came. What comes into the logs afterwards is not known, and a
 * process may stand still for days before its next step: so when it was goes with it, by the clock of
 * the database, and taken before Kafka is asked.
 */
async function endsOf({
  name,
  storage,
  broker,
}: Pick<PruningContext, "name" | "storage" | "broker">): Promise<
  Pick<PruneRequest, "ends" | "askedAt">
> {
  const { positions, at: askedAt } = await storage.positions(name);
  const ends: LogEnd[] = [];
  for (const topic of new Set(positions.map((position) => position.topic))) {
    const found = await broker.offsets(topic, "latest").catch(() => null);
    if (found === null) continue;
    const { topicId, offsets } = found;
    for (const [partition, end] of offsets) ends.push({ topic, topicId, partition, end });
  }
  return { ends, askedAt };
}

/** Once for each partition that holds pruning back, until another does or none. */
function heldBackTeller({ name: consumer, observe }: PruningContext) {
  let told = "";
  return (found: Pruned | null): void => {
    if (found === null) return;
    const { before, slowest } = found;
    const held = before === null ? slowest : null;
    const name = held === null ? "" : `${held.topic}/${held.partition}`;
    if (held !== null && name !== told) {
      observe({ type: "inbox.pruning-held-back", consumer, ...held });
    }
    told = name;
  };
}
