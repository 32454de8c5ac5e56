/** B1, B2: what a producer says of each record, and what the log says of it. */
import { type OutgoingRecord, systemClock } from "@oncebox/core";
import { eventually, holds, rejected, same } from "../check.ts";
import {
  type BrokerCase,
  bytes,
  keysIn,
  names,
  networkOf,
  outcomes,
  publish,
  record,
} from "./arrange.ts";

/** Larger than `recordBytesMax` of the small topic, smaller than any usual limit. */
const smallMax = 2_000;
const tooLarge = new Uint8Array(5_000);

const storedCases: readonly BrokerCase[] = [
  {
    promise: "B1",
    name: "what is acknowledged is stored, each partition in the order of the call",
    run: async (context) => {
      const wide = await context.createTopic({ partitions: 2 });
      const other = await context.createTopic();
      const homes: readonly (readonly [string, number])[] = [
        [wide, 1],
        [other, 0],
        [wide, 0],
        [wide, 1],
      ];
      const records = names("r", 100).map((name, i) => {
        const [topic, partition] = homes[i % homes.length] as readonly [string, number];
        return record(topic, name, { partition });
      });
      const found = outcomes(await publish(context.broker(), records), records.length);
      same(found.acknowledged.length, records.length, "the number of acknowledged records");
      const meant = (topic: string, partition: number) =>
        names("r", 100).filter((_, i) => {
          const { topic: home, partition: part } = records[i] as OutgoingRecord;
          return home === topic && part === partition;
        });
      same(await keysIn(context, wide, 0), meant(wide, 0), "the keys in partition 0");
      same(await keysIn(context, wide, 1), meant(wide, 1), "the keys in partition 1");
      same(await keysIn(context, other), meant(other, 0), "the keys in the other topic");
    },
  },
  {
    promise: "B1",
    name: "more than fits one batch is stored in the order of the call",
    run: async (context) => {
      const topic = await context.createTopic();
      const value = new Uint8Array(250_000);
      const keys = names("large", 9);
      const records = keys.map((name) => record(topic, name, { value }));
      const { acknowledged } = outcomes(await publish(context.broker(), records), 9);
      same(acknowledged.length, 9, "the number of acknowledged records");
      same(await keysIn(context, topic), keys, "the keys in the log");
    },
  },
  {
    promise: "B1",
    name: "calls at once are carried out one after another, in their order",
    run: async (context) => {
      const topic = await context.createTopic();
      const producer = await context.broker().producer();
      const keys = names("call", 20);
      const results = await Promise.all(keys.map((key) => producer.publish([record(topic, key)])));
      const taken = keys.filter((_, i) => results[i]?.acknowledged.length === 1);
      holds(taken.length > 0, "one of the calls at least must be acknowledged");
      same(await keysIn(context, topic), taken, "the keys in the log");
    },
  },
  {
    promise: "B1",
    name: "what no server has taken is not acknowledged",
    run: async ({ unreachable }) => {
      const broker = unreachable({ publishTimeoutMs: 1_500 });
      const { acknowledged } = outcomes(await publish(broker, [record("t", "a")]), 1);
      same(acknowledged, [], "the acknowledged indexes");
    },
  },
  {
    promise: "B1",
    name: "what too few replicas could store is not acknowledged; the rest of the call is",
    needs: ["replica-shortage"],
    run: async (context) => {
      const { understaffedTopic } = context;
      holds(understaffedTopic !== undefined, "the environment must have an understaffed topic");
      const short = await understaffedTopic();
      const topic = await context.createTopic();
      const records = [record(short, "a"), record(topic, "b"), record(short, "c")];
      const found = outcomes(await publish(context.broker(), records), 3);
      same(found.acknowledged, [1], "the acknowledged indexes");
      same(await keysIn(context, topic), ["b"], "the keys in the other topic");
    },
  },
];

