/**
 * What a broker adapter brings to its conformance suite: brokers, topics, what others write into
 * them, and the ways a network can break. Everything else is done through the port.
 */
import type { Broker } from "@oncebox/core";

/** What an environment may be unable to do. Cases that need it say so. */
export type BrokerCapability = "network" | "replica-shortage";

/** What the cases ask of a broker's settings; what is left out is the environment's choice. */
export interface BrokerSettings {
  readonly sessionTimeoutMs?: number;
  readonly publishTimeoutMs?: number;
}

/** A record as an ordinary producer writes it. */
export interface PlainRecord {
  readonly key?: string;
  readonly value: string;
  /** Milliseconds since 1970; without, the time of writing. */
  readonly timestamp?: bigint;
}

/** A record that is in the log and was not aborted, read without the adapter. */
export interface StoredRecord {
  readonly partition: number;
  readonly offset: bigint;
  readonly key: string | null;
}

/** A transaction of another producer, as far as it was written. */
export interface ForeignTransaction {
  /** Writes one record more for each value. */
  readonly write: (...values: readonly string[]) => Promise<unknown>;
  readonly commit: () => Promise<unknown>;
  readonly abort: () => Promise<unknown>;
}

/** A broker whose every connection passes a place where it can be broken. */
export interface BreakableNetwork {
  readonly broker: Broker;
  /** Cuts all connections; new ones are welcome. */
  readonly cut: () => void;
  /** From now on nothing passes in either direction, and no connection ends, until `resume`. */
  readonly silence: () => void;
  readonly resume: () => void;
}

/**
 * One fresh context for each case. The caller closes it afterwards, with force: a failed case leaves
 * members in their groups.
 */
export interface BrokerUnderTest {
  /**
   * How long a case waits for what is promised, in milliseconds: ample, as only a broken promise
   * is ever waited for so long.
   */
  readonly patienceMs: number;
  /**
   * A broker over connections of its own: acts as another process. A second or less is enough for
   * its members to hear of a rebalance, and its session lasts ten seconds unless told otherwise.
   */
  readonly broker: (settings?: BrokerSettings) => Broker;
  /** One whose servers cannot be reached. */
  readonly unreachable: (settings?: BrokerSettings) => Broker;
  /** A name that no topic or group has. */
  readonly newName: () => string;

  /**
   * Resolves with the name of a topic that is ready: 1 partition unless told otherwise.
   * `recordBytesMax` is the limit of the topic itself.
   */
  readonly createTopic: (wanted?: {
    readonly partitions?: number;
    readonly recordBytesMax?: number;
  }) => Promise<string>;
  readonly deleteTopic: (topic: string) => Promise<unknown>;
  /** Deletes it and makes it anew, empty, with one partition; resolves with its new id. */
  readonly recreateTopic: (topic: string) => Promise<string>;
  /** As retention does: the log begins at this offset afterwards. */
  readonly deleteRecords: (topic: string, partition: number, below: bigint) => Promise<unknown>;

  /** Appends as an ordinary producer, in one batch. */
  readonly produce: (
    topic: string,
    partition: number,
    records: readonly PlainRecord[],
  ) => Promise<unknown>;
  /** Begins a transaction and writes one record for each value. */
  readonly transaction: (
    topic: string,
    partition: number,
    ...values: readonly string[]
  ) => Promise<ForeignTransaction>;
  /** The whole topic, by partition and offset. */
  readonly stored: (topic: string) => Promise<readonly StoredRecord[]>;

  /** Needed by cases with the capability `network`. */
  readonly network?: (settings?: BrokerSettings) => Promise<BreakableNetwork>;
  /**
   * Needed by cases with the capability `replica-shortage`: a topic that asks for more in-sync
   * replicas than there are, so that no record of it may be acknowledged.
   */
  readonly understaffedTopic?: () => Promise<string>;
}
