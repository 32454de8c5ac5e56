// What the storage suite does not ask for: the ways in which a test can break the database.
import { ClaimLostError, StorageError } from "@oncebox/core";
import { describe, expect, it } from "vitest";
import { manualClock } from "../manual-clock.ts";
import { memoryDatabase } from "./database.ts";
import {
  beginTransaction,
  behind,
  type MemoryStorageOptions,
  memoryStorage,
} from "./memory-storage.ts";
import type { MemoryTx } from "./memory-tx.ts";

const consumer = "billing";
const topic = "orders";
const at = { consumer, topic, partition: 0, owner: "a test" };
const noMark = { topicId: null, leaderEpoch: null, last: null };

async function scene(options: MemoryStorageOptions = {}) {
  const clock = manualClock();
  const database = memoryDatabase({ clock });
  const storage = memoryStorage({ database, ...options });
  const other = memoryStorage({ database, ...options });
  const start = new Map([[0, 0n]]);
  const added = new Map<number, bigint>();
  await storage.registerTopic({ consumer, groupId: "g", topic, topicId: null, start, added });
  const claim = async (side = storage) => {
    const claimed = await side.claim(at, 1_000);
    if (claimed === null) throw new Error("no row");
    return claimed;
  };
  const position = async () => (await other.positions(consumer)).positions[0]?.nextOffset;
  return { clock, database, storage, other, claim, position };
}

/** What became of it by now. */
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

const code = (error: unknown) => (error instanceof StorageError ? error.code : error);

describe("rows of handlers", () => {
  it("are seen by their own transaction, and by others when it has committed", async () => {
    const { storage, database } = await scene();
    const own = await beginTransaction(database);
    const row = { total: 5, items: ["a"] };
    await own.tx.put("orders", "o-1", row);
    row.items.push("changed afterwards");
    expect(await own.tx.get("orders", "o-1")).toEqual({ total: 5, items: ["a"] });
    await storage.transaction(async (tx) => expect(await tx.get("orders", "o-1")).toBeUndefined());
    await own.commit();
    expect(storage.rows("orders")).toEqual([{ total: 5, items: ["a"] }]);
    await storage.transaction(async (tx) => {
      await tx.delete("orders", "o-1");
      expect(await tx.rows("orders")).toEqual([]);
    });
    expect(storage.rows("orders")).toEqual([]);
  });

  it("are locked by whoever writes them: no update is lost", async () => {
    const { storage, other } = await scene();
    const add = (side: typeof storage) =>
      side.transaction((tx) => tx.update<number>("sums", "all", (sum = 0) => sum + 1));
    await Promise.all(Array.from({ length: 20 }, (_, n) => add(n % 2 === 0 ? storage : other)));
    expect(storage.rows("sums")).toEqual([20]);
  });

  it("tell a deadlock to whoever closes the circle", async () => {
    const { storage, database } = await scene();
    const [one, two] = [await beginTransaction(database), await beginTransaction(database)];
    await one.tx.put("t", "a", 1);
    await two.tx.put("t", "b", 2);
    const waiting = watched(one.tx.put("t", "b", 1));
    const error = await two.tx.put("t", "a", 2).catch((failed: unknown) => failed);
    expect(storage.trouble(error)).toBe("local");
    await two.rollback();
    await one.commit();
    expect(waiting.outcome).toBe("done");
    expect(storage.rows("t")).toEqual([1, 1]);
  });

  it("wait no longer for a lock than they were told to", async () => {
    const { storage, database, clock } = await scene({ lockTimeoutMs: 500 });
    const holder = await beginTransaction(database);
    await holder.tx.put("t", "a", 1);
    const waiting = watched(storage.transaction((tx) => tx.put("t", "a", 2)));
    await clock.advance(499);
    expect(waiting.outcome).toBe("open");
    await clock.advance(1);
    expect(storage.trouble(waiting.outcome)).toBe("local");
    await holder.rollback();
  });
});

describe("a failed statement", () => {
  it("frees what its transaction has locked, recorded and written, before that has ended", async () => {
    const { storage, other, claim } = await scene();
    const record = {
      offset: 0n,
      timestamp: 0n,
      source: topic,
      id: new Uint8Array(16),
      checksum: 1,
      key: null,
    };
    const chunk = await storage.open(await claim(), [record]);
    const { tx } = chunk.handle();
    await tx.append("effects", "one");
    const taking = claim(other);
    await behind(tx)
      .failStatement()
      .catch(() => {});
    const next = await other.open(await taking, [record]);
    expect(next.recorded).toEqual(["new"]);
    expect(code(await chunk.commit(1n, noMark).catch((error: unknown) => error))).toBe(
      "transaction-aborted",
    );
    await next.commit(1n, noMark);
    expect(storage.rows("effects")).toEqual([]);
  });
});

