/** I2 to I5: an operator's seek fences, moves all or nothing, and applies nothing twice unasked. */
import type { PartitionClaim, Recorded, RecordRef } from "@oncebox/core";
import { failureOf, holds, rejected, same, settled } from "../check.ts";
import {
  audit,
  claim,
  claimFirst,
  consumer,
  handle,
  id,
  noMark,
  record,
  register,
  type StorageCase,
  sameEffects,
  sameNextOffset,
  seek,
  topic,
  untilOpen,
} from "./arrange.ts";
import type { StorageUnderTest } from "./storage-under-test.ts";

const moveCases: readonly StorageCase[] = [
  {
    promise: "I2",
    name: "a seek fences the claims of its partitions and of no other",
    run: async ({ storage, another }) => {
      await register(storage, 5n, 5n, 5n);
      const claims = [await claim(storage, 0), await claim(storage, 1), await claim(storage, 2)];
      const other = another();
      await seek(
        other,
        [0, 2].map((partition) => ({ partition, to: 3n })),
      );
      for (const partition of [0, 2]) {
        const old = claims[partition] as PartitionClaim;
        await rejected(storage.open(old, [record(3)]), "claim-lost", "open under an old claim");
        const live = await sameNextOffset(storage, 3n, partition);
        same(live.epoch, old.epoch + 2n, "the epoch after a seek and a claim");
        same(live.soughtEpoch, old.epoch + 1n, "the epoch of the seek");
        await (await storage.open(live, [record(3)])).rollback();
      }
      await (await storage.open(claims[1] as PartitionClaim, [record(5)])).commit(6n, noMark);
    },
  },
  {
    promise: "I2",
    name: "a seek waits for an open chunk, whose commit comes before it",
    run: async (context) => {
      const { storage, another } = context;
      await register(storage, 0n, 0n);
      const claimed = await claim(storage);
      const chunk = await storage.open(claimed, [record(0)]);
      await handle(context, chunk, "one");
      const seeking = seek(another(), [
        { partition: 1, to: 8n },
        { partition: 0, to: 7n },
      ]);
      const done = settled(seeking);
      await untilOpen(context, 2, done);
      holds(!done(), "a seek must not be over while a chunk of its partition is open");
      await chunk.commit(1n, noMark);
      const moved = [
        { partition: 1, to: 8n, from: 0n },
        { partition: 0, to: 7n, from: 1n },
      ];
      same(await seeking, moved, "what a seek tells of its moves");
      await rejected(storage.open(claimed, [record(1)]), "claim-lost", "open after the seek");
      same((await sameNextOffset(storage, 7n)).replay.until, 1n, "the highest position before");
      await sameEffects(context, "one");
    },
  },
  {
    promise: "I2",
    name: "a chunk that gave its lock away before a seek commits nothing after it",
    run: async (context) => {
      const { storage, another, endSecretly } = context;
      const chunk = await storage.open(await claimFirst(storage), [record(0)]);
      const { tx, end } = chunk.handle();
      await endSecretly(tx, { begin: true });
      end();
      // To where it stands: only the token tells the two apart.
      await seek(another(), [{ partition: 0, to: 0n }]);
      await handle(context, chunk, "fenced");
      const lost = ["claim-lost", "transaction-ended-early"] as const;
      await rejected(chunk.commit(1n, noMark), lost, "a commit after a seek");
      await sameEffects(context);
      await sameNextOffset(storage, 0n);
    },
  },
  {
    promise: "I4",
    name: "a seek replaces the mark of the log by the topic alone",
    run: async ({ storage }) => {
      const last = { offset: 3n, timestamp: 1n, checksum: 2 };
      const mark = { topicId: "one", leaderEpoch: 4, last };
      await (await storage.open(await claimFirst(storage), [])).commit(4n, mark);
      await seek(storage, [{ partition: 0, to: 9n }], { topicId: "another" });
      const moved = await sameNextOffset(storage, 9n);
      same(moved.log, { ...noMark, topicId: "another" }, "the log after a seek");
      await seek(storage, [{ partition: 0, to: 9n }]);
      same((await claim(storage)).log, noMark, "the log after a seek without a topic's id");
    },
  },
  {
    promise: "I4",
    name: "a seek that names a partition without a row, or no offset, moves nothing",
    run: async ({ storage }) => {
      await register(storage, 5n, 5n);
      const claims = [await claim(storage, 0), await claim(storage, 1)];
      const to = (partition: number, offset: bigint) => ({ partition, to: offset });
      const error = await rejected(
        seek(storage, [to(0, 1n), to(7, 1n), to(1, 1n), to(8, 1n)]),
        "not-registered",
        "a seek of partitions without rows",
      );
      same(error.details.partitions, [7, 8], "the partitions in the error's details");
      const elsewhere = { consumer, topic: "another topic", topicId: null, audit };
      const unknown = { ...elsewhere, moves: [to(0, 1n)], replay: false, expected: null };
      await rejected(storage.seek(unknown), "not-registered", "a seek of an unknown topic");
      for (const offset of [-1n, 2n ** 63n]) {
        const wrong = seek(storage, [to(0, 1n), to(1, offset)]);
        await failureOf(wrong, `a seek to ${offset} must reject`);
      }
      await failureOf(seek(storage, [to(0, 1n), to(0, 2n)]), "two moves of one must reject");
      for (const each of claims) {
        const chunk = await storage.open(each, [record(5)]);
        same(chunk.nextOffset, 5n, "the position under the claim of before");
        await chunk.rollback();
      }
      same(await storage.auditLog(consumer, { limit: 9, below: null }), [], "the audit log");
    },
  },
  {
    promise: "I4",
    name: "a seek under an expected claim moves only while that is held",
    run: async ({ storage, another }) => {
      await register(storage, 5n, 5n);
      const old = await claim(storage);
      const live = await claim(another());
      const neighbour = await claim(storage, 1);
      const to = [{ partition: 0, to: 1n }];
      same(await seek(storage, to, { expected: old }), null, "a seek under a lost claim");
      // As after a fail-over: an old epoch fits again, the token does not.
      const forged = { ...live, token: old.token };
      same(await seek(storage, to, { expected: forged }), null, "a seek under an old token");
      const chunk = await storage.open(live, [record(5)]);
      same(chunk.nextOffset, 5n, "the position under the live claim");
      await chunk.rollback();
      same(await storage.auditLog(consumer, { limit: 9, below: null }), [], "the audit log");
      const moved = [{ partition: 0, to: 1n, from: 5n }];
      same(await seek(storage, to, { expected: live }), moved, "a seek under the live claim");
      same(await seek(storage, to, { expected: live }), null, "the same seek again");
      await (await storage.open(neighbour, [record(5)])).commit(6n, noMark);
    },
  },
  {
    promise: "I5",
    name: "a seek and its line in the audit log are there together",
    run: async ({ storage, another }) => {
      await register(storage, 2n ** 53n + 1n, 5n);
      const moves = [
        { partition: 1, to: 2n ** 62n },
        { partition: 0, to: 1n },
      ];
      await seek(storage, moves, { replay: true, topicId: "an id" });
      const [line, ...more] = await another().auditLog(consumer, { limit: 9, below: null });
      same(more, [], "further lines");
      const details = {
        ...{ topic, replay: true },
        moves: [
          { partition: 1, from: "5", to: String(2n ** 62n) },
          { partition: 0, from: String(2n ** 53n + 1n), to: "1" },
        ],
      };
      const { actor, reason } = audit;
      const { id: _, at: __, ...told } = line ?? { id: 0n, at: 0 };
      same<object>(told, { consumer, actor, reason, action: "seek", details }, "the line");
    },
  },
];

