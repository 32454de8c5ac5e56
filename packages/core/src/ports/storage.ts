/**
 * The storage port: what the core asks of a database, promises T1, I1 to I5, O1 to O6, M1. An adapter
 * holds facts (rows, locks, the database's clock); when, how often and whether to give up is decided
 * in the core. Properties, not methods, because methods are bivariant and would let one driver's
 * storage pass for another's.
 */
import type { Headers } from "../message.ts";

/** What a chunk records of one message. */
export interface RecordRef {
  readonly offset: bigint;
  /** Milliseconds since 1970: the record's time, which the deduplication window is counted in. */
  readonly timestamp: bigint;
  readonly source: string;
  /** 16 bytes, or null: then the offset alone protects. */
  readonly id: Uint8Array | null;
  readonly checksum: number;
}

/** An id recorded outside a partition, by `inbox.once`. */
export interface MessageRef {
  readonly source: string;
  /** 16 bytes. */
  readonly id: Uint8Array;
  /** Null where the caller gave no value: then the same id is never a conflict. */
  readonly checksum: number | null;
}

/**
 * `new`: recorded now. `duplicate`: recorded by another position, with the same checksum.
 * `conflict`: the same id with another checksum. `done`: below `next_offset`.
 */
export type Recorded = "new" | "duplicate" | "conflict" | "done";

/** The key of one partition's row. */
export interface PartitionRef {
  readonly consumer: string;
  readonly topic: string;
  readonly partition: number;
}

/** A consumer's fenced right to a partition. */
export interface PartitionClaim extends PartitionRef {
  /** Random, made by the database: an epoch may fit again after a fail-over, a token does not. */
  readonly token: string;
  readonly epoch: bigint;
  readonly nextOffset: bigint;
  /** Identifies this database; goes into the metadata of the group's offsets. */
  readonly incarnation: string;
}

/**
 * One transaction over the records of one partition. Exactly one of `commit`, `rollback` and
 * `destroy` ends it, and the connection behind it is clean or gone afterwards.
 */
export interface ChunkTransaction<Tx> {
  /** The position read behind the partition's lock. */
  readonly nextOffset: bigint;
  /** One entry for each record given to `open`, in the same order. */
  readonly recorded: readonly Recorded[];
  /** The handle for one handler: dead after `end()`, refuses to end the transaction. */
  readonly handle: () => { readonly tx: Tx; readonly end: () => void };
  /**
   * I4, I5. Advances `next_offset` from the value read at `open` as the last statement, and commits.
   * Throws ClaimLostError (nothing committed), StorageError `transaction-aborted` (a failed
   * statement was swallowed) or `transaction-ended-early` (somebody ended the transaction), and
   * CommitUnknownError.
   */
  readonly commit: (nextOffset: bigint) => Promise<void>;
  /** Never rejects. False when the connection was lost or had to be destroyed. */
  readonly rollback: () => Promise<boolean>;
  /** Ends the connection at once, whatever runs on it: for a deadline that has passed. */
  readonly destroy: () => void;
}

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

/**
 * Whose trouble an error is. `global`: the database as a whole (connection lost, shutting down, disk
 * or pool exhausted): wait without limit. `local`: this transaction (deadlock, serialization, lock,
 * statement or idle time-out): run it again. Null: neither, so the statement's author's.
 */
export type Trouble = "global" | "local" | null;

export interface StorageFacts {
  /** Whether statements are sent without waiting for the answers before them. */
  readonly pipelined: boolean;
  /** Connections this storage may use at once. */
  readonly poolSize: number;
  /** After how long an idle open transaction is ended by the database; null: not bounded. */
  readonly idleInTransactionTimeoutMs: number | null;
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

export interface Storage<in out Tx> {
  /**
   * Schema version, write access, sequence settings. Throws ConfigurationError `schema-missing`,
   * `schema-outdated`, `schema-newer`, `schema-edited`, `database-read-only`, `sequence-unsafe`.
   */
  readonly check: () => Promise<StorageFacts>;
  /** Ends what is ours; a pool that was handed in stays open. */
  readonly close: () => Promise<void>;
  /** T1. Resolves after a confirmed COMMIT of itself, then wakes the relays. */
  readonly transaction: <R>(work: (tx: Tx) => Promise<R>) => Promise<R>;
  readonly trouble: (error: unknown) => Trouble;

  /** I3. One statement, a second one only where not all were new. Aligned with `ids`. */
  readonly recordIds: (
    tx: Tx,
    consumer: string,
    ids: readonly MessageRef[],
  ) => Promise<readonly Exclude<Recorded, "done">[]>;

  /**
   * Inserts all partitions of a topic that has no row yet for this consumer, once, under a lock;
   * where rows exist, inserts only those of `added` that are missing. Binds the consumer's name to
   * the group: throws ConfigurationError `group-mismatch` where it belongs to another.
   */
  readonly registerTopic: (registration: {
    readonly consumer: string;
    readonly groupId: string;
    readonly topic: string;
    readonly start: ReadonlyMap<number, bigint>;
    readonly added: ReadonlyMap<number, bigint>;
  }) => Promise<void>;
  /**
   * I1. Waits at most `waitMs` for the previous holder's open transaction, then takes a new token.
   * Null where the partition has no row. Throws StorageError `claim-timeout` and names who blocks.
   */
  readonly claim: (
    ref: PartitionRef & { readonly owner: string },
    waitMs: number,
  ) => Promise<PartitionClaim | null>;
  /**
   * I2, I3. Begins, proves the claim, locks the row, records the ids at or above `next_offset`.
   * Throws ClaimLostError.
   */
  readonly open: (
    claim: PartitionClaim,
    records: readonly RecordRef[],
  ) => Promise<ChunkTransaction<Tx>>;

  /** O1. Writes rows in the caller's transaction, in one statement. */
  readonly enqueue: (tx: Tx, rows: readonly OutboxEntry[]) => Promise<void>;
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
