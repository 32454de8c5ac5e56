import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { checksumOf, concat, crc32c, laneCount, laneOf, murmur2, sha256First16 } from "./hashes.ts";
import { utf8 } from "./message.ts";

const hex = (bytes: Uint8Array) =>
  Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");

describe("murmur2", () => {
  // Of org.apache.kafka.common.utils.UtilsTest: rows and partitions rest on these for ever.
  it.each([
    ["21", -973932308],
    ["foobar", -790332482],
    ["a-little-bit-long-string", -985981536],
    ["a-little-bit-longer-string", -1486304829],
    ["lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971],
    ["abc", 479470107],
  ])("of %j is what Kafka's Java client computes", (text, signed) => {
    expect(murmur2(utf8(text)) | 0).toBe(signed);
  });

  it("is an unsigned 32 bit number for any bytes", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
        const hash = murmur2(bytes);
        expect(Number.isInteger(hash) && hash >= 0 && hash < 2 ** 32).toBe(true);
      }),
    );
  });
});

describe("laneOf", () => {
  // Computed by another program. Rows carry their lane: these never change.
  it.each([
    ["orders.placed", utf8("order-1"), 30],
    ["orders.placed", utf8("order-2"), 43],
    ["orders.paid", utf8("order-1"), 23],
    ["orders.placed", Uint8Array.of(0, 255, 128), 34],
    ["t", new Uint8Array(0), 2],
  ])("of %j and a key is fixed", (topic, key, lane) => {
    expect(laneOf(utf8(topic), key)).toBe(lane);
  });

  it("spreads keys over all lanes", () => {
    const lanes = new Set(
      Array.from({ length: 2_000 }, (_, i) => laneOf(utf8("t"), utf8(`key-${i}`))),
    );
    expect(lanes.size).toBe(laneCount);
  });
});

describe("crc32c", () => {
  it("is that of the standard, over the part that is named", () => {
    expect(crc32c(utf8("123456789"), 0, 9) >>> 0).toBe(0xe3069283);
    expect(crc32c(utf8("01234567890"), 1, 10) >>> 0).toBe(0xe3069283);
  });
});

describe("checksumOf", () => {
  const bytes = (length: number, value: number) => new Uint8Array(length).fill(value);

  it("is CRC-32C", () => {
    // RFC 3720 B.4: 32 bytes of zeros, then of ones. Eight empty parts are eight lengths of 0, eight
    // nulls are eight lengths of -1.
    expect(checksumOf(...Array<Uint8Array>(8).fill(bytes(0, 0))) >>> 0).toBe(0x8a9136aa);
    expect(checksumOf(...Array<null>(8).fill(null)) >>> 0).toBe(0x62a8ab43);
  });

  // Computed by another program. Stored beside ids: these never change.
  it.each([
    [utf8("k"), utf8("v"), 269445522],
    [null, utf8("v"), -1151019923],
    [utf8("kv"), utf8(""), -550639462],
    [utf8(""), utf8("kv"), -756785244],
    [utf8("k"), null, 1122030366],
    [utf8("order-1"), utf8('{"id":"1"}'), 1939458872],
  ])("of a key and a value is fixed", (key, value, signed) => {
    expect(checksumOf(key, value)).toBe(signed);
  });

  it("tells apart where one part ends", () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 1, maxLength: 20 }), fc.nat(19), (all, at) => {
        fc.pre(at < all.length);
        const split = checksumOf(all.slice(0, at), all.slice(at));
        expect(split).not.toBe(checksumOf(all, new Uint8Array(0)));
        expect(split).not.toBe(checksumOf(all));
      }),
    );
  });
});

it("sha256First16 is the first half of SHA-256", () => {
  expect(hex(sha256First16(utf8("order-1")))).toBe("0bafe22156d2698c143b86040446d366");
});

it("concat joins in order", () => {
  expect(hex(concat([utf8("a"), new Uint8Array(0), utf8("bc")]))).toBe("616263");
});