describe("a handler that ended its transaction", () => {
  it("can neither enqueue nor record ids, which nothing would undo", async () => {
    const { storage, claim } = await scene();
    const chunk = await storage.open(await claim(), []);
    const { tx } = chunk.handle();
    await behind(tx).endSecretly({ begin: false });
    const row = { lane: 0, id: "x", topic, key: null, value: null, headers: [] };
    for (const work of [storage.enqueue(tx, [row]), storage.recordIds(tx, consumer, [])]) {
      expect(code(await work.catch((error: unknown) => error))).toBe("invalid-handle");
    }
    await chunk.rollback();
  });
});

describe("a fenced owner", () => {
  it("is told so at once, without waiting for the chunk of the next one", async () => {
    const { storage, other, claim } = await scene();
    const fenced = await claim();
    const chunk = await other.open(await claim(other), []);
    const late = await storage.open(fenced, []).catch((error: unknown) => error);
    expect(late).toBeInstanceOf(ClaimLostError);
    await chunk.rollback();
  });
});

describe("a COMMIT that is lost", () => {
  it.each(["request-lost", "reply-lost"] as const)(
    "(%s) leaves no clean connection",
    async (how) => {
      const { storage, database, claim } = await scene();
      const chunk = await storage.open(await claim(), []);
      database.faults.breakNextCommit(how);
      expect(code(await chunk.commit(1n, noMark).catch((error: unknown) => error))).toBe(
        "commit-unknown",
      );
      expect(await chunk.rollback()).toBe(false);
    },
  );

  it.each(["request-lost", "reply-lost"] as const)("(%s) is the end of a claim", async (how) => {
    const { database, other, claim } = await scene();
    database.faults.breakNextCommit(how);
    // Who claims learns no token, and has to claim again in either case.
    expect(code(await claim().catch((error: unknown) => error))).toBe("storage-unavailable");
    expect((await claim(other)).epoch).toBe(how === "reply-lost" ? 2n : 1n);
  });
});

describe("a transaction that its process forgot", () => {
  it("is ended when it was idle for too long, and its locks are free", async () => {
    const { clock, storage, other, claim } = await scene({ idleInTransactionTimeoutMs: 2_000 });
    const chunk = await storage.open(await claim(), []);
    const taking = watched(claim(other));
    await clock.advance(500);
    expect(taking.outcome).toBe("open");
    const late = watched(other.claim(at, 10_000));
    await clock.advance(2_000);
    expect(late.outcome).toMatchObject({ nextOffset: 0n });
    const lost = watched(chunk.commit(1n, noMark));
    await clock.settle();
    expect(code(lost.outcome)).toBe("storage-unavailable");
  });

  it("is not idle while a statement waits in it", async () => {
    const { clock, storage, database } = await scene({ idleInTransactionTimeoutMs: 1_000 });
    const holder = await beginTransaction(database);
    await holder.tx.put("t", "a", 1);
    const waiting = watched(storage.transaction((tx) => tx.put("t", "a", 2)));
    await clock.advance(5_000);
    await holder.commit();
    await clock.settle();
    expect([waiting.outcome, storage.rows("t")]).toEqual(["done", [2]]);
  });

  it("goes on after a freeze where it was, and finds out what happened meanwhile", async () => {
    const { clock, storage, other, claim, position } = await scene();
    const mine = await claim();
    const chunk = await storage.open(mine, []);
    const { tx } = chunk.handle();
    storage.freeze();
    const writing = watched(tx.append("effects", "late"));
    await clock.advance(31_000);
    expect(writing.outcome).toBe("open");
    const theirs = await claim(other);
    await (await other.open(theirs, [])).commit(5n, noMark);
    storage.thaw();
    await clock.settle();
    expect(storage.trouble(writing.outcome)).toBe("global");
    await expect(chunk.commit(1n, noMark)).rejects.toMatchObject({ code: "storage-unavailable" });
    expect([await position(), storage.rows("effects")]).toEqual([5n, []]);
  });
});

describe("a COMMIT on its way", () => {
  const opened = async ({ storage, claim }: Awaited<ReturnType<typeof scene>>) => {
    const chunk = await storage.open(await claim(), []);
    await chunk.handle().tx.append("effects", "one");
    return chunk;
  };

  it("that lands late is committed then, and holds its locks until then", async () => {
    const setting = await scene();
    const { clock, database, other, claim, position, storage } = setting;
    const chunk = await opened(setting);
    const late = database.faults.breakNextCommit("request-late", storage.name);
    const unknown = watched(chunk.commit(1n, noMark));
    await clock.settle();
    expect([code(unknown.outcome), await position()]).toEqual(["commit-unknown", 0n]);
    const taking = watched(other.claim(at, 5_000));
    await clock.advance(1_000);
    expect(taking.outcome).toBe("open");
    late.deliver();
    await clock.settle();
    expect(taking.outcome).toMatchObject({ nextOffset: 1n });
    expect((await claim()).nextOffset).toBe(1n);
    expect(storage.rows("effects")).toEqual(["one"]);
  });

  it("that lands after the idle time-out does nothing", async () => {
    const setting = await scene({ idleInTransactionTimeoutMs: 2_000 });
    const { clock, database, position, storage } = setting;
    const chunk = await opened(setting);
    database.faults.onCommit = ({ client }) => (client === storage.name ? "request-late" : null);
    await expect(chunk.commit(1n, noMark)).rejects.toMatchObject({ code: "commit-unknown" });
    database.faults.onCommit = null;
    await clock.advance(2_000);
    database.faults.deliverLateCommits();
    await clock.settle();
    expect([await position(), storage.rows("effects")]).toEqual([0n, []]);
    expect(database.openTransactions()).toBe(0);
  });
});

