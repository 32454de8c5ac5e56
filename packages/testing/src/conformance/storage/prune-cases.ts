/** I7: message ids are forgotten behind the window of the slowest partition, in bounds, and no others. */
import type { Pruned, PruneRequest, Storage } from "@oncebox/core";
import { eventually, holds, same } from "../check.ts";
import {
  claim,
  consumer,
  id,
  longWaitMs,
  noMark,
  record,
  register,
  type StorageCase,
  seek,
  topic,
} from "./arrange.ts";
import { failure, keyed, message, recordedOf, take } from "./arrange-parking.ts";

const dayMs = 86_400_000;
const windowMs = 7 * dayMs;
/** Years ago: by the wall clock every window is over. */
const first = 1_700_000_000_000n;
const year2100 = 4_102_444_800_000n;

function day(n: number): bigint {
  return first + BigInt(Math.round(n * dayMs));
}

/** Handles records of these times, one chunk each; the id of each follows from its place in the log. */
async function handled<Tx>(
  storage: Storage<Tx>,
  partition: number,
  ...times: readonly bigint[]
): Promise<void> {
  for (const timestamp of times) {
    const claimed = await claim(storage, partition);
    const offset = Number(claimed.nextOffset);
    const each = record(offset, { timestamp, id: idAt(partition, offset) });
    const chunk = await storage.open(claimed, [each]);
    const last = { offset: each.offset, timestamp, checksum: each.checksum };
    await chunk.commit(each.offset + 1n, { ...claimed.log, last });
  }
}

function idAt(partition: number, offset: number): Uint8Array {
  return id(partition * 1_000 + offset);
}

function step<Tx>(storage: Storage<Tx>, changes: Partial<PruneRequest> = {}): Promise<Pruned> {
  const usual = { consumer, windowMs, aheadMsMax: 3_600_000, ends: [], limit: 1_000, from: null };
  return storage.pruneIds({ ...usual, askedAt: Number(year2100), ...changes });
}

type Walked = Omit<Pruned, "next"> & { readonly steps: number };

/** A walk to its end: what one step looks at is the storage's, and may be places where nothing is left. */
async function walk<Tx>(
  storage: Storage<Tx>,
  changes: Partial<PruneRequest> = {},
): Promise<Walked> {
  let { next, ...walked } = { ...(await step(storage, changes)), steps: 1 };
  while (next !== null) {
    holds(walked.steps < 1_000, "a walk must come to its end");
    const more = await step(storage, { ...changes, from: next });
    const deleted = walked.deleted + more.deleted;
    walked = { ...walked, deleted, steps: walked.steps + 1 };
    next = more.next;
  }
  return walked;
}

async function prune<Tx>(
  storage: Storage<Tx>,
  changes: Partial<PruneRequest> = {},
): Promise<Omit<Walked, "steps">> {
  const { steps: _, ...walked } = await walk(storage, changes);
  return walked;
}

const endOf = (partition: number, end: bigint, topicId: string | null = null) => ({
  ...{ topic, topicId, partition, end },
});

/** Which ids of a partition, by offset, are still known: asked by records of an unread partition. */
async function sameKnown<Tx>(
  storage: Storage<Tx>,
  partition: number,
  expected: readonly boolean[],
  what: string,
): Promise<void> {
  const claimed = await claim(storage, partition);
  const repeats = expected.map((_, offset) =>
    record(9_000 + offset, { id: idAt(partition, offset), timestamp: day(30) }),
  );
  const found = await recordedOf(storage, claimed, ...repeats);
  same(
    found,
    expected.map((known) => (known ? "duplicate" : "new")),
    `what is made of repeats ${what}`,
  );
}

