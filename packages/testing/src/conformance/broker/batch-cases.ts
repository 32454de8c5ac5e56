/** B3: what is handed over, in which order, and what it accounts for. */
import { type Headers, systemClock } from "@oncebox/core";
import { holds, same } from "../check.ts";
import {
  type BrokerCase,
  join,
  names,
  networkOf,
  outcomes,
  plain,
  publish,
  received,
  record,
  sameChain,
} from "./arrange.ts";
import { listener } from "./listener.ts";

const orderCases: readonly BrokerCase[] = [
  {
    promise: "B3",
    name: "batches of each partition go on from one another, and miss nothing written meanwhile",
    run: async (context) => {
      const topic = await context.createTopic({ partitions: 2 });
      const member = await join(context, [topic]);
      const expected: string[][] = [[], []];
      for (const round of names("round", 8)) {
        for (const partition of [0, 1]) {
          const values = names(round, 5);
          await context.produce(topic, partition, plain(...values));
          expected[partition]?.push(...values);
        }
      }
      for (const partition of [0, 1]) {
        const at = { topic, partition };
        await received(member, 40, at);
        same(member.values(at), expected[partition], "the values in the order of the log");
        sameChain(member, at);
        same(member.position(at)?.offset, 40n, "the position behind everything");
      }
    },
  },
  {
    promise: "B3",
    name: "a large backlog comes in offset order, without a gap between its batches",
    run: async (context) => {
      const topic = await context.createTopic();
      const value = "x".repeat(200_000);
      for (let round = 0; round < 4; round += 1) {
        await context.produce(topic, 0, plain(value, value, value, value));
      }
      const member = await join(context, [topic]);
      await received(member, 16);
      const at = { topic, partition: 0 };
      sameChain(member, at);
      const offsets = member.batches(at).flatMap(({ records }) => records.map((r) => r.offset));
      same(offsets, [...Array(16).keys()].map(BigInt), "the offsets of the records");
    },
  },
  {
    promise: "B3",
    name: "what is told of a batch is not waited for",
    run: async (context) => {
      const topic = await context.createTopic();
      const ear = listener(context.patienceMs);
      const never = new Promise<never>(() => undefined);
      const deliver = (batch: Parameters<typeof ear.callbacks.deliver>[0]) => {
        ear.callbacks.deliver(batch);
        return never;
      };
      const stuck = { ...ear, callbacks: { ...ear.callbacks, deliver } };
      const member = await join(context, [topic], { ear: stuck });
      for (const [i, value] of names("v", 3).entries()) {
        await context.produce(topic, 0, plain(value));
        await received(member, i + 1);
      }
      same(member.values(), names("v", 3), "the values");
    },
  },
  {
    promise: "B3",
    name: "after its connections were cut it goes on where it was, without a gap",
    needs: ["network"],
    run: async (context) => {
      const topic = await context.createTopic();
      const { broker, cut } = await networkOf(context);
      const member = await join(context, [topic], { broker });
      await context.produce(topic, 0, plain("a", "b"));
      await received(member, 2);
      cut();
      await context.produce(topic, 0, plain("c"));
      await received(member, 3);
      same(member.values(), ["a", "b", "c"], "the values");
      sameChain(member, { topic, partition: 0 });
    },
  },
];

const zero = new Uint8Array([0, 0]);
const headers: Headers = [
  ["10", zero],
  ["b", null],
  ["a", new Uint8Array([0, 255])],
  ["b", new Uint8Array()],
  ["10", zero],
];

