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
  readonly key: Uint8Array | null;
  readonly value: Uint8Array | null;
  readonly headers: Headers;
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
  /** High watermark when the batch was fetched: for lag. */
  readonly logEnd: bigint;
}

/** Bounds of a partition's log: first offset kept, first offset not yet written. */
export interface LogBounds {
  readonly start: bigint;
  readonly end: bigint;
}

export interface ConsumerCallbacks {
  /** B4. Called synchronously, before any batch of it; every earlier assignment is void. */
  readonly assigned: (assignment: number, partitions: readonly TopicPartition[]) => void;
  /** B5. Asked before each fetch: the next offset to deliver, or null to leave the partition out. */
  readonly position: (partition: TopicPartition) => bigint | null;
  /** B3. Buffers and returns: it never waits, and what it throws is a bug of the core. */
  readonly deliver: (batch: RecordBatch) => void;
  /** B7. The position asked for is outside the log: reported, never followed. */
  readonly displaced: (partition: TopicPartition, asked: bigint, log: LogBounds | null) => void;
  /** What is stored at this position cannot be read: that partition pauses, the others go on. */
  readonly unreadable: (partition: TopicPartition, asked: bigint, error: Error) => void;
  /** The client died and cannot help itself: the consumer has to be built anew. */
  readonly failed: (error: Error) => void;
}

export interface GroupOffset extends TopicPartition {
  readonly offset: bigint;
  /** Kept beside the offset by the broker, shown by lag tools. */
  readonly metadata: string;
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
  /** Session and heartbeat of the consumers it makes, in milliseconds. */
  readonly timing: {
    readonly sessionTimeoutMs: number;
    readonly heartbeatIntervalMs: number;
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
  /** First kept or next offset of every partition. Throws BrokerError `topic-missing`. */
  readonly offsets: (
    topic: string,
    at: "earliest" | "latest",
  ) => Promise<ReadonlyMap<number, bigint>>;
  readonly producer: () => Promise<BrokerProducer>;
  /** Joins the group; the promise resolves when the client runs, not when partitions arrive. */
  readonly consumer: (
    options: ConsumerOptions,
    callbacks: ConsumerCallbacks,
  ) => Promise<BrokerConsumer>;
  readonly close: () => Promise<void>;
}
