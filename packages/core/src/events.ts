/** The one hook for logs, metrics and traces: what happened, as values. */
import type { OnceboxError } from "./errors.ts";

interface AtPartition {
  readonly consumer: string;
  readonly topic: string;
  readonly partition: number;
}

/** Why a batch was dropped unread: it will be fetched again from the right place. */
export type DropReason = "stale-assignment" | "not-assigned" | "wrong-position";

export type OnceboxEvent =
  /** Partitions were assigned; everything of the assignment before is void. */
  | {
      readonly type: "inbox.assigned";
      readonly consumer: string;
      readonly assignment: number;
      readonly partitions: readonly { readonly topic: string; readonly partition: number }[];
    }
  /** A partition was claimed: its position was read from the database. */
  | (AtPartition & {
      readonly type: "inbox.claimed";
      readonly epoch: bigint;
      readonly nextOffset: bigint;
      readonly ms: number;
    })
  /** The claim has to wait: the previous holder's transaction is still open. Repeated while it is. */
  | (AtPartition & { readonly type: "inbox.claim-waiting"; readonly error: OnceboxError })
  /** The claim was taken over by another consumer: nothing was written under it. */
  | (AtPartition & { readonly type: "inbox.fenced"; readonly epoch: bigint })
  /** A fetched batch was not taken; it is fetched again from the right place. */
  | (AtPartition & { readonly type: "inbox.batch-dropped"; readonly reason: DropReason })
  /** The transaction of a chunk is about to be opened. */
  | (AtPartition & {
      readonly type: "inbox.chunk-opening";
      readonly epoch: bigint;
      readonly firstOffset: bigint;
      readonly endOffset: bigint;
      readonly messages: number;
    })
  /** A chunk's transaction was committed, and the answer to COMMIT read. */
  | (AtPartition & {
      readonly type: "inbox.chunk-committed";
      readonly epoch: bigint;
      /** The position is now `nextOffset`; it was `firstOffset` or above. */
      readonly firstOffset: bigint;
      readonly nextOffset: bigint;
      readonly applied: number;
      readonly duplicates: number;
      /** Set aside: given up, or behind a message of their key that was. */
      readonly parked: number;
      readonly ms: number;
    })
  /** The outcome of a COMMIT is not known: the partition is claimed again and read. */
  | (AtPartition & { readonly type: "inbox.commit-unknown"; readonly error: OnceboxError })
  /** The database was in trouble under a chunk: it runs again. Spends no attempt. */
  | (AtPartition & {
      readonly type: "inbox.chunk-rerun";
      readonly trouble: "global" | "local";
      readonly rerun: number;
      readonly waitMs: number;
      readonly error: unknown;
    })
  /**
   * A message failed. Repeated at each attempt: its partition waits for it, so many milliseconds before
   * the next; 0 where messages before it go first, or where it is given up.
   */
  | (AtPartition & {
      readonly type: "inbox.blocked";
      readonly offset: bigint;
      readonly attempt: number;
      readonly waitMs: number;
      readonly error: OnceboxError;
    })
  /**
   * A message was set aside, in the transaction that moved the position past it. `waiting`: the
   * redrive worker tries it again. `dead`: it waits for a person. Those of its key that follow are set
   * aside behind it.
   */
  | (AtPartition & {
      readonly type: "inbox.parked";
      readonly offset: bigint;
      readonly state: "waiting" | "dead";
      readonly attempts: number;
      readonly error: OnceboxError;
    })
  /** A message was given up for good, because its handler's `onFailure` says "drop". */
  | (AtPartition & {
      readonly type: "inbox.dropped";
      readonly offset: bigint;
      readonly attempts: number;
      readonly error: OnceboxError;
    })
  /**
   * The copy of a dead or dropped message could not be written for the dead-letter topic: it is too
   * large, a header's name cannot be kept, or the database refuses the row. The message is set aside,
   * or dropped, without it.
   */
  | (AtPartition & {
      readonly type: "inbox.letter-failed";
      readonly offset: bigint;
      readonly deadLetterTopic: string;
      readonly error: OnceboxError;
    })
  /** A parked message was handled at last. */
  | (AtPartition & {
      readonly type: "inbox.redriven";
      readonly id: bigint;
      readonly offset: bigint;
      readonly attempts: number;
    })
  /** A parked message failed again. `dead`: it waits for a person now. */
  | (AtPartition & {
      readonly type: "inbox.redrive-failed";
      readonly id: bigint;
      readonly offset: bigint;
      readonly attempts: number;
      readonly state: "waiting" | "dead";
      readonly afterMs: number;
      readonly error: OnceboxError;
    })
  /** Another process tries the parked message by now, or it is gone: this try had no effect. */
  | (AtPartition & {
      readonly type: "inbox.redrive-fenced";
      readonly id: bigint;
      readonly offset: bigint;
      readonly attempts: number;
    })
  /** The database was in trouble under the redrive worker, which goes on by itself. Spends no attempt. */
  | {
      readonly type: "inbox.redrive-troubled";
      readonly consumer: string;
      readonly waitMs: number;
      readonly error: unknown;
    }
  /** Message ids that lie before the window were deleted: how many, and up to which time of their records. */
  | {
      readonly type: "inbox.pruned";
      readonly consumer: string;
      readonly ids: number;
      /** Milliseconds since 1970. */
      readonly before: bigint;
    }
  /**
   * Kafka keeps the topic's messages for longer than `deduplicationWindowMs`: what is read again from
   * further back than the window, after a seek back or as a producer's late repeat, is applied again.
   * Told at the start of the consumer.
   */
  | {
      readonly type: "inbox.window-short";
      readonly consumer: string;
      readonly topic: string;
      readonly windowMs: number;
      /** Infinity: time removes nothing from the topic. */
      readonly retentionMs: number;
    }
  /**
   * No message id may be deleted, because nobody can tell how far this partition has come: it was never
   * read, or its last record bears a time that is no clock's. Told once for each partition in a row.
   */
  | {
      readonly type: "inbox.pruning-held-back";
      readonly consumer: string;
      readonly topic: string;
      readonly partition: number;
    }
  /** The database was in trouble when message ids were to be deleted; tried again after `waitMs`. */
  | {
      readonly type: "inbox.pruning-troubled";
      readonly consumer: string;
      readonly waitMs: number;
      readonly error: unknown;
    }
  /**
   * Handlers of a topic run one after another from now on, although `ordering: "key"` asks for more.
   * `not-pipelined`: this connection gains nothing by it. `refused`: a handler uses savepoints or
   * settings, which would work on the handlers beside it as well.
   */
  | {
      readonly type: "inbox.ordering-kept";
      readonly consumer: string;
      readonly topic: string;
      readonly why: "not-pipelined" | "refused";
    }
  /** Processes died here one after another: messages run one by one now, each written down before. */
  | (AtPartition & { readonly type: "inbox.claims-stalled"; readonly claims: number })
  /** The message that blocked its partition has passed. */
  | (AtPartition & {
      readonly type: "inbox.unblocked";
      readonly offset: bigint;
      readonly attempts: number;
    })
  /** Position and log, or position and database, do not fit. `paused`: it waits for a person. */
  | (AtPartition & {
      readonly type: "inbox.displaced";
      readonly error: OnceboxError;
      readonly paused: boolean;
    })
  /** A policy has moved a position that was lost; the audit log has it, too. */
  | (AtPartition & {
      readonly type: "inbox.position-moved";
      readonly from: bigint;
      readonly to: bigint;
      readonly reason: string;
    })
  /** The last handled record is gone (compaction, retention): nobody can tell whether the log is the same. */
  | (AtPartition & { readonly type: "inbox.continuity-unknown"; readonly offset: bigint })
  /** A transaction has been open for long: nothing behind `lastStable` can be read. Repeated. */
  | (AtPartition & {
      readonly type: "inbox.transaction-hanging";
      readonly lastStable: bigint;
      readonly logEnd: bigint;
      readonly ms: number;
    })
  /** Kafka refuses to hand out this partition, or it has no leader; it is asked again. Repeated. */
  | (AtPartition & { readonly type: "inbox.fetch-troubled"; readonly error: unknown })
  /**
   * The group's offset in Kafka lies above the database's position, which decides. `moved`: somebody
   * else wrote it. `other-database`: written from another database. `set-back`: this database was
   * restored to an earlier state.
   */
  | (AtPartition & {
      readonly type: "inbox.group-ahead";
      readonly why: "moved" | "other-database" | "set-back";
      readonly groupOffset: bigint;
      readonly nextOffset: bigint;
    })
  /** The stop's deadline passed: this chunk was cut and will be handled again by the next owner. */
  | (AtPartition & { readonly type: "inbox.chunk-cut"; readonly firstOffset: bigint })
  /** The group's offsets were sent to Kafka; `ok: false` is tried again. */
  | {
      readonly type: "inbox.offsets-committed";
      readonly consumer: string;
      readonly partitions: number;
      readonly ok: boolean;
    }
  /** The Kafka client died and is built anew. */
  | {
      readonly type: "inbox.client-rebuilt";
      readonly consumer: string;
      readonly rebuild: number;
      readonly waitMs: number;
      readonly error: unknown;
    }
  /** The lanes this relay holds, or the number of live relays, have changed. */
  | {
      readonly type: "outbox.lanes-held";
      readonly relay: string;
      readonly lanes: readonly number[];
      readonly relays: number;
    }
  /** Another relay took these lanes over: nothing more of them is sent. */
  | {
      readonly type: "outbox.lanes-lost";
      readonly relay: string;
      readonly lanes: readonly number[];
    }
  /** Messages were acknowledged by Kafka. */
  | {
      readonly type: "outbox.published";
      readonly relay: string;
      readonly messages: number;
      readonly ms: number;
    }
  /** Messages whose outcome is unknown: the same ids are sent again. */
  | {
      readonly type: "outbox.publish-unknown";
      readonly relay: string;
      readonly messages: number;
      readonly waitMs: number;
      readonly error: unknown;
    }
  /** The stop's deadline passed: these messages were sent or on their way, and are sent again. */
  | { readonly type: "outbox.batch-cut"; readonly relay: string; readonly messages: number }
  /** Kafka refuses a message or a topic: its key, or the topic, waits and is tried again. */
  | {
      readonly type: "outbox.blocked";
      readonly relay: string;
      readonly scope: "message" | "topic";
      readonly topic: string;
      readonly id: string;
      readonly attempt: number;
      readonly waitMs: number;
      readonly error: unknown;
    }
  /** Too many rows wait behind refused messages or topics: these lanes are not read until some pass. */
  | {
      readonly type: "outbox.reading-paused";
      readonly relay: string;
      readonly lanes: readonly number[];
      readonly blockedRows: number;
      readonly blockedBytes: number;
    }
  /** A row below the floor: it was delayed, and its key may be out of order. Please report it. */
  | { readonly type: "outbox.floor-anomaly"; readonly relay: string; readonly rows: number }
  /** The relay could not reach the database or Kafka; it waits and goes on by itself. */
  | {
      readonly type: "outbox.trouble";
      readonly relay: string;
      readonly step: "lease" | "read" | "publish" | "settle" | "listen";
      readonly waitMs: number;
      readonly error: unknown;
    };

/** Called for every event, synchronously: must be quick. What it throws or rejects with is ignored. */
export type Observer = (event: OnceboxEvent) => void;

/** An observer that cannot hurt its caller: a failing log line must not lose a message. */
export function guarded(observer: Observer | undefined): Observer {
  if (observer === undefined) return () => undefined;
  return (event) => {
    try {
      // An async function is an observer as well: what it rejects with would end the process.
      const answer = observer(event) as unknown as PromiseLike<unknown> | undefined;
      if (typeof answer?.then === "function") answer.then(undefined, () => undefined);
    } catch {
      // Deliberately dropped: there is no one left to tell, the observer is who would be told.
    }
  };
}
