/** What a user writes for one topic: the shapes of a handler and of what it is given. */
import type { Message, OutgoingMessage } from "../message.ts";
import type { StartFrom } from "./start.ts";

/** What a handler gets besides the message and the transaction. */
export interface HandlerContext {
  /**
   * 1 for the first try of this message, then counting up: by this process while its partition waits,
   * by whichever process once it is parked.
   */
  readonly attempt: number;
  /**
   * Aborted when the handler takes longer than `handlerTimeoutMs`, when a stop runs out of time, or a
   * session time-out after the partition was assigned anew: end at once, nothing will be committed.
   */
  readonly signal: AbortSignal;
  /**
   * The same for every try of the same message, also in other processes: for calls that leave the
   * transaction (an HTTP call, a payment), which are at least once.
   */
  readonly idempotencyKey: string;
  /** Publishes in the handler's transaction; ids derive from the incoming message. */
  readonly outbox: {
    readonly enqueue: (
      messages: OutgoingMessage | readonly OutgoingMessage[],
    ) => Promise<readonly string[]>;
  };
}

/** User code, run inside the transaction that records the message. Everything through `tx` is exactly once. */
export type Run<V, Tx> = (message: Message<V>, tx: Tx, context: HandlerContext) => Promise<void>;

/** What a handler on a storage of SyncStorage gets: as above, but nothing in it waits. */
export interface SyncHandlerContext extends Pick<HandlerContext, "attempt" | "idempotencyKey"> {
  /** Publishes in the handler's transaction; ids derive from the incoming message. */
  readonly outbox: {
    readonly enqueue: (messages: OutgoingMessage | readonly OutgoingMessage[]) => readonly string[];
  };
}

/** What a synchronous handler may return: anything but a promise. */
export type Sync<R> =
  R extends PromiseLike<unknown> ? "a synchronous handler must not return a promise" : R;

/** User code that ends when it returns: nothing else runs in its transaction's connection. */
export type SyncRun<V, Tx, R = unknown> = (
  message: Message<V>,
  tx: Tx,
  context: SyncHandlerContext,
) => Sync<R> & R;

/** What belongs to one message of a batch. */
export interface BatchMessageContext extends Pick<HandlerContext, "idempotencyKey" | "outbox"> {}

/** What a handler of whole batches gets besides the messages and the transaction. */
export interface BatchContext<V> extends Pick<HandlerContext, "attempt" | "signal"> {
  /** For one of the messages: what is published through it has ids that derive from that message. */
  readonly of: (message: Message<V>) => BatchMessageContext;
}

/**
 * User code that handles all new messages of a chunk at once, in offset order, with set-based SQL. When
 * it fails, it gets half of them, down to the one that fails by itself.
 */
export type BatchRun<V, Tx> = (
  messages: readonly Message<V>[],
  tx: Tx,
  context: BatchContext<V>,
) => Promise<void>;

/** As BatchContext, on a storage of SyncStorage. */
export interface SyncBatchContext<V> extends Pick<HandlerContext, "attempt"> {
  readonly of: (message: Message<V>) => Pick<SyncHandlerContext, "idempotencyKey" | "outbox">;
}

/** As BatchRun; ends when it returns. */
export type SyncBatchRun<V, Tx, R = unknown> = (
  messages: readonly Message<V>[],
  tx: Tx,
  context: SyncBatchContext<V>,
) => Sync<R> & R;

/** A handler of whole batches, bound to its topic, with the values still encoded. */
export interface BatchHandler<in Tx> {
  readonly topic: string;
  /** Throws where the bytes do not decode. */
  readonly decode: (message: Message<Uint8Array | null>) => Message<unknown>;
  readonly runBatch: BatchRun<unknown, Tx>;
}

/** A handler bound to its topic, with the value still encoded: made by `topic.handler(run)`. */
export interface Handler<in Tx> {
  readonly topic: string;
  readonly run: (
    message: Message<Uint8Array | null>,
    tx: Tx,
    context: HandlerContext,
  ) => Promise<void>;
}

export interface HandlerOptions {
  /**
   * Where to begin where this consumer has never read the topic. Resolved at the first start, for all
   * partitions at once, and kept: later it has no effect. Partitions that are added later begin with
   * their first message.
   * @defaultValue "earliest"
   */
  readonly startFrom?: StartFrom;
  /**
   * `partition`: one message after another, in offset order. `key`: messages of different keys at the
   * same time in one transaction, those of one key in order; several times faster where the connection
   * is pipelined (pg with `pipeline: true`), as `partition` where it is not. For handlers of different
   * keys that share no rows, or change shared rows by single relative statements only
   * (`SET n = n + 1`): locks do not separate handlers of one transaction.
   * @defaultValue "partition"
   */
  readonly ordering?: "partition" | "key";
  /**
   * What follows when a message keeps failing. `park`: it is set aside with those of its key behind it
   * and tried again beside; messages of other keys go on. `block`: its partition waits, visibly, until
   * it passes: total order. `drop`: it is given up for good, and an event tells of it.
   * @defaultValue "park"
   */
  readonly onFailure?: "park" | "block" | "drop";
  /**
   * What makes a message one that was seen before. `id`: its position, and its id where it has one, so
   * that what a producer sent twice takes effect once. `offset`: its position only, which recognises
   * every redelivery of the same record and nothing else; no row is written for each message. For
   * topics whose producers never repeat themselves.
   * @defaultValue "id"
   */
  readonly deduplicate?: "id" | "offset";
  /** How often and when a message is tried again; `block` tries for ever. */
  readonly retry?: RetryOptions;
  /**
   * A topic that gets a copy of each message that is dead, or dropped, through the outbox: the copy is
   * written in the transaction in which the message dies. What is dead stays parked all the same.
   * Refused with `block`, which gives nothing up.
   * @defaultValue none
   */
  readonly deadLetter?: DeadLetterOptions;
}

/** Where copies of dead messages go. */
export interface DeadLetterOptions {
  /** Kafka's name of the topic; not the handler's own. It must exist: Oncebox never creates topics. */
  readonly topic: string;
  /**
   * Whose names the headers have that say where the message lay and why it died: `connect`, those of
   * Kafka Connect (`__connect.errors.…`); `spring`, those of Spring Kafka (`kafka_dlt-…`).
   * @defaultValue "connect"
   */
  readonly headers?: "connect" | "spring";
}

/** A batch has one order: that of its offsets. */
export interface BatchHandlerOptions extends Omit<HandlerOptions, "ordering"> {}

/** The database's own trouble (outages, deadlocks, time-outs) spends no try. */
export interface RetryOptions {
  /**
   * Tries here and now, while the partition waits for the message.
   * @defaultValue 5
   */
  readonly localAttemptsMax?: number;
  /**
   * Longest pause before the second try, in milliseconds; doubles with each further one. The pause is
   * drawn at random below it.
   * @defaultValue 50
   */
  readonly localBackoffMs?: number;
  /**
   * Longest pause between two tries here, in milliseconds.
   * @defaultValue 1000
   */
  readonly localBackoffMaxMs?: number;
  /**
   * Tries altogether, those of the parked message included; then it is dead and waits for a person. Up
   * to `localAttemptsMax`: dead at once.
   * @defaultValue 20
   */
  readonly attemptsMax?: number;
  /**
   * Longest pause before a parked message is tried again, in milliseconds; doubles with each try.
   * @defaultValue 1000
   */
  readonly redriveBackoffMs?: number;
  /**
   * Longest pause between two tries of a parked message, in milliseconds.
   * @defaultValue 300000
   */
  readonly redriveBackoffMaxMs?: number;
}
