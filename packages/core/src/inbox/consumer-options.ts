/** What a consumer can be told: each option's effect, trade-off and default, and the check of them. */
import { ConfigurationError } from "../errors.ts";
import type { Observer } from "../events.ts";
import { isTopicName } from "../message.ts";
import {
  aFunction,
  aName,
  checkOptions,
  having,
  integer,
  oneOf,
  optional,
  type Rule,
} from "../options.ts";
import { aSource } from "../outbox/outbox.ts";
import type { Broker } from "../ports/broker.ts";
import type { Clock } from "../ports/clock.ts";
import type { Storage, StorageFacts, SyncStorage } from "../ports/storage.ts";
import type { DeadLetterOptions, HandlerOptions } from "./handler.ts";
import { aWindowMs } from "./id-walk.ts";
import type { LostPositionPolicy } from "./lost-position.ts";
import { aStart } from "./start.ts";

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
   * The CloudEvents source of the messages that handlers enqueue, as `source` of createOutbox: give
   * both the same. Set it before the first message.
   * @defaultValue none: the header `id` only
   */
  readonly source?: string;
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
   * Most transactions of handlers open at once: chunks of different partitions, and the one parked
   * message that is being tried. The pool needs three more, for claims and parked messages.
   * @defaultValue 4
   */
  readonly partitionsAtOnceMax?: number;
  /**
   * Most handlers that run at the same time in one chunk, where a handler's `ordering` is "key". More
   * keeps the connection busier; fewer holds fewer messages in work.
   * @defaultValue 100
   */
  readonly handlersAtOnceMax?: number;
  /**
   * How often parked messages that are due are looked for, in milliseconds. Shorter: tried sooner;
   * longer: fewer statements while nothing is parked.
   * @defaultValue 1000
   */
  readonly redriveIntervalMs?: number;
  /**
   * For how long the id of a message is kept, in milliseconds, so that its producer's repeat is
   * recognised; null: for ever. Counted in the time of records, by the slowest partition of the consumer:
   * a stop forgets nothing that the backlog still holds. Longer recognises later repeats; shorter keeps
   * fewer rows. The same record delivered again is recognised in either case.
   * @defaultValue 604800000
   */
  readonly deduplicationWindowMs?: number | null;
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
  /**
   * Longest time of one handler, in milliseconds: then its signal is aborted, its transaction cut off,
   * and the message tried again. Shorter: a hung call holds its partition less; longer: slow handlers
   * may end. Must not exceed the broker's `sessionTimeoutMs`.
   * @defaultValue 15000, or the session time-out where that is less
   */
  readonly handlerTimeoutMs?: number;
  /**
   * What follows when the log does not hold the consumer's position any more: see the choices of
   * LostPositionPolicy. By default the partition pauses and waits for `operator.seek`.
   */
  readonly onLostPosition?: LostPositionPolicy;
  /**
   * For how long the Kafka client may owe an assigned partition an answer before it is thrown away
   * and built anew, in milliseconds. Shorter: sooner back from a client that fell silent; longer:
   * fewer rebuilds while Kafka is slow. Must be above the broker's `sessionTimeoutMs` and
   * `rebalanceTimeoutMs`: in a rebalance nothing is fetched.
   * @defaultValue twice the rebalance time-out or twice the session time-out, whichever is more
   */
  readonly stallAfterMs?: number;
  /**
   * After how long an open transaction in a log is reported, because nothing behind it can be read,
   * in milliseconds. Above the transaction time-out of the producers, which is 60,000 by default.
   * @defaultValue 90000
   */
  readonly hangingTransactionAfterMs?: number;
  /** Called for every event: logs, metrics, traces. */
  readonly observer?: Observer;
  /**
   * Time and chance; for tests.
   * @defaultValue the machine's
   */
  readonly clock?: Clock;
}

/** As ConsumerOptions; a handler that does not wait cannot be cut off, so it has no time limit. */
export interface SyncConsumerOptions<Tx>
  extends Omit<ConsumerOptions<never>, "storage" | "handlerTimeoutMs" | "handlersAtOnceMax"> {
  /** The database that holds the inbox and the business tables. */
  readonly storage: SyncStorage<Tx>;
}

const defaults = {
  chunkSizeMax: 100,
  chunkBytesMax: 4 * 2 ** 20,
  partitionsAtOnceMax: 4,
  handlersAtOnceMax: 100,
  redriveIntervalMs: 1_000,
  // Seven days: what Kafka itself keeps of a topic by default.
  deduplicationWindowMs: 604_800_000,
  bufferBatchesMax: 3,
  bufferBytesMax: 8 * 2 ** 20,
  offsetCommitIntervalMs: 1_000,
  claimWaitMs: 1_000,
  onLostPosition: {} as LostPositionPolicy,
  hangingTransactionAfterMs: 90_000,
};