/** Opens a chunk, compares what it found, and ends it. */
async function find<Tx>(
  { storage }: StorageUnderTest<Tx>,
  records: readonly RecordRef[],
  expected: readonly Recorded[],
  end: bigint | null,
): Promise<PartitionClaim> {
  const claimed = await claim(storage);
  const chunk = await storage.open(claimed, records);
  same(chunk.recorded, expected, `what is found from ${claimed.nextOffset}`);
  if (end === null) await chunk.rollback();
  else await chunk.commit(end, noMark);
  return claimed;
}

/** Records the ids in a transaction that a handler commits early: without the position. */
async function leaveBehind<Tx>(
  { storage, endSecretly }: StorageUnderTest<Tx>,
  records: readonly RecordRef[],
): Promise<void> {
  const chunk = await storage.open(await claim(storage), records);
  const { tx, end } = chunk.handle();
  await endSecretly(tx, { begin: false });
  end();
  await chunk.rollback();
}

/** As the core names messages of a replay: by ids that none of another time has. */
function replayed(offset: number, number: number): RecordRef {
  return record(offset, { id: id(offset + 1_000 * number) });
}

const four = [0, 1, 2, 3].map((offset) => record(offset));
const fourNew: readonly Recorded[] = ["new", "new", "new", "new"];
const back = [{ partition: 0, to: 1n }];

