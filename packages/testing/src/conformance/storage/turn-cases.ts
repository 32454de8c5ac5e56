/** I6: parked messages are tried in the order of their keys, each by one process at a time. */
import type { ParkedTurn, Storage } from "@oncebox/core";
import { eventually, holds, rejected, same, within } from "../check.ts";
import {
  audit,
  claim,
  consumer,
  groupId,
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
  briefLeaseMs,
  bytesOf,
  failure,
  finish,
  keyed,
  look,
  message,
  muchLaterMs,
  offsetsOf,
  park,
  recordedOf,
  sameParked,
  sameTaken,
  take,
  takeAfterLease,
  takeOne,
  toPark,
} from "./arrange-parking.ts";

/** What becomes of a turn that failed for the second time. */
const failed = { state: "waiting", counts: true, afterMs: muchLaterMs, error: failure } as const;

/** By hand: due now, or gone. */
async function change<Tx>(storage: Storage<Tx>, action: "redrive" | "skip", offset: bigint) {
  const found = (await look(storage)).find((each) => each.record.offset === offset);
  holds(found !== undefined, `a message must be parked at offset ${offset}`);
  const filter = { consumer, ids: [found.id] };
  await storage.changeParked({ action, filter, page: { limit: 10, above: null }, audit });
}

function at(turns: readonly ParkedTurn[], offset: bigint): ParkedTurn {
  const found = turns.find((each) => each.record.offset === offset);
  holds(found !== undefined, `the message at offset ${offset} must be taken`);
  return found;
}

const takeCases: readonly StorageCase[] = [
  {
    promise: "I6",
    name: "a message that is due is taken as it was parked, its attempt counted before it runs",
    run: async ({ storage, another }) => {
      await register(storage, 0n);
      const headers = [["a", bytesOf("1")] as const, ["a", null] as const];
      const parked = message(0, "key", { value: null, headers });
      await park(storage, [{ ...toPark(0, "key", { attempts: 3 }), record: parked }]);
      const { id, token: _, ...turn } = await takeOne(storage);
      const place = { consumer, topic, partition: 0 };
      same(turn, { ...place, record: parked, attempts: 4 }, "the turn");
      const [seen] = await sameParked(another(), [[0n, "retrying"]]);
      same([seen?.id, seen?.attempts], [id, 4], "the message as others see it");
    },
  },
  {
    promise: "I6",
    name: "what is due is taken, of the topics asked for, those due first first, so many at most",
    run: async ({ storage }) => {
      await register(storage, 0n);
      await park(storage, [
        ...[toPark(0, "a", { afterMs: muchLaterMs }), toPark(1, "b", { state: "dead" })],
        ...[toPark(2, "c", { afterMs: 100 }), toPark(3, "d"), toPark(4, "e", { afterMs: 50 })],
      ]);
      const marker = { consumer, topic: "marker", partition: 0 };
      const start = new Map([[0, 0n]]);
      const none = { groupId, topicId: null, start, added: new Map() };
      await storage.registerTopic({ ...marker, ...none });
      const claimed = await storage.claim({ ...marker, owner: "conformance" }, longWaitMs);
      holds(claimed !== null, "a claim of a registered partition must not be null");
      const chunk = await storage.open(claimed, []);
      await chunk.commit(1n, noMark, [toPark(0, null, { afterMs: 120 })]);
      same(await take(storage, { topics: [] }), [], "the turns of no topic");
      // By the database's clock: when the marker is due, so are the others.
      const due = async () => (await take(storage, { topics: ["marker"] }))[0];
      await eventually(longWaitMs, due, "a turn of the marker");
      same(offsetsOf(await take(storage, { limit: 2 })), [3n, 4n], "the two that were due first");
      same(offsetsOf(await take(storage)), [2n], "the rest of what is due");
    },
  },
  {
    promise: "I6",
    name: "of a key only the earliest is taken, whatever the order of parking and its state",
    run: async ({ storage }) => {
      await register(storage, 0n);
      await park(storage, [
        ...[toPark(5, "a"), toPark(3, "a"), toPark(4, "b")],
        ...[toPark(6, null), toPark(7, null), toPark(8, "")],
      ]);
      const turns = await sameTaken(storage, [3n, 4n, 6n, 7n, 8n], "of three keys and of none");
      await sameTaken(storage, [], "while the earliest is being tried");
      await storage.settleParked(at(turns, 3n), failed);
      await sameTaken(storage, [], "while it waits");
      await change(storage, "redrive", 3n);
      await storage.settleParked(await takeOne(storage), { ...failed, state: "dead" });
      await sameTaken(storage, [], "while it is dead");
      await change(storage, "skip", 3n);
      await sameTaken(storage, [5n], "when it is gone");
    },
  },
  {
    promise: "I6",
    name: "a key is tried in order of offset to its last message, each when the one before is gone",
    run: async (context) => {
      const { storage, insertEffect } = context;
      await register(storage, 0n);
      await park(storage, [toPark(2, "a"), toPark(0, "a"), toPark(1, "a")]);
      for (const offset of [0n, 1n, 2n]) {
        const turn = await takeOne(storage);
        same(turn.record.offset, offset, "the offset taken");
        const open = await storage.openParked(turn);
        const { tx, end } = open.handle();
        await insertEffect(tx, `value ${offset}`);
        end();
        await open.commit();
      }
      await sameTaken(storage, [], "at last");
      await sameParked(storage, []);
      await sameEffects(context, "value 0", "value 1", "value 2");
    },
  },
  {
    promise: "I6",
    name: "the same key in two partitions is two keys",
    run: async ({ storage }) => {
      await register(storage, 0n, 0n);
      await park(storage, [toPark(3, "a")], 0);
      await park(storage, [toPark(4, "a")], 1);
      await sameTaken(storage, [3n, 4n], "of one key in two partitions");
    },
  },
  {
    promise: "I6",
    name: "of processes that take at once each message goes to one, and of a key one message",
    run: async ({ storage, another }) => {
      await register(storage, 0n);
      const keys = Array.from({ length: 24 }, (_, n) => (n % 3 === 0 ? null : `key ${n % 4}`));
      await park(
        storage,
        keys.map((key, offset) => toPark(offset, key)),
      );
      const sides = [storage, another(), another(), storage];
      const taken = (await Promise.all(sides.map((side) => take(side, { limit: 5 })))).flat();
      // What one of them has skipped because another one had it locked.
      taken.push(...(await take(storage)));
      const heads = keys.flatMap((key, n) =>
        key === null || keys.indexOf(key) === n ? [BigInt(n)] : [],
      );
      const ascending = (a: bigint, b: bigint) => (a < b ? -1 : 1);
      same([...offsetsOf(taken)].sort(ascending), heads, "the offsets taken");
    },
  },
  {
    promise: "I6",
    name: "while an open turn has the first of a key locked, neither it nor the second is taken",
    run: async ({ storage, another }) => {
      await register(storage, 0n);
      await park(storage, [toPark(0, "a"), toPark(1, "a"), toPark(2, "b")]);
      const turn = await takeOne(storage, { limit: 1, leaseMs: briefLeaseMs });
      same(turn.record.offset, 0n, "the offset taken first");
      const open = await storage.openParked(turn);
      const other = another();
      const beside = take(other, { leaseMs: briefLeaseMs });
      const meanwhile = await within(longWaitMs, beside, "taking beside an open turn");
      same(offsetsOf(meanwhile), [2n], "the offsets taken meanwhile");
      // Its lease began later: when that has run out, so has the one of the open turn.
      const again = await takeAfterLease(other);
      same(again.record.offset, 2n, "the offset taken when both leases have run out");
      same(await take(other), [], "what else is taken then");
      await open.commit();
      same((await takeOne(other)).record.offset, 1n, "the offset taken after the turn's commit");
    },
  },
];

