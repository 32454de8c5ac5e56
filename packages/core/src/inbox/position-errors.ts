/** What is said when position, log and database do not fit together: exact ranges, what follows. */
import { PositionError, StorageError } from "../errors.ts";
import type { LogBounds, RecordBatch } from "../ports/broker.ts";
import type { PartitionRef } from "../ports/storage.ts";

/** The log does not hold the offset asked for. */
export function outOfRange(ref: PartitionRef, asked: bigint, log: LogBounds | null): PositionError {
  const at = `${ref.topic}/${ref.partition}`;
  return new PositionError(
    "position-out-of-range",
    `${outOfRangeText(at, asked, log)}. The partition is paused`,
    {
      details: { ...ref, position: asked, logStart: log?.start ?? null, logEnd: log?.end ?? null },
    },
  );
}

function outOfRangeText(at: string, asked: bigint, log: LogBounds | null): string {
  if (log === null) {
    return `the log of ${at} does not hold ${asked}, and its bounds could not be read: the topic may be gone`;
  }
  if (asked < log.start) {
    return `messages ${asked} to ${log.start - 1n} of ${at} are gone: the log starts at ${log.start}`;
  }
  return `the log of ${at} ends at ${log.end}, before the position ${asked}: it was truncated, or the topic made anew`;
}

/** What the log holds there cannot be decoded, or may not be read. */
export function unreadable(ref: PartitionRef, asked: bigint, cause: Error): PositionError {
  return new PositionError(
    "position-unreadable",
    `${ref.topic}/${ref.partition} cannot be read from ${asked} on: ${cause.message}. The partition is paused`,
    { cause, details: { ...ref, position: asked } },
  );
}

/** A batch that does not account for what it holds. */
export function brokenBatch(ref: PartitionRef, batch: RecordBatch): PositionError {
  return new PositionError(
    "position-gap",
    `a batch of ${ref.topic}/${ref.partition} fetched at ${batch.fetchedOffset} is out of order or reaches past its own end ${batch.endOffset}. The partition is paused`,
    { details: { ...ref, fetchedOffset: batch.fetchedOffset, endOffset: batch.endOffset } },
  );
}

/** The row is lower, or elsewhere, than this process left it. */
export function rewound(ref: PartitionRef, known: bigint, found: bigint): PositionError {
  return new PositionError(
    "position-rewound",
    `the database held ${known} for ${ref.topic}/${ref.partition} and now holds ${found}: it was set back, or the row was changed by hand. Going on from the database`,
    { details: { ...ref, known, found } },
  );
}

/** Why a partition has to wait for its claim. */
export function claimError(ref: PartitionRef, error: unknown): StorageError {
  if (error instanceof StorageError) return error;
  return new StorageError(
    "storage-failed",
    `${ref.topic}/${ref.partition} could not be claimed: ${error instanceof Error ? error.message : String(error)}`,
    { cause: error, retryable: true },
  );
}

/** A partition that was added while the consumer ran: it has a row now and can be claimed. */
export function unregistered(ref: PartitionRef): StorageError {
  const at = `${ref.topic}/${ref.partition}`;
  return new StorageError("storage-failed", `${at} had no row: registered now`, {
    retryable: true,
  });
}
