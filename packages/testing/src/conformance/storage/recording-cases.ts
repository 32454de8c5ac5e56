/** I3: of concurrent recordings of one id exactly one is new; one statement never deadlocks another. */
import type { MessageRef, Recorded } from "@oncebox/core";
import { holds, same, settled } from "../check.ts";
import {
  claim,
  claimFirst,
  consumer,
  id,
  noMark,
  record,
  register,
  roundTrips,
  type StorageCase,
  sameNextOffset,
  topic,
  untilOpen,
} from "./arrange.ts";
import type { StorageUnderTest } from "./storage-under-test.ts";

/** Enough for two statements to meet in the middle, in every run. */
const idsPerStatement = 40;
const deadlockRounds = 15;
const crossingRounds = 4;

const inChunks: readonly StorageCase[] = [
  {
    promise: "I3",
    name: "an id taken by another position is a duplicate, with another value a conflict",
    run: async ({ storage }) => {
      await register(storage, 0n, 0n);
      const first = await storage.open(await claim(storage, 0), [record(0), record(1)]);
      same(first.recorded, ["new", "new"], "what is recorded first");
      await first.commit(2n, noMark);
      const second = await storage.open(await claim(storage, 1), [
        record(0),
        record(1, { checksum: 8 }),
        record(2),
        record(3, { id: id(0), source: "another source" }),
        record(4, { id: null }),
      ]);
      const expected: Recorded[] = ["duplicate", "conflict", "new", "new", "new"];
      same(second.recorded, expected, "what another partition records");
      await second.commit(5n, noMark);
      const third = await storage.open(await sameNextOffset(storage, 5n, 1), [
        record(5, { id: id(2) }),
        record(6, { id: id(2), checksum: 8 }),
        record(7, { id: null }),
      ]);
      same(
        third.recorded,
        ["duplicate", "conflict", "new"],
        "what the same partition records later",
      );
      await third.rollback();
    },
  },
  {
    promise: "I3",
    name: "consumers do not share ids",
    run: async ({ storage }) => {
      const chunk = await storage.open(await claimFirst(storage), [record(0)]);
      await chunk.commit(1n, noMark);
      const other = { consumer: "shipping", groupId: "another group", topic, topicId: null };
      await storage.registerTopic({ ...other, start: new Map([[0, 0n]]), added: new Map() });
      const claimed = await storage.claim({ ...other, partition: 0, owner: "conformance" }, 1_000);
      holds(claimed !== null, "a claim of a registered partition must not be null");
      const second = await storage.open(claimed, [record(0)]);
      same(second.recorded, ["new"], "what another consumer records");
      await second.rollback();
    },
  },
  {
    promise: "I3",
    name: "of the same id twice in one chunk the first offset wins",
    run: async ({ storage }) => {
      const twice = [
        record(0, { id: id(1) }),
        record(1, { id: id(0) }),
        record(2, { id: id(1) }),
        record(3, { id: id(0), checksum: 8 }),
        record(4, { id: null }),
        record(5, { id: null }),
      ];
      const chunk = await storage.open(await claimFirst(storage), twice);
      const expected: Recorded[] = ["new", "new", "duplicate", "conflict", "new", "new"];
      same(chunk.recorded, expected, "what a chunk with repeats records");
      await chunk.commit(6n, noMark);
    },
  },
  {
    promise: "I3",
    name: "records below next_offset are done, whatever their ids are",
    run: async ({ storage }) => {
      await register(storage, 2n);
      const records = [record(0), record(1, { id: null }), record(2), record(3, { id: id(0) })];
      const chunk = await storage.open(await claim(storage), records);
      same(chunk.nextOffset, 2n, "next_offset");
      same(chunk.recorded, ["done", "done", "new", "new"], "what is recorded");
      await chunk.commit(4n, noMark);
    },
  },
  {
    promise: "I3",
    name: "an id taken by the record's own position is new again while it is not done",
    run: async (context) => {
      const { storage, endSecretly } = context;
      const claimed = await claimFirst(storage);
      const records = [record(0), record(1), record(2, { id: id(1) })];
      const chunk = await storage.open(claimed, records);
      const { tx, end } = chunk.handle();
      // Leaves the ids behind, without the position.
      await endSecretly(tx, { begin: false });
      end();
      await chunk.rollback();
      const redo = await storage.open(await sameNextOffset(storage, 0n), records);
      same(redo.recorded, ["new", "new", "duplicate"], "what the redo records");
      await redo.rollback();
      const moved = [record(0, { id: id(1) }), record(1, { id: id(9) })];
      const other = await storage.open(await claim(storage), moved);
      same(other.recorded, ["duplicate", "new"], "what another position finds of those ids");
      await other.rollback();
    },
  },
  {
    promise: "I3",
    name: "two partitions at once: the second waits, and is a duplicate once the first committed",
    run: (context) => twoAtOnce(context, "commit", ["duplicate", "conflict"]),
  },
  {
    promise: "I3",
    name: "two partitions at once: the second waits, and is new once the first rolled back",
    run: (context) => twoAtOnce(context, "rollback", ["new", "new"]),
  },
  {
    promise: "I3",
    name: "chunks that wait for the same id do not wait for each other when they go on",
    run: async (context) => {
      const { storage, another } = context;
      await register(storage, 0n, 0n);
      const sides = [storage, another()];
      await crossing(context, async (index, ids) => {
        const side = sides[index] ?? storage;
        const claimed = await claim(side, index);
        const start = Number(claimed.nextOffset);
        const records = ids.map((each, n) => record(start + n, { id: each }));
        const chunk = await side.open(claimed, records);
        await chunk.commit(BigInt(start + ids.length), noMark);
        return chunk.recorded;
      });
    },
  },
  {
    promise: "I3",
    name: "chunks with the same ids in opposite orders never deadlock, and each id is new once",
    run: async ({ storage, another }) => {
      await register(storage, 0n, 0n);
      const sides = [
        { side: storage, claimed: await claim(storage, 0), forth: true },
        { side: another(), claimed: await claim(storage, 1), forth: false },
      ];
      for (let round = 0; round < deadlockRounds; round += 1) {
        const start = round * idsPerStatement;
        const results = sides.map(async ({ side, claimed, forth }) => {
          const records = Array.from({ length: idsPerStatement }, (_, n) => {
            const nth = forth ? n : idsPerStatement - 1 - n;
            const source = nth % 2 === 0 ? topic : "another source";
            return record(start + n, { id: id(start + nth), source });
          });
          const chunk = await side.open(claimed, records);
          await chunk.commit(BigInt(start + idsPerStatement), noMark);
          return forth ? chunk.recorded : [...chunk.recorded].reverse();
        });
        sameOnceNew(await Promise.all(results), `round ${round}`);
      }
    },
  },
];

