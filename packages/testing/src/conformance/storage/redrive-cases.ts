/** I6: parked messages as a person sees and changes them. */
import type { ParkedFilter, ParkedPage, Storage } from "@oncebox/core";
import { eventually, holds, rejected, same, settled, within } from "../check.ts";
import {
  audit,
  claim,
  consumer,
  longWaitMs,
  noMark,
  register,
  type StorageCase,
  sameEffects,
  topic,
  untilOpen,
} from "./arrange.ts";
import {
  briefLeaseMs,
  bytesOf,
  failure,
  keyed,
  look,
  muchLaterMs,
  offsetsOf,
  park,
  recordedOf,
  sameParked,
  sameTaken,
  takeAfterLease,
  takeOne,
  toPark,
} from "./arrange-parking.ts";

type Changed = Awaited<ReturnType<Storage<never>["changeParked"]>>;
type Action = Parameters<Storage<never>["changeParked"]>[0]["action"];

/** All of the consumer in one page, unless told otherwise. */
function change<Tx>(
  storage: Storage<Tx>,
  action: Action,
  filter: Partial<ParkedFilter> = {},
  page: Partial<ParkedPage> = {},
): ReturnType<Storage<Tx>["changeParked"]> {
  return storage.changeParked({
    ...{ action, audit },
    filter: { consumer, ...filter },
    page: { limit: 1_000, above: null, ...page },
  });
}

function auditLog<Tx>(storage: Storage<Tx>) {
  return storage.auditLog(consumer, { limit: 100, below: null });
}

const lookCases: readonly StorageCase[] = [
  {
    promise: "I6",
    name: "parked messages are told by id, page by page, those that fit all of a filter",
    run: async ({ storage, another }) => {
      await register(storage, 0n, 0n);
      await park(storage, [toPark(0, "a"), toPark(1, "ab"), toPark(2, null), toPark(3, "")]);
      await park(storage, [toPark(4, "a", { state: "dead" }), toPark(5, null)], 1);
      const other = another();
      const all = await look(other);
      const ids = all.map(({ id }) => id);
      const told = async (filter: Partial<ParkedFilter>, ...expected: readonly bigint[]) =>
        same(offsetsOf(await look(other, filter)), expected, "the offsets told");
      await told({}, 0n, 1n, 2n, 3n, 4n, 5n);
      await told({ topic }, 0n, 1n, 2n, 3n, 4n, 5n);
      await told({ topic: "another topic" });
      await told({ consumer: "unknown" });
      await told({ partition: 1 }, 4n, 5n);
      await told({ key: bytesOf("a") }, 0n, 4n);
      await told({ key: bytesOf("") }, 3n);
      await told({ key: bytesOf("unknown") });
      await told({ state: "dead" }, 4n);
      await told({ state: "retrying" });
      await told({ ids: [ids[4] ?? 0n, ids[1] ?? 0n, 2n ** 62n] }, 1n, 4n);
      await told({ ids: [] });
      await told({ topic, partition: 0, key: bytesOf("a"), state: "waiting", ids }, 0n);
      await told({ partition: 0, key: bytesOf("a"), state: "dead" });
      const page = async (limit: number, above: bigint | null, filter = {}) =>
        offsetsOf(await look(other, filter, { limit, above }));
      same(await page(2, null), [0n, 1n], "the first page");
      same(await page(2, ids[1] ?? null), [2n, 3n], "the second page");
      same(await page(10, ids[4] ?? null), [5n], "the last page");
      same(await page(1, ids[0] ?? null, { key: bytesOf("a") }), [4n], "a page of a key");
    },
  },
];