export const pruneCases: readonly StorageCase[] = [
  {
    promise: "I7",
    name: "ids older than the window are deleted, in record time, whatever the clock says",
    run: async ({ storage, another }) => {
      await register(storage, 0n);
      await handled(storage, 0, day(0), day(0.9), day(1), day(3), day(8));
      const { slowest, ...found } = await prune(storage);
      same(found, { deleted: 2, before: day(1) }, "the answer");
      same(slowest, { topic, partition: 0 }, "the partition that decided");
      await sameKnown(another(), 0, [false, false, true, true, true], "behind the window");
      same((await prune(another())).deleted, 0, "the ids deleted the second time");
    },
  },
  {
    promise: "I7",
    name: "the slowest partition decides, not the one that went ahead",
    run: async ({ storage }) => {
      await register(storage, 0n, 0n, 0n);
      await handled(storage, 0, day(0), day(20));
      await handled(storage, 1, day(2), day(8));
      await handled(storage, 2, day(1), day(30));
      const { before, slowest, deleted } = await prune(storage);
      same(
        { before, slowest },
        { before: day(1), slowest: { topic, partition: 1 } },
        "who decided",
      );
      same(deleted, 1, "the number of ids deleted");
      await sameKnown(storage, 0, [false, true], "of the partition that is ahead");
      await sameKnown(storage, 1, [true, true], "of the slowest partition");
      await sameKnown(storage, 2, [true, true], "of a partition at the edge of the window");
    },
  },
  {
    promise: "I7",
    name: "a partition that was never read holds everything back, unless it stands at its log's end",
    run: async ({ storage }) => {
      await register(storage, 0n, 5n);
      await handled(storage, 0, day(0), day(10));
      const held = { deleted: 0, before: null, slowest: { topic, partition: 1 } };
      same(await prune(storage), held, "the answer while one was never read");
      const behind = { ends: [endOf(0, 2n), endOf(1, 6n)] };
      same(await prune(storage, behind), held, "the answer while it has a record to read");
      await sameKnown(storage, 0, [true, true], "while one was never read");
      const { deleted, before } = await prune(storage, { ends: [endOf(1, 5n)] });
      same({ deleted, before }, { deleted: 1, before: day(3) }, "the answer when it has none");
    },
  },
  {
    promise: "I7",
    name: "a partition that has nothing to read counts as far as the clock, also an old one",
    run: async ({ storage }) => {
      await register(storage, 0n, 0n);
      await handled(storage, 0, day(0));
      await handled(storage, 1, day(300));
      const ends = [endOf(0, 1n), endOf(1, 1n)];
      const found = await prune(storage, { ends });
      same(found.deleted, 2, "the ids deleted where both have nothing to read");
      holds(
        found.before !== null && found.before > day(400),
        "what may go must follow the database's clock where all was read",
      );
    },
  },
  {
    promise: "I7",
    name: "the end of a log counts as far as when it was asked for, however late the step comes",
    run: async ({ storage }) => {
      await register(storage, 0n);
      await handled(storage, 0, day(0), day(5));
      const ends = [endOf(0, 2n)];
      const { before, deleted } = await prune(storage, { ends, askedAt: Number(day(8)) });
      same({ before, deleted }, { before: day(1), deleted: 1 }, "the answer to an old question");
      const { at } = await storage.positions(consumer);
      const found = await prune(storage, { ends, askedAt: at });
      same(found.before, BigInt(at) - BigInt(windowMs), "up to when, by the clock of positions");
      same(found.deleted, 1, "the ids deleted where all was read when it was asked");
    },
  },
  {
    promise: "I7",
    name: "the end of another log is none: what it says of a partition counts for nothing",
    run: async ({ storage }) => {
      const start = new Map([[0, 0n]]);
      const none = { groupId: "group", added: new Map() };
      await storage.registerTopic({ consumer, topic, topicId: "old", start, ...none });
      await handled(storage, 0, day(0), day(8));
      const { before } = await prune(storage, { ends: [endOf(0, 2n, "new")] });
      same(before, day(1), "up to when ids may go beside the end of a topic made anew");
      const fits = await prune(storage, { ends: [endOf(0, 2n, "old")] });
      holds(fits.before !== null && fits.before > day(400), "the end of the same topic must count");
    },
  },
  {
    promise: "I7",
    name: "a time that is no clock's does not move the window: neither from the future nor before 1970",
    run: async ({ storage }) => {
      await register(storage, 0n);
      await handled(storage, 0, day(0), day(10), year2100);
      const held = { deleted: 0, before: null, slowest: { topic, partition: 0 } };
      same(await prune(storage), held, "the answer behind a record of the year 2100");
      await handled(storage, 0, -5n);
      same(await prune(storage), held, "the answer behind a record from before 1970");
      await handled(storage, 0, day(11));
      const { before, deleted } = await prune(storage);
      same({ before, deleted }, { before: day(4), deleted: 1 }, "the answer behind a sane one");
    },
  },
  {
    promise: "I7",
    name: "an id counts from where its partition was: neither forgotten at once nor kept for ever",
    run: async ({ storage }) => {
      await register(storage, 0n);
      await handled(storage, 0, day(10), 0n, day(11), year2100, day(12));
      const { deleted } = await prune(storage);
      same(deleted, 0, "the ids deleted, one of a record of 1970 among them");
      await sameKnown(storage, 0, [true, true, true, true, true], "of odd times");
      // That of the year 2100 counts from the clock at which it was recorded.
      await eventually(
        longWaitMs,
        async () => {
          await prune(storage, { windowMs: 0, ends: [endOf(0, 5n)] });
          const claimed = await claim(storage);
          const again = record(9_000, { id: idAt(0, 3) });
          return (await recordedOf(storage, claimed, again))[0] === "new" ? true : undefined;
        },
        "the id of a record of the year 2100 is deleted behind the clock",
      );
    },
  },
  {
    promise: "I7",
    name: "the id of a parked message stays as long as that is parked",
    run: async ({ storage }) => {
      await register(storage, 0n);
      const claimed = await claim(storage);
      const parked = { timestamp: day(0), id: idAt(0, 0) };
      const plain = record(1, { timestamp: day(0), id: idAt(0, 1) });
      const chunk = await storage.open(claimed, [keyed(0, "a", parked), plain]);
      const away = message(0, "a", { timestamp: day(0) });
      await chunk.commit(2n, { ...noMark, last: { offset: 1n, timestamp: day(0), checksum: 7 } }, [
        { record: away, state: "waiting", attempts: 1, afterMs: 0, error: failure },
      ]);
      await handled(storage, 0, day(20));
      same((await prune(storage)).deleted, 1, "the ids deleted while one message is parked");
      await sameKnown(storage, 0, [true, false, true], "of a parked message and of others");
      for (const turn of await take(storage)) await (await storage.openParked(turn)).commit();
      same((await prune(storage)).deleted, 1, "the ids deleted when it is parked no more");
    },
  },
  {
    promise: "I7",
    name: "a step deletes no more than its limit, and a walk of steps leaves nothing behind",
    run: async ({ storage }) => {
      await register(storage, 0n);
      const claimed = await claim(storage);
      const many = Array.from({ length: 25 }, (_, n) => record(n, { timestamp: day(0) }));
      const chunk = await storage.open(claimed, many);
      await chunk.commit(25n, { ...noMark, last: { offset: 24n, timestamp: day(9), checksum: 7 } });
      const most: number[] = [];
      const noted = {
        ...storage,
        pruneIds: async (request: PruneRequest) => {
          const found = await storage.pruneIds(request);
          most.push(found.deleted);
          return found;
        },
      };
      const { deleted } = await walk(noted, { limit: 10 });
      holds(Math.max(...most) <= 10, `a step of 10 must not delete ${Math.max(...most)}`);
      same(deleted, 25, "the ids deleted by a whole walk");
    },
  },
  {
    promise: "I7",
    name: "ids of other consumers stay, and one that is not known has none",
    run: async ({ storage, begin }) => {
      await register(storage, 0n);
      await handled(storage, 0, day(0), day(20));
      await recordOnce(storage, begin, id(1));
      // Later than that one: where it lies before the window, the other does as well.
      await recordOnce(storage, begin, id(2), consumer);
      same((await prune(storage, { consumer: "nobody" })).deleted, 0, "the ids deleted of nobody");
      const ends = [endOf(0, 2n)];
      let deleted = 0;
      await eventually(
        longWaitMs,
        async () => {
          deleted += (await prune(storage, { windowMs: 0, ends })).deleted;
          return deleted >= 3 ? true : undefined;
        },
        "the consumer's own three ids are deleted",
      );
      same(await recordOnce(storage, begin, id(1)), ["duplicate"], "an id of another consumer");
    },
  },
  {
    promise: "I7",
    name: "ids of a name without partitions are deleted behind the clock",
    run: async ({ storage, begin }) => {
      same(await recordOnce(storage, begin, id(1)), ["new"], "an id recorded once");
      const mine = { consumer: "webhooks", windowMs };
      same((await prune(storage, mine)).deleted, 0, "the ids deleted inside the window");
      await eventually(
        longWaitMs,
        async () => ((await prune(storage, { ...mine, windowMs: 0 })).deleted ? true : undefined),
        "an id behind the window is deleted",
      );
      same(await recordOnce(storage, begin, id(1)), ["new"], "an id that was deleted");
    },
  },
  {
    promise: "I7",
    name: "a seek back makes a partition slow again",
    run: async ({ storage }) => {
      await register(storage, 0n, 0n);
      await handled(storage, 0, day(0), day(20));
      await handled(storage, 1, day(20));
      await seek(storage, [{ partition: 0, to: 0n }]);
      const { before, slowest } = await prune(storage);
      same({ before, slowest }, { before: null, slowest: { topic, partition: 0 } }, "who decided");
    },
  },
  {
    promise: "I7",
    name: "a step and an open chunk do not wait for each other",
    run: async ({ storage, another }) => {
      await register(storage, 0n, 0n);
      await handled(storage, 0, day(0), day(20));
      await handled(storage, 1, day(19));
      // Of an old id as well: the chunk has found that it is taken.
      const claimed = await claim(storage, 1);
      const repeat = record(1, { id: idAt(0, 0), timestamp: day(21) });
      const chunk = await storage.open(claimed, [repeat, record(2, { timestamp: day(21) })]);
      same((await prune(another())).deleted, 1, "the ids deleted beside an open chunk");
      await chunk.commit(3n, noMark);
    },
  },
];

async function recordOnce<Tx>(
  storage: Storage<Tx>,
  begin: () => Promise<{ readonly tx: Tx; readonly commit: () => Promise<unknown> }>,
  which: Uint8Array,
  name = "webhooks",
): ReturnType<Storage<Tx>["recordIds"]> {
  const own = await begin();
  const outcome = await storage.recordIds(own.tx, name, [
    { source: topic, id: which, checksum: null },
  ]);
  await own.commit();
  return outcome;
}
