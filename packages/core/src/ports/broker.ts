/**
 * The broker port: what the core asks of a Kafka client, promises B1 to B8. An adapter knows the
 * client and its faults; it decides nothing about claims, retries or order of work.
 */
import type { Headers } from "../message.ts";

export interface TopicPartition {
  readonly topic: string;
  readonly partition: number;
}

/** A message as it lies in Kafka. */
export interface BrokerRecord {
  readonly offset: bigint;
  /** Milliseconds since 1970, as stored in the log. */
  readonly timestamp: bigint;
  /** Which leader wrote it: counts up at each change of the partition's leader. Null: not known. */
  readonly leaderEpoch: number | null;
  readonly key: Uint8Array | null;
  readonly value: Uint8Array | null;
  readonly headers: Headers;
}

/**
 * Where to read from, and what the reader knows of the log there. An adapter reads only where the
 * log still is the one described; anything else is `displaced`.
 */
export interface FetchPosition {
  readonly offset: bigint;
  /** The topic that the offset belongs to; null where it was never read. */
  readonly topicId: string | null;
  /**
   * Leader epoch of what lies directly before the offset; null: not known. A log in which that epoch
   * ended before the offset was truncated and has gone on differently.
   */
  readonly leaderEpoch: number | null;
}

/**
 * Records of one partition in offset order. Also handed over without any record, when everything
 * that was fetched was filtered away: the position still moves.
 */
export interface RecordBatch extends TopicPartition {
  /** Counts up at every join; a batch of an older assignment is void. */
  readonly assignment: number;
  /** The offset that was asked for: the chain of custody. */
  readonly fetchedOffset: bigint;
  /** First offset behind everything the batch accounts for, markers and holes included. */
  readonly endOffset: bigint;
  readonly records: readonly BrokerRecord[];
  /** The topic it was read from, not its name: a topic made anew has another. */
  readonly topicId: string;
  /** Leader epoch of what lies directly before `endOffset`; null: not known. */
  readonly endEpoch: number | null;
}

/** Bounds of a partition's log: first offset kept, first offset not yet written. */
export interface LogBounds {
  readonly start: bigint;
  readonly end: bigint;
}

/** The log as a fetch found it. `lastStable` lies below `end` while a transaction is open. */
export interface LogState extends LogBounds {
  readonly lastStable: bigint;
}

/** Why a position does not fit the log. */
export type Displacement =
  | { readonly kind: "out-of-range"; readonly log: LogBounds | null }
  | { readonly kind: "topic-missing" }
  | { readonly kind: "topic-recreated"; readonly topicId: string }
  /** The log agrees with what was read only up to `endOffset`; null: not even that is known. */
  | { readonly kind: "log-diverged"; readonly endOffset: bigint | null };

export interface ConsumerCallbacks {
  /** B4. Called synchronously, before any batch of it; every earlier assignment is void. */
  readonly assigned: (assignment: number, partitions: readonly TopicPartition[]) => void;
  /** B5. Asked before each fetch: what to deliver next, or null to leave the partition out. */
  readonly position: (partition: TopicPartition) => FetchPosition | null;
  /** Every answer to a fetch that asked for the partition, also one without records; before `deliver`. */
  readonly fetched: (partition: TopicPartition, log: LogState) => void;
  /** B3. Buffers and returns: it never waits, and what it throws is a bug of the core. */
  readonly deliver: (batch: RecordBatch) => void;
  /** B7. The position does not fit the log: reported, never followed. Nothing was delivered. */
  readonly displaced: (partition: TopicPartition, asked: bigint, why: Displacement) => void;
  /** What is stored at this position cannot be read: that partition pauses, the others go on. */
  readonly unreadable: (partition: TopicPartition, asked: bigint, error: Error) => void;
  /**
   * This partition cannot be fetched at the moment (its disk, its permissions, no leader); it is tried
   * again, and told again while it lasts: for longer than a few seconds nothing counts as silence.
   */
  readonly troubled: (partition: TopicPartition, error: Error) => void;
  /** The client died and cannot help itself: the consumer has to be built anew. */
  readonly failed: (error: Error) => void;
}

export interface GroupOffset extends TopicPartition {
  readonly offset: bigint;
  /** Kept beside the offset by the broker, shown by lag tools. */
  readonly metadata: string;
}

