// What the storage suite does not ask of parked messages: exact times, and faults at each statement.
import { randomUUID } from "node:crypto";
import { ClaimLostError, CommitUnknownError, type ToPark } from "@oncebox/core";
import { expect, it } from "vitest";
import { manualClock } from "../manual-clock.ts";
import { memoryDatabase } from "./database.ts";
import { memoryStorage } from "./memory-storage.ts";

const consumer = "billing";
const topic = "orders";
const at = { consumer, topic, partition: 0, owner: "a test" };
const noMark = { topicId: null, leaderEpoch: null, last: null };
const failure = { code: "handler-failed", text: "unlucky" };
const audit = { actor: "a person", reason: "a test" };
const page = { limit: 10, above: null };

function toPark(offset: bigint, key: string | null, afterMs = 0): ToPark {
  const bytes = key === null ? null : new TextEncoder().encode(key);
  const record = { offset, timestamp: 0n, key: bytes, value: null, headers: [] };
  return { record, state: "waiting", attempts: 1, afterMs, error: failure };
}

async function scene() {
  const clock = manualClock();
  const database = memoryDatabase({ clock });
  const storage = memoryStorage({ database });
  const other = memoryStorage({ database });
  const none = { groupId: "g", topicId: null, added: new Map<number, bigint>() };
  await storage.registerTopic({ consumer, topic, ...none, start: new Map([[0, 0n]]) });
  const claim = await storage.claim(at, 1_000);
  if (claim === null) throw new Error("no row");
  const park = async (...records: readonly ToPark[]) =>
    (await storage.open(claim, [])).commit(100n, noMark, records);
  const take = (side = storage) =>
    side.takeParked({ consumer, topics: [topic], limit: 10, leaseMs: 1_000, token: randomUUID() });
  const takeOne = async (side = storage) => {
    const [turn] = await take(side);
    if (turn === undefined) throw new Error("nothing to take");
    return turn;
  };
  const states = async () => (await other.parked({ consumer }, page)).map(({ state }) => state);
  return { clock, database, storage, other, claim, park, take, takeOne, states };
}

it("is due, and its lease over, at the very time by the database's clock", async () => {
  const { clock, storage, other, park, take, takeOne } = await scene();
  await park(toPark(0n, "a", 500));
  const [parked] = await storage.parked({ consumer }, page);
  expect(parked?.nextAttemptAt).toBe((parked?.parkedAt ?? 0) + 500);
  await clock.advance(499);
  expect(await take()).toEqual([]);
  await clock.advance(1);
  const old = await takeOne();
  await clock.advance(999);
  expect(await take(other)).toEqual([]);
  await clock.advance(1);
  const turn = await takeOne(other);
  expect([turn.id, turn.attempts, turn.token === old.token]).toEqual([old.id, 3, false]);
  await expect(storage.openParked(old)).rejects.toThrow(ClaimLostError);
});

it("sends each of its statements under a verb of its own", async () => {
  const { database, storage, claim, park, takeOne } = await scene();
  const seen: string[] = [];
  database.faults.onStatement = ({ verb }) => {
    seen.push(verb);
    return null;
  };
  await park(toPark(0n, "a"));
  await (await storage.open(claim, [])).rollback();
  const turn = await takeOne();
  await (await storage.openParked(turn)).rollback();
  await (await storage.openParked(turn)).commit();
  await park(toPark(1n, "a"));
  await storage.settleParked(await takeOne(), {
    state: "dead",
    counts: true,
    afterMs: 0,
    error: failure,
  });
  await storage.changeParked({ action: "redrive", filter: { consumer }, page, audit });
  await storage.noteClaim(claim, { kind: "left" });
  const parking = ["open", "park", "advance", "open", "probe"];
  const turns = ["take-parked", "open-parked", "open-parked", "remove-parked"];
  const again = ["open", "probe", "park", "advance", "take-parked"];
  const rest = ["settle-parked", "change-parked", "note-claim"];
  expect(seen).toEqual([...parking, ...turns, ...again, ...rest]);
});

