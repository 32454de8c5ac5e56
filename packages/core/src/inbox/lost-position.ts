/**
 * When position, log and database do not fit together: what is said of it, with exact ranges, and
 * where a policy would go on. Pure; who pauses or moves anything is the partition's worker.
 */
import { PositionError, StorageError } from "../errors.ts";
import type { Displacement, FetchPosition, LogBounds, RecordBatch } from "../ports/broker.ts";
import type { LastRecord, PartitionRef } from "../ports/storage.ts";

/**
 * What follows when the log does not hold the consumer's position any more. `pause`: the partition
 * waits for `operator.seek`, the others go on. `go-on`: it goes on by itself, and the audit log says so.
 */
export interface LostPositionPolicy {
  /**
   * Records were deleted before they were handled, by retention or by hand. `go-on`: from the first
   * record that is left; the others are lost.
   * @defaultValue "pause"
   */
  readonly deleted?: "pause" | "go-on";
  /**
   * The log lost records that had been handled, and others may stand in their place (an unclean
   * election, a restored disk). `go-on`: from where it became another one.
   * @defaultValue "pause"
   */
  readonly truncated?: "pause" | "go-on";
  /**
   * The topic was deleted and made anew. `go-on`: from the beginning of the new one; ids that were
   * seen in the old one stay duplicates, as long as they are kept.
   * @defaultValue "pause"
   */
  readonly recreated?: "pause" | "go-on";
}

/** Where to go on without asking anyone. */
export interface GoOn {
  readonly to: bigint | "earliest";
  /** Null: the topic that is there now, whichever it is. */
  readonly topicId: string | null;
}

export interface LostPosition {
  readonly error: PositionError;
  /** Null: paused, until a person decides. */
  readonly goOn: GoOn | null;
  /** Whether asking again later can help: the topic may come back. */
  readonly mayPass: boolean;
}

const nobodyDecides = { goOn: null, mayPass: false } as const;

/** The broker says that the position does not fit the log. */
export function lostPosition(
  ref: PartitionRef,
  at: FetchPosition,
  why: Displacement,
  policy: LostPositionPolicy,
): LostPosition {
  switch (why.kind) {
    case "out-of-range":
      return outOfRange(ref, at, why.log, policy);
    case "topic-missing":
      return {
        ...told(ref, "topic-deleted", `the topic ${ref.topic} is gone`, { position: at.offset }),
        goOn: null,
        mayPass: true,
      };
    case "topic-recreated":
      return {
        ...told(
          ref,
          "topic-recreated",
          `the topic ${ref.topic} was deleted and made anew: position ${at.offset} of ${nameOf(ref)} belongs to the old one`,
          { position: at.offset, topicId: at.topicId, newTopicId: why.topicId },
        ),
        goOn: policy.recreated === "go-on" ? { to: "earliest", topicId: why.topicId } : null,
        mayPass: false,
      };
    case "log-diverged":
      return diverged(ref, at, why.endOffset, policy);
  }
}

function outOfRange(
  ref: PartitionRef,
  { offset, topicId }: FetchPosition,
  log: LogBounds | null,
  policy: LostPositionPolicy,
): LostPosition {
  const code = "position-out-of-range";
  const name = nameOf(ref);
  if (log === null) {
    const text = `the log of ${name} does not hold ${offset}, and its bounds could not be read`;
    const details = { position: offset, logStart: null, logEnd: null };
    return { ...told(ref, code, text, details), goOn: null, mayPass: true };
  }
  const details = { position: offset, logStart: log.start, logEnd: log.end };
  if (offset < log.start) {
    const text = `messages ${offset} to ${log.start - 1n} of ${name} are gone before they were handled: the log starts at ${log.start}`;
    return {
      ...told(ref, code, text, { ...details, from: offset, to: log.start - 1n }),
      goOn: policy.deleted === "go-on" ? { to: log.start, topicId } : null,
      mayPass: false,
    };
  }
  if (offset <= log.end) {
    // Bounds are asked for after the refusal. To go on from its end would pass messages over.
    const text = `the log of ${name} did not hold ${offset} and holds ${log.start} to ${log.end} by now`;
    return { ...told(ref, code, text, details), goOn: null, mayPass: true };
  }
  const text = `the log of ${name} ends at ${log.end}, before the position ${offset}: it was truncated, and what was handled from ${log.end} to ${offset - 1n} is no longer in it`;
  return {
    ...told(ref, code, text, { ...details, from: log.end, to: offset - 1n }),
    goOn: policy.truncated === "go-on" ? { to: log.end, topicId } : null,
    mayPass: false,
  };
}