const outcomeCases: readonly BrokerCase[] = [
  {
    promise: "B2",
    name: "each record of a mixed call has one outcome: acknowledged, unknown or refused",
    run: async (context) => {
      const topic = await context.createTopic();
      const small = await context.createTopic({ recordBytesMax: smallMax });
      const missing = context.newName();
      const records = [
        record(topic, "a"),
        record(missing, "b"),
        record(small, "c", { value: tooLarge }),
        record(topic, "d", { partition: 7 }),
        record(topic, "e"),
        record(small, "f"),
      ];
      const found = outcomes(await publish(context.broker(), records), records.length);
      same(found.acknowledged, [0, 4, 5], "the acknowledged indexes");
      const scopes = found.refused.filter(([index]) => index === 1 || index === 2);
      const expected: typeof scopes = [
        [1, "topic"],
        [2, "message"],
      ];
      same(scopes, expected, "what is refused");
      same(await keysIn(context, topic), ["a", "e"], "the keys in the topic");
      same(await keysIn(context, small), ["f"], "the keys in the small topic");
    },
  },
  {
    promise: "B2",
    name: "a record that is too large is refused alone, wherever it stands in the call",
    run: async (context) => {
      const topic = await context.createTopic({ recordBytesMax: smallMax });
      const keys = names("k", 30);
      for (const guilty of [0, 17, 29]) {
        const records = keys.map((name, i) =>
          i === guilty ? record(topic, name, { value: tooLarge }) : record(topic, name),
        );
        const found = outcomes(await publish(context.broker(), records), records.length);
        same(found.refused, [[guilty, "message"]], "what is refused");
        same(found.unknown, [], "the unknown indexes");
      }
      const kept = [0, 17, 29].flatMap((guilty) => keys.filter((_, i) => i !== guilty));
      same(await keysIn(context, topic), kept, "the keys in the log");
    },
  },
  {
    promise: "B2",
    name: "a missing topic is refused as a topic, with its code, and is not created",
    run: async (context) => {
      const broker = context.broker();
      const missing = context.newName();
      const result = await publish(broker, [record(missing, "a"), record(missing, "b")]);
      const { refused } = outcomes(result, 2);
      same(
        refused.map(([, scope]) => scope),
        ["topic", "topic"],
        "the scopes of what is refused",
      );
      for (const { error } of result.refused) {
        await rejected(Promise.reject(error), "topic-missing", "each record");
      }
      await rejected(broker.partitions(missing), "topic-missing", "asking for it afterwards");
    },
  },
  {
    promise: "B2",
    name: "a call without records has no outcome, and none fails after the end",
    run: async (context) => {
      const topic = await context.createTopic();
      const producer = await context.broker().producer();
      outcomes(await producer.publish([]), 0);
      await producer.close();
      const { acknowledged } = outcomes(await producer.publish([record(topic, "late")]), 1);
      same(acknowledged, [], "the acknowledged indexes after the end");
      same(await keysIn(context, topic), [], "the keys in the log");
    },
  },
  {
    promise: "B2",
    name: "where no server can be reached all is unknown, in time, and nothing rejects",
    run: async (context) => {
      const broker = context.unreachable({ publishTimeoutMs: 1_500 });
      const producer = await broker.producer();
      const start = systemClock.now();
      const result = await producer.publish([record("t", "a"), record("t", "b")]);
      const took = systemClock.now() - start;
      same(outcomes(result, 2), { acknowledged: [], unknown: [0, 1], refused: [] }, "the outcome");
      const allowed = broker.timing.publishTimeoutMs + 2_000;
      holds(took < allowed, `a publish must be over within ${allowed} ms, but took ${took}`);
      await producer.close();
    },
  },
];

const faultCases: readonly BrokerCase[] = [
  {
    promise: "B2",
    name: "what nobody answers is unknown by the time-out, and later calls go through",
    needs: ["network"],
    run: async (context) => {
      const topic = await context.createTopic();
      const { broker, silence, resume } = await networkOf(context, { publishTimeoutMs: 1_500 });
      const producer = await broker.producer();
      same((await producer.publish([record(topic, "a")])).acknowledged, [0], "the first outcome");
      silence();
      const records = [record(topic, "b"), record(topic, "c")];
      const found = outcomes(await producer.publish(records), 2);
      same(found, { acknowledged: [], unknown: [0, 1], refused: [] }, "the outcome in silence");
      resume();
      await untilAcknowledged(context.patienceMs, () => producer.publish([record(topic, "d")]));
      const keys = await keysIn(context, topic);
      holds(keys[0] === "a" && keys.includes("d"), "what is acknowledged must be in the log");
      await producer.close();
    },
  },
  {
    promise: "B2",
    name: "a connection that was cut costs no call its outcome",
    needs: ["network"],
    run: async (context) => {
      const topic = await context.createTopic();
      const { broker, cut } = await networkOf(context);
      const producer = await broker.producer();
      const acknowledged: string[] = [];
      for (const key of names("cut", 6)) {
        cut();
        const found = outcomes(await producer.publish([record(topic, key)]), 1);
        if (found.acknowledged.length === 1) acknowledged.push(key);
      }
      await untilAcknowledged(context.patienceMs, () => producer.publish([record(topic, "end")]));
      const keys = await keysIn(context, topic);
      const missing = [...acknowledged, "end"].filter((key) => !keys.includes(key));
      same(missing, [], "the acknowledged keys that are not in the log");
      await producer.close();
    },
  },
];

/** Until one call is acknowledged; each has its one record. */
async function untilAcknowledged(
  ms: number,
  call: () => Promise<Parameters<typeof outcomes>[0]>,
): Promise<void> {
  const probe = async () => {
    const { acknowledged } = outcomes(await call(), 1);
    return acknowledged.length === 1 ? true : undefined;
  };
  await eventually(ms, probe, "an acknowledged publish");
}

/** From the tests of Kafka's Java client: murmur2 as signed numbers. */
const golden: readonly (readonly [string, number])[] = [
  ["21", -973_932_308],
  ["foobar", -790_332_482],
  ["a-little-bit-long-string", -985_981_536],
  ["a-little-bit-longer-string", -1_486_304_829],
  ["lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971],
  ["abc", 479_470_107],
];

const partitionCases: readonly BrokerCase[] = [
  {
    promise: "B1",
    name: "the partition of a key is that of Kafka's Java client; without a key the id decides",
    run: async ({ broker }) => {
      const { partitionOf } = broker();
      for (const [key, hash] of golden) {
        for (const count of [1, 3, 12, 1_000]) {
          const expected = (hash & 0x7fff_ffff) % count;
          same(partitionOf(bytes(key), "an id", count), expected, `${key} among ${count}`);
          same(partitionOf(null, key, count), expected, `the id ${key} among ${count}`);
        }
      }
      const empty = new Uint8Array();
      same(partitionOf(empty, "foobar", 12), partitionOf(empty, "", 12), "that of an empty key");
    },
  },
];

export const publishCases = [...storedCases, ...partitionCases, ...outcomeCases, ...faultCases];