/** One partition has recorded two ids and is open; another records them meanwhile. Both orders. */
async function twoAtOnce<Tx>(
  context: StorageUnderTest<Tx>,
  end: "commit" | "rollback",
  expected: readonly Recorded[],
): Promise<void> {
  const { storage, another } = context;
  await register(storage, 0n, 0n);
  const other = another();
  for (const first of [0, 1]) {
    const at = first * 2;
    const behind = BigInt(at + 2);
    const ids = [{ id: id(100 + first) }, { id: id(200 + first) }] as const;
    const claims = [await claim(storage, first), await claim(other, 1 - first)] as const;
    const mine = await storage.open(claims[0], [record(at, ids[0]), record(at + 1, ids[1])]);
    same(mine.recorded, ["new", "new"], "what the first partition records");
    const opening = other.open(claims[1], [
      record(at, ids[0]),
      record(at + 1, { ...ids[1], checksum: 8 }),
    ]);
    await untilOpen(context, 2, settled(opening));
    if (end === "commit") await mine.commit(behind, noMark);
    else await mine.rollback();
    const theirs = await opening;
    same(theirs.recorded, expected, `what the second partition records after the ${end}`);
    await theirs.commit(behind, noMark);
    // Both partitions go on from the same place.
    if (end === "rollback") await (await storage.open(claims[0], [])).commit(behind, noMark);
  }
}

/**
 * Two record the same ids in opposite orders, and both wait for the id in the middle, which a third
 * transaction has and gives back: whoever took his first id before he waited now has what the other
 * wants next.
 */