const contentCases: readonly BrokerCase[] = [
  {
    promise: "B3",
    name: "bytes, null, and headers with their repeats and order arrive as they were published",
    run: async (context) => {
      const topic = await context.createTopic();
      const broker = context.broker();
      const records = [
        record(topic, "", { key: zero, value: null, headers }),
        record(topic, "", { key: null, value: new Uint8Array([255, 0]) }),
        record(topic, "", { key: new Uint8Array(), value: new Uint8Array() }),
        record(topic, "", { key: null, value: null }),
      ];
      same(outcomes(await publish(broker, records), 4).acknowledged.length, 4, "acknowledged");
      const member = await join(context, [topic]);
      await received(member, 4);
      const found = member.batches().flatMap((batch) => batch.records);
      same(
        found.map((r) => ({ key: r.key, value: r.value, headers: r.headers })),
        records.map((r) => ({ key: r.key, value: r.value, headers: r.headers })),
        "the records",
      );
    },
  },
  {
    promise: "B3",
    name: "each record has its time and leader epoch, each batch its topic's id and its last epoch",
    run: async (context) => {
      const topic = await context.createTopic();
      const timestamp = BigInt(systemClock.epochMs()) - 60_000n;
      await context.produce(topic, 0, [{ value: "a", timestamp }, { value: "b" }]);
      const member = await join(context, [topic]);
      await received(member, 2);
      const { topicId } = await member.broker.offsets(topic, "latest");
      const batches = member.batches();
      const records = batches.flatMap((batch) => batch.records);
      same(records[0]?.timestamp, timestamp, "the time of the first record");
      const epochs = records.map(({ leaderEpoch }) => leaderEpoch ?? -1);
      holds(Math.min(...epochs) >= 0, `leader epochs must be known, but are ${epochs}`);
      for (const batch of batches) {
        holds(batch.topicId.length > 0, "a batch must carry the id of its topic");
        same(batch.topicId, topicId, "the topic's id");
        same(batch.endEpoch, epochs.at(-1), "the epoch of what lies before the end");
      }
    },
  },
];

const transactionCases: readonly BrokerCase[] = [
  {
    promise: "B3",
    name: "aborted records are never handed over, and are covered where nothing else is left",
    run: async (context) => {
      const topic = await context.createTopic();
      const at = { topic, partition: 0 };
      await (await context.transaction(topic, 0, "no", "no")).abort();
      const member = await join(context, [topic]);
      await member.until(() => member.batches().length > 0, "a batch without a record");
      await member.until(() => member.position(at)?.offset === 3n, "a position behind the marker");
      same(member.values(), [], "the values of an aborted transaction");
      await context.produce(topic, 0, plain("yes"));
      await received(member, 1);
      same(member.values(), ["yes"], "the values");
      same(member.batches().at(-1)?.records[0]?.offset, 3n, "the offset behind the marker");
      sameChain(member, at);
    },
  },
  {
    promise: "B3",
    name: "of committed and aborted transactions in a row the committed ones are handed over",
    run: async (context) => {
      const topic = await context.createTopic();
      const at = { topic, partition: 0 };
      await (await context.transaction(topic, 0, "a")).commit();
      await (await context.transaction(topic, 0, "no")).abort();
      await context.produce(topic, 0, plain("b"));
      await (await context.transaction(topic, 0, "c", "d")).commit();
      await (await context.transaction(topic, 0, "no")).abort();
      const member = await join(context, [topic]);
      await member.until(() => member.position(at)?.offset === 10n, "the end of the log");
      same(member.values(), ["a", "b", "c", "d"], "the values");
      const offsets = member.batches().flatMap(({ records }) => records.map((r) => r.offset));
      same(offsets, [0n, 4n, 5n, 6n], "their offsets");
      sameChain(member, at);
    },
  },
  {
    promise: "B3",
    name: "a fetch that begins inside overlapping transactions is not misled by them",
    run: async (context) => {
      const topic = await context.createTopic();
      const at = { topic, partition: 0 };
      const first = await context.transaction(topic, 0, "no");
      const second = await context.transaction(topic, 0, "yes");
      await first.write("no");
      await second.write("yes");
      await second.commit();
      await first.abort();
      await context.produce(topic, 0, plain("end"));
      const ear = listener(context.patienceMs);
      ear.set(at, null);
      const member = await join(context, [topic], { ear });
      const froms: readonly (readonly [bigint, readonly string[]])[] = [
        [0n, ["yes", "yes", "end"]],
        [1n, ["yes", "yes", "end"]],
        [2n, ["yes", "end"]],
        [4n, ["end"]],
      ];
      for (const [from, expected] of froms) {
        const before = member.values().length;
        member.set(at, from);
        await member.until(() => member.position(at)?.offset === 7n, "the end of the log");
        same(member.values().slice(before), [...expected], `the values from ${from} on`);
      }
    },
  },
];

export const batchCases = [...orderCases, ...contentCases, ...transactionCases];
