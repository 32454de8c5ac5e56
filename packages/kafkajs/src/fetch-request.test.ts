import { expect, it } from "vitest";
import { type AskedPartition, fetchRequest } from "./fetch-request.ts";
import { metadataRequest } from "./metadata-request.ts";
import { Reader } from "./wire.ts";

const idOf = (fill: number) => Buffer.alloc(16, fill).toString("base64url");

it("asks for partitions in their order, each with the epoch of what lies before", () => {
  const partitions: AskedPartition[] = [
    { topicId: idOf(1), partition: 4, offset: 2n ** 60n, leaderEpoch: 7, bytesMax: 99 },
    { topicId: idOf(2), partition: 0, offset: 0n, leaderEpoch: null, bytesMax: 98 },
    { topicId: idOf(1), partition: 3, offset: 1n, leaderEpoch: 0, bytesMax: 97 },
  ];
  const { body } = fetchRequest({ maxWaitMs: 250, minBytes: 1, bytesMax: 1_000, partitions });
  const reader = new Reader(body);
  reader.tags(); // of the header
  const head = [reader.int32(), reader.int32(), reader.int32(), reader.int32(), reader.int8()];
  expect(head).toEqual([-1, 250, 1, 1_000, 1]);
  expect([reader.int32(), reader.int32()]).toEqual([0, -1]);
  const asked = reader.compactList(() => {
    const topicId = reader.uuid();
    const entries = reader.compactList(() => {
      const partition = reader.int32();
      expect(reader.int32()).toBe(-1);
      const offset = reader.int64();
      const epoch = reader.int32();
      expect(reader.int64()).toBe(-1n);
      const bytesMax = reader.int32();
      reader.tags();
      const leaderEpoch = epoch === -1 ? null : epoch;
      return { topicId, partition, offset, leaderEpoch, bytesMax };
    });
    reader.tags();
    return entries;
  });
  expect(asked.flat()).toEqual(partitions);
  expect(reader.compactList(() => 0)).toEqual([]);
  expect(reader.compactString()).toBe("");
  reader.tags();
  expect(reader.left).toBe(0);
});

it("reads an answer, with and without a log that has gone on differently", () => {
  const answer = Buffer.concat([
    Buffer.from("00000005" + "0000" + "00000000", "hex"), // throttle, error, session
    Buffer.from([2]), // one topic
    Buffer.alloc(16, 9),
    Buffer.from([3]), // two partitions
    partitionBytes(0, "02" + "0000000000000001" + "0000000000000002" + "00", ""),
    partitionBytes(1, "00", "01" + "00" + "0d" + "00000004" + "0000000000000003" + "00"),
    Buffer.from([0, 0]),
  ]);
  const { decode } = fetchRequest({ maxWaitMs: 1, minBytes: 1, bytesMax: 1, partitions: [] });
  const reader = new Reader(answer);
  const common = {
    topicId: idOf(9),
    errorCode: 0,
    highWatermark: 8n,
    lastStable: 7n,
    logStart: 6n,
  };
  expect(decode(reader)).toEqual({
    throttleMs: 5,
    errorCode: 0,
    partitions: [
      {
        ...common,
        partition: 0,
        aborted: [{ producerId: 1n, firstOffset: 2n }],
        diverging: null,
        bytes: Buffer.from("ab"),
      },
      {
        ...common,
        partition: 1,
        aborted: [],
        diverging: { epoch: 4, endOffset: 3n },
        bytes: Buffer.from("ab"),
      },
    ],
  });
  expect(reader.left).toBe(0);
});

/** Numbers, aborted transactions, no preferred replica, two bytes of records, optional fields. */
function partitionBytes(partition: number, aborted: string, tags: string): Buffer {
  const head = Buffer.alloc(30);
  head.writeInt32BE(partition, 0);
  for (const [i, value] of [8n, 7n, 6n].entries()) head.writeBigInt64BE(value, 6 + i * 8);
  const rest = `${aborted}ffffffff03${Buffer.from("ab").toString("hex")}${tags || "00"}`;
  return Buffer.concat([head, Buffer.from(rest, "hex")]);
}

it("asks for topics by name and reads their ids", () => {
  const { body, decode } = metadataRequest(["orders"]);
  const reader = new Reader(body);
  reader.tags();
  const names = reader.compactList(() => {
    reader.uuid();
    const name = reader.compactString();
    reader.tags();
    return name;
  });
  expect(names).toEqual(["orders"]);
  // Neither created nor described further.
  expect([reader.int8(), reader.int8()]).toEqual([0, 0]);
  reader.tags();
  expect(reader.left).toBe(0);
  const topic = (code: number, name: string, id: number, partitions: string) =>
    Buffer.concat([
      Buffer.from([0, code, name.length + 1]),
      Buffer.from(name),
      Buffer.alloc(16, id),
      Buffer.from(`00${partitions}8000000000`, "hex"),
    ]);
  const answer = Buffer.concat([
    Buffer.from("00000000", "hex"),
    Buffer.from(`02${"00000001"}026b${"00002384"}0000`, "hex"), // one node, k:9092, no rack
    Buffer.from(`00${"00000001"}03`, "hex"), // no cluster id, controller, two topics
    topic(0, "a", 9, `02${"0000"}${"00000000".repeat(3)}02${"00000001"}02${"00000001"}0100`),
    topic(3, "b", 0, "01"),
    Buffer.from([0]),
  ]);
  const answered = new Reader(answer);
  expect(decode(answered).topics).toEqual(
    new Map([
      ["a", { code: 0, topicId: idOf(9) }],
      ["b", { code: 3, topicId: null }],
    ]),
  );
  expect(answered.left).toBe(0);
});
