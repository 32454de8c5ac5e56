/** I6: what lies behind a parked message of its key in its partition is held. */
import type { Recorded } from "@oncebox/core";
import { holds, same } from "../check.ts";
import {
  audit,
  claim,
  consumer,
  groupId,
  id,
  longWaitMs,
  noMark,
  register,
  type StorageCase,
  seek,
  topic,
} from "./arrange.ts";
import {
  bytesOf,
  failure,
  finish,
  keyed,
  muchLaterMs,
  park,
  recordedOf,
  take,
  takeOne,
  toPark,
} from "./arrange-parking.ts";
import type { StorageUnderTest } from "./storage-under-test.ts";

/** A partition with one message of key "a" set aside at offset 0. */
async function parkedFirst<Tx>({ storage }: StorageUnderTest<Tx>) {
  await register(storage, 0n, 0n);
  return park(storage, [toPark(0, "a")]);
}

export const heldCases: readonly StorageCase[] = [
  {
    promise: "I6",
    name: "behind a parked message its key is held; other keys and records without one are new",
    run: async (context) => {
      const { storage, another } = context;
      const claimed = await parkedFirst(context);
      const records = [keyed(1, "a"), keyed(2, "b"), keyed(3, null), keyed(4, ""), keyed(5, "a")];
      const expected: Recorded[] = ["held", "new", "new", "new", "held"];
      same(await recordedOf(storage, claimed, ...records), expected, "under the same claim");
      const other = another();
      same(await recordedOf(other, await claim(other), ...records), expected, "under another one");
    },
  },
  {
    promise: "I6",
    name: "a parked message holds up its own partition, for its own consumer",
    run: async (context) => {
      const { storage } = context;
      await parkedFirst(context);
      const start = new Map([[0, 0n]]);
      const none = { topicId: null, start, added: new Map() };
      const elsewhere = { consumer: "shipping", groupId: "another group", topic };
      await storage.registerTopic({ consumer, groupId, topic: "another topic", ...none });
      await storage.registerTopic({ ...elsewhere, ...none });
      const places = [
        { consumer, topic, partition: 1 },
        { consumer, topic: "another topic", partition: 0 },
        { consumer: "shipping", topic, partition: 0 },
      ];
      for (const place of places) {
        const claimed = await storage.claim({ ...place, owner: "conformance" }, longWaitMs);
        holds(claimed !== null, "a claim of a registered partition must not be null");
        // With one of its own each has to look, and finds no other's: neither key nor offset.
        await (await storage.open(claimed, [])).commit(1n, noMark, [toPark(10, "b")]);
        const found = await recordedOf(storage, claimed, keyed(1, "a"), keyed(2, "b"));
        same(found, ["new", "held"], `of ${place.topic}/${place.partition} for ${place.consumer}`);
      }
      const first = await recordedOf(storage, await claim(storage), keyed(9, "b"), keyed(10, null));
      same(first, ["new", "new"], "of the first partition");
    },
  },
  {
    promise: "I6",
    name: "a key is held whatever the state of its message: waiting, retrying, dead",
    run: async (context) => {
      const { storage } = context;
      const claimed = await parkedFirst(context);
      const behind = () => recordedOf(storage, claimed, keyed(1, "a"));
      same(await behind(), ["held"], "behind one that waits");
      const turn = await takeOne(storage);
      same(await behind(), ["held"], "behind one that is being tried");
      const outcome = { counts: true, afterMs: 0, error: failure };
      await storage.settleParked(turn, { state: "dead", ...outcome });
      same(await behind(), ["held"], "behind a dead one");
    },
  },
  {
    promise: "I6",
    name: "a message without a key holds up nothing, one with an empty key its own",
    run: async ({ storage }) => {
      await register(storage, 0n);
      const claimed = await park(storage, [toPark(0, null)]);
      const records = [keyed(2, null), keyed(3, ""), keyed(4, "a")];
      same(await recordedOf(storage, claimed, ...records), ["new", "new", "new"], "without a key");
      await park(storage, [toPark(1, "")]);
      const again = await recordedOf(storage, await claim(storage), ...records);
      same(again, ["new", "held", "new"], "with an empty one");
    },
  },
  {
    promise: "I6",
    name: "a record whose own position is parked is a duplicate, with or without an id, also in a replay",
    run: async ({ storage }) => {
      await register(storage, 0n);
      await park(storage, [toPark(0, "a"), toPark(1, null)]);
      for (const replay of [false, true]) {
        await seek(storage, [{ partition: 0, to: 0n }], { replay });
        for (const changes of [{}, { id: null }]) {
          const records = [keyed(0, "a", changes), keyed(1, null, changes), keyed(2, "a", changes)];
          const found = await recordedOf(storage, await claim(storage), ...records);
          same(
            found,
            ["duplicate", "duplicate", "held"],
            `what a chunk finds ${replay ? "in a replay" : "below"}`,
          );
        }
      }
    },
  },
  {
    promise: "I6",
    name: "another record at the offset of a parked one is no duplicate of it, and is parked beside it",
    run: async ({ storage }) => {
      // As in a topic that was deleted and made anew, and read from its beginning.
      await register(storage, 0n);
      await park(storage, [toPark(0, null), toPark(1, "a")]);
      await seek(storage, [{ partition: 0, to: 0n }], { replay: false });
      const { record } = toPark(0, null);
      const timestamp = record.timestamp + 1_000n;
      const claimed = await claim(storage);
      const records = [
        keyed(0, null, { id: null, timestamp }),
        keyed(1, "a", { id: null, timestamp }),
      ];
      const chunk = await storage.open(claimed, records);
      same(chunk.recorded, ["new", "held"], "what a chunk finds");
      await chunk.commit(2n, noMark, [{ ...toPark(0, null), record: { ...record, timestamp } }]);
      const places = await storage.parked({ consumer }, { limit: 10, above: null });
      same(places.length, 3, "parked messages");
    },
  },
  {
    promise: "I6",
    name: "a record below the position is done, also where its own position is parked",
    run: async (context) => {
      const { storage } = context;
      const claimed = await parkedFirst(context);
      const found = await recordedOf(storage, claimed, keyed(0, "a"), keyed(1, "a"));
      same(found, ["done", "held"], "what a chunk finds");
      const without = await recordedOf(storage, claimed, keyed(0, "a", { id: null }));
      same(without, ["done"], "what it finds of one without an id");
    },
  },
  {
    promise: "I6",
    name: "only what would be new is held: what is done, a duplicate or a conflict stays so",
    run: async (context) => {
      const { storage } = context;
      const claimed = await parkedFirst(context);
      await (await storage.open(claimed, [keyed(1, "b")])).commit(2n, noMark);
      const records = [
        ...[keyed(1, "a"), keyed(2, "a", { id: id(1) })],
        ...[keyed(3, "a", { id: id(1), checksum: 8 }), keyed(4, "a")],
      ];
      const expected: Recorded[] = ["done", "duplicate", "conflict", "held"];
      same(await recordedOf(storage, claimed, ...records), expected, "what a chunk finds");
    },
  },
  {
    promise: "I6",
    name: "the id of a held record is recorded with the chunk that parks it",
    run: async (context) => {
      const { storage } = context;
      const claimed = await parkedFirst(context);
      const chunk = await storage.open(claimed, [keyed(1, "a")]);
      await chunk.commit(2n, noMark, [toPark(1, "a", { attempts: 0, error: null })]);
      const elsewhere = await recordedOf(storage, claimed, keyed(9, "b", { id: id(1) }));
      same(elsewhere, ["duplicate"], "the id at another position");
    },
  },
  {
    promise: "I6",
    name: "a key is held until its last parked message is gone, and from the next one on again",
    run: async ({ storage }) => {
      await register(storage, 0n);
      const claimed = await park(storage, [toPark(0, "a"), toPark(1, "a"), toPark(2, "b")]);
      const found = () => recordedOf(storage, claimed, keyed(8, "a"), keyed(9, "b"));
      const next = async () => (await storage.open(claimed, [])).commit(8n, noMark);
      const [first] = await take(storage, { limit: 1, leaseMs: muchLaterMs });
      holds(first !== undefined, "a message must be taken");
      await finish(storage, first);
      // A chunk that parks nothing lets those be known that are there.
      await next();
      same(await found(), ["held", "held"], "with one of each key parked");
      const page = { limit: 10, above: null };
      const change = { action: "skip", page, audit } as const;
      await storage.changeParked({ ...change, filter: { consumer, key: bytesOf("a") } });
      same(await found(), ["new", "held"], "with only the other key parked");
      await storage.changeParked({ ...change, filter: { consumer } });
      same(await found(), ["new", "new"], "with nothing parked");
      await next();
      same(await found(), ["new", "new"], "after a chunk that found nothing parked");
      await park(storage, [toPark(8, "a")]);
      const last = await recordedOf(storage, await claim(storage), keyed(9, "a"), keyed(10, "b"));
      same(last, ["held", "new"], "with the next one parked");
    },
  },
  {
    promise: "I6",
    name: "what an open turn has not committed yet holds its key up",
    run: async (context) => {
      const { storage, another } = context;
      const claimed = await parkedFirst(context);
      const turn = await storage.openParked(await takeOne(storage));
      const other = another();
      same(await recordedOf(other, claimed, keyed(1, "a")), ["held"], "while the turn is open");
      await turn.commit();
      same(await recordedOf(other, claimed, keyed(1, "a")), ["new"], "after its commit");
    },
  },
];
