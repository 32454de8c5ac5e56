/** B7: positions that do not fit the log, and what may be asked of a log. */
import { type FetchPosition, systemClock, type TopicPartition } from "@oncebox/core";
import { failureOf, holds, rejected, same } from "../check.ts";
import { type BrokerCase, join, type Member, owns, plain, received } from "./arrange.ts";
import { type Displaced, listener, nameOf } from "./listener.ts";

/** Resolves with the first report; or with none, once a batch shows that there will be no report. */
async function reported(member: Member, at: TopicPartition): Promise<Omit<Displaced, "what">[]> {
  const of = () => member.displaced().filter((each) => nameOf(each.at) === nameOf(at));
  const known = member.batches(at).length;
  const before = of().length;
  await member.until(
    () => of().length > before || member.batches(at).length > known,
    `a report of the position in ${nameOf(at)}`,
  );
  return of().slice(before);
}

/** Shows that another partition still goes on. */
async function goesOn(
  member: Member,
  at: TopicPartition,
  write: () => Promise<unknown>,
): Promise<void> {
  const before = member.values(at).length;
  await write();
  await received(member, before + 1, at);
}

const rangeCases: readonly BrokerCase[] = [
  {
    promise: "B7",
    name: "a position above the log is reported with the log's bounds and never followed",
    run: async (context) => {
      const topic = await context.createTopic({ partitions: 2 });
      const [at, other] = [
        { topic, partition: 0 },
        { topic, partition: 1 },
      ];
      await context.produce(topic, 0, plain("a", "b"));
      const ear = listener(context.patienceMs);
      ear.set(at, 50n);
      const member = await join(context, [topic], { ear });
      const why = { kind: "out-of-range", log: { start: 0n, end: 2n } } as const;
      same(await reported(member, at), [{ at, asked: 50n, why }], "the report");
      await goesOn(member, other, () => context.produce(topic, 1, plain("c")));
      member.set(at, 3n);
      same(await reported(member, at), [{ at, asked: 3n, why }], "the report of the next position");
      same(member.batches(at), [], "what was delivered meanwhile");
      member.set(at, 1n);
      await received(member, 1, at);
      same(member.values(at), ["b"], "the values from a position that fits");
    },
  },
  {
    promise: "B7",
    name: "a position below the log is reported with the log's bounds and never followed",
    run: async (context) => {
      const topic = await context.createTopic({ partitions: 2 });
      const [at, other] = [
        { topic, partition: 0 },
        { topic, partition: 1 },
      ];
      await context.produce(topic, 0, plain("a", "b", "c"));
      await context.deleteRecords(topic, 0, 2n);
      const member = await join(context, [topic]);
      const why = { kind: "out-of-range", log: { start: 2n, end: 3n } } as const;
      same(await reported(member, at), [{ at, asked: 0n, why }], "the report");
      await goesOn(member, other, () => context.produce(topic, 1, plain("x")));
      same(member.batches(at), [], "what was delivered meanwhile");
      member.set(at, 2n);
      await received(member, 1, at);
      same(member.values(at), ["c"], "the values from the log's start");
    },
  },
  {
    promise: "B7",
    name: "a position past what its epoch wrote is reported with what the logs share",
    run: async (context) => {
      const topic = await context.createTopic();
      const at = { topic, partition: 0 };
      await context.produce(topic, 0, plain("a", "b"));
      const member = await join(context, [topic]);
      await received(member, 2);
      const known = member.position(at);
      holds(known !== null && known.leaderEpoch !== null, "a position with an epoch is known");
      member.set(at, { ...known, offset: 50n });
      const why = { kind: "log-diverged", endOffset: 2n } as const;
      same(await reported(member, at), [{ at, asked: 50n, why }], "the report");
    },
  },
];

/** Reads both topics to their ends; then the first is made anew, with these values in it. */
async function recreated(
  context: Parameters<BrokerCase["run"]>[0],
  ...values: readonly string[]
): Promise<void> {
  const [topic, kept] = [await context.createTopic(), await context.createTopic()];
  const [at, other] = [
    { topic, partition: 0 },
    { topic: kept, partition: 0 },
  ];
  await context.produce(topic, 0, plain("a", "b", "c"));
  const member = await join(context, [topic, kept]);
  await received(member, 3, at);
  // Held still meanwhile, so that the first fetch afterwards finds all of it.
  const position = member.position(at) as FetchPosition;
  member.set(at, null);
  const topicId = await context.recreateTopic(topic);
  if (values.length > 0) await context.produce(topic, 0, plain(...values));
  holds(position.topicId !== topicId, "a topic made anew must have another id");
  member.set(at, position);
  const why = { kind: "topic-recreated", topicId } as const;
  same(await reported(member, at), [{ at, asked: 3n, why }], "the report");
  same(member.values(at), ["a", "b", "c"], "the values of the topic as it was");
  await goesOn(member, other, () => context.produce(kept, 0, plain("x")));
  member.set(at, 0n);
  await context.produce(topic, 0, plain("end"));
  await received(member, 3 + values.length + 1, at);
  same(member.values(at).slice(3), [...values, "end"], "the values of the new one, from its start");
}