const replayCases: readonly StorageCase[] = [
  {
    promise: "I3",
    name: "after a seek back what was applied is a duplicate, at its own position as well",
    run: async (context) => {
      const { storage } = context;
      await register(storage, 0n);
      await find(context, four, fourNew, 4n);
      await seek(storage, back, { topicId: "another" });
      const again = [record(1), record(2, { checksum: 8 }), record(3, { id: id(0) }), record(4)];
      const expected = ["duplicate", "conflict", "duplicate", "new"] as const;
      const { replay } = await find(context, again, expected, 2n);
      same(replay, { number: 0, until: 4n }, "the replay after a seek without one");
      // The highest position stays where it was, however often it is moved below it.
      await seek(storage, [{ partition: 0, to: 0n }]);
      await find(context, four, ["duplicate", "duplicate", "duplicate", "duplicate"], null);
      same((await claim(storage)).replay, { number: 0, until: 4n }, "the replay after another");
    },
  },
  {
    promise: "I3",
    name: "what a seek had left out is new, and counts as seen afterwards",
    run: async (context) => {
      const { storage } = context;
      await register(storage, 0n);
      await find(context, [record(0)], ["new"], 1n);
      await seek(storage, [{ partition: 0, to: 3n }]);
      const { replay } = await find(context, [record(3)], ["new"], 4n);
      same(replay, { number: 0, until: 1n }, "the replay after a seek forward");
      await seek(storage, [{ partition: 0, to: 0n }]);
      await find(context, four, ["duplicate", "new", "new", "duplicate"], 4n);
      await seek(storage, [{ partition: 0, to: 0n }]);
      await find(context, four, ["duplicate", "duplicate", "duplicate", "duplicate"], null);
    },
  },
  {
    promise: "I3",
    name: "from the highest position upwards an early commit's redo is new, after any seek",
    run: async (context) => {
      const { storage } = context;
      await register(storage, 0n);
      await find(context, four, fourNew, 4n);
      await seek(storage, [{ partition: 0, to: 3n }]);
      const records = [record(3), record(4), record(5)];
      await leaveBehind(context, records);
      await find(context, records, ["duplicate", "new", "new"], null);
      await find(context, [record(4, { id: id(5) })], ["duplicate"], null);
      await seek(storage, [{ partition: 0, to: 4n }]);
      await find(context, records.slice(1), ["new", "new"], 6n);
    },
  },
  {
    promise: "I3",
    name: "a replay applies its range once more, each time it is asked for",
    run: async (context) => {
      const { storage } = context;
      await register(storage, 0n);
      await find(context, four, fourNew, 4n);
      for (const number of [1, 2]) {
        await seek(storage, [{ partition: 0, to: 0n }], { replay: true });
        const range = [0, 1, 2, 3].map((offset) => replayed(offset, number));
        await leaveBehind(context, range);
        const { replay } = await find(context, range, fourNew, 2n);
        same(replay, { number, until: 4n }, `the replay of time ${number}`);
        const rest = [
          ...[replayed(2, number), record(3, { id: id(1_000 * number) })],
          ...[record(4), record(5, { id: id(0) })],
        ];
        // At the highest position and above it ids are those of the messages again.
        await leaveBehind(context, [record(4)]);
        await find(context, rest, ["new", "duplicate", "new", "duplicate"], 4n);
      }
    },
  },
  {
    promise: "I3",
    name: "a replay ends with the next seek, and its number is not used again",
    run: async (context) => {
      const { storage } = context;
      await register(storage, 0n);
      await find(context, four, fourNew, 4n);
      const numberAfter = async (to: bigint, replay: boolean) => {
        await seek(storage, [{ partition: 0, to }], { replay });
        return (await claim(storage)).replay.number;
      };
      same(await numberAfter(4n, true), 0, "the replay of nothing");
      same(await numberAfter(1n, true), 1, "the first replay");
      same(await numberAfter(1n, false), 0, "the replay after a seek without one");
      await find(context, four.slice(1), ["duplicate", "duplicate", "duplicate"], null);
      same(await numberAfter(3n, true), 2, "the second replay, from above the position");
      same(await numberAfter(9n, true), 0, "the replay from above all");
      same(await numberAfter(8n, true), 3, "the third replay");
    },
  },
];

export const seekCases: readonly StorageCase[] = [...moveCases, ...replayCases];
