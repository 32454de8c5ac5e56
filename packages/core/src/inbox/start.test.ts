import { describe, expect, it } from "vitest";
import type { ConfigurationError } from "../errors.ts";
import type { OnceboxEvent } from "../events.ts";
import type { Broker } from "../ports/broker.ts";
import type { Storage } from "../ports/storage.ts";
import { bytes, defineTopic } from "../topic.ts";
import { createConsumer } from "./consumer.ts";
import type { HandlerOptions } from "./handler.ts";
import { registerTopic, resolveStart, type StartFrom } from "./start.ts";

const topicId = "topic-1";

/** A topic of two partitions; remembers what it was asked. */
function fakeBroker() {
  const asked: unknown[] = [];
  const earliest = new Map([
    [0, 5n],
    [1, 0n],
  ]);
  const latest = new Map([
    [0, 20n],
    [1, 7n],
  ]);
  const offsets: Broker["offsets"] = async (_, at) => {
    asked.push(at);
    return { topicId, offsets: at === "earliest" ? earliest : latest };
  };
  return { broker: { offsets }, asked, earliest, latest };
}

const resolved = async (from: StartFrom) => {
  const { broker } = fakeBroker();
  const found = await resolveStart(broker, "orders", from);
  return [found.topicId, Object.fromEntries(found.offsets)];
};

describe("a start", () => {
  it("at either end is what the broker says", async () => {
    // Guards: with the topic's id, so that the position belongs to a log from the first fetch on.
    expect(await resolved("earliest")).toEqual([topicId, { 0: 5n, 1: 0n }]);
    expect(await resolved("latest")).toEqual([topicId, { 0: 20n, 1: 7n }]);
  });

  it.each([
    [new Date(1_700_000_000_000), 1_700_000_000_000n],
    [1_700_000_000_000, 1_700_000_000_000n],
    [0, 0n],
  ])("at a time is asked for in whole milliseconds: %s", async (timestamp, ms) => {
    // Guards: a Date and a number mean the same.
    const { broker, asked } = fakeBroker();
    await resolveStart(broker, "orders", { timestamp });
    expect(asked).toEqual([{ timestamp: ms }]);
  });

  it("at given offsets takes numbers and bigints, both bounds included", async () => {
    // Guards: the first offset kept and the next one are inside.
    const found = [topicId, { 0: 5n, 1: 7n }];
    expect(await resolved({ offsets: { 0: 5, 1: 7n } })).toEqual(found);
  });

  it("at given offsets lists everything that does not fit the topic", async () => {
    // Guards: a partition that is left out, one too many, and offsets the log does not hold.
    const problems = async (offsets: Record<number, bigint | number>) => {
      const error = await resolved({ offsets }).catch((thrown: ConfigurationError) => thrown);
      expect(error).toMatchObject({ code: "invalid-options" });
      return (error as ConfigurationError).details.problems;
    };
    expect(await problems({ 0: 4, 2: 1 })).toEqual([
      "partition 1 has no offset",
      "there is no partition 2",
      "partition 0 holds 5 to 20, not 4",
    ]);
    expect(await problems({ 0: 21, 1: 8 })).toEqual([
      "partition 0 holds 5 to 20, not 21",
      "partition 1 holds 0 to 7, not 8",
    ]);
    expect(await problems({})).toHaveLength(2);
  });
});

describe("startFrom of a handler", () => {
  const orders = defineTopic({ name: "orders", value: bytes() });
  const nothing = async () => undefined;

  function consumer() {
    const none = async () => undefined;
    const timing = {
      sessionTimeoutMs: 30_000,
      heartbeatIntervalMs: 3_000,
      rebalanceTimeoutMs: 60_000,
      publishTimeoutMs: 1,
    };
    const verbs = { consumer: none, offsets: none, retentionMs: none };
    const broker = { timing, ...verbs } as unknown as Broker;
    const storage = { open: none, claim: none } as unknown as Storage<"tx">;
    return createConsumer({ name: "billing", storage, broker });
  }

  it.each<
    [string, number | null | Error, Partial<{ window: number | null; byId: boolean }>, number]
  >([
    ["for longer", 1_001, {}, 1],
    ["for ever", Number.POSITIVE_INFINITY, {}, 1],
    ["for as long", 1_000, {}, 0],
    ["for a time that is not told", null, {}, 0],
    ["for a time that cannot be asked for", new Error("no"), {}, 0],
    ["for longer, and ids for ever", 1_001, { window: null }, 0],
    ["for longer, and no ids", 1_001, { byId: false }, 0],
  ])(
    "tells of a topic that is kept %s than its ids",
    async (_, kept, { window = 1_000, byId = true }, told) => {
      // Guards: nobody is told that a seek back reaches further than what is remembered.
      const events: OnceboxEvent[] = [];
      const retentionMs = async () => {
        if (kept instanceof Error) throw kept;
        return kept;
      };
      await registerTopic(
        {
          ...{ name: "billing", groupId: "g", deduplicationWindowMs: window },
          broker: { ...fakeBroker().broker, retentionMs },
          storage: { isRegistered: async () => true, registerTopic: async () => {} },
          observe: (event) => events.push(event),
        },
        "orders",
        { startFrom: "earliest", byId },
      );
      expect(events).toHaveLength(told);
      if (told > 0) {
        expect(events[0]).toMatchObject({
          ...{ type: "inbox.window-short", consumer: "billing", topic: "orders" },
          ...{ windowMs: 1_000, retentionMs: kept },
        });
      }
    },
  );

  it.each<StartFrom>([
    "earliest",
    "latest",
    { timestamp: 0 },
    { timestamp: new Date(1) },
    { offsets: { 0: 1, 1: 2n } },
  ])("is accepted: %o", (startFrom) => {
    // Guards: every documented form passes the check.
    expect(() => consumer().handle(orders, nothing, { startFrom })).not.toThrow();
  });

  it.each<[string, unknown]>([
    ["another word", "newest"],
    ["null", null],
    ["a bare number", 5],
    ["a bare Date", new Date(0)],
    ["a time that is none", { timestamp: new Date(Number.NaN) }],
    ["a time before 1970", { timestamp: -1 }],
    ["a time with a fraction", { timestamp: 1.5 }],
    ["a time as text", { timestamp: "2026-01-01" }],
    ["offsets that are no object", { offsets: 5 }],
    ["a negative offset", { offsets: { 0: -1 } }],
    ["an offset with a fraction", { offsets: { 0: 1.5 } }],
    ["an offset as text", { offsets: { 0: "1" } }],
    ["a partition that is no number", { offsets: { first: 1 } }],
  ])("is refused at once: %s", (_, startFrom) => {
    // Guards: what would resolve to nothing never becomes a consumer's start.
    const options = { startFrom } as HandlerOptions;
    expect(() => consumer().handle(orders, nothing, options)).toThrow(
      expect.objectContaining({
        code: "invalid-options",
        message: expect.stringMatching(/handler of orders: startFrom must be "earliest", "latest"/),
      }),
    );
  });
});
