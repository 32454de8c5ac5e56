/** O1 in a handler's transaction, where rows may wait for the commit: nobody may notice that they do. */
import { attempt, rejected, same } from "../check.ts";
import {
  claimFirst,
  drain,
  entry,
  leaseAll,
  names,
  noMark,
  record,
  type StorageCase,
  sameEffects,
} from "./arrange.ts";
import type { StorageUnderTest } from "./storage-under-test.ts";

/** Names of all rows, in the order of their positions. Takes them out. */
async function outbox<Tx>({ another }: StorageUnderTest<Tx>): Promise<readonly string[]> {
  const storage = another();
  const rows = [...(await drain(storage, await leaseAll(storage)))];
  rows.sort((a, b) => (a.position < b.position ? -1 : 1));
  return names(rows);
}

export const handlerOutboxCases: readonly StorageCase[] = [
  {
    promise: "O1",
    name: "what handlers of a chunk enqueue is there with its commit, in the order of their calls",
    run: async (context) => {
      const { storage, insertEffect } = context;
      const chunk = await storage.open(await claimFirst(storage), [record(0), record(1)]);
      const [first, second] = [chunk.handle(), chunk.handle()];
      await storage.enqueue(first.tx, [entry(0, "one")]);
      await storage.enqueue(second.tx, [entry(0, "two"), entry(1, "three")]);
      await insertEffect(first.tx, "an effect");
      await storage.enqueue(first.tx, [entry(0, "four")]);
      for (const { end } of [first, second]) end();
      await chunk.commit(2n, noMark);
      same(await outbox(context), ["one", "two", "three", "four"], "the rows");
      await sameEffects(context, "an effect");
    },
  },
  {
    promise: "O1",
    name: "what handlers of a chunk enqueue is gone with its rollback",
    run: async (context) => {
      const { storage } = context;
      const claimed = await claimFirst(storage);
      const chunk = await storage.open(claimed, [record(0)]);
      await storage.enqueue(chunk.handle().tx, [entry(0, "one")]);
      await chunk.rollback();
      const redo = await storage.open(claimed, [record(0)]);
      await storage.enqueue(redo.handle().tx, [entry(0, "two")]);
      await redo.commit(1n, noMark);
      same(await outbox(context), ["two"], "the rows");
    },
  },
  {
    promise: "O1",
    name: "a savepoint takes back what was enqueued behind it, and nothing else",
    run: async (context) => {
      const { storage, takeBack } = context;
      const chunk = await storage.open(await claimFirst(storage), [record(0), record(1)]);
      const one = chunk.handle();
      await storage.enqueue(one.tx, [entry(0, "before")]);
      await takeBack(one.tx, () => storage.enqueue(one.tx, [entry(0, "behind")]));
      await storage.enqueue(one.tx, [entry(0, "after")]);
      one.end();
      const other = chunk.handle();
      await storage.enqueue(other.tx, [entry(0, "other")]);
      await takeBack(other.tx, () => storage.enqueue(other.tx, [entry(0, "other behind")]));
      other.end();
      await chunk.commit(2n, noMark);
      same(await outbox(context), ["before", "after", "other"], "the rows");
    },
  },
  {
    promise: "O1",
    name: "a row in a handler is as it was when it was enqueued, whatever becomes of its bytes",
    run: async (context) => {
      const { storage, another } = context;
      const chunk = await storage.open(await claimFirst(storage), [record(0)]);
      const { tx, end } = chunk.handle();
      const bytesOf = (byte: number) => Uint8Array.of(byte, byte);
      const [key, value, header] = [bytesOf(1), bytesOf(2), bytesOf(3)] as const;
      await storage.enqueue(tx, [entry(0, "one", { key, value, headers: [["a", header]] })]);
      for (const given of [key, value, header]) given.fill(9);
      end();
      await chunk.commit(1n, noMark);
      const reader = another();
      const [found] = await drain(reader, await leaseAll(reader));
      const bytes = [found?.key, found?.value, found?.headers[0]?.[1]].map((each) => each?.[0]);
      same(bytes, [1, 2, 3], "the first bytes of key, value and header");
    },
  },
  {
    promise: "O1",
    name: "enqueue through a handle that has ended is refused, and the chunk commits without it",
    run: async (context) => {
      const { storage } = context;
      const chunk = await storage.open(await claimFirst(storage), [record(0)]);
      const { tx, end } = chunk.handle();
      await storage.enqueue(tx, [entry(0, "one")]);
      end();
      const late = attempt(() => storage.enqueue(tx, [entry(0, "late")]));
      await rejected(late, "transaction-finished", "enqueue through a handle that has ended");
      await chunk.commit(1n, noMark);
      same(await outbox(context), ["one"], "the rows");
    },
  },
  {
    promise: "O1",
    name: "more rows than anyone keeps are written, in order, and those of an immediate handle behind",
    run: async (context) => {
      const { storage } = context;
      const chunk = await storage.open(await claimFirst(storage), [record(0)]);
      const { tx, end } = chunk.handle();
      const many = Array.from({ length: 1_501 }, (_, n) => `row ${n}`);
      const large = new Uint8Array(700_000);
      for (const name of many) await storage.enqueue(tx, [entry(0, name)]);
      for (const name of ["large one", "large two"]) {
        await storage.enqueue(tx, [entry(0, name, { value: large })]);
      }
      await storage.enqueue(tx, [entry(0, "last")]);
      end();
      const immediate = chunk.handle({ shared: false, immediate: true });
      await storage.enqueue(immediate.tx, [entry(0, "immediate")]);
      immediate.end();
      await chunk.commit(1n, noMark);
      const expected = [...many, "large one", "large two", "last", "immediate"];
      same(await outbox(context), expected, "the rows");
    },
  },
];
