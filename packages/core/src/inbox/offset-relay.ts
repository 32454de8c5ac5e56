/**
 * The offset relay: commits to the Kafka group what the inbox has committed. It reads nothing from
 * Kafka and decides nothing by it; a commit that fails is an event and is tried again, because the
 * group's offset is only a projection. It must never be told a position the database does not hold.
 */
import type { Observer } from "../events.ts";
import type { GroupOffset } from "../ports/broker.ts";
import type { Clock } from "../ports/clock.ts";
import type { PartitionClaim } from "../ports/storage.ts";
import { offsetMetadata } from "./group-offsets.ts";

export interface OffsetRelay {
  /** A position that the database has committed under this claim. */
  readonly note: (claim: PartitionClaim, nextOffset: bigint) => void;
  /** Forgets everything: the assignment it belonged to is over. */
  readonly clear: () => void;
  /** Commits what is due now. Never rejects. */
  readonly flush: () => Promise<void>;
  /** Flushes every interval until the signal is aborted. Never rejects. */
  readonly run: (signal: AbortSignal) => Promise<void>;
}

export function offsetRelay(options: {
  readonly consumer: string;
  readonly intervalMs: number;
  readonly clock: Clock;
  readonly observe: Observer;
  readonly commit: (positions: readonly GroupOffset[]) => Promise<boolean>;
}): OffsetRelay {
  const { consumer, intervalMs, clock, observe } = options;
  let due = new Map<string, GroupOffset>();
  let assignment = 0;

  const commit = async (positions: readonly GroupOffset[]) => {
    try {
      return await options.commit(positions);
    } catch {
      // The port says it never rejects; an adapter that does must not end the relay.
      return false;
    }
  };

  const flush = async () => {
    if (due.size === 0) return;
    const taken = due;
    const takenUnder = assignment;
    due = new Map();
    const ok = await commit([...taken.values()]);
    observe({ type: "inbox.offsets-committed", consumer, partitions: taken.size, ok });
    if (ok || takenUnder !== assignment) return;
    // Tried again at the next interval, unless a newer position was noted meanwhile.
    for (const [key, position] of taken) if (!due.has(key)) due.set(key, position);
  };

  return {
    note: (claim, nextOffset) => {
      const { topic, partition } = claim;
      due.set(`${topic}/${partition}`, {
        topic,
        partition,
        offset: nextOffset,
        metadata: offsetMetadata(claim, nextOffset),
      });
    },
    clear: () => {
      assignment += 1;
      due = new Map();
    },
    flush,
    run: async (signal) => {
      while (!signal.aborted) {
        await clock.sleep(intervalMs, signal);
        await flush();
      }
    },
  };
}
