import { createRequire } from "node:module";
import { gzipSync } from "node:zlib";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  type AbortedTransaction,
  CodecMissingError,
  decodeRecords,
  type RecordToWrite,
  sizeBatch,
  writeBatch,
} from "./record-batch.ts";
import { MalformedBytesError, Writer } from "./wire.ts";

// kafkajs' own encoder and decoder as the second opinion.
const require = createRequire(import.meta.url);
const KafkajsDecoder = require("kafkajs/src/protocol/decoder.js");
const kafkajsDecodeBatch = require("kafkajs/src/protocol/recordBatch/v0/decoder.js");

const text = (value: string) => new TextEncoder().encode(value);
const textOf = (bytes: Uint8Array | null) =>
  bytes === null ? null : Buffer.from(bytes).toString();

interface BatchSpec {
  readonly at: number;
  readonly values: readonly string[];
  /** Offset behind the batch, where compaction took records from its end. */
  readonly until?: number;
  readonly producer?: number;
  readonly marker?: "abort" | "commit";
  readonly attributes?: number;
  readonly key?: Uint8Array;
}

/** A batch as a broker returns it: ours, with the fields that only a broker fills in. */
function batchOf(spec: BatchSpec): Buffer {
  const markerKey = Buffer.from([0, 0, 0, spec.marker === "abort" ? 0 : 1]);
  const records: RecordToWrite[] = spec.values.map((value) => ({
    key: spec.marker === undefined ? (spec.key ?? null) : markerKey,
    value: text(value),
    headers: [],
  }));
  const sized = sizeBatch(records);
  const writer = new Writer(sized.size);
  writeBatch(writer, sized, 1_700_000_000_000n);
  const bytes = writer.bytes;
  const control = spec.marker === undefined ? 0 : 0x20;
  const transactional = spec.producer === undefined ? 0 : 0x10;
  bytes.writeBigInt64BE(BigInt(spec.at), 0);
  bytes.writeInt16BE(control | transactional | (spec.attributes ?? 0), 21);
  bytes.writeInt32BE((spec.until ?? spec.at + spec.values.length) - spec.at - 1, 23);
  bytes.writeBigInt64BE(BigInt(spec.producer ?? -1), 43);
  return bytes;
}

async function read(from: number, specs: readonly BatchSpec[], aborted: AbortedTransaction[] = []) {
  const bytes = Buffer.concat(specs.map(batchOf));
  const { records, endOffset } = await decodeRecords(bytes, BigInt(from), aborted);
  return { got: records.map((r) => `${r.offset}:${textOf(r.value)}`).join(" "), endOffset };
}

const aborted = (producerId: number, firstOffset: number): AbortedTransaction => ({
  producerId: BigInt(producerId),
  firstOffset: BigInt(firstOffset),
});

const bytesOrNull = fc.option(fc.uint8Array({ maxLength: 40 }));
const anyRecord: fc.Arbitrary<RecordToWrite> = fc.record({
  key: bytesOrNull,
  value: bytesOrNull,
  headers: fc.array(fc.tuple(fc.string({ maxLength: 8 }), bytesOrNull), { maxLength: 4 }),
});

