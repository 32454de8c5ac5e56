// Several handlers on one connection: statements that are sent at once, and savepoints.
import { StorageError } from "@oncebox/core";
import { describe, expect, it } from "vitest";
import { manualClock } from "../manual-clock.ts";
import { memoryDatabase } from "./database.ts";
import {
  beginTransaction,
  behind,
  type MemoryStorageOptions,
  memoryStorage,
} from "./memory-storage.ts";

const at = { consumer: "billing", topic: "orders", partition: 0 };
const noMark = { topicId: null, leaderEpoch: null, last: null };
const shared = { shared: true } as const;

async function scene(options: MemoryStorageOptions = {}, statementMs?: number | (() => number)) {
  const clock = manualClock();
  let slow = false;
  const ms = () => {
    if (!slow) return 0;
    return typeof statementMs === "function" ? statementMs() : (statementMs ?? 0);
  };
  const database = memoryDatabase({ clock, statementMs: ms });
  const storage = memoryStorage({ database, ...options });
  const start = new Map([[0, 0n]]);
  const none = { groupId: "g", topicId: null, added: new Map<number, bigint>() };
  await storage.registerTopic({ ...at, ...none, start });
  const claim = await storage.claim({ ...at, owner: "a test" }, 1_000);
  if (claim === null) throw new Error("no row");
  const chunk = await storage.open(claim, []);
  slow = true;
  return { clock, database, storage, chunk };
}

function watched(work: Promise<unknown>) {
  const seen = { outcome: "open" as unknown };
  work.then(
    (value) => {
      seen.outcome = value ?? "done";
    },
    (error) => {
      seen.outcome = error;
    },
  );
  return seen;
}

describe("statements that are sent at once", () => {
  it.each([
    { pipelined: true, ms: 10 },
    { pipelined: false, ms: 30 },
  ])("take $ms ms where pipelined is $pipelined", async ({ pipelined, ms }) => {
    const { clock, storage, chunk } = await scene({ pipelined }, 10);
    const handles = [chunk.handle(shared), chunk.handle(shared), chunk.handle(shared)];
    const all = watched(Promise.all(handles.map(({ tx }, n) => tx.append("effects", n))));
    await clock.advance(ms - 1);
    expect(all.outcome).toBe("open");
    await clock.advance(1);
    expect(all.outcome).not.toBe("open");
    const checked = storage.check();
    await clock.advance(100);
    expect((await checked).pipelined).toBe(pipelined);
  });

  it("run in the order of sending, however long each travels", async () => {
    const times = [50, 5, 20];
    const { clock, storage, chunk } = await scene({}, () => times.shift() ?? 0);
    const { tx } = chunk.handle(shared);
    const sums = [1, 2, 3].map((n) => tx.update<string>("t", "k", (row = "") => `${row}${n}`));
    await clock.advance(50);
    expect(await Promise.all(sums)).toEqual(["1", "12", "123"]);
    await chunk.commit(1n, noMark);
    expect(storage.rows("t")).toEqual(["123"]);
  });

  it("wait behind one that waits for a lock, and fail with it", async () => {
    const { clock, database, storage, chunk } = await scene({ lockTimeoutMs: 500 });
    const holder = await beginTransaction(database);
    await holder.tx.put("t", "a", 1);
    const [one, two] = [chunk.handle(shared), chunk.handle(shared)];
    const first = watched(one.tx.put("t", "a", 2));
    const second = watched(two.tx.append("effects", "two"));
    await clock.advance(499);
    expect([first.outcome, second.outcome]).toEqual(["open", "open"]);
    await clock.advance(1);
    expect(storage.trouble(first.outcome)).toBe("local");
    expect(String(second.outcome)).toContain("the transaction is aborted");
    expect(await chunk.rollback()).toBe(true);
    await holder.rollback();
  });

  it("fail with their connection, whatever they waited for", async () => {
    const { clock, database, storage, chunk } = await scene();
    const holder = await beginTransaction(database);
    await holder.tx.put("t", "a", 1);
    const { tx } = chunk.handle(shared);
    const sent = [watched(tx.put("t", "a", 2)), watched(tx.append("effects", "two"))];
    await clock.settle();
    chunk.destroy();
    await clock.settle();
    expect(sent.map(({ outcome }) => storage.trouble(outcome))).toEqual(["global", "global"]);
    await holder.rollback();
    expect(storage.rows("effects")).toEqual([]);
  });

  it("keep their transaction from being idle, however long one of them waits", async () => {
    const { clock, database, storage, chunk } = await scene({ idleInTransactionTimeoutMs: 100 });
    const holder = await beginTransaction(database);
    await holder.tx.put("t", "a", 1);
    const { tx } = chunk.handle(shared);
    const sent = [watched(tx.append("effects", "one")), watched(tx.put("t", "a", 2))];
    await clock.advance(1_000);
    expect(sent.map(({ outcome }) => outcome)).toEqual(["done", "open"]);
    await holder.commit();
    await chunk.commit(1n, noMark);
    expect([storage.rows("effects"), storage.rows("t")]).toEqual([["one"], [2]]);
  });
});

describe("a savepoint", () => {
  it("undoes what was written behind it, a failed statement included, and nothing before", async () => {
    const { storage } = await scene();
    await storage.transaction(async (tx) => {
      await tx.put("t", "a", "before");
      const failing = tx.savepoint(async () => {
        await tx.put("t", "a", "undone");
        await tx.append("t", "undone");
        await behind(tx).failStatement();
      });
      await expect(failing).rejects.toThrow("division by zero");
      expect(await tx.rows("t")).toEqual(["before"]);
      await tx.append("t", "after");
    });
    expect(storage.rows("t")).toEqual(["before", "after"]);
  });

  it("keeps what its work wrote, and one inside it what it undid", async () => {
    const { storage } = await scene();
    const value = await storage.transaction((tx) =>
      tx.savepoint(async () => {
        await tx.append("t", "one");
        const inner = tx.savepoint(async () => {
          await tx.append("t", "two");
          throw new Error("the work's own");
        });
        await expect(inner).rejects.toThrow("the work's own");
        await tx.append("t", "three");
        return 42;
      }),
    );
    expect([value, storage.rows("t")]).toEqual([42, ["one", "three"]]);
  });

  it("does not hide a failed statement that its work has swallowed", async () => {
    const { storage } = await scene();
    await storage.transaction(async (tx) => {
      const hiding = tx.savepoint(async () => {
        await tx.append("t", "one");
        await behind(tx)
          .failStatement()
          .catch(() => {});
      });
      await expect(hiding).rejects.toThrow("the transaction is aborted");
      await tx.append("t", "two");
    });
    expect(storage.rows("t")).toEqual(["two"]);
  });

  it("is refused on a shared handle without a statement, and its work is not begun", async () => {
    const { chunk, storage } = await scene();
    const { tx, refused } = chunk.handle(shared);
    const before = behind(tx).statements();
    const error = await tx
      .savepoint(() => tx.append("t", "never"))
      .catch((thrown: unknown) => thrown);
    expect((error as StorageError).code).toBe("transaction-shared");
    expect(error).toBeInstanceOf(StorageError);
    expect([behind(tx).statements() - before, refused()]).toEqual([0, true]);
    await chunk.commit(1n, noMark);
    expect(storage.rows("t")).toEqual([]);
  });
});
