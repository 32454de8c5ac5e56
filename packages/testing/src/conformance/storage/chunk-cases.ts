/** I4, I5: the position moves only by compare-and-set, with the ids and the effects or not at all. */
import type { Recorded } from "@oncebox/core";
import { attempt, failureOf, holds, rejected, same, settled } from "../check.ts";
import {
  claim,
  claimFirst,
  consumer,
  entry,
  groupId,
  handle,
  id,
  leaseAll,
  names,
  noMark,
  read,
  record,
  register,
  type StorageCase,
  sameEffects,
  sameNextOffset,
  topic,
  untilOpen,
} from "./arrange.ts";
import type { CommitFault, StorageUnderTest } from "./storage-under-test.ts";

const positionCases: readonly StorageCase[] = [
  {
    promise: "I4",
    name: "a commit moves next_offset, also over what has no record",
    run: async ({ storage }) => {
      await register(storage, 3n);
      const claimed = await claim(storage);
      await (await storage.open(claimed, [record(3)])).commit(10n, noMark);
      const empty = await storage.open(claimed, []);
      same([empty.nextOffset, empty.recorded], [10n, []], "what a chunk without records finds");
      await empty.commit(2n ** 53n + 1n, noMark);
      await sameNextOffset(storage, 2n ** 53n + 1n);
    },
  },
  {
    promise: "I4",
    name: "neither a claim nor a rollback nor a second registration moves next_offset",
    run: async ({ storage, another }) => {
      await register(storage, 3n, 4n);
      const chunk = await storage.open(await claim(storage), [record(3)]);
      same(await chunk.rollback(), true, "whether the rollback was clean");
      await register(another(), 7n, 8n);
      await sameNextOffset(storage, 3n);
      await sameNextOffset(storage, 4n, 1);
    },
  },
  {
    promise: "I4",
    name: "a chunk under the same claim waits for the one before it and starts where that ended",
    run: async (context) => {
      const { storage } = context;
      const claimed = await claimFirst(storage);
      const first = await storage.open(claimed, [record(0), record(1)]);
      const opening = storage.open(claimed, [record(0), record(1), record(2)]);
      await untilOpen(context, 2, settled(opening));
      await first.commit(2n, noMark);
      const second = await opening;
      const expected: Recorded[] = ["done", "done", "new"];
      same([second.nextOffset, second.recorded], [2n, expected], "what the second chunk finds");
      await second.commit(3n, noMark);
      await sameNextOffset(storage, 3n);
    },
  },
  {
    promise: "I4",
    name: "a chunk that another one overtook moves nothing, not even under the same claim",
    run: async (context) => {
      const { storage, endSecretly } = context;
      const claimed = await claimFirst(storage);
      const slow = await storage.open(claimed, [record(0)]);
      const { tx, end } = slow.handle();
      await endSecretly(tx, { begin: true });
      end();
      const fast = await storage.open(claimed, [record(0), record(1)]);
      await fast.commit(2n, noMark);
      await failureOf(
        slow.commit(1n, noMark),
        "a commit from a position that has moved must reject",
      );
      await sameNextOffset(storage, 2n);
    },
  },
  {
    promise: "I4",
    name: "registrations at once give all partitions the start of one of them, and bind one group",
    run: async ({ storage, another }) => {
      const other = another();
      await Promise.all([
        register(storage, ...Array(12).fill(1n)),
        register(other, ...Array(12).fill(2n)),
      ]);
      const positions = new Set<bigint>();
      for (let n = 0; n < 12; n += 1) positions.add((await claim(storage, n)).nextOffset);
      same(positions.size, 1, "the number of different starts");
      const stranger = { consumer, groupId: "another group", topic: "another topic" };
      const nothing = { topicId: null, start: new Map(), added: new Map() };
      const binding = storage.registerTopic({ ...stranger, ...nothing });
      await rejected(binding, "group-mismatch", "a registration under another group");
    },
  },
  {
    promise: "I4",
    name: "a partition added to a topic that has rows starts where `added` says, the others stay",
    run: async ({ storage }) => {
      await register(storage, 3n, 4n);
      const start = new Map([0, 1, 2].map((partition) => [partition, 90n]));
      const added = new Map([0, 1, 2].map((partition) => [partition, 5n]));
      await storage.registerTopic({ consumer, groupId, topic, topicId: null, start, added });
      for (const [partition, offset] of [3n, 4n, 5n].entries()) {
        await sameNextOffset(storage, offset, partition);
      }
    },
  },
];

