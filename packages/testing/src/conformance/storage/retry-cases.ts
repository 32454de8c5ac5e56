/** I6: the transaction of one turn: the handler's effects and the end of the message, or neither. */
import { attempt, failureOf, rejected, same, within } from "../check.ts";
import {
  claim,
  handle,
  longWaitMs,
  noMark,
  register,
  type StorageCase,
  sameEffects,
  sameNextOffset,
} from "./arrange.ts";
import { failure, finish, keyed, park, sameParked, takeOne, toPark } from "./arrange-parking.ts";
import type { StorageUnderTest } from "./storage-under-test.ts";

/** The turn of the only message, open. */
async function openFirst<Tx>({ storage }: StorageUnderTest<Tx>) {
  await register(storage, 0n);
  const claimed = await park(storage, [toPark(0, "a")]);
  const turn = await takeOne(storage);
  return { claimed, turn, open: await storage.openParked(turn) };
}

/** After any end without a commit: the turn is as it was, and works. */
async function stillThere<Tx>(
  context: StorageUnderTest<Tx>,
  turn: Parameters<typeof finish>[1],
): Promise<void> {
  const { storage, another } = context;
  await sameEffects(context);
  await sameParked(another(), [[0n, "retrying"]]);
  const open = await storage.openParked(turn);
  await handle(context, open, "redone");
  await open.commit();
  await sameEffects(context, "redone");
  await sameParked(another(), []);
}