function diverged(
  ref: PartitionRef,
  { offset, topicId, leaderEpoch }: FetchPosition,
  endOffset: bigint | null,
  policy: LostPositionPolicy,
): LostPosition {
  const name = nameOf(ref);
  // At or above the position it tells nothing of where they part, and must not be gone on from.
  if (endOffset === null || endOffset >= offset) {
    const text = `the log of ${name} knows nothing of leader epoch ${leaderEpoch}, which wrote what lies before the position ${offset}: it was truncated, and has gone on differently`;
    return {
      ...told(ref, "log-diverged", text, { position: offset, leaderEpoch, from: null, to: null }),
      ...nobodyDecides,
    };
  }
  const text = `what was handled of ${name} from ${endOffset} to ${offset - 1n} is no longer in its log, which has gone on differently from ${endOffset} on (leader epoch ${leaderEpoch} ended there: an unclean election)`;
  const range = { position: offset, leaderEpoch, from: endOffset, to: offset - 1n };
  return {
    ...told(ref, "log-diverged", text, range),
    goOn: policy.truncated === "go-on" ? { to: endOffset, topicId } : null,
    mayPass: false,
  };
}

/** Where the last handled record was, another one stands: nobody knows since where. */
export function recordChanged(
  ref: PartitionRef,
  expected: LastRecord,
  found: LastRecord,
  position: bigint,
): LostPosition {
  const differs = expected.timestamp === found.timestamp ? "key or value" : "timestamp";
  const text = `the record at ${nameOf(ref)}@${expected.offset} is not the one that was handled there (another ${differs}): the log was replaced, and messages below the position ${position} may never have been handled`;
  const details = { position, offset: expected.offset };
  return { ...told(ref, "record-changed", text, details), ...nobodyDecides };
}

/** What the log holds there cannot be decoded. */
export function unreadable(ref: PartitionRef, position: bigint, cause: Error): LostPosition {
  const text = `${nameOf(ref)} cannot be read from ${position} on: ${cause.message}`;
  return { ...told(ref, "position-unreadable", text, { position }, cause), ...nobodyDecides };
}

/** A batch that does not account for what it holds. */
export function brokenBatch(ref: PartitionRef, batch: RecordBatch): LostPosition {
  const { fetchedOffset, endOffset } = batch;
  const text = `a batch of ${nameOf(ref)} fetched at ${fetchedOffset} is out of order or reaches past its own end ${endOffset}`;
  return { ...told(ref, "position-gap", text, { fetchedOffset, endOffset }), ...nobodyDecides };
}

/** The row is lower, or elsewhere, than this process left it. */
export function rewound(ref: PartitionRef, known: bigint, found: bigint): PositionError {
  return new PositionError(
    "position-rewound",
    `the database held ${known} for ${nameOf(ref)} and now holds ${found}: it was set back, or the row was changed by hand. Going on from the database`,
    { details: { ...ref, known, found } },
  );
}

/** Why a partition has to wait for its claim. */
export function claimError(ref: PartitionRef, error: unknown): StorageError {
  if (error instanceof StorageError) return error;
  return new StorageError(
    "storage-failed",
    `${nameOf(ref)} could not be claimed: ${error instanceof Error ? error.message : String(error)}`,
    { cause: error, retryable: true },
  );
}

/** A partition that was added while the consumer ran: it has a row now and can be claimed. */
export function unregistered(ref: PartitionRef): StorageError {
  return new StorageError("storage-failed", `${nameOf(ref)} had no row: registered now`, {
    retryable: true,
  });
}

type LostCode =
  | "position-out-of-range"
  | "position-unreadable"
  | "position-gap"
  | "topic-recreated"
  | "topic-deleted"
  | "log-diverged"
  | "record-changed";

function told(
  ref: PartitionRef,
  code: LostCode,
  text: string,
  details: Readonly<Record<string, unknown>>,
  cause?: Error,
): { readonly error: PositionError } {
  const facts = { details: { ...ref, ...details } };
  return {
    error: new PositionError(code, text, cause === undefined ? facts : { ...facts, cause }),
  };
}

function nameOf({ topic, partition }: PartitionRef): string {
  return `${topic}/${partition}`;
}
