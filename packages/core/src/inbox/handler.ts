/** What a user writes for one topic: the shapes of a handler and of what it is given. */
import type { Message, OutgoingMessage } from "../message.ts";
import type { StartFrom } from "./start.ts";

/** What a handler gets besides the message and the transaction. */
export interface HandlerContext {
  /** 1 for the first try of this message by this process, then counting up. */
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
   * `partition`: one message after another, in offset order. The only order so far.
   * @defaultValue "partition"
   */
  readonly ordering?: "partition";
  /**
   * `block`: the partition waits, visibly, and the message is tried again until it passes. The only
   * choice until parking arrives.
   * @defaultValue "block"
   */
  readonly onFailure?: "block";
}
