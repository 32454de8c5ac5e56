/** The part of the storage port that the outbox relay uses: rows, lanes and the door bell, O2 to O6. */
import type { Headers } from "../message.ts";

/** One row of the outbox, as `enqueue` writes it. */
export interface OutboxEntry {
  readonly lane: number;
  readonly id: string;
  readonly topic: string;
  readonly key: Uint8Array | null;
  readonly value: Uint8Array | null;
  readonly headers: Headers;
}

/** One row of the outbox, as a relay reads it. */
export interface OutboxRow extends OutboxEntry {
  /** Order within the lane. */
  readonly position: bigint;
}

/** A relay's fenced right to a lane. */
export interface LaneLease {
  readonly lane: number;
  readonly token: string;
}

export interface LeaseRequest {
  /** A random name of this relay's run. */
  readonly relay: string;
  readonly leaseMs: number;
  /** Leases to keep; those taken over by others are missing from the answer. */
  readonly renew: readonly LaneLease[];
  /** How many free or expired lanes to take on top. */
  readonly acquireMax: number;
}

export interface LeaseAnswer {
  /** What is held now: renewed and newly taken. Counted from before the request was sent. */
  readonly leases: readonly LaneLease[];
  /** Relays seen alive within their lease, this one included: the basis of a fair share. */
  readonly relays: number;
}

export interface OutboxRead {
  readonly rows: readonly OutboxRow[];
  /** Whether rows were left out because of a limit. */
  readonly more: boolean;
  /** Rows that a sweep found below their lane's floor: an anomaly. */
  readonly belowFloor: number;
}

/** The relay's door bell; what is lost here costs latency only, a poll runs beneath. */
export interface Wake {
  /** Rows were committed: wakes relays here at once, in other processes by one coalesced message. */
  readonly send: () => void;
  /** Rows were written in a transaction whose commit will not be seen: relays look often for a while. */
  readonly expect: () => void;
  /** Resolves to a function that stops listening. */
  readonly listen: (listener: {
    readonly woken: () => void;
    readonly expected: () => void;
  }) => Promise<() => Promise<void>>;
}

/** What a storage does for relays, whatever a handle of it is. */
export interface OutboxVerbs {
  readonly wake: Wake;
  /** O4. */
  readonly leaseLanes: (request: LeaseRequest) => Promise<LeaseAnswer>;
  /** Gives lanes back after draining; leases taken over meanwhile are left alone. */
  readonly releaseLanes: (relay: string, leases: readonly LaneLease[]) => Promise<void>;
  /**
   * O2, O3. The next rows above each lane's floor, in order within each lane, at least one where
   * there is one. A row below one that was returned may still appear later (its transaction was
   * open): the floor never rises past it.
   */
  readonly readLanes: (
    leases: readonly LaneLease[],
    request: {
      readonly rows: number;
      readonly bytes: number;
      /** Rows read before and not settled yet: left out of the answer, kept below the floor. */
      readonly pending: readonly OutboxRow[];
      /** Reads from the start of each lane instead of from its floor. */
      readonly sweep: boolean;
    },
  ) => Promise<OutboxRead>;
  /** O4, O6. Deletes exactly these rows in lanes still held; returns the lanes that are not. */
  readonly settleBatch: (
    leases: readonly LaneLease[],
    published: readonly OutboxRow[],
  ) => Promise<{ readonly lost: readonly number[] }>;
}
