/** What a consumer can be told: each option's effect, trade-off and default, and the check of them. */
import type { Observer } from "../events.ts";
import { aFunction, aName, checkOptions, having, integer, optional } from "../options.ts";
import type { Broker } from "../ports/broker.ts";
import type { Clock } from "../ports/clock.ts";
import type { Storage } from "../ports/storage.ts";

export interface ConsumerOptions<Tx> {
  /** Stable name under which positions and ids are kept. Another name starts from the beginning. */
  readonly name: string;
  /** The database that holds the inbox and the business tables. */
  readonly storage: Storage<Tx>;
  /** Where the records come from. */
  readonly broker: Broker;
  /**
   * Kafka's consumer group. One consumer name belongs to one group for ever.
   * @defaultValue the consumer's name
   */
  readonly groupId?: string;
  /**
   * Most messages in one transaction. More is faster; fewer shortens locks and the work that is
   * repeated after a failure. 1 gives each message a transaction of its own.
   * @defaultValue 100
   */
  readonly chunkSizeMax?: number;
  /**
   * Most bytes in one transaction; a single larger message still goes through.
   * @defaultValue 4194304
   */
  readonly chunkBytesMax?: number;
  /**
   * Most partitions with an open transaction at once. Each takes a connection while it works; the
   * pool needs two more for claims.
   * @defaultValue 4
   */
  readonly partitionsAtOnceMax?: number;
  /**
   * Fetched batches kept for one partition; a partition with a full buffer is not fetched. More
   * smooths uneven handlers, and costs memory.
   * @defaultValue 3
   */
  readonly bufferBatchesMax?: number;
  /**
   * Fetched bytes kept for one partition; the last batch may go over it.
   * @defaultValue 8388608
   */
  readonly bufferBytesMax?: number;
  /**
   * How often the group's offsets follow the database, in milliseconds. Only lag tools see it: after
   * a crash the database decides where to go on.
   * @defaultValue 1000
   */
  readonly offsetCommitIntervalMs?: number;
  /**
   * Longest wait for the previous holder's open transaction in one try to claim, in milliseconds;
   * tries are repeated, and each that fails is an event that names who blocks.
   * @defaultValue 1000
   */
  readonly claimWaitMs?: number;
  /** Called for every event: logs, metrics, traces. */
  readonly observer?: Observer;
  /**
   * Time and chance; for tests.
   * @defaultValue the machine's
   */
  readonly clock?: Clock;
}

const defaults = {
  chunkSizeMax: 100,
  chunkBytesMax: 4 * 2 ** 20,
  partitionsAtOnceMax: 4,
  bufferBatchesMax: 3,
  bufferBytesMax: 8 * 2 ** 20,
  offsetCommitIntervalMs: 1_000,
  claimWaitMs: 1_000,
};

export type CompleteOptions<Tx> = ConsumerOptions<Tx> & Readonly<typeof defaults>;

/** Throws ConfigurationError that lists every wrong option. */
export function checkConsumerOptions(options: unknown): void {
  checkOptions("createConsumer", options, {
    name: aName,
    storage: having("a storage, for example postgresStorage({ pool })", "open", "claim"),
    broker: having("a broker, for example kafkajsBroker({ … })", "consumer", "offsets"),
    groupId: optional(aName),
    chunkSizeMax: integer(1, 10_000),
    chunkBytesMax: integer(1, 2 ** 30),
    partitionsAtOnceMax: integer(1, 1_000),
    bufferBatchesMax: integer(1, 1_000),
    bufferBytesMax: integer(1, 2 ** 30),
    offsetCommitIntervalMs: integer(10, 3_600_000),
    claimWaitMs: integer(10, 600_000),
    observer: aFunction,
    clock: optional(having("a clock", "now", "epochMs", "sleep", "random")),
  });
}

export function withDefaults<Tx>(given: ConsumerOptions<Tx>): CompleteOptions<Tx> {
  // A key that is there with the value undefined means "not given", as in a call's own defaults.
  const set = Object.entries(given).filter(([, value]) => value !== undefined);
  return { ...given, ...defaults, ...Object.fromEntries(set) };
}
