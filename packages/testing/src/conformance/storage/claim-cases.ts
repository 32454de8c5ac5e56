/** I1, I2: a claim waits for the previous holder's open transaction, and fences it afterwards. */
import { failureOf, holds, rejected, same, settled } from "../check.ts";
import {
  claim,
  claimFirst,
  handle,
  longWaitMs,
  noMark,
  record,
  ref,
  register,
  type StorageCase,
  sameEffects,
  sameNextOffset,
  shortWaitMs,
  untilOpen,
} from "./arrange.ts";

const claimCases: readonly StorageCase[] = [
  {
    promise: "I1",
    name: "a claim takes a new token and raises the epoch by one",
    run: async ({ storage, another }) => {
      await register(storage, 5n, 6n);
      const other = another();
      const first = await claim(storage);
      const second = await claim(other);
      const third = await claim(storage);
      same(
        [first, second, third].map((each) => each.nextOffset),
        [5n, 5n, 5n],
        "the positions",
      );
      same(second.epoch, first.epoch + 1n, "the epoch of the second claim");
      same(third.epoch, first.epoch + 2n, "the epoch of the third claim");
      same(new Set([first.token, second.token, third.token]).size, 3, "the number of tokens");
      const neighbour = await claim(other, 1);
      same([neighbour.nextOffset, neighbour.epoch], [6n, first.epoch], "another partition's claim");
      same(neighbour.incarnation, first.incarnation, "the database's incarnation");
    },
  },
  {
    promise: "I1",
    name: "a partition without a row has no claim",
    run: async ({ storage }) => {
      same(await storage.claim(ref(0), longWaitMs), null, "a claim before any registration");
      await register(storage, 0n);
      same(await storage.claim(ref(1), longWaitMs), null, "a claim of another partition");
    },
  },
  {
    promise: "I1",
    name: "a claim waits for an open chunk and counts on from where that left the row",
    run: async (context) => {
      const { storage, another } = context;
      const claimed = await claimFirst(storage);
      const chunk = await storage.open(claimed, [record(0)]);
      await handle(context, chunk, "one");
      const taking = claim(another());
      const taken = settled(taking);
      await untilOpen(context, 2, taken);
      holds(!taken(), "a claim must not be given while a chunk of the previous holder is open");
      await chunk.commit(1n, noMark);
      const next = await taking;
      same([next.nextOffset, next.epoch], [1n, claimed.epoch + 1n], "position and epoch after it");
    },
  },
  {
    promise: "I1",
    name: "a claim's wait is bounded, names who blocks, and leaves the holder its claim",
    run: async (context) => {
      const { storage, another, connectionName } = context;
      const claimed = await claimFirst(storage);
      const chunk = await storage.open(claimed, [record(0)]);
      const { tx, end } = chunk.handle();
      const blocker = await connectionName(tx);
      end();
      const timeout = "a claim that waits in vain";
      const error = await rejected(another().claim(ref(), shortWaitMs), "claim-timeout", timeout);
      holds(
        new RegExp(`\\b${blocker}\\b`).test(error.message),
        `the error must name the blocking connection ${blocker}: ${error.message}`,
      );
      same(
        storage.trouble(error) === null,
        false,
        "whether a claim's time-out is the author's fault",
      );
      await handle(context, chunk, "one");
      await chunk.commit(1n, noMark);
      const again = await storage.open(claimed, [record(1)]);
      await again.commit(2n, noMark);
      await sameEffects(context, "one");
    },
  },
  {
    promise: "I1",
    name: "a claim does not wait for chunks of other partitions",
    run: async ({ storage, another }) => {
      await register(storage, 0n, 0n);
      const chunk = await storage.open(await claim(storage, 0), [record(0)]);
      await claim(another(), 1, shortWaitMs);
      await chunk.rollback();
    },
  },
  {
    promise: "I1",
    name: "a claim waits for a commit that arrives after its connection died, and sees it",
    run: async (context) => {
      const { storage, another, breakCommit } = context;
      const claimed = await claimFirst(storage);
      const chunk = await storage.open(claimed, [record(0)]);
      await handle(context, chunk, "one");
      const late = breakCommit("request-late");
      await rejected(chunk.commit(1n, noMark), "commit-unknown", "a commit cut under way");
      const other = another();
      const wait = "a claim while that commit is under way";
      await rejected(other.claim(ref(), shortWaitMs), "claim-timeout", wait);
      const taking = claim(other);
      late.deliver();
      same((await taking).nextOffset, 1n, "next_offset after the late commit");
      await sameEffects(context, "one");
    },
  },
  {
    promise: "I1",
    name: "of claims at once each has its own epoch, and the highest is the live one",
    run: async ({ storage, another }) => {
      await register(storage, 0n);
      const other = another();
      const many = Array.from({ length: 8 }, (_, n) => claim(n % 2 === 0 ? storage : other));
      const claims = (await Promise.all(many)).sort((a, b) => (a.epoch < b.epoch ? -1 : 1));
      const epochs = claims.map((each) => each.epoch);
      const first = epochs[0] ?? 0n;
      same(
        epochs,
        epochs.map((_, n) => first + BigInt(n)),
        "the epochs",
      );
      const live = claims.pop();
      for (const old of claims) {
        await rejected(storage.open(old, [record(0)]), "claim-lost", `open at epoch ${old.epoch}`);
      }
      holds(live !== undefined, "there must be a live claim");
      await (await other.open(live, [record(0)])).commit(1n, noMark);
    },
  },
];