describe("a database in trouble", () => {
  it("cannot be reached during an outage, and loses what was open", async () => {
    const { storage, database, claim, position } = await scene();
    const chunk = await storage.open(await claim(), []);
    database.faults.outage(true);
    expect(await chunk.rollback()).toBe(false);
    const error = await storage.positions(consumer).catch((failed: unknown) => failed);
    expect([code(error), storage.trouble(error)]).toEqual(["storage-unavailable", "global"]);
    database.faults.outage(false);
    expect(await position()).toBe(0n);
  });

  it("that is read-only can be read, and says so", async () => {
    const { storage, database, position } = await scene();
    database.faults.readOnly(true);
    const writing = storage.transaction((tx) => tx.append("t", 1)).catch((failed) => failed);
    expect(storage.trouble(await writing)).toBe("global");
    await expect(storage.check()).rejects.toMatchObject({ code: "database-read-only" });
    expect(await position()).toBe(0n);
  });

  it("that was set back knows the claims of then, and no later ones", async () => {
    const { storage, database, claim, position } = await scene();
    const before = await claim();
    const snapshot = database.snapshot();
    await (await storage.open(before, [])).commit(3n, noMark);
    await storage.transaction((tx) => tx.append("effects", "gone"));
    const after = await claim();
    database.restore(snapshot);
    expect([await position(), storage.rows("effects")]).toEqual([0n, []]);
    expect(await storage.lostClaims([before, after])).toEqual([after]);
    const again = await claim();
    expect([again.epoch, again.token === after.token]).toEqual([after.epoch, false]);
  });

  it("fails the statements that it is told to", async () => {
    const { clock, storage, database } = await scene();
    const seen: string[] = [];
    database.faults.onStatement = ({ verb }) => {
      seen.push(verb);
      if (verb === "append") return { fails: "statement-timeout" };
      return verb === "positions" ? null : { delayMs: 50 };
    };
    const error = watched(storage.transaction((tx) => tx.append("t", 1)));
    await clock.settle();
    expect(storage.trouble(error.outcome)).toBe("local");
    const slow = watched(storage.isRegistered(consumer, topic));
    await clock.advance(49);
    expect(slow.outcome).toBe("open");
    await clock.advance(1);
    expect([slow.outcome, seen]).toEqual([true, ["append", "look"]]);
  });

  it("shows a floor above a row to a sweep only", async () => {
    const { storage, database } = await scene();
    const row = { lane: 3, id: "m", topic, key: null, value: null, headers: [] };
    await storage.transaction((tx: MemoryTx) => storage.enqueue(tx, [row]));
    const request = { relay: "r", leaseMs: 1_000, renew: [], acquireMax: 64 };
    const { leases } = await storage.leaseLanes(request);
    database.faults.setFloor(3, 10n);
    const read = { rows: 10, bytes: 1_000, pending: [], sweep: false };
    expect((await storage.readLanes(leases, read)).rows).toEqual([]);
    const swept = await storage.readLanes(leases, { ...read, sweep: true });
    expect([swept.rows.length, swept.belowFloor]).toEqual([1, 1]);
  });
});

it("hands out leases by the database's clock", async () => {
  const { clock, storage, other } = await scene();
  const ask = (side: typeof storage, relay: string) =>
    side.leaseLanes({ relay, leaseMs: 1_000, renew: [], acquireMax: 64 });
  const { leases } = await ask(storage, "a");
  await clock.advance(1_000);
  expect((await ask(other, "b")).leases).toEqual([]);
  await clock.advance(1);
  expect((await ask(other, "b")).leases).toHaveLength(64);
  expect((await storage.settleBatch(leases, [])).lost).toHaveLength(64);
});

it("makes whoever wants a connection wait for one", async () => {
  const { clock, storage } = await scene({ poolSize: 1 });
  let go = () => {};
  const held = watched(
    storage.transaction(
      () =>
        new Promise<void>((resolve) => {
          go = resolve;
        }),
    ),
  );
  await clock.settle();
  const waiting = watched(storage.isRegistered(consumer, topic));
  await clock.advance(10);
  expect(waiting.outcome).toBe("open");
  go();
  await clock.settle();
  expect([held.outcome, waiting.outcome]).toEqual(["done", true]);
});
