/**
 * Which lanes a relay holds, until when, and which it should take or give back. Pure bookkeeping: it
 * is told the time and asks nobody.
 *
 *   (free) ──leased──▶ active ──surplus──▶ draining ──given back──▶ (free)
 *                        │                    │
 *                        └──taken over────────┴──▶ lost
 */
import { laneCount } from "../hashes.ts";
import type { LaneLease, LeaseAnswer } from "../ports/outbox.ts";

/**
 * One lease of one lane. Another lease of the same lane is another object: what was read under the
 * old one is void.
 */
export interface HeldLane extends LaneLease {
  /** Of the relay's clock, counted from before the request was sent. */
  deadline: number;
  state: "active" | "draining" | "lost";
}

/** Most lanes a relay keeps while `relays` are alive. Rounded up, so that no lane is left over. */
export function fairShare(relays: number): number {
  return Math.ceil(laneCount / Math.max(1, relays));
}

/** Whether to ask again soon: others hold lanes that are ours by any rounding, and are draining them. */
export function isShort(held: number, relays: number): boolean {
  return held < Math.floor(laneCount / Math.max(1, relays));
}

/** How many further lanes to ask for. */
export function lanesToTake(held: number, relays: number): number {
  return Math.max(0, fairShare(relays) - held);
}

/**
 * The lanes to give back, those with the least work first: what was read of them has to be read
 * again by the next holder.
 */
export function surplusOf(
  held: readonly HeldLane[],
  relays: number,
  work: (lane: HeldLane) => number,
): HeldLane[] {
  const active = held.filter((lane) => lane.state === "active");
  const surplus = active.length - fairShare(relays);
  if (surplus <= 0) return [];
  return active
    .map((lane) => ({ lane, work: work(lane) }))
    .sort((a, b) => a.work - b.work || b.lane.lane - a.lane.lane)
    .slice(0, surplus)
    .map(({ lane }) => lane);
}

export interface LaneChange {
  readonly gained: readonly HeldLane[];
  /** Held no longer. */
  readonly lost: readonly HeldLane[];
  /** Those of the lost that were not being given back. */
  readonly takenOver: readonly HeldLane[];
}

export interface Lanes {
  readonly held: () => readonly HeldLane[];
  /** Takes in the answer to a request that was sent at `sentAt`. */
  readonly answered: (answer: LeaseAnswer, sentAt: number, leaseMs: number) => LaneChange;
  /** Forgets lanes that were given back or taken over. */
  readonly drop: (lanes: readonly HeldLane[]) => void;
}

export function createLanes(): Lanes {
  const byLane = new Map<number, HeldLane>();
  const drop = (lanes: readonly HeldLane[]) => {
    for (const lane of lanes) {
      lane.state = "lost";
      if (byLane.get(lane.lane) === lane) byLane.delete(lane.lane);
    }
  };
  return {
    held: () => [...byLane.values()],
    answered: (answer, sentAt, leaseMs) => {
      const deadline = sentAt + leaseMs;
      const tokens = new Map(answer.leases.map(({ lane, token }) => [lane, token]));
      const lost = [...byLane.values()].filter((held) => tokens.get(held.lane) !== held.token);
      // A draining lane that is missing was given back by a request whose answer was lost.
      const takenOver = lost.filter((held) => held.state === "active");
      drop(lost);
      const gained: HeldLane[] = [];
      for (const { lane, token } of answer.leases) {
        const held = byLane.get(lane);
        if (held !== undefined) {
          held.deadline = deadline;
          continue;
        }
        const taken: HeldLane = { lane, token, deadline, state: "active" };
        byLane.set(lane, taken);
        gained.push(taken);
      }
      return { gained, lost, takenOver };
    },
    drop,
  };
}