const topicCases: readonly BrokerCase[] = [
  {
    promise: "B7",
    name: "a topic made anew and empty is reported with its new id; the others go on",
    run: (context) => recreated(context),
  },
  {
    promise: "B7",
    name: "a topic made anew and filled past the position is reported, and nothing of it delivered",
    run: (context) => recreated(context, "new 0", "new 1", "new 2", "new 3", "new 4"),
  },
  {
    promise: "B7",
    name: "a position of another topic's id is reported from the first fetch on",
    run: async (context) => {
      const [topic, other] = [await context.createTopic(), await context.createTopic()];
      const at = { topic, partition: 0 };
      await context.produce(topic, 0, plain("a", "b"));
      const broker = context.broker();
      const { topicId } = await broker.offsets(topic, "latest");
      const { topicId: foreign } = await broker.offsets(other, "latest");
      holds(topicId !== null && foreign !== null, "both topics must have ids");
      const ear = listener(context.patienceMs);
      ear.set(at, { offset: 1n, topicId: foreign, leaderEpoch: null });
      const member = await join(context, [topic], { ear, broker });
      const why = { kind: "topic-recreated", topicId } as const;
      same(await reported(member, at), [{ at, asked: 1n, why }], "the report");
      member.set(at, { offset: 1n, topicId, leaderEpoch: null });
      await received(member, 1);
      same(member.values(), ["b"], "the values from a position that fits");
    },
  },
  {
    promise: "B7",
    name: "a topic that is deleted is reported as missing; the others go on",
    run: async (context) => {
      const [gone, kept] = [await context.createTopic(), await context.createTopic()];
      const [at, other] = [
        { topic: gone, partition: 0 },
        { topic: kept, partition: 0 },
      ];
      const member = await join(context, [gone, kept]);
      await owns(member, 2);
      await goesOn(member, at, () => context.produce(gone, 0, plain("a")));
      await context.deleteTopic(gone);
      const why = { kind: "topic-missing" } as const;
      same(await reported(member, at), [{ at, asked: 1n, why }], "the report");
      await goesOn(member, other, () => context.produce(kept, 0, plain("x")));
    },
  },
  {
    promise: "B7",
    name: "a consumer of a missing topic is refused by name, unless it may be missing",
    run: async (context) => {
      const topic = await context.createTopic();
      const missing = context.newName();
      const refused = join(context, [topic, missing]);
      const error = await rejected(refused, "topic-missing", "a consumer of a missing topic");
      holds(error.message.includes(missing), `the error must name ${missing}: ${error.message}`);
      const member = await join(context, [topic, missing], { requireTopics: false });
      const at = { topic, partition: 0 };
      await goesOn(member, at, () => context.produce(topic, 0, plain("a")));
    },
  },
];

const questionCases: readonly BrokerCase[] = [
  {
    promise: "B7",
    name: "the partitions of a topic are counted, and those of a missing one are not made",
    run: async (context) => {
      const topic = await context.createTopic({ partitions: 3 });
      const broker = context.broker();
      same(await broker.partitions(topic), 3, "the number of partitions");
      const missing = context.newName();
      await rejected(broker.partitions(missing), "topic-missing", "a missing topic's partitions");
      await rejected(broker.offsets(missing, "latest"), "topic-missing", "its offsets");
      await failureOf(broker.partitions(missing), "the topic must still be missing");
    },
  },
  {
    promise: "B7",
    name: "the bounds of every partition are told, and the first offset at or after a time",
    run: async (context) => {
      const topic = await context.createTopic({ partitions: 2 });
      const now = BigInt(systemClock.epochMs());
      const times = [now - 30_000n, now - 20_000n, now - 10_000n];
      for (const timestamp of times) {
        await context.produce(topic, 0, [{ value: "v", timestamp }]);
      }
      const broker = context.broker();
      const told = async (at: Parameters<typeof broker.offsets>[1]) => {
        const { offsets } = await broker.offsets(topic, at);
        return [...offsets].sort(([a], [b]) => a - b).map(([, offset]) => offset);
      };
      same(await told("latest"), [3n, 0n], "the next offsets");
      same(await told({ timestamp: times[1] as bigint }), [1n, 0n], "those at a record's time");
      same(await told({ timestamp: now - 19_999n }), [2n, 0n], "those just after it");
      same(await told({ timestamp: 0n }), [0n, 0n], "those after the beginning of time");
      same(await told({ timestamp: now + 3_600_000n }), [3n, 0n], "those where nothing is so late");
      await context.deleteRecords(topic, 0, 2n);
      same(await told("earliest"), [2n, 0n], "the first offsets that are kept");
      const { topicId } = await broker.offsets(topic, "earliest");
      const ear = listener(context.patienceMs);
      ear.set({ topic, partition: 0 }, 2n);
      const member = await join(context, [topic], { ear });
      await received(member, 1);
      same(member.batches()[0]?.topicId, topicId, "the topic's id, as batches tell it");
    },
  },
];

export const displacementCases = [...rangeCases, ...topicCases, ...questionCases];