const atomicityCases: readonly StorageCase[] = [
  {
    promise: "I5",
    name: "ids, position, effects and outbox rows commit together",
    run: async (context) => {
      const { storage, another } = context;
      const claimed = await claimFirst(storage);
      const chunk = await storage.open(claimed, [record(0)]);
      const { tx, end } = chunk.handle();
      await context.insertEffect(tx, "one");
      await storage.enqueue(tx, [entry(0, "message")]);
      end();
      const other = another();
      const leases = await leaseAll(other);
      await sameEffects(context);
      same(names((await read(other, leases)).rows), [], "outbox rows before the commit");
      await chunk.commit(1n, noMark);
      await sameEffects(context, "one");
      same(names((await read(other, leases)).rows), ["message"], "outbox rows after the commit");
      const next = await storage.open(await sameNextOffset(other, 1n), [record(1, { id: id(0) })]);
      same(next.recorded, ["duplicate"], "the id at another position");
      await next.rollback();
    },
  },
  {
    promise: "I5",
    name: "ids, position, effects and outbox rows vanish together in a rollback",
    run: async (context) => {
      const { storage, openTransactions } = context;
      const chunk = await storage.open(await claimFirst(storage), [record(0)]);
      const { tx, end } = chunk.handle();
      await context.insertEffect(tx, "one");
      await storage.enqueue(tx, [entry(0, "message")]);
      end();
      same(await chunk.rollback(), true, "whether the rollback was clean");
      same(await openTransactions(), 0, "the number of open transactions after a rollback");
      await nothingHappened(context);
    },
  },
  {
    promise: "I5",
    name: "a failed statement can be rolled back, and the connection is clean afterwards",
    run: async (context) => {
      const { storage, failStatement } = context;
      const chunk = await storage.open(await claimFirst(storage), [record(0)]);
      await handle(context, chunk, "one");
      const { tx, end } = chunk.handle();
      const error = await failureOf(failStatement(tx), "a failing statement must reject");
      same(storage.trouble(error), null, "the trouble of a statement that its author got wrong");
      end();
      same(await chunk.rollback(), true, "whether the rollback was clean");
      await nothingHappened(context);
    },
  },
  {
    promise: "I5",
    name: "nothing is left of a chunk whose connection died before the commit",
    run: async (context) => {
      const { storage, breakConnection } = context;
      const claimed = await claimFirst(storage);
      const chunk = await storage.open(claimed, [record(0)]);
      await handle(context, chunk, "one");
      const { tx, end } = chunk.handle();
      await breakConnection(tx);
      const broken = context.insertEffect(tx, "two");
      const error = await failureOf(broken, "a statement on a dead connection must reject");
      same(storage.trouble(error), "global", "the trouble of a lost connection");
      end();
      same(await chunk.rollback(), false, "whether the rollback was clean");
      const again = await storage.open(await sameNextOffset(storage, 0n), [record(0)]);
      await handle(context, again, "one");
      const second = again.handle();
      await breakConnection(second.tx);
      second.end();
      await failureOf(again.commit(1n, noMark), "a commit over a dead connection must reject");
      await nothingHappened(context);
    },
  },
  {
    promise: "I5",
    name: "a handler that commits early fails the chunk, and the redo is not lost",
    run: (context) => endedEarly(context, false),
  },
  {
    promise: "I5",
    name: "a handler that commits early and begins anew fails the chunk, and the redo is not lost",
    run: (context) => endedEarly(context, true),
  },
  {
    promise: "I5",
    name: "a chunk's handle refuses to begin or end the transaction, and stays whole",
    run: async (context) => {
      const { storage, insertEffect, plainControls } = context;
      const chunk = await storage.open(await claimFirst(storage), [record(0)]);
      const { tx, end } = chunk.handle();
      await insertEffect(tx, "one");
      for (const control of plainControls) {
        await failureOf(
          attempt(() => control(tx)),
          "a handle must refuse to begin or end",
        );
      }
      end();
      await sameEffects(context);
      await chunk.commit(1n, noMark);
      await sameEffects(context, "one");
      await sameNextOffset(storage, 1n);
    },
  },
  {
    promise: "I5",
    name: "after a lost COMMIT nothing is left, and the next claim says so",
    run: (context) => unknownOutcome(context, "request-lost"),
  },
  {
    promise: "I5",
    name: "after a lost reply everything is there, and the next claim says so",
    run: (context) => unknownOutcome(context, "reply-lost"),
  },
];

