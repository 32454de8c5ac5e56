/**
 * After a failure: which messages run alone, and how often one was tried. Pure decisions over
 * offsets. What stands before the failed message is good and goes first, in one chunk; then the
 * failed one goes alone, so that it fails nobody else.
 */
import type { Chunk } from "./chunk.ts";

/** Messages from `from` up to `until` run one at a time. */
export interface Isolation {
  readonly from: bigint;
  readonly until: bigint;
  /** Failed tries of the first of them. */
  readonly attempts: number;
}

/** How the next chunk is cut: at most one message inside the isolation, nothing of it before. */
export function chunkCut(
  isolation: Isolation | null,
  nextOffset: bigint,
): { readonly alone: boolean; readonly before: bigint | null } {
  if (isolation === null) return { alone: false, before: null };
  return nextOffset >= isolation.from
    ? { alone: true, before: null }
    : { alone: false, before: isolation.from };
}

export interface AfterFailure {
  readonly isolation: Isolation;
  /** The message that failed and the number of its failed tries; null where nobody knows which. */
  readonly failed: { readonly offset: bigint; readonly attempt: number } | null;
  /** Whether the failed message is the next to run, so that the partition waits for it. */
  readonly wait: boolean;
}

/** `failed` is the offset that failed, null where the transaction failed as a whole. */
export function afterFailure(
  before: Isolation | null,
  chunk: Chunk,
  failed: bigint | null,
): AfterFailure {
  const first = chunk.records[0]?.offset ?? chunk.firstOffset;
  const alone = chunk.records.length <= 1;
  if (!alone && failed === null) {
    // What failed before stands behind these, and goes alone as well.
    const until = before === null ? chunk.endOffset : max(before.until, chunk.endOffset);
    const isolation = { from: chunk.firstOffset, until, attempts: 0 };
    return { isolation, failed: null, wait: false };
  }
  const offset = failed ?? first;
  const inside = before !== null && before.from <= offset && alone;
  const attempt = (inside ? before.attempts : 0) + 1;
  const until = before === null ? offset + 1n : max(before.until, offset + 1n);
  const isolation = { from: inside ? before.from : offset, until, attempts: attempt };
  return { isolation, failed: { offset, attempt }, wait: first === offset };
}

/** What remains after a commit; `passed` tells that a message that had failed got through. */
export function afterCommit(
  isolation: Isolation | null,
  nextOffset: bigint,
): { readonly isolation: Isolation | null; readonly passed: boolean } {
  if (isolation === null || nextOffset <= isolation.from) return { isolation, passed: false };
  return {
    isolation: nextOffset >= isolation.until ? null : { ...isolation, attempts: 0 },
    passed: isolation.attempts > 0,
  };
}

function max(a: bigint, b: bigint): bigint {
  return a > b ? a : b;
}
