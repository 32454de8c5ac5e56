/** I6: records are set aside by the chunk that moves the position past them, and hold up their key. */
import type { Headers, ParkedRecord, Recorded, ToPark } from "@oncebox/core";
import { failureOf, holds, rejected, same } from "../check.ts";
import {
  audit,
  claim,
  claimFirst,
  consumer,
  groupId,
  handle,
  id,
  longWaitMs,
  noMark,
  record,
  register,
  type StorageCase,
  sameEffects,
  sameNextOffset,
  seek,
  topic,
} from "./arrange.ts";
import {
  bytesOf,
  failure,
  finish,
  keyed,
  look,
  message,
  muchLaterMs,
  park,
  recordedOf,
  sameParked,
  takeOne,
  toPark,
} from "./arrange-parking.ts";
import type { StorageUnderTest } from "./storage-under-test.ts";

const everyByte = Uint8Array.from({ length: 256 }, (_, n) => n);
const headers: Headers = [
  ["a", everyByte],
  ["b", null],
  ["a", new Uint8Array(0)],
  ["ключ", bytesOf("значение")],
];

/** Bytes at their ends: nulls, nothing, any byte, more than an index can hold. */
const awkward: readonly ParkedRecord[] = [
  message(4, null, { value: null }),
  message(1, "", { value: new Uint8Array(0) }),
  message(3, null, { key: everyByte, value: everyByte, headers }),
  message(2, null, {
    key: new Uint8Array(5_000).fill(255),
    value: new Uint8Array(100_000).fill(7),
  }),
  message(0, "key", { timestamp: -1n }),
];

