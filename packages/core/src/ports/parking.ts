/**
 * The part of the storage port that holds messages which failed, promise I6: they keep the order of
 * their keys and their bytes, and each is tried by one process at a time.
 */
import type { Headers } from "../message.ts";
import type { OutboxEntry } from "./outbox.ts";
import type { Audit, PartitionRef } from "./storage.ts";

/** A record that was set aside, as it lay in the log. */
export interface ParkedRecord {
  readonly offset: bigint;
  /** Milliseconds since 1970, as stored in the log. */
  readonly timestamp: bigint;
  readonly key: Uint8Array | null;
  readonly value: Uint8Array | null;
  readonly headers: Headers;
}

/** Why a message was set aside: kept for a person. */
export interface ParkedError {
  readonly code: string;
  /** Of bounded length and without U+0000. */
  readonly text: string;
}

/** `waiting`: to be tried again. `retrying`: it is being tried. `dead`: it waits for a person. */
export type ParkedState = "waiting" | "retrying" | "dead";

/** A record to set aside in the transaction that moves the position past it. */
export interface ToPark {
  readonly record: ParkedRecord;
  readonly state: "waiting" | "dead";
  /** Failed tries so far. */
  readonly attempts: number;
  /** From now until the next try, in milliseconds. */
  readonly afterMs: number;
  /** Null: it only stands behind another of its key. */
  readonly error: ParkedError | null;
}

/** The fenced right to try a parked message: the attempt was written down and committed before. */
export interface ParkedTurn extends PartitionRef {
  readonly id: bigint;
  /** That of the request that took it. */
  readonly token: string;
  readonly record: ParkedRecord;
  /** Tries so far, with this one. */
  readonly attempts: number;
}

/** What became of a turn that did not succeed. */
export interface ParkedOutcome {
  readonly state: "waiting" | "dead";
  /** Whether the try counts; else its attempt is taken back, also from who has the turn by then. */
  readonly counts: boolean;
  readonly afterMs: number;
  /** Null: that of its last failure stays. */
  readonly error: ParkedError | null;
}

/** A parked message as a person sees it. */
export interface ParkedMessage extends PartitionRef {
  /** In the order in which they were parked. */
  readonly id: bigint;
  readonly record: ParkedRecord;
  readonly state: ParkedState;
  readonly attempts: number;
  readonly error: ParkedError | null;
  /** Milliseconds since 1970, by the database's clock. */
  readonly parkedAt: number;
  /** Null: dead. */
  readonly nextAttemptAt: number | null;
}

/** Which parked messages of a consumer are meant: those that fit all that is given. */
export interface ParkedFilter {
  readonly consumer: string;
  readonly topic?: string;
  readonly partition?: number;
  readonly ids?: readonly bigint[];
  readonly key?: Uint8Array;
  readonly state?: ParkedState;
}

/** A part of the answer, by id upwards. */
export interface ParkedPage {
  readonly limit: number;
  /** Ids above it only; null: from the first. */
  readonly above: bigint | null;
}

/** What a storage does with parked messages, whatever a handle of it is. */
export interface ParkingVerbs {
  /**
   * I6. Takes parked messages that are due, heads of their keys only: those with no earlier message of
   * their key parked in their partition, in whatever state. A message without a key is always a head.
   * The attempt is counted and committed, and the turn is its holder's for `leaseMs`. Those due first
   * come first. `token`: a UUID used for this request only; where its answer is lost, it names what was
   * taken.
   */
  readonly takeParked: (request: {
    readonly consumer: string;
    readonly topics: readonly string[];
    readonly limit: number;
    readonly leaseMs: number;
    readonly token: string;
  }) => Promise<readonly ParkedTurn[]>;
  /**
   * Gives back the turns that a request took and that nobody has begun: its answer was lost. Due again
   * at once, without the attempt. Returns how many; what another took since is left alone.
   */
  readonly releaseParked: (request: {
    readonly consumer: string;
    readonly token: string;
  }) => Promise<number>;
  /**
   * I6. Ends a turn that did not succeed, and writes `letters` into the outbox in the same transaction:
   * both, or neither. False where it is held no more: then nothing is done, but that an attempt which
   * is not to count is taken back from whoever tries the message by now, unless it is dead.
   */
  readonly settleParked: (
    turn: ParkedTurn,
    outcome: ParkedOutcome,
    letters?: readonly OutboxEntry[],
  ) => Promise<boolean>;
  /** Parked messages, by id. Locks nothing. */
  readonly parked: (filter: ParkedFilter, page: ParkedPage) => Promise<readonly ParkedMessage[]>;
  /**
   * Changes parked messages by hand and writes the audit log, in one transaction over one page. `redrive`:
   * due now, with no attempts spent (those being tried are left alone). `skip`: deleted for good. Waits
   * for the transaction of one that is being tried at that moment: it takes effect, or its turn is lost. Returns how many, and where the next page begins; null:
   * there is none.
   */
  readonly changeParked: (change: {
    readonly action: "redrive" | "skip";
    readonly filter: ParkedFilter;
    readonly page: ParkedPage;
    readonly audit: Audit;
  }) => Promise<{ readonly changed: number; readonly next: bigint | null }>;
}
