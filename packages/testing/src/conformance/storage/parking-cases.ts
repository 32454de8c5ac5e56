/** I6: records are set aside by the chunk that moves the position past them, whole or not at all. */
import type { Headers, ParkedRecord } from "@oncebox/core";
import { failureOf, holds, rejected, same } from "../check.ts";
import {
  claim,
  claimFirst,
  consumer,
  handle,
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
  keyed,
  look,
  message,
  muchLaterMs,
  park,
  recordedOf,
  sameParked,
  toPark,
} from "./arrange-parking.ts";

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

export const parkingCases: readonly StorageCase[] = [
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