export const retryCases: readonly StorageCase[] = [
  {
    promise: "I6",
    name: "a turn's commit keeps its effects and ends its message",
    run: async (context) => {
      const { storage, another, openTransactions } = context;
      const { turn, open } = await openFirst(context);
      await handle(context, open, "one");
      await sameEffects(context);
      await open.commit();
      await sameEffects(context, "one");
      same(await openTransactions(), 0, "the number of open transactions after it");
      await sameParked(another(), []);
      await rejected(storage.openParked(turn), "claim-lost", "openParked of what is gone");
      const outcome = { state: "waiting", counts: true, afterMs: 0, error: failure } as const;
      same(await storage.settleParked(turn, outcome), false, "whether it was settled");
    },
  },
  {
    promise: "I6",
    name: "a turn that is rolled back leaves no effect, and its message as it was",
    run: async (context) => {
      const { turn, open } = await openFirst(context);
      await handle(context, open, "one");
      same(await open.rollback(), true, "whether the rollback was clean");
      same(await context.openTransactions(), 0, "the number of open transactions after it");
      await failureOf(open.commit(), "a commit after a rollback must reject");
      await stillThere(context, turn);
    },
  },
  {
    promise: "I6",
    name: "a turn that was rolled back can be settled",
    run: async (context) => {
      const { storage } = context;
      const { turn, open } = await openFirst(context);
      await open.rollback();
      const outcome = { state: "dead", counts: true, afterMs: 0, error: failure } as const;
      same(await storage.settleParked(turn, outcome), true, "whether it was settled");
      await sameParked(storage, [[0n, "dead"]]);
    },
  },
  {
    promise: "I6",
    name: "a turn with a swallowed failed statement rejects, and its message is as it was",
    run: async (context) => {
      const { turn, open } = await openFirst(context);
      await handle(context, open, "one");
      const { tx, end } = open.handle();
      await failureOf(context.failStatement(tx), "a failing statement must reject");
      end();
      await rejected(open.commit(), "transaction-aborted", "a turn with a swallowed error");
      await stillThere(context, turn);
    },
  },
  {
    promise: "I6",
    name: "a turn whose handler ends its transaction early is not lost: its message is parked still",
    run: (context) => endedEarly(context, false),
  },
  {
    promise: "I6",
    name: "nor is one whose handler ends its transaction early and begins anew",
    run: (context) => endedEarly(context, true),
  },
  {
    promise: "I6",
    name: "a turn whose connection died leaves no effect, and its message as it was",
    run: async (context) => {
      const { turn, open } = await openFirst(context);
      await handle(context, open, "one");
      const { tx, end } = open.handle();
      await context.breakConnection(tx);
      end();
      await failureOf(open.commit(), "a commit over a dead connection must reject");
      await stillThere(context, turn);
    },
  },
  {
    promise: "I6",
    name: "a turn that was destroyed leaves no effect, and its message as it was",
    run: async (context) => {
      const { turn, open } = await openFirst(context);
      await handle(context, open, "one");
      open.destroy();
      await failureOf(open.commit(), "a commit after destroy must reject");
      await stillThere(context, turn);
    },
  },
  {
    promise: "I6",
    name: "a turn whose COMMIT was lost is unknown, and its message as it was",
    run: async (context) => {
      const { turn, open } = await openFirst(context);
      await handle(context, open, "one");
      context.breakCommit("request-lost");
      await rejected(open.commit(), "commit-unknown", "a turn whose COMMIT was cut");
      await stillThere(context, turn);
    },
  },
  {
    promise: "I6",
    name: "a turn whose reply was lost is unknown, and its message is gone",
    run: async (context) => {
      const { storage, another } = context;
      const { turn, open } = await openFirst(context);
      await handle(context, open, "one");
      context.breakCommit("reply-lost");
      await rejected(open.commit(), "commit-unknown", "a turn whose reply was cut");
      await sameEffects(context, "one");
      await sameParked(another(), []);
      await rejected(storage.openParked(turn), "claim-lost", "openParked of what is gone");
    },
  },
  {
    promise: "I6",
    name: "a turn's handle is dead after end()",
    run: async (context) => {
      const { insertEffect } = context;
      const { open } = await openFirst(context);
      const { tx, end } = open.handle();
      await insertEffect(tx, "one");
      end();
      const late = attempt(() => insertEffect(tx, "late"));
      await rejected(late, "transaction-finished", "a statement after end()");
      await open.commit();
      await sameEffects(context, "one");
    },
  },
  {
    promise: "I6",
    name: "an open chunk and an open turn of its partition do not wait for each other",
    run: async (context) => {
      const { storage, another } = context;
      await register(storage, 0n);
      const claimed = await park(storage, [toPark(0, "a"), toPark(1, "b")]);
      const first = await takeOne(storage, { limit: 1 });
      const chunk = await storage.open(claimed, [keyed(2, null)]);
      const other = another();
      const turn = await beside(other.openParked(first), "a turn beside an open chunk");
      await handle(context, turn, "a turn");
      await beside(turn.commit(), "its commit");
      const second = await beside(takeOne(other), "taking beside an open chunk");
      await handle(context, chunk, "a chunk");
      const reopened = await beside(other.openParked(second), "a second turn");
      await beside(chunk.commit(3n, noMark), "a chunk's commit beside an open turn");
      const next = await beside(storage.open(claimed, [keyed(3, "b")]), "a chunk beside a turn");
      same(next.recorded, ["held"], "what the chunk finds");
      await beside(next.commit(4n, noMark, [toPark(3, "b")]), "its commit with one more parked");
      await beside(claim(other), "a claim beside an open turn");
      await reopened.commit();
      await sameParked(storage, [[3n, "waiting"]]);
      await sameEffects(context, "a turn", "a chunk");
    },
  },
];

/** Long before anything gives up waiting for a lock. */
function beside<R>(work: Promise<R>, what: string): Promise<R> {
  return within(longWaitMs / 2, work, what);
}

async function endedEarly<Tx>(context: StorageUnderTest<Tx>, begin: boolean): Promise<void> {
  const { storage, insertEffect, endSecretly, openTransactions } = context;
  const { claimed, turn, open } = await openFirst(context);
  const { tx, end } = open.handle();
  await insertEffect(tx, "before");
  await endSecretly(tx, { begin });
  await insertEffect(tx, "after");
  end();
  const what = "a turn that was ended early";
  await rejected(open.commit(), "transaction-ended-early", what);
  same(await openTransactions(), 0, "the number of open transactions after it");
  // What was written up to the early end is committed: nobody can take that back.
  if (begin) await sameEffects(context, "before");
  // The end of the message is not among it: it is tried again.
  await sameParked(context.another(), [[0n, "retrying"]]);
  await (await storage.open(claimed, [keyed(1, "b")])).commit(2n, noMark);
  await sameNextOffset(storage, 2n);
  await finish(storage, turn);
  await sameParked(storage, []);
}