describe("what is written", () => {
  it("is read back byte for byte, headers in their order", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(anyRecord, { minLength: 1, maxLength: 150 }), async (records) => {
        const sized = sizeBatch(records);
        const writer = new Writer(sized.size);
        writeBatch(writer, sized, 1234n);
        expect(writer.at).toBe(sized.size);
        const decoded = await decodeRecords(writer.bytes, 0n, []);
        expect(decoded.endOffset).toBe(BigInt(records.length));
        expect(decoded.records).toEqual(
          records.map((record, i) => ({
            ...record,
            offset: BigInt(i),
            timestamp: 1234n,
            leaderEpoch: null,
          })),
        );
      }),
      { numRuns: 50 },
    );
  });

  it("is what kafkajs reads as well", async () => {
    const records = [
      { key: text("k"), value: text("v"), headers: [["id", text("7")]] as const },
      { key: null, value: null, headers: [] },
    ];
    const sized = sizeBatch(records);
    const writer = new Writer(sized.size);
    writeBatch(writer, sized, 99n);
    const batch = await kafkajsDecodeBatch(new KafkajsDecoder(writer.bytes));
    expect(batch).toMatchObject({ producerId: "-1", lastOffsetDelta: 1, inTransaction: false });
    expect(batch.records).toMatchObject([
      { offset: "0", timestamp: "99", key: Buffer.from("k"), value: Buffer.from("v") },
      { offset: "1", timestamp: "99", key: null, value: null },
    ]);
    expect(batch.records[0].headers.id).toEqual(Buffer.from("7"));
  });
});

describe("positions", () => {
  it("start where they were asked, also in the middle of a batch", async () => {
    const { got, endOffset } = await read(6, [
      { at: 0, values: ["a", "b"] },
      { at: 5, values: ["c", "d", "e"] },
    ]);
    expect(got).toBe("6:d 7:e");
    expect(endOffset).toBe(8n);
  });

  it("move over what compaction took, and over batches without any record", async () => {
    const holes = [
      { at: 10, values: ["a"], until: 15 },
      { at: 15, values: [], until: 20 },
    ];
    expect(await read(10, holes)).toEqual({ got: "10:a", endOffset: 20n });
    expect(await read(15, holes)).toEqual({ got: "", endOffset: 20n });
  });

  it("do not move over a batch that is cut off", async () => {
    const whole = batchOf({ at: 0, values: ["a"] });
    const cut = batchOf({ at: 1, values: ["b"] }).subarray(0, -1);
    const { records, endOffset } = await decodeRecords(Buffer.concat([whole, cut]), 0n, []);
    expect([records.length, endOffset]).toEqual([1, 1n]);
    const none = { records: [], endOffset: null, endEpoch: null };
    expect(await decodeRecords(cut, 0n, [])).toEqual(none);
    expect(await decodeRecords(Buffer.alloc(0), 0n, [])).toEqual(none);
  });

  it("come with the epoch of the leader that wrote them, also of a batch that was filtered", async () => {
    const marker = batchOf({ at: 3, values: ["x"], producer: 1, marker: "abort" });
    const batches = [
      batchOf({ at: 0, values: ["a"] }),
      batchOf({ at: 1, values: ["b", "c"] }),
      marker,
    ];
    for (const [i, bytes] of batches.entries()) bytes.writeInt32BE(4 + i, 12);
    const { records, endEpoch } = await decodeRecords(Buffer.concat(batches), 0n, []);
    expect(records.map(({ leaderEpoch }) => leaderEpoch)).toEqual([4, 5, 5]);
    expect(endEpoch).toBe(6);
  });

  it("hold beyond 2^53", async () => {
    const bytes = batchOf({ at: 0, values: ["a"] });
    bytes.writeBigInt64BE(2n ** 60n, 0);
    const { records, endOffset } = await decodeRecords(bytes, 2n ** 60n, []);
    expect([records[0]?.offset, endOffset]).toEqual([2n ** 60n, 2n ** 60n + 1n]);
  });
});

