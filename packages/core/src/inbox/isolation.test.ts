import { describe, expect, it } from "vitest";
import type { Chunk } from "./chunk.ts";
import { afterCommit, afterFailure, chunkCut } from "./isolation.ts";

function chunk(first: number, end: number, offsets: readonly number[]): Chunk {
  const records = offsets.map((offset) => {
    return {
      offset: BigInt(offset),
      timestamp: 0n,
      leaderEpoch: null,
      key: null,
      value: null,
      headers: [],
    };
  });
  return {
    firstOffset: BigInt(first),
    endOffset: BigInt(end),
    records,
    topicId: null,
    endEpoch: null,
  };
}

describe("after a failure", () => {
  it("sends what is good before the failed message first, without a wait", () => {
    const after = afterFailure(null, chunk(0, 10, [0, 1, 2, 3]), 2n);
    expect(after).toEqual({
      isolation: { from: 2n, until: 3n, attempts: 1 },
      failed: { offset: 2n, attempt: 1 },
      wait: false,
    });
    expect(chunkCut(after.isolation, 0n)).toEqual({ alone: false, before: 2n });
    expect(chunkCut(after.isolation, 2n)).toEqual({ alone: true, before: null });
  });

  it("waits at once where the first message failed", () => {
    expect(afterFailure(null, chunk(0, 10, [0, 1]), 0n)).toMatchObject({ wait: true });
  });

  it("counts the tries of the message that runs alone", () => {
    const first = afterFailure(null, chunk(0, 3, [0, 1, 2]), 1n).isolation;
    const second = afterFailure(first, chunk(1, 2, [1]), 1n);
    expect(second.failed).toEqual({ offset: 1n, attempt: 2 });
    expect(afterFailure(second.isolation, chunk(1, 2, [1]), 1n).failed?.attempt).toBe(3);
  });

  it("runs all of a chunk alone where nobody knows which message failed, spending no attempt", () => {
    const { isolation, failed } = afterFailure(null, chunk(5, 9, [5, 6, 7, 8]), null);
    expect(failed).toBeNull();
    expect(isolation).toEqual({ from: 5n, until: 9n, attempts: 0 });
    const alone = afterFailure(isolation, chunk(5, 6, [5]), null);
    expect(alone.failed).toEqual({ offset: 5n, attempt: 1 });
    expect(alone.isolation.until).toBe(9n);
  });

  it("keeps the later message isolated when nobody knows which one failed on the way to it", () => {
    const first = afterFailure(null, chunk(0, 10, [0, 1, 2, 3, 4]), 4n).isolation;
    const { isolation } = afterFailure(first, chunk(0, 4, [0, 1, 2, 3]), null);
    expect(isolation).toEqual({ from: 0n, until: 5n, attempts: 0 });
  });

  it("keeps the later message isolated when an earlier one fails on the way to it", () => {
    const first = afterFailure(null, chunk(0, 10, [0, 1, 2, 3, 4]), 4n).isolation;
    const { isolation } = afterFailure(first, chunk(0, 4, [0, 1, 2, 3]), 2n);
    expect(isolation).toEqual({ from: 2n, until: 5n, attempts: 1 });
  });
});

describe("after a commit", () => {
  const isolation = { from: 2n, until: 5n, attempts: 3 };

  it("stays until the messages before it are through", () => {
    expect(afterCommit(isolation, 2n)).toEqual({ isolation, passed: false });
  });

  it("starts counting anew for the next of the isolated messages", () => {
    expect(afterCommit(isolation, 3n)).toEqual({
      isolation: { ...isolation, attempts: 0 },
      passed: true,
    });
  });

  it("ends behind the last of them", () => {
    expect(afterCommit(isolation, 5n)).toEqual({ isolation: null, passed: true });
    expect(afterCommit({ ...isolation, attempts: 0 }, 5n).passed).toBe(false);
  });

  it("has nothing to do without one", () => {
    expect(afterCommit(null, 9n)).toEqual({ isolation: null, passed: false });
    expect(chunkCut(null, 9n)).toEqual({ alone: false, before: null });
  });
});
