/** I1, I4: what a position says of its log, and what can be asked beside the chunks. */
import type { LogMark } from "@oncebox/core";
import { holds, same } from "../check.ts";
import {
  claim,
  claimFirst,
  consumer,
  groupId,
  id,
  noMark,
  record,
  ref,
  register,
  type StorageCase,
  seek,
  shortWaitMs,
  topic,
} from "./arrange.ts";

/** Values at their ends: a checksum is any 32 bits, a time any number. */
const someMark: LogMark = {
  topicId: "f47ac10b-58cc-4372-a567-0e02b2c3d479",
  leaderEpoch: 2 ** 31 - 1,
  last: { offset: 2n ** 62n, timestamp: -1n, checksum: -(2 ** 31) },
};
const laterMark: LogMark = {
  topicId: "9hSYKh5hRs-8Ht5TAeRcCQ",
  leaderEpoch: 0,
  last: { offset: 0n, timestamp: 0n, checksum: 0 },
};

const markCases: readonly StorageCase[] = [
  {
    promise: "I1",
    name: "a claim tells the log of its position, its replay and the last seek, and changes none",
    run: async ({ storage, another }) => {
      const start = new Map([[0, 9n]]);
      const { topicId } = someMark;
      const added = new Map<number, bigint>();
      await storage.registerTopic({ consumer, groupId, topic, topicId, start, added });
      const first = await claim(storage);
      same(first.log, { ...noMark, topicId }, "the log of a registered position");
      same(first.replay, { number: 0, until: 0n }, "the replay of one that was never moved");
      same(first.soughtEpoch, 0n, "the epoch of its last seek");
      await seek(storage, [{ partition: 0, to: 3n }], { topicId, replay: true });
      await (await storage.open(await claim(storage), [])).commit(4n, someMark);
      const other = another();
      const after = { log: someMark, replay: { number: 1, until: 9n }, soughtEpoch: 2n };
      for (const side of [storage, other]) {
        const { log, replay, soughtEpoch } = await claim(side);
        same({ log, replay, soughtEpoch }, after, "what a claim tells after a seek and a commit");
      }
    },
  },
  {
    promise: "I4",
    name: "a commit writes the mark of the log; without a last record the one before stays",
    run: async ({ storage, another }) => {
      const claimed = await claimFirst(storage);
      const other = another();
      const written = async (next: bigint, mark: LogMark, expected: LogMark, what: string) => {
        await (await storage.open(claimed, [])).commit(next, mark);
        const [position] = (await other.positions(consumer)).positions;
        same(position?.nextOffset, next, "next_offset");
        same(position?.log, expected, what);
      };
      await written(1n, noMark, noMark, "the log where nothing was read");
      await written(2n, someMark, someMark, "the log after a record");
      await written(
        3n,
        { ...laterMark, last: null },
        { ...laterMark, last: someMark.last },
        "then",
      );
      await written(4n, noMark, { ...noMark, last: someMark.last }, "the log that is not known");
      await written(5n, laterMark, laterMark, "the log after another record");
      const chunk = await storage.open(claimed, []);
      await chunk.rollback();
      same((await claim(storage)).log, laterMark, "the log after a rollback");
    },
  },
];

const lookCases: readonly StorageCase[] = [
  {
    promise: "I1",
    name: "of many claims those taken over are lost, and asking neither waits nor takes",
    run: async ({ storage, another }) => {
      await register(storage, 0n, 0n, 0n);
      const held = await claim(storage, 0);
      const taken = await claim(storage, 1);
      const sought = await claim(storage, 2);
      const other = another();
      same(await other.lostClaims([]), [], "the lost ones of no claims");
      same(await other.lostClaims([held, taken, sought]), [], "the lost claims before any loss");
      const live = await claim(other, 1);
      // To where it is: the position alone would not tell.
      await seek(other, [{ partition: 2, to: 0n }]);
      const unknown = { ...held, consumer: "unknown" };
      const chunk = await storage.open(held, [record(0)]);
      const asked = [unknown, taken, held, { ...sought, topic: "unknown" }, live, sought];
      const lost = await other.lostClaims(asked);
      const places = lost.map((each) => asked.indexOf(each));
      same(places, [0, 1, 3, 5], "the places of the lost claims");
      await chunk.commit(1n, noMark);
      await (await other.open(live, [])).rollback();
    },
  },
  {
    promise: "I1",
    name: "a claim is lost as well where its row stands elsewhere than its holder believes",
    run: async ({ storage }) => {
      await register(storage, 4n);
      const held = await claim(storage, 0);
      const chunk = await storage.open(held, [record(4)]);
      await chunk.commit(5n, noMark);
      const here = { ...held, nextOffset: 5n };
      same(await storage.lostClaims([here]), [], "the lost ones of claims that stand");
      // As after a restore: the row is lower, its token the same.
      const ahead = { ...held, nextOffset: 6n };
      same(await storage.lostClaims([here, ahead]), [ahead], "the lost ones of claims that moved");
    },
  },
  {
    promise: "I4",
    name: "positions are told by topic and partition, as they are committed, without a claim",
    run: async ({ storage, another, begin }) => {
      const own = await begin();
      await storage.recordIds(own.tx, "shipping", [{ source: topic, id: id(0), checksum: null }]);
      await own.commit();
      const other = another();
      const { incarnation, at, ...none } = await other.positions(consumer);
      same(none, { groupId: null, positions: [] }, "the positions of an unknown consumer");
      const idsOnly = { groupId: null, incarnation, positions: [] };
      const { at: later, ...shipping } = await other.positions("shipping");
      same(shipping, idsOnly, "those of one that records ids only");
      holds(at > 0 && later >= at, "the clock of the database must go on between two looks");
      const usual = { consumer, groupId, topicId: "an id", added: new Map<number, bigint>() };
      const start = new Map([10, 2].map((partition) => [partition, BigInt(partition)]));
      for (const each of ["b", "a", "Z"]) {
        await storage.registerTopic({ ...usual, topic: each, start });
      }
      const claimed = await storage.claim({ ...ref(2), topic: "a" }, shortWaitMs);
      holds(claimed !== null, "a claim of a registered partition must not be null");
      const chunk = await storage.open(claimed, [record(2)]);
      const read = await other.positions(consumer);
      await chunk.rollback();
      same(
        { groupId: read.groupId, incarnation: read.incarnation },
        { groupId, incarnation: claimed.incarnation },
        "the group and the database",
      );
      same(incarnation, claimed.incarnation, "the database, as told of an unknown consumer");
      const log = { ...noMark, topicId: "an id" };
      const free = { epoch: 0n, owner: null, log };
      const expected = ["Z", "a", "b"].flatMap((each) =>
        [2, 10].map((partition) => ({
          ...{ topic: each, partition, nextOffset: BigInt(partition), ...free },
          ...(each === "a" && partition === 2
            ? { epoch: claimed.epoch, owner: "conformance" }
            : {}),
        })),
      );
      same(read.positions, expected, "the positions");
    },
  },
  {
    promise: "I4",
    name: "a topic is registered for a consumer once it has rows",
    run: async ({ storage, another }) => {
      same(await storage.isRegistered(consumer, topic), false, "whether it is before");
      await register(storage, 0n);
      const other = another();
      same(await other.isRegistered(consumer, topic), true, "whether it is after");
      same(await other.isRegistered(consumer, "another topic"), false, "whether another topic is");
      same(
        await other.isRegistered("shipping", topic),
        false,
        "whether it is for another consumer",
      );
    },
  },
];

export const logCases: readonly StorageCase[] = [...markCases, ...lookCases];
