/** I1: what claims leave to those after them: how many came to nothing, and at which record. */
import type { PartitionClaim } from "@oncebox/core";
import { rejected, same } from "../check.ts";
import {
  claim,
  claimFirst,
  noMark,
  record,
  register,
  type StorageCase,
  sameNextOffset,
  seek,
} from "./arrange.ts";

/** What a claim tells of those before it. */
function told({ stalledClaims, trying }: PartitionClaim) {
  return { stalledClaims, trying };
}

const left = { kind: "left" } as const;
const trying = (offset: bigint) => ({ kind: "trying", offset }) as const;

export const stallCases: readonly StorageCase[] = [
  {
    promise: "I1",
    name: "claims in a row are counted until a commit; what is rolled back does not end the count",
    run: async ({ storage, another }) => {
      const first = await claimFirst(storage);
      same(told(first), { stalledClaims: 1, trying: null }, "what the first claim tells");
      const second = await claim(another());
      await (await storage.open(second, [record(0)])).rollback();
      const third = await claim(storage);
      same([second, third].map(told), [stalled(2), stalled(3)], "what the next claims tell");
      await (await storage.open(third, [record(0)])).commit(1n, noMark);
      same(told(await claim(storage)), stalled(1), "what a claim tells after a commit");
      same(told(await claim(another())), stalled(2), "what the one after it tells");
    },
  },
  {
    promise: "I1",
    name: "the claims of each partition are counted by themselves",
    run: async ({ storage }) => {
      await register(storage, 0n, 0n);
      await claim(storage, 0);
      same(told(await claim(storage, 1)), stalled(1), "what the other partition's claim tells");
      same(told(await claim(storage, 0)), stalled(2), "what the second of the first one tells");
    },
  },
  {
    promise: "I1",
    name: "a claim given up alive is not counted, also when another one holds the partition by then",
    run: async ({ storage, another }) => {
      const first = await claimFirst(storage);
      await storage.noteClaim(first, left);
      const second = await claim(storage);
      same(told(second), stalled(1), "what a claim tells after one that was given up");
      const third = await claim(another());
      await storage.noteClaim(second, left);
      same(told(await claim(storage)), stalled(2), "what a claim tells after the late note");
      await (await storage.open(await claim(storage), [])).commit(1n, noMark);
      await storage.noteClaim(third, left);
      same(
        told(await claim(storage)),
        stalled(1),
        "what a claim tells: the count is never below 0",
      );
    },
  },
  {
    promise: "I1",
    name: "a record that is tried alone is told to the next claims, with how many have tried it",
    run: async ({ storage, another }) => {
      const first = await claimFirst(storage);
      await storage.noteClaim(first, trying(7n));
      // Once for each claim, however often it tries.
      await storage.noteClaim(first, trying(7n));
      const second = await claim(another());
      same(told(second), stalled(2, 7n, 1), "what the second claim tells");
      await storage.noteClaim(second, trying(7n));
      const third = await claim(storage);
      same(told(third), stalled(3, 7n, 2), "what the third claim tells");
      same(
        told(await claim(storage)),
        stalled(4, 7n, 2),
        "what one tells after one that tried none",
      );
    },
  },
  {
    promise: "I1",
    name: "another record that is tried alone takes the place of the one before",
    run: async ({ storage }) => {
      const first = await claimFirst(storage);
      await storage.noteClaim(first, trying(7n));
      await storage.noteClaim(first, trying(2n ** 53n + 1n));
      const second = await claim(storage);
      same(told(second), stalled(2, 2n ** 53n + 1n, 1), "what the second claim tells");
      await storage.noteClaim(second, trying(7n));
      same(told(await claim(storage)), stalled(3, 7n, 1), "what the third claim tells");
    },
  },
  {
    promise: "I1",
    name: "a claim given up alive takes back its own trying and no other's",
    run: async ({ storage, another }) => {
      const first = await claimFirst(storage);
      await storage.noteClaim(first, trying(7n));
      const second = await claim(storage);
      await storage.noteClaim(second, trying(7n));
      await storage.noteClaim(first, left);
      const third = await claim(another());
      same(told(third), stalled(2, 7n, 2), "what a claim tells after the first was given up");
      await storage.noteClaim(second, left);
      same(told(await claim(storage)), stalled(2, 7n, 1), "after the second was given up");
      const last = await claim(storage);
      await storage.noteClaim(last, trying(9n));
      await storage.noteClaim(last, left);
      same(told(await claim(storage)), stalled(3), "after the only one that tried was given up");
    },
  },
  {
    promise: "I1",
    name: "a commit and a seek end the count and what was tried",
    run: async ({ storage }) => {
      const first = await claimFirst(storage);
      await storage.noteClaim(first, trying(0n));
      await (await storage.open(first, [record(0)])).commit(1n, noMark);
      const second = await claim(storage);
      same(told(second), stalled(1), "what a claim tells after a commit");
      await storage.noteClaim(second, trying(1n));
      await claim(storage);
      await seek(storage, [{ partition: 0, to: 1n }]);
      same(told(await claim(storage)), stalled(1), "what a claim tells after a seek");
    },
  },
  {
    promise: "I1",
    name: "nothing is noted as tried under a claim that is held no more",
    run: async ({ storage, another }) => {
      const old = await claimFirst(storage);
      const live = await claim(another());
      const forged = { ...live, token: old.token };
      for (const lost of [old, forged, { ...live, partition: 5 }]) {
        await rejected(storage.noteClaim(lost, trying(7n)), "claim-lost", "a note of an old claim");
      }
      same(told(await sameNextOffset(storage, 0n)), stalled(3), "what the next claim tells");
    },
  },
  {
    promise: "I1",
    name: "a note of a claim that the row knows nothing of does nothing",
    run: async ({ storage }) => {
      const claimed = await claimFirst(storage);
      await storage.noteClaim(claimed, trying(7n));
      const places = [{ consumer: "unknown" }, { topic: "unknown" }, { partition: 5 }];
      for (const place of places) await storage.noteClaim({ ...claimed, ...place }, left);
      // As after a restore: the row is at an earlier claim.
      await storage.noteClaim({ ...claimed, epoch: claimed.epoch + 1n }, left);
      same(told(await claim(storage)), stalled(2, 7n, 1), "what the next claim tells");
    },
  },
];

function stalled(stalledClaims: number, offset?: bigint, claims = 0) {
  return { stalledClaims, trying: offset === undefined ? null : { offset, claims } };
}
