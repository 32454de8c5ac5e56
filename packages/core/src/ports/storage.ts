/**
 * The storage port: what the core asks of a database, promises T1, I1 to I7, O1 to O6, M1. An adapter
 * holds facts (rows, locks, the database's clock); when, how often and whether to give up is decided
 * in the core. Properties, not methods, because methods are bivariant and would let one driver's
 * storage pass for another's.
 */
import type { OutboxEntry, OutboxVerbs } from "./outbox.ts";
import type { ParkedTurn, ParkingVerbs, ToPark } from "./parking.ts";
import type { PruningVerbs } from "./pruning.ts";

/** What a chunk records of one message. */
export interface RecordRef {
  readonly offset: bigint;
  /**
   * Milliseconds since 1970, as stored in the log. Kept beside the id, for I7: as the time of the record
   * handled before it where that is later, and never beyond the database's clock.
   */
  readonly timestamp: bigint;
  readonly source: string;
  /** 16 bytes, or null: then the offset alone protects. */
  readonly id: Uint8Array | null;
  readonly checksum: number;
  /** As in the log: what is parked of it holds this record up. Null: nothing does. */
  readonly key: Uint8Array | null;
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
 * `done`: below `next_offset`, whatever else is known of it. `duplicate`: its own position is parked,
 * or its id was recorded by another one, with the same checksum. `conflict`: the same id with another
 * checksum. `new`: recorded now. `held`: recorded now, but a message of its key is parked in its
 * partition.
 */
export type Recorded = "new" | "duplicate" | "conflict" | "done" | "held";

/** The key of one partition's row. */
export interface PartitionRef {
  readonly consumer: string;
  readonly topic: string;
  readonly partition: number;
}

/** The last record of a partition that was handled: to find it again after a restart. */
export interface LastRecord {
  readonly offset: bigint;
  readonly timestamp: bigint;
  readonly checksum: number;
}

/** Which log a position belongs to. */
export interface LogMark {
  /** Null: nothing was read yet. */
  readonly topicId: string | null;
  /** Leader epoch of what lies directly before the position; null: not known. */
  readonly leaderEpoch: number | null;
  /** Null: none yet, or none since an operator moved the position. */
  readonly last: LastRecord | null;
}

/**
 * What an operator's seek means for ids. Below `until`, the highest position there ever was, ids
 * count as seen, also one that the record's own position took. Above 0, `number` says that the range
 * is handled anew: ids are recorded there once more, apart from those of earlier times.
 */
export interface Replay {
  readonly number: number;
  readonly until: bigint;
}

/** A consumer's fenced right to a partition. */
export interface PartitionClaim extends PartitionRef {
  /** Random, made by the database: an epoch may fit again after a fail-over, a token does not. */
  readonly token: string;
  readonly epoch: bigint;
  readonly nextOffset: bigint;
  readonly log: LogMark;
  readonly replay: Replay;
  /** The epoch at the last seek: a group offset written up to then may lie above the position. */
  readonly soughtEpoch: bigint;
  /** Claims in a row, with this one, that neither moved the position nor were given up alive. */
  readonly stalledClaims: number;
  /** The record that was being tried alone when an earlier claim ended; null: none. */
  readonly trying: { readonly offset: bigint; readonly claims: number } | null;
  /** Identifies this database; goes into the metadata of the group's offsets. */
  readonly incarnation: string;
}

/** Where a consumer stands in one partition, read without claiming it. */
export interface PartitionPosition {
  readonly topic: string;
  readonly partition: number;
  readonly nextOffset: bigint;
  readonly epoch: bigint;
  readonly owner: string | null;
  readonly log: LogMark;
}

export interface ConsumerPositions {
  /** The group bound to the consumer's name; null: the name is not known, or records ids only. */
  readonly groupId: string | null;
  readonly incarnation: string;
  /** When that was, in milliseconds since 1970 by the database's clock. */
  readonly at: number;
  /** By topic, then partition. */
  readonly positions: readonly PartitionPosition[];
}

/** Who does something by hand, or by a policy, and why. */
export interface Audit {
  readonly actor: string;
  readonly reason: string;
}

/** One line of the audit log. */
export interface AuditEntry extends Audit {
  readonly id: bigint;
  /** Milliseconds since 1970 by the database's clock. */
  readonly at: number;
  readonly consumer: string;
  readonly action: "seek" | "adopt" | "sync-offsets" | "redrive" | "skip";
  /** What was done, as JSON; offsets are strings. */
  readonly details: Readonly<Record<string, unknown>>;
}

/** One position to move. */
export interface Move {
  readonly partition: number;
  readonly to: bigint;
}

export interface Moved extends Move {
  readonly from: bigint;
}

/** The handle of one handler. */
export interface HandlerHandle<Tx> {
  readonly tx: Tx;
  /** From now on the handle is dead. */
  readonly end: () => void;
  /** Whether a statement was refused because the transaction is shared with other handlers. */
  readonly refused: () => boolean;
}

/**
 * One transaction that handlers work in. Exactly one of `commit`, `rollback` and `destroy` ends it, and
 * the connection behind it is clean or gone afterwards.
 */
export interface HandlerTransaction<Tx> {
  /**
   * The handle for one handler: dead after `end()`, refuses to end the transaction. `shared`: other
   * handlers use the transaction at the same time, so it refuses, before anything is sent, all that
   * would work on theirs as well (SAVEPOINT, RELEASE, ROLLBACK TO, SET, nested transactions) with
   * StorageError `transaction-shared`. `immediate`: `enqueue` resolves once its rows are written; else
   * they may be sent together with the commit, which then fails where they cannot be written.
   */
  readonly handle: (use?: {
    readonly shared: boolean;
    readonly immediate?: boolean;
  }) => HandlerHandle<Tx>;
  /** Never rejects. False when the connection was lost or had to be destroyed. */
  readonly rollback: () => Promise<boolean>;
  /** Ends the connection at once, whatever runs on it: for a deadline that has passed. */
  readonly destroy: () => void;
}

/** One transaction over the records of one partition. */
export interface ChunkTransaction<Tx> extends HandlerTransaction<Tx> {
  /** The position read behind the partition's lock. */
  readonly nextOffset: bigint;
  /** One entry for each record given to `open`, in the same order. */
  readonly recorded: readonly Recorded[];
  /**
   * I4, I5, I6. Sets `park` aside (in the order given; their ids were recorded by `open`), advances
   * `next_offset` from the value read at `open` as the last statement, with the mark of the log at the
   * new position (a null `last` leaves the last record as it was), and commits. A position that moved
   * ends the count of stalled claims. Throws ClaimLostError (nothing committed), StorageError
   * `transaction-aborted` (a failed statement was swallowed) or `transaction-ended-early` (somebody
   * ended the transaction), and CommitUnknownError.
   */
  readonly commit: (nextOffset: bigint, mark: LogMark, park?: readonly ToPark[]) => Promise<void>;
}

/** The transaction of one parked message that is tried again: its row is gone when it commits. */
export interface ParkedTransaction<Tx> extends HandlerTransaction<Tx> {
  /**
   * I6. As `commit` of ChunkTransaction, without a position: never touches the partition's row. Removes
   * the message's row as the last statement, so that a handler that ends the transaction early does not
   * lose its message. Throws ClaimLostError as well where that row is gone, or another's turn.
   */
  readonly commit: () => Promise<void>;
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

/** What every storage does alike, whatever a handle of it is: all but the work in a transaction. */
export interface StorageVerbs extends ParkingVerbs, PruningVerbs, OutboxVerbs {
  /**
   * Schema version, write access, sequence settings. Throws ConfigurationError `schema-missing`,
   * `schema-outdated`, `schema-newer`, `schema-edited`, `database-read-only`, `sequence-unsafe`.
   */
  readonly check: () => Promise<StorageFacts>;
  /** Ends what is ours; a pool that was handed in stays open. */
  readonly close: () => Promise<void>;
  readonly trouble: (error: unknown) => Trouble;

