import { createConsumer, defineTopic, json } from "@oncebox/core";
import { describe, expect, it } from "vitest";
import {
  eventLog,
  expectAppliedOnce,
  expectDuplicates,
  expectParked,
  expectRolledBack,
  shown,
} from "./assertions.ts";
import { manualClock } from "./manual-clock.ts";
import { memoryBroker } from "./memory-broker/memory-broker.ts";
import { memoryStorage } from "./memory-storage/memory-storage.ts";

const orders = defineTopic({ name: "orders", value: json<number>() });

describe("expectAppliedOnce", () => {
  it("passes whatever the order is", () => {
    expectAppliedOnce([{ id: 2n }, { id: 1n }], [{ id: 1n }, { id: 2n }]);
    expectAppliedOnce([], []);
    const rows = [{ order: "a", at: 5 }];
    expectAppliedOnce(rows, [{ order: "a", at: 7 }], { keyOf: ({ order }) => order });
  });

  it("says what is missing, doubled or not expected", () => {
    const compare = () => expectAppliedOnce(["a", "b", "b", "x"], ["a", "b", "c"]);
    expect(compare).toThrow(
      'each of 3 effects must be there once; missing: "c"; applied more than once: "b" (2 times); not expected: "x"',
    );
    const many = () => expectAppliedOnce([], [1, 2, 3, 4, 5, 6, 7]);
    expect(many).toThrow("missing: 1, 2, 3, 4, 5, and 2 more");
  });
});

it("shows values by their content", () => {
  const value = { b: [1n, null, undefined], a: new Uint8Array([255]), c: new Map([["k", "v"]]) };
  expect(shown(value)).toBe('{a: <ff>, b: [1n, null, undefined], c: Map [["k", "v"]]}');
  expect(shown({ at: new Date(0), of: new Set([new Error("no")]) })).toBe(
    "{at: 1970-01-01T00:00:00.000Z, of: Set [Error: no]}",
  );
});

it("tells which messages of a consumer are parked, over any number of pages", async () => {
  const storage = memoryStorage({ clock: manualClock() });
  const at = { consumer: "billing", topic: "orders", partition: 0 };
  const start = new Map([[0, 0n]]);
  const none = { groupId: "g", topicId: null, added: new Map<number, bigint>() };
  await storage.registerTopic({ ...at, ...none, start });
  const claim = await storage.claim({ ...at, owner: "a test" }, 1_000);
  if (claim === null) throw new Error("no row");
  const offsets = Array.from({ length: 250 }, (_, n) => BigInt(n));
  const bytes = { key: null, value: null, headers: [] };
  const toPark = offsets.map((offset) => ({
    ...{ record: { offset, timestamp: 0n, ...bytes }, state: "dead" as const },
    ...{ attempts: 3, afterMs: 0, error: { code: "handler-failed", text: "unlucky" } },
  }));
  const mark = { topicId: null, leaderEpoch: null, last: null };
  await (await storage.open(claim, [])).commit(250n, mark, toPark);
  const { topic, partition } = at;
  const places = offsets.map((offset) => ({ topic, partition, offset }));
  await expectParked(storage, "billing", places);
  await expectParked(storage, "shipping", []);
  const [, ...others] = places;
  const compare = expectParked(storage, "billing", [...others, { topic, partition, offset: 999n }]);
  await expect(compare).rejects.toThrow(
    "250 messages of billing must be parked; not parked: orders/0@999; not expected: orders/0@0 (handler-failed: unlucky)",
  );
});

describe("of a consumer", () => {
  /** Three orders, the second one twice; 13 fails. */
  const scene = async () => {
    const clock = manualClock();
    const storage = memoryStorage({ clock });
    const broker = memoryBroker({ clock });
    broker.admin.createTopic("orders");
    for (const value of [11, 12, 12, 13]) {
      broker.admin.send(orders.message({ key: "k", value, id: `order ${value}` }));
    }
    const log = eventLog();
    const { observer } = log;
    const options = { name: "billing", storage, broker, clock, observer };
    const consumer = createConsumer(options).handle(orders, async ({ value }, tx) => {
      await tx.append("invoices", value);
      if (value === 13) throw new Error("unlucky");
    });
    const starting = consumer.start();
    await clock.runUntil(() => log.ofType("inbox.blocked").length > 1);
    await starting;
    return { log, storage };
  };
  const failed = { topic: "orders", partition: 0, offset: 3n };

  it("tells what was applied, dropped and rolled back", async () => {
    const { log, storage } = await scene();
    expectAppliedOnce(storage.rows("invoices"), [11, 12]);
    expectDuplicates(log, 1);
    expectDuplicates(log, 1, { topic: "orders" });
    expectDuplicates(log, 0, { topic: "others" });
    expectRolledBack(log, failed);
  });

  it("says what was found instead", async () => {
    const { log } = await scene();
    expect(() => expectDuplicates(log, 2)).toThrow(
      "2 messages must have been dropped as duplicates, but 1 were; 2 were applied",
    );
    expect(() => expectRolledBack(log, { ...failed, offset: 0n })).toThrow(
      "offset 0, must have failed, but no attempt of it did",
    );
    expect(() => expectRolledBack(log, failed, [{ invoice: 13 }])).toThrow(
      "offset 3, was rolled back, but left: {invoice: 13}",
    );
    const passed = { ...log.ofType("inbox.chunk-committed")[0], firstOffset: 3n, nextOffset: 4n };
    const both = [...log.events, passed] as typeof log.events;
    const ofType = ((type: string) => both.filter((each) => each.type === type)) as never;
    expect(() => expectRolledBack({ ofType }, failed)).toThrow(
      "must be rolled back, but its chunk was committed: the position is 4",
    );
  });
});
