import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { MalformedBytesError, Reader, varbytesSize, varintSize, Writer } from "./wire.ts";

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