  /**
   * Inserts all partitions of a topic that has no row yet for this consumer, once, under a lock;
   * where rows exist, inserts only those of `added` that are missing. Binds the consumer's name to
   * the group: throws ConfigurationError `group-mismatch` where it belongs to another.
   */
  readonly registerTopic: (registration: {
    readonly consumer: string;
    readonly groupId: string;
    readonly topic: string;
    readonly topicId: string | null;
    readonly start: ReadonlyMap<number, bigint>;
    readonly added: ReadonlyMap<number, bigint>;
  }) => Promise<void>;
  /** Whether the topic has rows for this consumer: its start was resolved before. */
  readonly isRegistered: (consumer: string, topic: string) => Promise<boolean>;
  /**
   * I1. Waits at most `waitMs` for the previous holder's open transaction, then takes a new token.
   * Null where the partition has no row. Throws StorageError `claim-timeout` and names who blocks.
   */
  readonly claim: (
    ref: PartitionRef & { readonly owner: string },
    waitMs: number,
  ) => Promise<PartitionClaim | null>;
  /**
   * I1. Which of these claims are held no more: their token is another, or their row does not stand at
   * the claim's `nextOffset`, which is where the holder believes it to be. A database that was set
   * back by a little has the token still. Locks nothing, changes nothing.
   */
  readonly lostClaims: (claims: readonly PartitionClaim[]) => Promise<readonly PartitionClaim[]>;
  /**
   * Writes about a claim, in a transaction of its own. `left`: it was given up alive, whoever holds
   * the partition by now: takes its own part out of the count of stalled claims, and its own trying.
   * `trying`: the record at this offset is about to be tried alone (counts the claims that tried it).
   * Throws ClaimLostError for `trying` where the claim is held no more.
   */
  readonly noteClaim: (
    claim: PartitionClaim,
    note: { readonly kind: "left" } | { readonly kind: "trying"; readonly offset: bigint },
  ) => Promise<void>;

