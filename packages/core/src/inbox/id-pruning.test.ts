import { describe, expect, it } from "vitest";
import { clockByHand, settled } from "../clock-by-hand.ts";
import type { OnceboxEvent } from "../events.ts";
import type { Pruned, PruneRequest } from "../ports/pruning.ts";
import type { PartitionPosition } from "../ports/storage.ts";
import { type PruningContext, pruneIds } from "./id-pruning.ts";
import { permits } from "./permits.ts";

const day = 86_400_000;
const week = 7 * day;
const hour = 3_600_000;
/** What is kept on top of the window, for clocks that are not exact. */
const marginMs = 900_000;

/** What the database's clock shows where positions are read. */
const databaseAt = 1_700_000_000_000;

const slowest = { topic: "orders", partition: 0 };
const answer = (changes: Partial<Pruned> = {}): Pruned => ({
  ...{ deleted: 0, next: null, before: 1_000n, slowest },
  ...changes,
});

/** A loop whose storage gives these answers, then says that nothing is to be done. */
function scene(answers: (Pruned | Error)[], changes: Partial<PruningContext> = {}) {
  const { clock, advance } = clockByHand();
  const events: OnceboxEvent[] = [];
  const asked: (PruneRequest & { readonly at: number })[] = [];
  const stop = new AbortController();
  const positions = ["orders", "gone", "orders"].map((topic) => ({ topic }) as PartitionPosition);
  const done = pruneIds(
    {
      name: "billing",
      storage: {
        positions: async () => ({ groupId: null, incarnation: "", at: databaseAt, positions }),
        pruneIds: async (request) => {
          asked.push({ ...request, at: clock.now() });
          const next = answers.shift() ?? answer();
          if (next instanceof Error) throw next;
          return next;
        },
      },
      broker: {
        offsets: async (topic) => {
          if (topic === "gone") throw new Error("topic-missing");
          return { topicId: "t", offsets: new Map([[0, 7n]]) };
        },
      },
      ...{ clock, permits: permits(1), deduplicationWindowMs: week },
      observe: (event) => events.push(event),
      ...changes,
    },
    stop.signal,
  );
  return { advance, events, asked, stop, done };
}

describe("the pruning of ids", () => {
  it("walks over all ids in steps with pauses, tells how many went, and rests", async () => {
    // Guards: a walk in one go, one without end, and a count for each step.
    const steps = [
      answer({ deleted: 5, next: "a" }),
      answer({ next: "b" }),
      answer({ deleted: 2 }),
    ];
    const { asked, events, advance } = scene(steps);
    await advance(59_999);
    expect(asked).toEqual([]);
    await advance(1_000);
    expect(asked.map(({ from, at }) => [from, at])).toEqual([
      [null, 60_000],
      ["a", 60_100],
      ["b", 60_200],
    ]);
    expect(events).toEqual([{ type: "inbox.pruned", consumer: "billing", ids: 7, before: 1_000n }]);
    await advance(hour - 2_000);
    expect(asked).toHaveLength(3);
    await advance(2_000);
    expect(asked).toHaveLength(4);
    expect(events).toHaveLength(1);
  });

  it("keeps more than the window: a margin", async () => {
    const { asked, advance } = scene([answer({ next: "a" })]);
    await advance(61_000);
    expect(asked.map(({ windowMs }) => windowMs - week)).toEqual([marginMs, marginMs]);
  });

  it("says with every step how late it was in the database when the ends were asked for", async () => {
    // Guards: a step that comes long after, from a process that stood still, and whose own clock may
    // have stood still with it: what came into the logs meanwhile is not known.
    const { asked, advance } = scene([answer({ next: "a" }), answer({ next: "b" })]);
    await advance(61_000);
    expect(asked.map(({ askedAt }) => askedAt)).toEqual([databaseAt, databaseAt, databaseAt]);
  });

  it("tells the ends of all topics that Kafka knows, and of no other", async () => {
    const { asked, advance } = scene([]);
    await advance(60_000);
    expect(asked[0]?.ends).toEqual([{ topic: "orders", topicId: "t", partition: 0, end: 7n }]);
  });

  it("says once which partition holds everything back, and again when another does", async () => {
    const held = (partition: number) =>
      answer({ before: null, slowest: { topic: "orders", partition } });
    const { events, advance } = scene([held(0), held(0), held(1), answer(), held(1)]);
    await advance(60_000 + 4 * hour);
    expect(events.map((event) => "partition" in event && event.partition)).toEqual([0, 1, 1]);
    expect(new Set(events.map(({ type }) => type))).toEqual(new Set(["inbox.pruning-held-back"]));
  });

  it("backs off from trouble, tells what went before it, and begins anew", async () => {
    const down = new Error("down");
    const { asked, events, advance } = scene([answer({ deleted: 3, next: "a" }), down, down]);
    await advance(60_100);
    await settled();
    expect(events).toEqual([
      { type: "inbox.pruned", consumer: "billing", ids: 3, before: 1_000n },
      { type: "inbox.pruning-troubled", consumer: "billing", waitMs: 50, error: down },
    ]);
    await advance(50);
    expect(events.at(-1)).toMatchObject({ type: "inbox.pruning-troubled", waitMs: 100 });
    await advance(100);
    expect(asked.at(-1)).toMatchObject({ from: null });
    expect(events).toHaveLength(3);
  });

  it("waits for a connection, and ends at once when it is to stop", async () => {
    // Guards: a pool that is one connection too small, and a stop that waits for a walk.
    const permitted = permits(1);
    const release = await permitted.acquire(new AbortController().signal);
    const { asked, advance, stop, done } = scene([], { permits: permitted });
    await advance(120_000);
    expect(asked).toEqual([]);
    stop.abort();
    await done;
    release?.();
    expect(asked).toEqual([]);
  });

  it("ends between two steps when it is to stop, and tells what it has done", async () => {
    const { asked, events, advance, stop, done } = scene([answer({ deleted: 1, next: "a" })]);
    await advance(60_050);
    stop.abort();
    await done;
    expect(asked).toHaveLength(1);
    expect(events).toMatchObject([{ type: "inbox.pruned", ids: 1 }]);
  });

  it("does nothing where ids are kept for ever, and rests less where the window is short", async () => {
    const forever = scene([], { deduplicationWindowMs: null });
    await forever.done;
    const brief = scene([], { deduplicationWindowMs: 60_000 });
    await brief.advance(3_000);
    expect(brief.asked).toHaveLength(3);
  });
});
