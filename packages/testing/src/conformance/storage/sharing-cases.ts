/** I5: handlers that share a transaction, and what their handles refuse for the others' sake. */
import { attempt, failureOf, holds, rejected, same } from "../check.ts";
import {
  claimFirst,
  noMark,
  record,
  type StorageCase,
  sameEffects,
  sameNextOffset,
} from "./arrange.ts";
import { park, sameParked, takeOne, toPark } from "./arrange-parking.ts";
import type { StorageUnderTest } from "./storage-under-test.ts";

const shared = { shared: true } as const;

function refusalsOf<Tx>({ sharedRefusals = [] }: StorageUnderTest<Tx>) {
  holds(sharedRefusals.length > 0, "the context must name what a shared handle refuses");
  return sharedRefusals;
}

export const sharingCases: readonly StorageCase[] = [
  {
    promise: "I5",
    name: "handlers may use shared handles of one chunk at the same time, each until its own end",
    run: async (context) => {
      const { storage, insertEffect } = context;
      const chunk = await storage.open(await claimFirst(storage), [record(0), record(1)]);
      const [one, two] = [chunk.handle(shared), chunk.handle(shared)];
      const texts = ["a", "b", "c", "d"];
      await Promise.all(texts.map((text, n) => insertEffect((n % 2 === 0 ? one : two).tx, text)));
      one.end();
      const late = attempt(() => insertEffect(one.tx, "late"));
      await rejected(late, "transaction-finished", "a statement after end()");
      await insertEffect(two.tx, "e");
      two.end();
      same([one.refused(), two.refused()], [false, false], "whether anything was refused");
      await chunk.commit(2n, noMark);
      await sameEffects(context, ...texts, "e");
    },
  },
  {
    promise: "I5",
    name: "a shared handle refuses what works on the whole transaction, which goes on untouched",
    run: async (context) => {
      const { storage, insertEffect } = context;
      const refusals = refusalsOf(context);
      const chunk = await storage.open(await claimFirst(storage), [record(0)]);
      const other = chunk.handle(shared);
      await insertEffect(other.tx, "before");
      for (const [n, { name, use }] of refusals.entries()) {
        const { tx, end, refused } = chunk.handle(shared);
        same(refused(), false, `whether anything was refused before ${name}`);
        // Sent and refused afterwards, one that fails would end the transaction for all.
        await rejected(
          attempt(() => use(tx)),
          "transaction-shared",
          `${name} on a shared handle`,
        );
        same(refused(), true, `whether it is told that ${name} was refused`);
        // Swallowed or not: the handler may go on.
        await insertEffect(tx, `beside ${n}`);
        end();
        same(refused(), true, `whether it is still told after the end of ${name}`);
      }
      await insertEffect(other.tx, "after");
      same(other.refused(), false, "whether anything was refused to the other handler");
      other.end();
      await chunk.commit(1n, noMark);
      const beside = refusals.map((_, n) => `beside ${n}`);
      await sameEffects(context, "before", ...beside, "after");
    },
  },
  {
    promise: "I5",
    name: "a handle that is not shared refuses none of it for that reason",
    run: async (context) => {
      const { storage } = context;
      const claimed = await claimFirst(storage);
      const ways = [undefined, { shared: false }];
      for (const { name, use } of refusalsOf(context)) {
        for (const way of ways) {
          const chunk = await storage.open(claimed, [record(0)]);
          const { tx, end, refused } = chunk.handle(way);
          const code = await attempt(() => use(tx)).then(
            () => null,
            (error: { readonly code?: unknown } | null) => error?.code,
          );
          end();
          same(code === "transaction-shared", false, `whether ${name} was refused as shared`);
          same(refused(), false, `whether it is told that ${name} was refused`);
          await chunk.rollback();
        }
      }
      await sameNextOffset(storage, 0n);
    },
  },
  {
    promise: "I5",
    name: "a shared handle refuses to begin or end the transaction as any other does",
    run: async (context) => {
      const { storage, insertEffect, plainControls } = context;
      const chunk = await storage.open(await claimFirst(storage), [record(0)]);
      const { tx, end } = chunk.handle(shared);
      await insertEffect(tx, "one");
      for (const control of plainControls) {
        await failureOf(
          attempt(() => control(tx)),
          "a shared handle must refuse to begin or end",
        );
      }
      end();
      await sameEffects(context);
      await chunk.commit(1n, noMark);
      await sameEffects(context, "one");
    },
  },
  {
    promise: "I5",
    name: "a shared handle of a turn refuses the same, and its handler may go on",
    run: async (context) => {
      const { storage, insertEffect } = context;
      await claimFirst(storage);
      await park(storage, [toPark(0, "a")]);
      const turn = await storage.openParked(await takeOne(storage));
      const { tx, end, refused } = turn.handle(shared);
      for (const { name, use } of refusalsOf(context)) {
        await rejected(
          attempt(() => use(tx)),
          "transaction-shared",
          `${name} on a shared handle of a turn`,
        );
      }
      same(refused(), true, "whether it is told that something was refused");
      await insertEffect(tx, "one");
      end();
      await turn.commit();
      await sameEffects(context, "one");
      await sameParked(storage, []);
    },
  },
];