  /** Where a consumer stands. Locks nothing. */
  readonly positions: (consumer: string) => Promise<ConsumerPositions>;
  /**
   * Moves positions of one topic and writes the audit log in one transaction, all or nothing; waits
   * for open chunks and fences the claims of these partitions. The mark of the log is replaced by
   * `topicId` alone. With `replay` the range below the highest position is handled anew (see Replay).
   * `expected` guards a policy's move: null where the claim is held no more, and nothing was done.
   * Throws ConfigurationError `not-registered` where a partition has no row.
   */
  readonly seek: (seek: {
    readonly consumer: string;
    readonly topic: string;
    readonly topicId: string | null;
    readonly moves: readonly Move[];
    readonly replay: boolean;
    readonly expected: PartitionClaim | null;
    readonly audit: Audit;
  }) => Promise<readonly Moved[] | null>;
  /**
   * Registers topics at given positions and writes the audit log, all or nothing. Throws
   * ConfigurationError `already-registered` where a topic has rows, `group-mismatch` as above.
   */
  readonly adopt: (adoption: {
    readonly consumer: string;
    readonly groupId: string;
    readonly topics: readonly {
      readonly topic: string;
      readonly topicId: string | null;
      readonly start: ReadonlyMap<number, bigint>;
    }[];
    readonly audit: Audit;
  }) => Promise<void>;
  /** Writes a line of the audit log, for what was done outside the database. */
  readonly audit: (entry: Omit<AuditEntry, "id" | "at">) => Promise<void>;
  /** The audit log of a consumer, newest first, below an id where one is given. */
  readonly auditLog: (
    consumer: string,
    page: { readonly limit: number; readonly below: bigint | null },
  ) => Promise<readonly AuditEntry[]>;
}

/** A storage whose transactions wait: its driver answers by promises. */
export interface Storage<in out Tx> extends StorageVerbs {
  readonly synchronous?: false;
  /** T1. Resolves after a confirmed COMMIT of itself, then wakes the relays. */
  readonly transaction: <R>(work: (tx: Tx) => Promise<R>) => Promise<R>;
  /** I3. One statement, a second one only where not all were new. Aligned with `ids`. */
  readonly recordIds: (
    tx: Tx,
    consumer: string,
    ids: readonly MessageRef[],
  ) => Promise<readonly Exclude<Recorded, "done" | "held">[]>;
  /**
   * I2, I3. Begins, proves the claim, locks the row, records the ids at or above `next_offset`.
   * Throws ClaimLostError.
   */
  readonly open: (
    claim: PartitionClaim,
    records: readonly RecordRef[],
  ) => Promise<ChunkTransaction<Tx>>;
  /** I6. Begins, proves the turn and locks its row, which `commit` removes. Throws ClaimLostError. */
  readonly openParked: (turn: ParkedTurn) => Promise<ParkedTransaction<Tx>>;
  /**
   * O1. Writes rows in the caller's transaction, in one statement. In a handler's transaction it may be
   * one for all that is enqueued there, in the order of the calls; a savepoint takes back what was
   * enqueued behind it and nothing else.
   */
  readonly enqueue: (tx: Tx, rows: readonly OutboxEntry[]) => Promise<void>;
}

/** A chunk's transaction while it is open, as the body of `chunkSync` sees it. */
export interface SyncChunk<Tx> {
  /** The position read behind the write lock. */
  readonly nextOffset: bigint;
  /** One entry for each record, in the same order. */
  readonly recorded: readonly Recorded[];
  readonly tx: Tx;
  /** To be called behind each handler. Throws StorageError `transaction-ended-early`. */
  readonly proveOpen: () => void;
}

/**
 * A storage whose driver answers at once: a transaction is one call, and nothing else can run in
 * between. The same promises; a promise inside a transaction would break T1 and I5.
 */
export interface SyncStorage<in out Tx> extends StorageVerbs {
  readonly synchronous: true;
  /** T1. As `transaction`, in one call. Refuses work that returns a promise. */
  readonly transactionSync: <R>(work: (tx: Tx) => R) => R;
  /** I3. As `recordIds`. */
  readonly recordIdsSync: (
    tx: Tx,
    consumer: string,
    ids: readonly MessageRef[],
  ) => readonly Exclude<Recorded, "done" | "held">[];
  /**
   * I2 to I5. As `open`, the handlers and `commit` in one call: commits the position that the body
   * returns. Rolls back what the body throws, and throws the same.
   */
  readonly chunkSync: (
    claim: PartitionClaim,
    records: readonly RecordRef[],
    body: (chunk: SyncChunk<Tx>) => {
      readonly nextOffset: bigint;
      readonly mark: LogMark;
      readonly park?: readonly ToPark[];
    },
  ) => void;
  /** I6. As `openParked`, the handler and `commit` in one call. */
  readonly parkedSync: (
    turn: ParkedTurn,
    body: (chunk: Pick<SyncChunk<Tx>, "tx" | "proveOpen">) => void,
  ) => void;
  /** O1. As `enqueue`. */
  readonly enqueueSync: (tx: Tx, rows: readonly OutboxEntry[]) => void;
}