const handlerTimeoutMs = 15_000;
/** Of handlers that give way while they wait. */
const asynchronousOnly = ["handlerTimeoutMs", "handlersAtOnceMax"];

export type CompleteOptions<Tx> = Omit<ConsumerOptions<never>, "storage"> &
  Omit<Readonly<typeof defaults>, "deduplicationWindowMs"> & {
    readonly storage: Storage<Tx> | SyncStorage<Tx>;
    readonly deduplicationWindowMs: number | null;
    readonly stallAfterMs: number;
    readonly handlerTimeoutMs: number;
  };

const aWindow: Rule = {
  is: `${aWindowMs.is}, or null`,
  fits: (value) => value === null || aWindowMs.fits(value),
  optional: true,
};

const pauseOrGoOn = oneOf("pause", "go-on");

const aLostPositionPolicy: Rule = {
  is: 'an object of deleted, truncated and recreated, each "pause" or "go-on"',
  fits: (value) =>
    typeof value === "object" &&
    value !== null &&
    Object.entries(value).every(
      ([key, choice]) =>
        ["deleted", "truncated", "recreated"].includes(key) &&
        (choice === undefined || pauseOrGoOn.fits(choice)),
    ),
  optional: true,
};

const aStorage: Rule = {
  is: "a storage, for example postgresStorage({ pool })",
  fits: (value) =>
    having("", "open", "claim").fits(value) || having("", "chunkSync", "claim").fits(value),
};

/** Throws ConfigurationError that lists every wrong option. */
export function checkConsumerOptions(options: unknown): void {
  checkOptions("createConsumer", options, {
    name: aName,
    storage: aStorage,
    broker: having(
      "a broker, for example kafkajsBroker({ … })",
      "consumer",
      "offsets",
      "retentionMs",
    ),
    groupId: optional(aName),
    source: aSource,
    chunkSizeMax: integer(1, 10_000),
    chunkBytesMax: integer(1, 2 ** 30),
    partitionsAtOnceMax: integer(1, 1_000),
    handlersAtOnceMax: integer(1, 10_000),
    redriveIntervalMs: integer(10, 3_600_000),
    deduplicationWindowMs: aWindow,
    bufferBatchesMax: integer(1, 1_000),
    bufferBytesMax: integer(1, 2 ** 30),
    offsetCommitIntervalMs: integer(10, 3_600_000),
    claimWaitMs: integer(10, 600_000),
    onLostPosition: aLostPositionPolicy,
    handlerTimeoutMs: integer(10, 86_400_000),
    stallAfterMs: integer(100, 86_400_000),
    hangingTransactionAfterMs: integer(100, 86_400_000),
    observer: aFunction,
    clock: optional(having("a clock", "now", "epochMs", "sleep", "random")),
  });
}

export function withDefaults<Tx>(
  given: ConsumerOptions<Tx> | SyncConsumerOptions<Tx>,
): CompleteOptions<Tx> {
  // A key that is there with the value undefined means "not given", as in a call's own defaults.
  const set = Object.entries(given).filter(([, value]) => value !== undefined);
  const { sessionTimeoutMs, rebalanceTimeoutMs } = given.broker.timing;
  const complete = {
    ...given,
    ...defaults,
    stallAfterMs: 2 * Math.max(rebalanceTimeoutMs, sessionTimeoutMs),
    handlerTimeoutMs: Math.min(handlerTimeoutMs, sessionTimeoutMs),
    ...Object.fromEntries(set),
  };
  const problems: string[] = [];
  const quietMs = Math.max(rebalanceTimeoutMs, sessionTimeoutMs);
  if (complete.stallAfterMs <= quietMs) {
    problems.push(
      `stallAfterMs (${complete.stallAfterMs}) must be above the broker's rebalanceTimeoutMs (${rebalanceTimeoutMs}) and sessionTimeoutMs (${sessionTimeoutMs}), or an ordinary rebalance looks like a silent client`,
    );
  }
  const unfit = given.storage.synchronous ? asynchronousOnly : [];
  for (const [key] of set.filter(([key]) => unfit.includes(key))) {
    problems.push(`${key} has no meaning on a synchronous storage: leave it out`);
  }
  if (complete.handlerTimeoutMs > sessionTimeoutMs) {
    problems.push(
      `handlerTimeoutMs (${complete.handlerTimeoutMs}) must not exceed the broker's sessionTimeoutMs (${sessionTimeoutMs}), or a hung handler holds its partition longer than a dead process would`,
    );
  }
  if (problems.length > 0) {
    throw new ConfigurationError("invalid-options", `createConsumer: ${problems.join("; ")}`, {
      details: { problems },
    });
  }
  return complete;
}