describe("aborted transactions", () => {
  it("are left out, and the markers with them, but they count", async () => {
    const { got, endOffset } = await read(
      0,
      [
        { at: 0, values: ["no"], producer: 1 },
        { at: 1, values: ["yes"] },
        { at: 2, values: ["x"], producer: 1, marker: "abort" },
        { at: 3, values: ["later"], producer: 1 },
        { at: 4, values: ["x"], producer: 1, marker: "commit" },
      ],
      [aborted(1, 0)],
    );
    expect(got).toBe("1:yes 3:later");
    expect(endOffset).toBe(5n);
  });

  it("may overlap, listed by their end as brokers do", async () => {
    const { got } = await read(
      0,
      [
        { at: 0, values: ["no"], producer: 1 },
        { at: 1, values: ["no"], producer: 2 },
        { at: 2, values: ["no"], producer: 3 },
        { at: 3, values: ["x"], producer: 3, marker: "abort" },
        { at: 4, values: ["no"], producer: 1 },
        { at: 5, values: ["x"], producer: 2, marker: "abort" },
        { at: 6, values: ["yes"], producer: 2 },
        { at: 7, values: ["x"], producer: 1, marker: "abort" },
      ],
      [aborted(3, 2), aborted(2, 1), aborted(1, 0)],
    );
    expect(got).toBe("6:yes");
  });

  it("may have begun before the fetch, several at once", async () => {
    const { got } = await read(
      10,
      [
        { at: 10, values: ["no"], producer: 1 },
        { at: 11, values: ["no"], producer: 2 },
        { at: 12, values: ["x"], producer: 1, marker: "abort" },
        { at: 13, values: ["x"], producer: 2, marker: "abort" },
        { at: 14, values: ["yes"], producer: 1 },
      ],
      [aborted(1, 3), aborted(2, 4)],
    );
    expect(got).toBe("14:yes");
  });

  it("end at a marker even if the fetch starts with it", async () => {
    const { got } = await read(
      20,
      [
        { at: 20, values: ["x"], producer: 1, marker: "abort" },
        { at: 21, values: ["yes"], producer: 1 },
      ],
      [aborted(1, 10)],
    );
    expect(got).toBe("21:yes");
  });

  it("do not end at a record whose key looks like a marker's", async () => {
    const { got } = await read(
      0,
      [
        { at: 0, values: ["no"], producer: 1, key: new Uint8Array(4) },
        { at: 1, values: ["no"], producer: 1 },
        { at: 2, values: ["x"], producer: 1, marker: "abort" },
      ],
      [aborted(1, 0)],
    );
    expect(got).toBe("");
  });
});

describe("formats", () => {
  it("reads GZIP through kafkajs' codecs, and names a codec that is missing", async () => {
    const plain = batchOf({ at: 0, values: ["a", "b"] });
    const body = gzipSync(plain.subarray(61));
    const packed = Buffer.concat([plain.subarray(0, 61), body]);
    packed.writeInt32BE(packed.length - 12, 8);
    packed.writeInt16BE(1, 21);
    const { records } = await decodeRecords(packed, 0n, []);
    expect(records.map(({ value }) => textOf(value))).toEqual(["a", "b"]);
    packed.writeInt16BE(2, 21);
    await expect(decodeRecords(packed, 0n, [])).rejects.toThrow(CodecMissingError);
    await expect(decodeRecords(packed, 0n, [])).rejects.toThrow(/Snappy.*CompressionCodecs/);
  });

  it("takes the broker's time where the topic says so", async () => {
    const bytes = batchOf({ at: 0, values: ["a"], attributes: 0x08 });
    bytes.writeBigInt64BE(77n, 35);
    const { records } = await decodeRecords(bytes, 0n, []);
    expect(records[0]?.timestamp).toBe(77n);
  });

  it("refuses old formats and records of a wrong length", async () => {
    const old = batchOf({ at: 0, values: ["a"] });
    old.writeInt8(1, 16);
    await expect(decodeRecords(old, 0n, [])).rejects.toThrow(MalformedBytesError);
    const short = batchOf({ at: 0, values: ["a"] });
    short.writeInt32BE(48, 8);
    await expect(decodeRecords(short, 0n, [])).rejects.toThrow(MalformedBytesError);
    const wrong = batchOf({ at: 0, values: ["a"] });
    wrong.writeInt8(2, 61);
    await expect(decodeRecords(wrong, 0n, [])).rejects.toThrow(MalformedBytesError);
  });
});