it.each(["park", "probe", "advance"])("parks all or nothing where %s fails", async (verb) => {
  const { database, storage, claim, park, states } = await scene();
  await park(toPark(0n, "a"));
  database.faults.onStatement = (statement) =>
    statement.verb === verb ? { fails: "deadlock" } : null;
  const chunk = async () =>
    (await storage.open(claim, [])).commit(101n, noMark, [toPark(1n, "a"), toPark(2n, "b")]);
  const error = await chunk().catch((thrown: unknown) => thrown);
  expect(storage.trouble(error)).toBe("local");
  database.faults.onStatement = null;
  expect([await states(), database.openTransactions()]).toEqual([["waiting"], 0]);
  await chunk();
  expect(await states()).toEqual(["waiting", "waiting", "waiting"]);
});

it("has counted the attempt of a turn whose answer was lost", async () => {
  const { clock, database, storage, park, take, takeOne } = await scene();
  await park(toPark(0n, "a"));
  database.faults.onStatement = () => ({ fails: "reply-lost" });
  const error = await take().catch((thrown: unknown) => thrown);
  expect(storage.trouble(error)).toBe("global");
  database.faults.onStatement = null;
  expect(await take()).toEqual([]);
  await clock.advance(1_000);
  expect((await takeOne()).attempts).toBe(3);
});

it("gives a turn back whose answer was lost, unless another has it since", async () => {
  const { clock, database, storage, other, park, takeOne } = await scene();
  await park(toPark(0n, "a"));
  const request = { consumer, topics: [topic], limit: 1, leaseMs: 1_000, token: "lost" };
  database.faults.onStatement = () => ({ fails: "reply-lost" });
  await storage.takeParked(request).catch(() => {});
  database.faults.onStatement = null;
  expect(await storage.releaseParked({ consumer, token: "lost" })).toBe(1);
  expect((await takeOne()).attempts).toBe(2);
  await clock.advance(1_000);
  await storage.takeParked(request);
  await clock.advance(1_000);
  const theirs = await takeOne(other);
  expect(await storage.releaseParked({ consumer, token: "lost" })).toBe(0);
  await (await other.openParked(theirs)).commit();
});

it("is nobody else's while the COMMIT of its turn is under way, however long", async () => {
  const { clock, database, storage, other, park, take, takeOne, states } = await scene();
  await park(toPark(0n, "a"), toPark(1n, "a"));
  const open = await storage.openParked(await takeOne());
  await open.handle().tx.append("effects", "one");
  const late = database.faults.breakNextCommit("request-late", storage.name);
  await expect(open.commit()).rejects.toThrow(CommitUnknownError);
  await clock.advance(10_000);
  expect([await take(other), await states()]).toEqual([[], ["retrying", "waiting"]]);
  late.deliver();
  expect([(await takeOne(other)).record.offset, storage.rows("effects")]).toEqual([1n, ["one"]]);
});

it("is there again after the database went back, and old turns are lost", async () => {
  const { database, storage, park, takeOne, states } = await scene();
  await park(toPark(0n, "a"));
  const snapshot = database.snapshot();
  const turn = await takeOne();
  await (await storage.openParked(turn)).commit();
  expect(await states()).toEqual([]);
  database.restore(snapshot);
  expect(await states()).toEqual(["waiting"]);
  await expect(storage.openParked(turn)).rejects.toThrow(ClaimLostError);
  expect((await takeOne()).token).not.toBe(turn.token);
});

it("is tried in a transaction that is cut off, and the pool has its connection back", async () => {
  const { database, storage, park, takeOne, states } = await scene();
  await park(toPark(0n, "a"));
  const turn = await takeOne();
  for (let n = 0; n < 20; n += 1) {
    const open = await storage.openParked(turn);
    if (n % 2 === 0) open.destroy();
    else await open.rollback();
    expect(await open.rollback()).toBe(n % 2 === 1);
  }
  database.faults.cutConnections();
  await (await storage.openParked(turn)).commit();
  expect([await states(), database.openTransactions()]).toEqual([[], 0]);
});
