/** T1: a transaction resolves only after a confirmed COMMIT of itself. And what its handle refuses. */
import { attempt, eventually, failureOf, holds, rejected, same } from "../check.ts";
import {
  claimFirst,
  consumer,
  entry,
  handle,
  id,
  lease,
  longWaitMs,
  names,
  noMark,
  read,
  record,
  type StorageCase,
  sameEffects,
  sameNextOffset,
  topic,
} from "./arrange.ts";

export const transactionCases: readonly StorageCase[] = [
  {
    promise: "T1",
    name: "a transaction commits what its work wrote and resolves with its value",
    run: async (context) => {
      const { storage, insertEffect } = context;
      const value = await storage.transaction(async (tx) => {
        await insertEffect(tx, "one");
        await insertEffect(tx, "two");
        return 42;
      });
      same(value, 42, "the value of a transaction");
      await sameEffects(context, "one", "two");
    },
  },
  {
    promise: "T1",
    name: "a transaction whose work throws commits nothing and rejects with that error",
    run: async (context) => {
      const { storage, insertEffect, openTransactions } = context;
      const thrown = new Error("the work's own");
      const failing = storage.transaction(async (tx) => {
        await insertEffect(tx, "one");
        throw thrown;
      });
      const error = await failureOf(failing, "a transaction whose work throws must reject");
      holds(error === thrown, "a transaction must reject with the very error its work threw");
      await sameEffects(context);
      same(await openTransactions(), 0, "the number of transactions left open");
    },
  },
  {
    promise: "T1",
    name: "a transaction with a swallowed failed statement rejects and commits nothing",
    run: async (context) => {
      const { storage, insertEffect, failStatement } = context;
      const swallowing = storage.transaction(async (tx) => {
        await insertEffect(tx, "one");
        await failureOf(failStatement(tx), "a failing statement must reject");
      });
      await rejected(swallowing, "transaction-aborted", "a transaction with a swallowed error");
      await sameEffects(context);
    },
  },
  {
    promise: "T1",
    name: "a chunk with a swallowed failed statement rejects and commits nothing",
    run: async (context) => {
      const { storage, insertEffect, failStatement } = context;
      const claimed = await claimFirst(storage);
      const chunk = await storage.open(claimed, [record(0)]);
      const { tx, end } = chunk.handle();
      await insertEffect(tx, "one");
      await failureOf(failStatement(tx), "a failing statement must reject");
      end();
      await rejected(
        chunk.commit(1n, noMark),
        "transaction-aborted",
        "a chunk with a swallowed error",
      );
      await sameEffects(context);
      await sameNextOffset(storage, 0n);
    },
  },
  {
    promise: "T1",
    name: "a COMMIT that never arrived is unknown, not failed, and nothing is committed",
    run: async (context) => {
      const { storage, insertEffect, breakCommit, openTransactions } = context;
      const cut = storage.transaction(async (tx) => {
        await insertEffect(tx, "one");
        breakCommit("request-lost");
      });
      await rejected(cut, "commit-unknown", "a transaction whose COMMIT was cut");
      const over = async () => ((await openTransactions()) === 0 ? true : undefined);
      await eventually(longWaitMs, over, "the end of the cut transaction");
      await sameEffects(context);
    },
  },
  {
    promise: "T1",
    name: "a COMMIT whose reply was lost is unknown, not failed, and is committed",
    run: async (context) => {
      const { storage, insertEffect, breakCommit } = context;
      const cut = storage.transaction(async (tx) => {
        await insertEffect(tx, "one");
        breakCommit("reply-lost");
      });
      await rejected(cut, "commit-unknown", "a transaction whose reply was cut");
      await sameEffects(context, "one");
    },
  },
  {
    promise: "T1",
    name: "a transaction that its work ended early rejects",
    run: async ({ storage, insertEffect, endSecretly }) => {
      for (const begin of [false, true]) {
        const ended = storage.transaction(async (tx) => {
          await insertEffect(tx, "before");
          await endSecretly(tx, { begin });
        });
        const what = `a transaction ended early${begin ? " with another begun" : ""}`;
        await rejected(ended, "transaction-ended-early", what);
      }
    },
  },
  {
    promise: "T1",
    name: "a transaction whose connection died rejects and commits nothing",
    run: async (context) => {
      const { storage, insertEffect, breakConnection } = context;
      const broken = storage.transaction(async (tx) => {
        await insertEffect(tx, "one");
        await breakConnection(tx);
      });
      const error = await failureOf(broken, "a transaction whose connection died must reject");
      same(storage.trouble(error), "global", "the trouble of a lost connection");
      await sameEffects(context);
      await storage.transaction((tx) => insertEffect(tx, "two"));
      await sameEffects(context, "two");
    },
  },
  {
    promise: "T1",
    name: "a transaction's handle refuses to begin or end it, and stays whole",
    run: async (context) => {
      const { storage, insertEffect, plainControls } = context;
      await storage.transaction(async (tx) => {
        await insertEffect(tx, "one");
        for (const control of plainControls) {
          await failureOf(
            attempt(() => control(tx)),
            "a handle must refuse to begin or end",
          );
        }
        await sameEffects(context);
      });
      await sameEffects(context, "one");
    },
  },
  {
    promise: "T1",
    name: "a handle is dead when its transaction has ended",
    run: async (context) => {
      const { storage, insertEffect } = context;
      const handles: Parameters<typeof insertEffect>[0][] = [];
      await storage.transaction(async (tx) => handles.push(tx));
      same(handles.length, 1, "the number of times that the work ran");
      const ids = [{ source: topic, id: id(1), checksum: null }];
      for (const tx of handles) {
        const uses = {
          "a statement": () => insertEffect(tx, "late"),
          enqueue: () => storage.enqueue(tx, [entry(0, "late")]),
          recordIds: () => storage.recordIds(tx, consumer, ids),
        };
        for (const [name, use] of Object.entries(uses)) {
          const what = `${name} through a finished handle`;
          await rejected(attempt(use), "transaction-finished", what);
        }
      }
      await sameEffects(context);
    },
  },
  {
    promise: "T1",
    name: "a handler's handle is dead after end(), while the chunk goes on",
    run: async (context) => {
      const { storage, insertEffect } = context;
      const claimed = await claimFirst(storage);
      const chunk = await storage.open(claimed, [record(0), record(1)]);
      const first = chunk.handle();
      await insertEffect(first.tx, "one");
      first.end();
      const late = attempt(() => insertEffect(first.tx, "late"));
      await rejected(late, "transaction-finished", "a statement after end()");
      await handle(context, chunk, "two");
      await chunk.commit(2n, noMark);
      await sameEffects(context, "one", "two");
      await sameNextOffset(storage, 2n);
    },
  },
  {
    promise: "T1",
    name: "relays are woken when the rows can be read, by the storage and from another process",
    run: async ({ storage, another }) => {
      const other = another();
      const leases = await lease(other);
      const woken = new Map<typeof storage, ReturnType<typeof read>>();
      const listeners = await Promise.all(
        [storage, other].map((each) =>
          each.wake.listen({
            woken: () => {
              const reading = read(other, leases);
              // It is looked at below, but for the first of several.
              reading.catch(() => {});
              woken.set(each, reading);
            },
            expected: () => {},
          }),
        ),
      );
      // Whoever begins to listen may be woken for what he missed.
      woken.clear();
      await storage.transaction((tx) => storage.enqueue(tx, [entry(0, "one")]));
      const both = async () => (woken.size === 2 ? [...woken.values()] : undefined);
      for (const reading of await eventually(longWaitMs, both, "the wake-up of both relays")) {
        same(names((await reading).rows), ["one"], "what a relay reads when it is woken");
      }
      for (const stop of listeners) await stop();
    },
  },
];