/** A consumer group as Kafka holds it. */
export interface GroupState {
  /** Live members; a group that was never used has none. */
  readonly members: number;
  /** Committed offsets of the topics asked for; partitions without one are left out. */
  readonly offsets: readonly GroupOffset[];
}

/** Offsets of every partition of a topic. */
export interface TopicOffsets {
  /** Null where the broker does not tell. */
  readonly topicId: string | null;
  readonly offsets: ReadonlyMap<number, bigint>;
}

export interface BrokerConsumer {
  /** B6. Best effort: false when it failed or the partitions are no longer ours to commit. */
  readonly commit: (positions: readonly GroupOffset[]) => Promise<boolean>;
  /** B8. Leaves the group; returns by the deadline whatever the client does. */
  readonly stop: (deadlineMs: number) => Promise<void>;
}

export interface ConsumerOptions {
  readonly groupId: string;
  readonly topics: readonly string[];
  /**
   * Whether a missing topic is an error. Not when a client is built anew: the other topics go on.
   * @defaultValue true
   */
  readonly requireTopics?: boolean;
}

export interface OutgoingRecord extends TopicPartition {
  readonly key: Uint8Array | null;
  readonly value: Uint8Array | null;
  readonly headers: Headers;
}

/**
 * What became of each record of one `publish`, by index. B2: nothing is left out; `unknown` may
 * have been stored and must be sent again with the same id; `refused` will never be taken as it is.
 */
export interface PublishResult {
  readonly acknowledged: readonly number[];
  readonly unknown: readonly { readonly index: number; readonly error: Error }[];
  readonly refused: readonly {
    readonly index: number;
    readonly error: Error;
    /** Whether the record itself is the trouble, or its whole topic (missing, not authorised). */
    readonly scope: "message" | "topic";
  }[];
}

export interface BrokerProducer {
  /** B1. Acknowledged only what all in-sync replicas have; one call at a time; never rejects. */
  readonly publish: (records: readonly OutgoingRecord[]) => Promise<PublishResult>;
  readonly close: () => Promise<void>;
}

export interface Broker {
  /** Times of the consumers it makes, in milliseconds. */
  readonly timing: {
    readonly sessionTimeoutMs: number;
    readonly heartbeatIntervalMs: number;
    /** Longest time a group waits for its members in a rebalance; nothing is fetched meanwhile. */
    readonly rebalanceTimeoutMs: number;
    /** Longest time one `publish` may take before its outcome is reported as unknown. */
    readonly publishTimeoutMs: number;
  };
  /** Number of partitions. Throws BrokerError `topic-missing`; never creates a topic. */
  readonly partitions: (topic: string) => Promise<number>;
  /**
   * The partition of a message, as Kafka's Java client chooses it for a key (murmur2). Without a
   * key the id decides, so that a message sent twice goes to the same partition.
   */
  readonly partitionOf: (key: Uint8Array | null, id: string, partitions: number) => number;
  /**
   * Of every partition: the first offset kept, the next one, or the first one at or after a time
   * (milliseconds since 1970; the next one where there is none). The next one is that of the first
   * open transaction, where there is any: it is not passed over. Throws BrokerError `topic-missing`.
   */
  readonly offsets: (
    topic: string,
    at: "earliest" | "latest" | { readonly timestamp: bigint },
  ) => Promise<TopicOffsets>;
  /**
   * How long the topic keeps its messages, in milliseconds: Infinity where time removes none. Null where
   * the broker does not tell (it may need a right of its own). Throws BrokerError `topic-missing`.
   */
  readonly retentionMs: (topic: string) => Promise<number | null>;
  /** Reads a group without joining it. */
  readonly group: (groupId: string, topics: readonly string[]) => Promise<GroupState>;
  /** Writes offsets of a group without members. Throws BrokerError `group-active` otherwise. */
  readonly setGroupOffsets: (groupId: string, offsets: readonly GroupOffset[]) => Promise<void>;
  readonly producer: () => Promise<BrokerProducer>;
  /** Joins the group; the promise resolves when the client runs, not when partitions arrive. */
  readonly consumer: (
    options: ConsumerOptions,
    callbacks: ConsumerCallbacks,
  ) => Promise<BrokerConsumer>;
  readonly close: () => Promise<void>;
}