/** After any end without a commit: no effect, no row, no position, and the id is free. */
async function nothingHappened<Tx>(context: StorageUnderTest<Tx>): Promise<void> {
  const { storage, another } = context;
  await sameEffects(context);
  const other = another();
  same(names((await read(other, await leaseAll(other))).rows), [], "the outbox rows");
  const claimed = await sameNextOffset(storage, 0n);
  const elsewhere = await storage.open(claimed, [record(5, { id: id(0), checksum: 8 })]);
  same(elsewhere.recorded, ["new"], "the id at another position");
  await elsewhere.rollback();
}

async function endedEarly<Tx>(context: StorageUnderTest<Tx>, begin: boolean): Promise<void> {
  const { storage, insertEffect, endSecretly, openTransactions } = context;
  const claimed = await claimFirst(storage);
  const records = [record(0), record(1)];
  const chunk = await storage.open(claimed, records);
  const { tx, end } = chunk.handle();
  await insertEffect(tx, "before");
  await endSecretly(tx, { begin });
  await insertEffect(tx, "after");
  end();
  await rejected(
    chunk.commit(2n, noMark),
    "transaction-ended-early",
    "a chunk that was ended early",
  );
  same(await openTransactions(), 0, "the number of open transactions after it");
  // What was written up to the early end is committed: nobody can take that back.
  if (begin) await sameEffects(context, "before");
  const redo = await storage.open(await sameNextOffset(storage, 0n), records);
  same(redo.recorded, ["new", "new"], "what the redo records");
  await handle(context, redo, "redone");
  await redo.commit(2n, noMark);
  holds((await context.effects()).includes("redone"), "the redo's effect must be committed");
  await sameNextOffset(storage, 2n);
}

async function unknownOutcome<Tx>(
  context: StorageUnderTest<Tx>,
  fault: CommitFault,
): Promise<void> {
  const { storage, another, breakCommit } = context;
  const chunk = await storage.open(await claimFirst(storage), [record(0)]);
  await handle(context, chunk, "one");
  breakCommit(fault);
  await rejected(chunk.commit(1n, noMark), "commit-unknown", `a commit with its ${fault}`);
  if (fault === "request-lost") {
    // The claim inside waits for the end of the cut transaction.
    await sameNextOffset(storage, 0n);
    return nothingHappened(context);
  }
  const claimed = await sameNextOffset(another(), 1n);
  await sameEffects(context, "one");
  const next = await storage.open(claimed, [record(0), record(1, { id: id(0) })]);
  same(next.recorded, ["done", "duplicate"], "the same record, and its id at another position");
  await next.rollback();
}

export const chunkCases: readonly StorageCase[] = [...positionCases, ...atomicityCases];
