import { describe, expect, it } from "vitest";
import type { BrokerRecord, RecordBatch } from "../ports/broker.ts";
import { buffer } from "./buffer.ts";

const roomy = { batchesMax: 3, bytesMax: 1_000 };
const wide = { recordsMax: 100, bytesMax: 1_000, before: null };

const at = (offset: number) => ({ offset: BigInt(offset), topicId: null, leaderEpoch: null });

function record(offset: number, bytes = 1): BrokerRecord {
  const value = new Uint8Array(bytes);
  return { offset: BigInt(offset), timestamp: 0n, leaderEpoch: 5, key: null, value, headers: [] };
}

function batch(fetched: number, end: number, offsets: readonly number[], bytes = 1): RecordBatch {
  return {
    topic: "t",
    partition: 0,
    assignment: 1,
    fetchedOffset: BigInt(fetched),
    endOffset: BigInt(end),
    records: offsets.map((offset) => record(offset, bytes)),
    topicId: "log",
    endEpoch: 6,
  };
}

const offsets = (chunk: { records: readonly BrokerRecord[] } | null) =>
  chunk?.records.map(({ offset }) => Number(offset));

describe("accepting: the chain of custody", () => {
  it("takes only the batch that goes on from the one before", () => {
    const b = buffer(at(10), roomy);
    expect(b.accept(batch(9, 12, [9, 10, 11]))).toBe("wrong-position");
    expect(b.accept(batch(11, 12, [11]))).toBe("wrong-position");
    expect(b.accept(batch(10, 12, [10, 11]))).toBe("accepted");
    expect(b.wanted()?.offset).toBe(12n);
    expect(b.accept(batch(10, 12, [10, 11]))).toBe("wrong-position");
  });

  it("drops records below what was asked for: Kafka sends whole stored batches", () => {
    const b = buffer(at(10), roomy);
    expect(b.accept(batch(10, 12, [8, 9, 10, 11]))).toBe("accepted");
    expect(offsets(b.chunk(wide))).toEqual([10, 11]);
  });

  it.each([
    ["out of order", batch(10, 14, [11, 10])],
    ["a repeated offset", batch(10, 14, [11, 11])],
    ["a record behind the batch's own end", batch(10, 12, [10, 12])],
    ["records, but an end that does not move", batch(10, 10, [10])],
  ])("refuses %s", (_, broken) => {
    expect(buffer(at(10), roomy).accept(broken)).toBe("gap");
  });

  it("takes a batch that was filtered away whole: its end moves the position", () => {
    const b = buffer(at(10), roomy);
    expect(b.accept(batch(10, 15, []))).toBe("accepted");
    expect(b.chunk(wide)).toEqual({
      firstOffset: 10n,
      endOffset: 15n,
      endEpoch: 6,
      records: [],
      topicId: "log",
    });
  });

  it("refuses a batch from another topic of the same name", () => {
    const b = buffer(at(10), roomy);
    expect(b.accept(batch(10, 12, [10]))).toBe("accepted");
    expect(b.wanted()).toEqual({ offset: 12n, topicId: "log", leaderEpoch: 6 });
    expect(b.accept({ ...batch(12, 13, [12]), topicId: "another" })).toBe("wrong-log");
  });

  it("ignores an empty answer", () => {
    const b = buffer(at(10), roomy);
    expect(b.accept(batch(10, 10, []))).toBe("empty");
    expect(b.chunk(wide)).toBeNull();
  });

  it("wants nothing while full by batches or by bytes, and again after a drop", () => {
    const byCount = buffer(at(0), { batchesMax: 2, bytesMax: 1_000 });
    byCount.accept(batch(0, 1, [0]));
    expect(byCount.wanted()?.offset).toBe(1n);
    byCount.accept(batch(1, 2, [1]));
    expect(byCount.wanted()).toBeNull();
    byCount.drop(1n);
    expect(byCount.wanted()?.offset).toBe(2n);
    const byBytes = buffer(at(0), { batchesMax: 9, bytesMax: 10 });
    byBytes.accept(batch(0, 1, [0], 10));
    expect(byBytes.wanted()).toBeNull();
  });
});

describe("chunks", () => {
  it("spans batches and covers holes and the trailing end", () => {
    const b = buffer(at(0), roomy);
    b.accept(batch(0, 5, [0, 2]));
    b.accept(batch(5, 9, [6]));
    expect(b.chunk(wide)).toMatchObject({ firstOffset: 0n, endOffset: 9n });
    expect(offsets(b.chunk(wide))).toEqual([0, 2, 6]);
  });

  it("ends before the record that does not fit, by count or by bytes", () => {
    const b = buffer(at(0), roomy);
    b.accept(batch(0, 9, [0, 1, 5, 6], 10));
    // Directly behind the last record, in its own epoch: what lies in the hole may have another.
    expect(b.chunk({ ...wide, recordsMax: 2 })).toMatchObject({ endOffset: 2n, endEpoch: 5 });
    expect(offsets(b.chunk({ ...wide, bytesMax: 25 }))).toEqual([0, 1]);
  });

  it("lets a single record through that is larger than the byte limit", () => {
    const b = buffer(at(0), roomy);
    b.accept(batch(0, 2, [0, 1], 50));
    expect(offsets(b.chunk({ ...wide, bytesMax: 10 }))).toEqual([0]);
  });

  it("ends before an isolated record; an empty chunk leads up to it", () => {
    const b = buffer(at(0), roomy);
    b.accept(batch(0, 9, [3, 4]));
    expect(b.chunk({ ...wide, before: 4n })).toMatchObject({ endOffset: 4n });
    expect(b.chunk({ ...wide, before: 3n })).toEqual({
      firstOffset: 0n,
      endOffset: 3n,
      endEpoch: null,
      records: [],
      topicId: "log",
    });
  });

  it("is the same again until it is dropped, and goes on behind what was committed", () => {
    const b = buffer(at(0), roomy);
    b.accept(batch(0, 4, [0, 1, 2, 3]));
    const limits = { ...wide, recordsMax: 2 };
    expect(b.chunk(limits)).toEqual(b.chunk(limits));
    b.drop(2n);
    expect(b.chunk(limits)).toMatchObject({ firstOffset: 2n, endOffset: 4n });
    b.drop(4n);
    expect(b.chunk(limits)).toBeNull();
  });
});