async function crossing<Tx>(
  { storage, begin, openTransactions }: StorageUnderTest<Tx>,
  recordSide: (index: 0 | 1, ids: readonly Uint8Array[]) => Promise<readonly Recorded[]>,
): Promise<void> {
  // What is known by name from now on is not what is waited for.
  const first = await begin();
  await storage.recordIds(first.tx, consumer, [message(0)]);
  await first.commit();
  for (let round = 1; round <= crossingRounds; round += 1) {
    const ids = [id(round * 10), id(round * 10 + 1), id(round * 10 + 2)] as const;
    const gate = await begin();
    await storage.recordIds(gate.tx, consumer, [{ ...message(0), id: ids[1] }]);
    const sides = [recordSide(0, ids), recordSide(1, [...ids].reverse())];
    // Their end is not waited for, so that what was sent gets as far as it can.
    const over = sides.map(settled);
    for (let n = 0; n < roundTrips && !over.every((each) => each()); n += 1)
      await openTransactions();
    await gate.rollback();
    const [forth = [], back = []] = await Promise.all(sides);
    sameOnceNew([forth, [...back].reverse()], `round ${round}`);
  }
}

/** Of two results over the same ids, in the same order, exactly one is new at each place. */
function sameOnceNew(results: readonly (readonly Recorded[])[], where: string): void {
  const [a = [], b = []] = results;
  const pairs = a.map((recorded, n) => [recorded, b[n]].sort().join(" and "));
  const wrong = pairs.filter((pair) => pair !== "duplicate and new");
  same(wrong, [], `${where}: what two recordings of one id were told, where not new and duplicate`);
}

function message(n: number, checksum: number | null = 7): MessageRef {
  return { source: topic, id: id(n), checksum };
}

const inOwnTransactions: readonly StorageCase[] = [
  {
    promise: "I3",
    name: "recordIds tells new, duplicate and conflict, and forgets what rolls back",
    run: async ({ storage, begin }) => {
      const first = await begin();
      const ids = [message(0), message(1, null), message(0), message(0, 8)];
      const expected = ["new", "new", "duplicate", "conflict"] as const;
      same(await storage.recordIds(first.tx, consumer, ids), expected, "the first recording");
      await first.rollback();
      const second = await begin();
      same(await storage.recordIds(second.tx, consumer, ids), expected, "after a roll back");
      same(await storage.recordIds(second.tx, "shipping", [message(0)]), ["new"], "of another");
      await second.commit();
      const third = await begin();
      const again = [message(0), message(0, null), message(0, 8), message(1, 8), message(2)];
      const known = ["duplicate", "duplicate", "conflict", "duplicate", "new"] as const;
      same(await storage.recordIds(third.tx, consumer, again), known, "after a commit");
      await third.commit();
    },
  },
  {
    promise: "I3",
    name: "recordIds and chunks see each other's ids",
    run: async ({ storage, begin }) => {
      const own = await begin();
      await storage.recordIds(own.tx, consumer, [message(0), message(1, null)]);
      await own.commit();
      const records = [record(0), record(1, { checksum: 8 }), record(2)];
      const chunk = await storage.open(await claimFirst(storage), records);
      same(chunk.recorded, ["duplicate", "duplicate", "new"], "what a chunk records after it");
      await chunk.commit(3n, noMark);
      const later = await begin();
      const recorded = await storage.recordIds(later.tx, consumer, [message(2), message(2, 8)]);
      same(recorded, ["duplicate", "conflict"], "what recordIds records after the chunk");
      await later.rollback();
    },
  },
  {
    promise: "I3",
    name: "recordings that wait for the same id do not wait for each other when they go on",
    run: async (context) => {
      const { storage, begin } = context;
      await crossing(context, async (_, ids) => {
        const own = await begin();
        const list = ids.map((each) => ({ ...message(0), id: each }));
        const recorded = await storage.recordIds(own.tx, consumer, list);
        await own.commit();
        return recorded;
      });
    },
  },
  {
    promise: "I3",
    name: "recordIds in opposite orders at once never deadlocks, and each id is new once",
    run: async ({ storage, begin }) => {
      for (let round = 0; round < deadlockRounds; round += 1) {
        const ids = Array.from({ length: idsPerStatement }, (_, n) =>
          message(round * idsPerStatement + n),
        );
        const run = async (list: readonly MessageRef[]) => {
          const own = await begin();
          const recorded = await storage.recordIds(own.tx, consumer, list);
          await own.commit();
          return recorded;
        };
        const [forth, back] = await Promise.all([run(ids), run([...ids].reverse())]);
        sameOnceNew([forth ?? [], [...(back ?? [])].reverse()], `round ${round}`);
      }
    },
  },
];

export const recordingCases: readonly StorageCase[] = [...inChunks, ...inOwnTransactions];
