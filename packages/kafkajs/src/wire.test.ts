import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  compactBytesSize,
  MalformedBytesError,
  Reader,
  uvarintSize,
  varbytesSize,
  varintSize,
  Writer,
} from "./wire.ts";

function zigzag64(value: bigint): Buffer {
  const bytes: number[] = [];
  let rest = BigInt.asUintN(64, (value << 1n) ^ (value >> 63n));
  while (rest >= 0x80n) {
    bytes.push(Number(rest & 0x7fn) | 0x80);
    rest >>= 7n;
  }
  return Buffer.from([...bytes, Number(rest)]);
}

describe("numbers of variable length", () => {
  it("come back as they were, in as many bytes as counted", () => {
    const interesting = fc.constantFrom(
      0,
      -1,
      63,
      64,
      -64,
      -65,
      8191,
      8192,
      2 ** 31 - 1,
      -(2 ** 31),
    );
    fc.assert(
      fc.property(fc.oneof(fc.integer(), interesting), (value) => {
        const writer = new Writer(varintSize(value));
        writer.varint(value);
        expect(writer.at).toBe(writer.bytes.length);
        expect(new Reader(writer.bytes).varint()).toBe(value);
      }),
    );
  });

  it("are read up to 64 bits", () => {
    fc.assert(
      fc.property(fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }), (value) => {
        const reader = new Reader(zigzag64(value));
        expect(reader.varlong()).toBe(value);
        expect(reader.left).toBe(0);
      }),
    );
  });

  it("are refused when cut off or too long", () => {
    expect(() => new Reader(Buffer.from([0x80])).varint()).toThrow(MalformedBytesError);
    expect(() => new Reader(Buffer.alloc(6, 0xff)).varint()).toThrow(MalformedBytesError);
    expect(() => new Reader(Buffer.alloc(9, 0xff)).varlong()).toThrow(MalformedBytesError);
    expect(() => new Reader(Buffer.alloc(11, 0xff)).varlong()).toThrow(MalformedBytesError);
  });
});

describe("bytes", () => {
  it("keep null apart from empty", () => {
    for (const value of [null, new Uint8Array(), new Uint8Array([1, 2])]) {
      const writer = new Writer(varbytesSize(value));
      writer.varbytes(value);
      expect(new Reader(writer.bytes).varbytes()).toEqual(value);
    }
  });

  it("are refused when they reach behind the end", () => {
    expect(() => new Reader(Buffer.from([8, 1])).varbytes()).toThrow(MalformedBytesError);
    expect(() => new Reader(Buffer.alloc(3)).take(4)).toThrow(MalformedBytesError);
    expect(() => new Reader(Buffer.alloc(3)).take(-1)).toThrow(MalformedBytesError);
  });
});

describe("flexible versions", () => {
  const edges = fc.constantFrom(0, 1, 127, 128, 16_383, 16_384, 2 ** 31, 2 ** 32 - 1);

  it("write numbers without sign and read them back, in as many bytes as counted", () => {
    fc.assert(
      fc.property(fc.oneof(fc.nat(), edges), (value) => {
        const writer = new Writer(uvarintSize(value));
        writer.uvarint(value);
        expect(writer.at).toBe(writer.bytes.length);
        expect(new Reader(writer.bytes).uvarint()).toBe(value);
      }),
    );
    expect(() => new Reader(Buffer.from([0x80])).uvarint()).toThrow(MalformedBytesError);
    expect(() => new Reader(Buffer.alloc(6, 0xff)).uvarint()).toThrow(MalformedBytesError);
    const beyond = Buffer.from([0xff, 0xff, 0xff, 0xff, 0x1f]);
    expect(() => new Reader(beyond).uvarint()).toThrow(MalformedBytesError);
  });

  it("keep null apart from empty, in bytes, text and lists", () => {
    for (const text of ["", "orders", "x".repeat(200)]) {
      const bytes = Buffer.from(text);
      const writer = new Writer(compactBytesSize(bytes));
      writer.compactBytes(bytes);
      expect(writer.at).toBe(writer.bytes.length);
      expect(new Reader(writer.bytes).compactString()).toBe(text);
    }
    expect(new Reader(Buffer.from([0])).compactString()).toBeNull();
    expect(new Reader(Buffer.from([0])).compactBytes()).toBeNull();
    expect(() => new Reader(Buffer.from([3, 1])).compactBytes()).toThrow(MalformedBytesError);
    const list = (bytes: number[]) => {
      const reader = new Reader(Buffer.from(bytes));
      return reader.compactList(() => reader.int8());
    };
    expect([list([0]), list([1]), list([3, 7, 8])]).toEqual([[], [], [7, 8]]);
  });

  it("skip optional fields that are not known, and read those that are", () => {
    const reader = new Reader(Buffer.from([2, 0, 4, 0, 0, 0, 9, 5, 2, 1, 1, 77]));
    const seen: number[][] = [];
    reader.tags((tag) => seen.push(tag === 0 ? [tag, reader.int32()] : [tag]));
    expect(seen).toEqual([[0, 9], [5]]);
    expect(reader.int8()).toBe(77);
    expect(() => new Reader(Buffer.from([1, 0, 9, 1])).tags()).toThrow(MalformedBytesError);
    const short = new Reader(Buffer.from([1, 0, 2, 0, 0, 0, 9]));
    expect(() => short.tags(() => short.int32())).toThrow(MalformedBytesError);
  });
});