const commitCases: readonly StorageCase[] = [
  {
    promise: "I6",
    name: "a chunk parks records as they lay in the log, in the order given, and moves the position",
    run: async (context) => {
      const { storage, another } = context;
      const chunk = await storage.open(await claimFirst(storage), [record(5)]);
      await handle(context, chunk, "five");
      await chunk.commit(
        6n,
        noMark,
        awkward.map((each) => ({ ...toPark(0, null), record: each })),
      );
      const other = another();
      const found = await look(other);
      same(
        found.map((each) => each.record),
        awkward,
        "the parked records",
      );
      const ascending = found.every(({ id }, n) => n === 0 || id > (found[n - 1]?.id ?? id));
      holds(ascending, "parked messages must have ids in the order in which they were parked");
      await sameNextOffset(other, 6n);
      await sameEffects(context, "five");
    },
  },
  {
    promise: "I6",
    name: "a parked message tells its state, attempts, error and when it is tried next",
    run: async ({ storage, another }) => {
      await register(storage, 0n, 0n);
      const dead = { state: "dead", attempts: 12, afterMs: 0 } as const;
      await park(storage, [
        toPark(0, "a", { attempts: 3, afterMs: muchLaterMs }),
        toPark(1, "a", { attempts: 0, error: null }),
      ]);
      await park(storage, [toPark(7, null, dead)], 1);
      const found = await look(another());
      const usual = { consumer, topic, partition: 0 };
      same(
        found.map(({ id: _, parkedAt: __, nextAttemptAt: ___, ...rest }) => rest),
        [
          {
            ...{ ...usual, record: message(0, "a") },
            ...{ state: "waiting", attempts: 3, error: failure },
          },
          {
            ...{ ...usual, record: message(1, "a") },
            ...{ state: "waiting", attempts: 0, error: null },
          },
          {
            ...{ ...usual, partition: 1, record: message(7, null) },
            ...{ state: "dead", attempts: 12, error: failure },
          },
        ],
        "the parked messages",
      );
      const waits = found.map(({ parkedAt, nextAttemptAt }) =>
        nextAttemptAt === null ? null : Math.round((nextAttemptAt - parkedAt) / 60_000),
      );
      same(waits, [muchLaterMs / 60_000, 0, null], "the minutes until the next try");
    },
  },
  {
    promise: "I6",
    name: "a chunk whose claim was lost meanwhile parks nothing",
    run: async ({ storage, another, endSecretly }) => {
      const chunk = await storage.open(await claimFirst(storage), [keyed(0, "a")]);
      const { tx, end } = chunk.handle();
      await endSecretly(tx, { begin: true });
      end();
      const other = another();
      const taken = await claim(other);
      const lost = ["claim-lost", "transaction-ended-early"] as const;
      await rejected(chunk.commit(1n, noMark, [toPark(0, "a")]), lost, "a fenced chunk that parks");
      await sameParked(other, []);
      same(await recordedOf(other, taken, keyed(0, "a"), keyed(1, "a")), ["new", "new"], "a redo");
    },
  },
  {
    promise: "I6",
    name: "a chunk that another one overtook parks nothing, not even under the same claim",
    run: async ({ storage, endSecretly }) => {
      const claimed = await claimFirst(storage);
      const slow = await storage.open(claimed, [keyed(0, "a")]);
      const { tx, end } = slow.handle();
      await endSecretly(tx, { begin: true });
      end();
      const fast = await storage.open(claimed, [keyed(0, "a")]);
      await fast.commit(1n, noMark);
      const late = slow.commit(1n, noMark, [toPark(0, "a")]);
      await failureOf(late, "a commit from a position that has moved must reject");
      await sameParked(storage, []);
    },
  },
  {
    promise: "I6",
    name: "a chunk that its handler ended parks nothing, whether another transaction was begun or not",
    run: async ({ storage, endSecretly }) => {
      let claimed = await claimFirst(storage);
      for (const begin of [false, true]) {
        const chunk = await storage.open(claimed, [keyed(0, "a")]);
        const { tx, end } = chunk.handle();
        await endSecretly(tx, { begin });
        end();
        const what = "a chunk that was ended early";
        const parking = chunk.commit(1n, noMark, [toPark(0, "a")]);
        await rejected(parking, "transaction-ended-early", what);
        await sameParked(storage, [], `what is parked after ${what}`);
        claimed = await sameNextOffset(storage, 0n);
      }
    },
  },
  {
    promise: "I6",
    name: "a chunk that is rolled back parks nothing, and its records are as before",
    run: async ({ storage, another }) => {
      const claimed = await claimFirst(storage);
      const chunk = await storage.open(claimed, [keyed(0, "a")]);
      await chunk.rollback();
      const late = chunk.commit(1n, noMark, [toPark(0, "a")]);
      await failureOf(late, "a commit after a rollback must reject");
      await sameParked(another(), []);
      same(await recordedOf(storage, claimed, keyed(0, "a")), ["new"], "the record of before");
    },
  },
  {
    promise: "I6",
    name: "a chunk with a swallowed failed statement parks nothing",
    run: async ({ storage, another, failStatement }) => {
      const chunk = await storage.open(await claimFirst(storage), [keyed(0, "a")]);
      const { tx, end } = chunk.handle();
      await failureOf(failStatement(tx), "a failing statement must reject");
      end();
      const parking = chunk.commit(1n, noMark, [toPark(0, "a")]);
      await rejected(parking, "transaction-aborted", "a chunk with a swallowed error that parks");
      await sameParked(another(), []);
      await sameNextOffset(storage, 0n);
    },
  },
  {
    promise: "I6",
    name: "after a lost COMMIT nothing is parked, after a lost reply everything",
    run: async ({ storage, another, breakCommit }) => {
      await register(storage, 0n, 0n);
      for (const [partition, fault] of (["request-lost", "reply-lost"] as const).entries()) {
        const chunk = await storage.open(await claim(storage, partition), [keyed(0, "a")]);
        breakCommit(fault);
        const parking = chunk.commit(1n, noMark, [toPark(0, "a")]);
        await rejected(parking, "commit-unknown", `a commit with its ${fault}`);
        // The claim inside waits for the end of the cut transaction.
        await sameNextOffset(another(), BigInt(partition), partition);
        const found = await look(storage, { partition });
        same(found.length, partition, `the messages parked after its ${fault}`);
      }
    },
  },
  {
    promise: "I6",
    name: "what is parked already stays as it is when its position is parked again",
    run: async ({ storage }) => {
      await register(storage, 0n);
      await park(storage, [toPark(0, "a", { attempts: 5, state: "dead" })]);
      const [before] = await look(storage);
      await seek(storage, [{ partition: 0, to: 0n }], { replay: true });
      await park(storage, [toPark(0, "a", { attempts: 1 }), toPark(1, "a")]);
      const [after] = await sameParked(storage, [
        [0n, "dead"],
        [1n, "waiting"],
      ]);
      same(after, before, "the message that was parked before");
    },
  },
];

/** A partition with one message of key "a" set aside at offset 0. */
async function parkedFirst<Tx>({ storage }: StorageUnderTest<Tx>, changes: Partial<ToPark> = {}) {
  await register(storage, 0n, 0n);
  return park(storage, [toPark(0, "a", changes)]);
}

const heldCases: readonly StorageCase[] = [
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
      const outcome = { attempts: 2, afterMs: 0, error: failure };
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
      const [first] = await storage.takeParked({
        ...{ consumer, topics: [topic], limit: 1, leaseMs: muchLaterMs },
      });
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

export const parkingCases: readonly StorageCase[] = [...commitCases, ...heldCases];