/** A function, and no async one where the storage cannot wait. Throws ConfigurationError. */
export function checkHandler<Tx>(
  { name, storage }: CompleteOptions<Tx>,
  topic: string,
  run: unknown,
): void {
  const refused = (what: string) =>
    new ConfigurationError(
      "invalid-options",
      `consumer ${name}: a handler of ${topic} must be ${what}`,
    );
  if (typeof run !== "function") throw refused("a function");
  // Noticed at its first message at the latest; here nothing has been written yet.
  if (storage.synchronous && Object.prototype.toString.call(run) === "[object AsyncFunction]") {
    throw refused("synchronous on this storage: knexStorage of @oncebox/sqlite/knex can wait");
  }
}

/** Throws ConfigurationError that lists every wrong option of a handler. */
export function checkHandlerOptions(
  consumer: string,
  topic: string,
  options: HandlerOptions,
  orderings: readonly string[],
): void {
  const what = `consumer ${consumer}, handler of ${topic}`;
  checkOptions(what, options, {
    // A handler of batches has no choice.
    ...(orderings.length > 0 ? { ordering: oneOf(...orderings) } : {}),
    onFailure: oneOf("park", "block", "drop"),
    deduplicate: oneOf("id", "offset"),
    startFrom: aStart,
    retry: anObject,
    deadLetter: anObject,
  });
  const { retry = {}, deadLetter } = options;
  checkOptions(`${what}, retry`, retry, {
    localAttemptsMax: integer(1, 1_000),
    attemptsMax: integer(1, 100_000),
    localBackoffMs: integer(1, 3_600_000),
    localBackoffMaxMs: integer(1, 3_600_000),
    redriveBackoffMs: integer(1, 86_400_000),
    redriveBackoffMaxMs: integer(1, 30 * 86_400_000),
  });
  if (options.onFailure === "block" && Object.values(retry).some((value) => value !== undefined)) {
    throw new ConfigurationError(
      "invalid-options",
      `${what}: retry has no meaning with onFailure "block", which tries for ever: leave it out`,
    );
  }
  if (deadLetter !== undefined) checkDeadLetter(what, topic, deadLetter, options.onFailure);
}

/** Throws ConfigurationError. */
function checkDeadLetter(
  what: string,
  topic: string,
  deadLetter: DeadLetterOptions,
  onFailure: HandlerOptions["onFailure"],
): void {
  checkOptions(`${what}, deadLetter`, deadLetter, {
    topic: {
      is: "a Kafka topic name other than the handler's own",
      fits: (value) => isTopicName(value) && value !== topic,
    },
    headers: oneOf("connect", "spring"),
  });
  if (onFailure !== "block") return;
  throw new ConfigurationError(
    "invalid-options",
    `${what}: deadLetter has no meaning with onFailure "block", which gives nothing up: leave it out`,
  );
}

const anObject: Rule = {
  is: "an object",
  fits: (value) => typeof value === "object" && value !== null,
  optional: true,
};

/** Throws ConfigurationError where there is nothing to do. */
export function checkHandled({ name }: { readonly name: string }, topics: number): void {
  if (topics > 0) return;
  throw new ConfigurationError(
    "invalid-options",
    `consumer ${name} has no handler: call handle(topic, run) before start`,
  );
}

/** Options against what the database says of itself. Throws ConfigurationError. */
export function checkFacts<Tx>(
  { name, partitionsAtOnceMax, broker }: CompleteOptions<Tx>,
  facts: StorageFacts,
  besides: number,
): void {
  const needed = partitionsAtOnceMax + besides;
  if (facts.poolSize < needed) {
    throw new ConfigurationError(
      "pool-too-small",
      `consumer ${name} needs ${needed} connections (partitionsAtOnceMax ${partitionsAtOnceMax} + ${besides} for claims and parked messages), the pool has ${facts.poolSize}: enlarge the pool or lower partitionsAtOnceMax`,
      { details: { needed, poolSize: facts.poolSize } },
    );
  }
  const idle = facts.idleInTransactionTimeoutMs;
  const { sessionTimeoutMs } = broker.timing;
  if (idle !== null && idle > sessionTimeoutMs) {
    throw new ConfigurationError(
      "invalid-options",
      `consumer ${name}: the storage's idleInTransactionTimeoutMs ${idle} is above the broker's sessionTimeoutMs ${sessionTimeoutMs}: a stopped process would hold its partitions longer than its membership`,
      { details: { idleInTransactionTimeoutMs: idle, sessionTimeoutMs } },
    );
  }
}