const fenceCases: readonly StorageCase[] = [
  {
    promise: "I2",
    name: "open under an old claim rejects and records nothing",
    run: async (context) => {
      const { storage, another, openTransactions } = context;
      const old = await claimFirst(storage);
      const live = await claim(another());
      await rejected(storage.open(old, [record(0)]), "claim-lost", "open under an old claim");
      same(await openTransactions(), 0, "the number of transactions left open by a fenced open");
      const chunk = await another().open(live, [record(0)]);
      same(chunk.recorded, ["new"], "what the new holder records");
      await handle(context, chunk, "one");
      await chunk.commit(1n, noMark);
      await rejected(storage.open(old, []), "claim-lost", "open of no record under an old claim");
      await sameEffects(context, "one");
    },
  },
  {
    promise: "I2",
    name: "the token fences, not the epoch: after a fail-over an old epoch may fit again",
    run: async ({ storage, another }) => {
      const old = await claimFirst(storage);
      const live = await claim(another());
      const forged = { ...live, token: old.token };
      await rejected(storage.open(forged, [record(0)]), "claim-lost", "open with an old token");
      await (await storage.open(live, [record(0)])).commit(1n, noMark);
    },
  },
  {
    promise: "I2",
    name: "a claim by the same owner voids its older ones too",
    run: async ({ storage }) => {
      const old = await claimFirst(storage);
      const live = await claim(storage);
      await rejected(storage.open(old, [record(0)]), "claim-lost", "open under the older claim");
      await (await storage.open(live, [record(0)])).commit(1n, noMark);
    },
  },
  {
    promise: "I2",
    name: "a chunk opened before a take-over is tried blocks it and commits",
    run: async (context) => {
      const { storage, another } = context;
      const claimed = await claimFirst(storage);
      const chunk = await storage.open(claimed, [record(0)]);
      const refused = another().claim(ref(), shortWaitMs);
      await rejected(refused, "claim-timeout", "a take-over of an open chunk");
      await handle(context, chunk, "one");
      await chunk.commit(1n, noMark);
      await sameEffects(context, "one");
      await sameNextOffset(storage, 1n);
    },
  },
  {
    promise: "I2",
    name: "a commit under a claim lost meanwhile writes nothing",
    run: async (context) => {
      const { storage, another, endSecretly } = context;
      const claimed = await claimFirst(storage);
      const chunk = await storage.open(claimed, [record(0)]);
      const { tx, end } = chunk.handle();
      // The one way to lose a claim under an open chunk: the handler gives its lock away.
      await endSecretly(tx, { begin: true });
      end();
      const other = another();
      const taken = await claim(other);
      await handle(context, chunk, "fenced");
      const lost = ["claim-lost", "transaction-ended-early"] as const;
      await rejected(chunk.commit(1n, noMark), lost, "a commit under a lost claim");
      await sameEffects(context);
      const redo = await other.open(taken, [record(0)]);
      same([redo.nextOffset, redo.recorded], [0n, ["new"]], "what the new holder finds");
      await redo.commit(1n, noMark);
    },
  },
  {
    promise: "I2",
    name: "a chunk that was destroyed lets the next claim through and can commit nothing",
    run: async (context) => {
      const { storage, another } = context;
      const claimed = await claimFirst(storage);
      const chunk = await storage.open(claimed, [record(0)]);
      await handle(context, chunk, "cut");
      chunk.destroy();
      const other = another();
      const taken = await claim(other);
      // A handler that was cut may come back and go on as if nothing had happened.
      await failureOf(chunk.commit(1n, noMark), "a commit after destroy must reject");
      const redo = await other.open(taken, [record(0)]);
      same([redo.nextOffset, redo.recorded], [0n, ["new"]], "what the new holder finds");
      await redo.commit(1n, noMark);
      await sameEffects(context);
    },
  },
];

export const ownershipCases: readonly StorageCase[] = [...claimCases, ...fenceCases];
