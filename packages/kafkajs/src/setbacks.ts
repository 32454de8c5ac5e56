/**
 * Which partitions are left out of fetches for a while, because the last one failed for them alone.
 * Owns how long, and how often it is told; never what the failure means.
 */
import type { TopicPartition } from "@oncebox/core";

/** The first wait and the longest; each failure in a row doubles it. */
export interface Waits {
  readonly firstMs: number;
  readonly longestMs: number;
}

/**
 * The partition's own trouble: its disk, its permissions. The longest is below any session time-out
 * that Kafka takes by default: what is not heard of for longer counts as a silent client.
 */
export const ofTrouble: Waits = { firstMs: 1_000, longestMs: 5_000 };
/** Its leader moves: over as soon as the metadata is read again. */
export const ofMoving: Waits = { firstMs: 100, longestMs: 1_000 };

interface Setback {
  readonly waitMs: number;
  readonly until: number;
}

export class Setbacks {
  readonly #setbacks = new Map<string, Setback>();

  /** Milliseconds that the partition is still left out; 0: it can be asked for. */
  left(at: TopicPartition, now: number): number {
    return Math.max(0, (this.#setbacks.get(keyOf(at))?.until ?? now) - now);
  }

  /** After a failure: longer each time, until `clear`. Tells whether it is one in a row. */
  add(at: TopicPartition, { firstMs, longestMs }: Waits, now: number): boolean {
    const before = this.#setbacks.get(keyOf(at));
    const waitMs = Math.min(longestMs, before === undefined ? firstMs : before.waitMs * 2);
    this.#setbacks.set(keyOf(at), { waitMs, until: now + waitMs });
    return before !== undefined;
  }

  clear(at: TopicPartition): void {
    this.#setbacks.delete(keyOf(at));
  }
}

/** What mostly passes by itself is told where it stays: a while later, then ever more seldom. */
export class Lasting {
  readonly #quiet = new Setbacks();

  /** Seen again, or for the first time: whether to tell of it now. */
  seen(at: TopicPartition, now: number): boolean {
    return this.#quiet.left(at, now) === 0 && this.#quiet.add(at, ofTrouble, now);
  }

  clear(at: TopicPartition): void {
    this.#quiet.clear(at);
  }
}

function keyOf({ topic, partition }: TopicPartition): string {
  return `${topic}/${partition}`;
}