const changeCases: readonly StorageCase[] = [
  {
    promise: "I6",
    name: "a redrive makes messages due now, with no attempts spent and their error kept",
    run: async ({ storage, another }) => {
      await register(storage, 0n);
      await park(storage, [
        toPark(0, "a", { state: "dead", attempts: 12 }),
        toPark(1, "b", { afterMs: muchLaterMs, attempts: 3 }),
        toPark(2, "c", { state: "dead", attempts: 12 }),
      ]);
      const filter = { ids: (await look(storage)).slice(0, 2).map(({ id }) => id) };
      same(await change(another(), "redrive", filter), { changed: 2, next: null }, "a redrive");
      const found = await sameParked(storage, [
        [0n, "waiting"],
        [1n, "waiting"],
        [2n, "dead"],
      ]);
      same(
        found.map(({ attempts, error }) => [attempts, error]),
        [
          [0, failure],
          [0, failure],
          [12, failure],
        ],
        "their attempts and errors",
      );
      const turns = await sameTaken(storage, [0n, 1n], "after a redrive");
      const attempts = turns.map((turn) => turn.attempts);
      same(attempts, [1, 1], "their attempts");
    },
  },
  {
    promise: "I6",
    name: "a redrive leaves alone what is being tried, and sets free what a dead process left",
    run: async ({ storage, another }) => {
      await register(storage, 0n);
      await park(storage, [toPark(0, "a"), toPark(1, "b", { state: "dead" })]);
      const turn = await takeOne(storage);
      const other = another();
      same(await change(other, "redrive"), { changed: 1, next: null }, "a redrive beside a turn");
      const [live, dead] = await sameParked(other, [
        [0n, "retrying"],
        [1n, "waiting"],
      ]);
      same([live?.attempts, dead?.attempts], [2, 0], "the attempts after it");
      await (await storage.openParked(turn)).commit();
      const left = await takeOne(storage, { leaseMs: briefLeaseMs });
      const free = async () => ((await change(other, "redrive")).changed === 1 ? true : undefined);
      await eventually(longWaitMs, free, "a redrive when the lease has run out");
      await rejected(storage.openParked(left), "claim-lost", "openParked after the redrive");
      same((await takeOne(other)).attempts, 1, "the attempts of the next turn");
    },
  },
  {
    promise: "I6",
    name: "a redrive does not wait for an open turn, and leaves it alone",
    run: async ({ storage, another }) => {
      await register(storage, 0n);
      await park(storage, [toPark(0, "a"), toPark(1, "b", { state: "dead" })]);
      const open = await storage.openParked(await takeOne(storage));
      const redrive = within(longWaitMs / 2, change(another(), "redrive"), "a redrive beside it");
      same(await redrive, { changed: 1, next: null }, "a redrive beside an open turn");
      await open.commit();
      await sameParked(storage, [[1n, "waiting"]]);
    },
  },
  {
    promise: "I6",
    name: "a skip deletes for good, and the next message of the key is the first",
    run: async (context) => {
      const { storage, another } = context;
      await register(storage, 0n);
      await park(storage, [toPark(0, "a", { state: "dead" }), toPark(1, "a"), toPark(2, "b")]);
      await sameTaken(storage, [2n], "while the first of a key is dead");
      const other = another();
      same(await change(other, "skip", { state: "dead" }), { changed: 1, next: null }, "a skip");
      await sameParked(storage, [
        [1n, "waiting"],
        [2n, "retrying"],
      ]);
      await sameTaken(storage, [1n], "after the skip");
      await sameEffects(context);
    },
  },
  {
    promise: "I6",
    name: "a skip of what is being tried loses its turn",
    run: async ({ storage, another }) => {
      await register(storage, 0n);
      const claimed = await park(storage, [toPark(0, "a")]);
      const turn = await takeOne(storage);
      same(await change(another(), "skip"), { changed: 1, next: null }, "a skip of a live turn");
      await rejected(storage.openParked(turn), "claim-lost", "openParked of what was skipped");
      const outcome = { state: "waiting", counts: true, afterMs: 0, error: failure } as const;
      same(await storage.settleParked(turn, outcome), false, "whether it was settled");
      await sameParked(storage, []);
      same(await recordedOf(storage, claimed, keyed(1, "a")), ["new"], "what is behind it");
    },
  },
  {
    promise: "I6",
    name: "a skip waits for an open turn, and deletes what that leaves",
    run: async (context) => {
      const { storage, another } = context;
      for (const commits of [true, false]) {
        await register(storage, 0n);
        await park(storage, [toPark(commits ? 0 : 1, "a")]);
        const open = await storage.openParked(await takeOne(storage));
        const skipping = change(another(), "skip");
        const over = settled(skipping);
        await untilOpen(context, 2, over);
        holds(!over(), "a skip must not be over while a turn of its message is open");
        if (commits) await open.commit();
        else await open.rollback();
        const { changed } = await skipping;
        same(changed, commits ? 0 : 1, "the messages that were skipped");
        await sameParked(storage, []);
      }
    },
  },
  {
    promise: "I6",
    name: "changes by hand do not wait for an open chunk of the partition",
    run: async ({ storage, another }) => {
      await register(storage, 0n);
      const claimed = await park(storage, [toPark(0, "a", { state: "dead" }), toPark(1, "b")]);
      const chunk = await storage.open(claimed, [keyed(2, "a")]);
      same(chunk.recorded, ["held"], "what the chunk finds");
      const other = another();
      const redrive = change(other, "redrive", { key: bytesOf("a") });
      same((await within(longWaitMs / 2, redrive, "a redrive")).changed, 1, "what is redriven");
      const skip = change(other, "skip", { key: bytesOf("b") });
      same((await within(longWaitMs / 2, skip, "a skip")).changed, 1, "what is skipped");
      await chunk.commit(3n, noMark, [toPark(2, "a", { attempts: 0 })]);
      await sameParked(other, [
        [0n, "waiting"],
        [2n, "waiting"],
      ]);
      same(await recordedOf(storage, claimed, keyed(3, "b")), ["new"], "what is behind the skip");
    },
  },
  {
    promise: "I6",
    name: "a change goes page by page, and says where the next one begins, however few it changed",
    run: async ({ storage }) => {
      await register(storage, 0n);
      await park(
        storage,
        [0, 1, 2, 3, 4].map((offset) => toPark(offset, `key ${offset}`)),
      );
      const ids = (await look(storage)).map(({ id }) => id);
      const [id0 = null, id1 = null, , id3 = null] = ids;
      // One is being tried: a redrive looks at it and leaves it alone.
      await takeOne(storage, { limit: 1 });
      const pages: unknown[] = [];
      let above: bigint | null = null;
      do {
        const { changed, next }: Changed = await change(
          storage,
          "redrive",
          {},
          { limit: 2, above },
        );
        pages.push([changed, next]);
        above = next;
      } while (above !== null && pages.length < 9);
      same(
        pages,
        [
          [1, id1],
          [2, id3],
          [1, null],
        ] as unknown[],
        "the pages of a redrive",
      );
      const one = await change(storage, "skip", { key: bytesOf("key 0") }, { limit: 1 });
      same(one, { changed: 1, next: id0 }, "a full page of one");
      const none = await change(storage, "skip", { key: bytesOf("key 0") }, { limit: 1 });
      same(none, { changed: 0, next: null }, "the page after it");
      const rest = await change(storage, "skip", {}, { above: id1 });
      same(rest, { changed: 3, next: null }, "those above an id");
      await sameParked(storage, [[1n, "waiting"]]);
    },
  },
  {
    promise: "I6",
    name: "a change and its line in the audit log are there together, and none where nothing changed",
    run: async ({ storage, another }) => {
      await register(storage, 0n);
      await park(
        storage,
        Array.from({ length: 103 }, (_, n) => toPark(n, n === 7 ? "a" : null)),
      );
      const ids = (await look(storage)).map(({ id }) => String(id));
      await change(storage, "redrive", { key: bytesOf("a"), partition: 0 });
      await change(storage, "skip");
      same(await change(storage, "skip"), { changed: 0, next: null }, "a skip of nothing");
      await change(storage, "redrive", { consumer: "unknown" });
      const unknown = await storage.auditLog("unknown", { limit: 10, below: null });
      same(unknown, [], "the audit log of an unknown consumer");
      const [skip, redrive, ...others] = await auditLog(another());
      same(others, [], "the other lines");
      const lines = [skip, redrive].map((line) => [line?.action, line?.actor, line?.reason]);
      const { actor, reason } = audit;
      same(
        lines,
        [
          ["skip", actor, reason],
          ["redrive", actor, reason],
        ],
        "the lines",
      );
      same(skip?.details.changed, 103, "how many the skip says it changed");
      same(skip?.details.ids, ids.slice(0, 100), "the ids of the skip: the first hundred");
      same(redrive?.details.changed, 1, "how many the redrive says it changed");
      same(redrive?.details.ids, [ids[7]], "the id of the redrive");
      holds(redrive !== undefined, "there must be a line of the redrive");
      const { key, partition } = redrive.details.filter as Record<string, unknown>;
      same({ key, partition }, { key: "61", partition: 0 }, "the filter of the redrive");
    },
  },
  {
    promise: "I6",
    name: "what is not known to a consumer is not changed for it",
    run: async ({ storage }) => {
      await register(storage, 0n);
      await park(storage, [toPark(0, "a")]);
      for (const action of ["redrive", "skip"] as const) {
        const unknown = await change(storage, action, { consumer: "unknown" });
        same(unknown, { changed: 0, next: null }, `a ${action} for an unknown consumer`);
        const elsewhere = await change(storage, action, { topic: "another topic" });
        same(elsewhere, { changed: 0, next: null }, `a ${action} in another topic`);
      }
      await sameParked(storage, [[0n, "waiting"]]);
      same((await takeAfterLease(storage)).attempts, 2, "the attempts of the next turn");
      same((await claim(storage)).nextOffset, 1n, "next_offset");
    },
  },
];

export const redriveCases: readonly StorageCase[] = [...lookCases, ...changeCases];