const fenceCases: readonly StorageCase[] = [
  {
    promise: "I6",
    name: "a turn whose lease ran out is taken by another; the old one changes nothing",
    run: async (context) => {
      const { storage, another } = context;
      await register(storage, 0n);
      await park(storage, [toPark(0, "a")]);
      const old = await takeOne(storage, { leaseMs: briefLeaseMs });
      same(await take(another()), [], "what is taken while the lease lasts");
      const other = another();
      const turn = await takeAfterLease(other);
      same([turn.id, turn.attempts], [old.id, old.attempts + 1], "the message and its attempts");
      const [before] = await look(storage);
      await rejected(storage.openParked(old), "claim-lost", "openParked of an old turn");
      same(await storage.settleParked(old, failed), false, "whether an old turn was settled");
      same((await look(storage))[0], before, "the message after the old turn");
      same(await context.openTransactions(), 0, "the number of open transactions");
      await finish(other, turn);
      await sameParked(storage, []);
    },
  },
  {
    promise: "I6",
    name: "an attempt that is not to count is taken back, also from whoever has the turn by then",
    run: async ({ storage, another }) => {
      await register(storage, 0n);
      await park(storage, [toPark(0, "a")]);
      const old = await takeOne(storage, { leaseMs: briefLeaseMs });
      const other = another();
      const turn = await takeAfterLease(other);
      const uncounted = { ...failed, counts: false, afterMs: 0, error: null };
      const takenBack = async (state: string, attempts: number, when: string) => {
        same(await storage.settleParked(old, uncounted), false, `whether it was settled ${when}`);
        const [found] = await look(storage);
        same([found?.state, found?.attempts], [state, attempts], `the message ${when}`);
      };
      await takenBack("retrying", turn.attempts - 1, "while the other tries it");
      same(await other.settleParked(turn, failed), true, "whether the other settled its turn");
      same(
        (await look(storage))[0]?.attempts,
        turn.attempts - 1,
        "the attempts behind the other's",
      );
      await change(storage, "redrive", 0n);
      await takenBack("waiting", 0, "when a person has set the attempts back");
      const last = await takeOne(storage);
      await storage.settleParked(last, { ...failed, state: "dead" });
      await takenBack("dead", 1, "when it is dead");
    },
  },
  {
    promise: "I6",
    name: "the token fences a turn: with the right id and another token nothing is done",
    run: async ({ storage }) => {
      await register(storage, 0n);
      await park(storage, [toPark(0, "a"), toPark(1, "b")]);
      // Those of one request share its token.
      const first = await take(storage, { limit: 1 });
      const turns = [...first, await takeOne(storage)];
      const forged = { ...at(turns, 0n), token: at(turns, 1n).token };
      await rejected(storage.openParked(forged), "claim-lost", "openParked with another's token");
      same(await storage.settleParked(forged, failed), false, "whether it was settled");
      await sameParked(storage, [
        [0n, "retrying"],
        [1n, "retrying"],
      ]);
      await finish(storage, at(turns, 0n));
    },
  },
  {
    promise: "I6",
    name: "turns that nobody was told of are given back by their token, with no attempt spent",
    run: async ({ storage, another }) => {
      await register(storage, 0n);
      await park(storage, [toPark(0, "a"), toPark(1, "b"), toPark(2, "c")]);
      const [kept] = await take(storage, { limit: 1 });
      const token = crypto.randomUUID();
      const [lost] = await take(storage, { token });
      holds(kept !== undefined && lost !== undefined, "two requests must take something");
      const other = another();
      const release = (changes = {}) => other.releaseParked({ consumer, token, ...changes });
      same(await release({ token: crypto.randomUUID() }), 0, "how many another token gives back");
      same(await release({ consumer: "unknown" }), 0, "how many are another consumer's");
      same(await release(), 2, "how many are given back");
      same(await release(), 0, "how many are given back again");
      await rejected(storage.openParked(lost), "claim-lost", "openParked of what was given back");
      const again = await sameTaken(other, [1n, 2n], "after it");
      same(
        again.map(({ attempts }) => attempts),
        [2, 2],
        "their attempts",
      );
      await finish(storage, kept);
    },
  },
  {
    promise: "I6",
    name: "a turn that another has taken since is not given back",
    run: async ({ storage, another }) => {
      await register(storage, 0n);
      await park(storage, [toPark(0, "a")]);
      const { token } = await takeOne(storage, { leaseMs: briefLeaseMs });
      const other = another();
      const turn = await takeAfterLease(other);
      same(await storage.releaseParked({ consumer, token }), 0, "how many are given back");
      await finish(other, turn);
    },
  },
  {
    promise: "I6",
    name: "a turn that was settled is over: it waits or is dead, with what it was settled with",
    run: async ({ storage, another }) => {
      await register(storage, 0n);
      await park(storage, [toPark(0, "a"), toPark(1, "b"), toPark(2, "c")]);
      const turns = await sameTaken(storage, [0n, 1n, 2n], "of three keys");
      const error = { code: "another", text: "another text" };
      const other = another();
      const settles = [
        { ...failed, afterMs: 0, counts: false, error },
        { ...failed, state: "dead", error } as const,
        // That of its last failure stays.
        { ...failed, error: null },
      ];
      for (const [offset, outcome] of settles.entries()) {
        const turn = at(turns, BigInt(offset));
        same(await other.settleParked(turn, outcome), true, "whether a turn was settled");
        same(await storage.settleParked(turn, failed), false, "whether it was settled again");
        await rejected(storage.openParked(turn), "claim-lost", "openParked of a settled turn");
      }
      const found = await look(other);
      same(
        found.map(({ state, attempts, error: kept }) => [state, attempts, kept]),
        [
          ["waiting", 1, error],
          ["dead", 2, error],
          ["waiting", 2, failure],
        ],
        "what the turns were settled with",
      );
      same(found[1]?.nextAttemptAt, null, "when the dead one is tried next");
      same((await takeOne(storage)).attempts, 2, "the attempts of the one that was due at once");
    },
  },
  {
    promise: "I6",
    name: "a turn opens only while no earlier message of its key is parked",
    run: async ({ storage }) => {
      await register(storage, 5n);
      await park(storage, [toPark(5, "a")]);
      const turn = await takeOne(storage);
      // What was passed over is read after all.
      await seek(storage, [{ partition: 0, to: 3n }]);
      await park(storage, [toPark(3, "a")]);
      await rejected(storage.openParked(turn), "claim-lost", "openParked behind an earlier one");
      await finish(storage, await takeOne(storage));
      await finish(storage, turn);
      await sameParked(storage, []);
    },
  },
  {
    promise: "I6",
    name: "a turn needs no claim and leaves the position and the ids alone",
    run: async ({ storage, another }) => {
      await register(storage, 0n);
      const claimed = await claim(storage);
      const chunk = await storage.open(claimed, [keyed(0, "a")]);
      await chunk.commit(1n, noMark, [toPark(0, "a")]);
      const other = another();
      await finish(other, await takeOne(other));
      same(await storage.lostClaims([{ ...claimed, nextOffset: 1n }]), [], "the lost claims");
      const next = await recordedOf(storage, claimed, record(1), record(2, { id: record(0).id }));
      same(next, ["new", "duplicate"], "what the next chunk records");
      await sameNextOffset(storage, 1n);
    },
  },
];

export const turnCases: readonly StorageCase[] = [...takeCases, ...fenceCases];
