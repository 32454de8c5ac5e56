import kafkajs from "kafkajs";
import { expect, it } from "vitest";
import { kafkajsBroker } from "./kafkajs-broker.ts";

const { partitionOf } = kafkajsBroker({ brokers: ["localhost:9092"] });
const text = (value: string) => new TextEncoder().encode(value);

// From the tests of Kafka's Java client (UtilsTest.testMurmur2), as signed numbers.
const golden: readonly (readonly [string, number])[] = [
  ["21", -973932308],
  ["foobar", -790332482],
  ["a-little-bit-long-string", -985981536],
  ["a-little-bit-longer-string", -1486304829],
  ["lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971],
  ["abc", 479470107],
];

it.each(golden)("chooses for %s as the Java client does", (key, hash) => {
  for (const count of [1, 3, 12, 1000]) {
    expect(partitionOf(text(key), "", count)).toBe((hash & 0x7fffffff) % count);
  }
});

it("agrees with kafkajs on any bytes", () => {
  const theirs = kafkajs.Partitioners.DefaultPartitioner();
  const partitionMetadata = Array.from({ length: 7 }, (_, partitionId) => ({
    partitionId,
    partitionErrorCode: 0,
    leader: 1,
    replicas: [],
    isr: [],
  }));
  for (let length = 0; length < 64; length += 1) {
    const key = Buffer.from(Array.from({ length }, (_, i) => (i * 89 + length * 31) & 0xff));
    const message = { key, value: null };
    expect(partitionOf(key, "", 7)).toBe(theirs({ topic: "t", partitionMetadata, message }));
  }
});

it("takes the id where there is no key, and an empty key for a key", () => {
  expect(partitionOf(null, "foobar", 12)).toBe(partitionOf(text("foobar"), "", 12));
  expect(partitionOf(new Uint8Array(), "foobar", 12)).toBe(partitionOf(text(""), "", 12));
});
