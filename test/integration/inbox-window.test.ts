/** What is recognised of a producer's repeats, and what is forgotten, behind a window of record time. */
import type { Storage } from "@oncebox/core";
import type { ClientBase } from "pg";
import { describe, expect, it } from "vitest";
import { type Scene, scene, textTopic } from "../fixtures/scene.ts";
import { hasKafka } from "../fixtures/servers.ts";

const hour = 3_600_000;
/** The shortest there is; a quarter of an hour is added to it. */
const deduplicationWindowMs = 60_000;

/** A message of its producer's id, written so long ago. */
const sent = (value: string, agoMs: number) => ({
  ...{ value, headers: { id: value }, timestamp: String(Date.now() - agoMs) },
});

/** Takes every partition for one that has nothing to read: what is left is the clock. */
const byTheWallClock = (storage: Storage<ClientBase>): Storage<ClientBase> => ({
  ...storage,
  pruneIds: async (request) => {
    const { positions } = await storage.positions(request.consumer);
    const ends = positions.map(({ topic, partition, nextOffset }) => {
      return { topic, topicId: null, partition, end: nextOffset };
    });
    return storage.pruneIds({ ...request, ends });
  },
});

/**
 * Two messages are handled; then nobody reads for nine hours, as the times of the records say, and their
 * producer repeats them within the minute. Ids are pruned before the repeats are read.
 */
async function longStop(s: Scene, storage: Storage<ClientBase>) {
  await s.produce(1, sent("old", 20 * hour));
  await s.produce(0, sent("one", 9 * hour), sent("two", 9 * hour - 10_000));
  const first = s.consumer({ deduplicationWindowMs: null });
  await first.start();
  await s.effectsReach(3);
  await first.stop();
  const repeats = [sent("one", 9 * hour - 30_000), sent("two", 9 * hour - 40_000)];
  await s.produce(0, sent("gate", 9 * hour - 20_000), ...repeats, sent("three", 9 * hour - 50_000));
  await s.produce(1, sent("ahead", 0));
  const second = s
    .bareConsumer({ deduplicationWindowMs, chunkSizeMax: 1, storage })
    .handle(textTopic(s.topic), async ({ value }, tx) => {
      if (value === "gate") await s.ear.waitFor("inbox.pruned");
      await tx.query("INSERT INTO effects (value, attempt) VALUES ($1, 1)", [value]);
    });
  await second.start();
  await s.ear.waitFor(
    "inbox.chunk-committed",
    ({ partition, nextOffset }) => partition === 0 && nextOffset === 6n,
  );
}

describe.skipIf(!hasKafka())("the deduplication window", () => {
  it("E5: a stop longer than the window by the wall clock forgets nothing that the backlog repeats", async () => {
    await using s = await scene({ partitions: 2 });
    await longStop(s, s.storage);
    const once = ["ahead", "gate", "old", "one", "three", "two"];
    expect((await s.effects()).sort()).toEqual(once);
    // Only what lay before the window of the partition that was behind.
    const [walk] = s.ear.heard.filter(({ type }) => type === "inbox.pruned");
    expect(walk).toMatchObject({ ids: 1 });
    // When all is read, the clock counts: what was sent nine hours ago is forgotten in the end.
    await s.ear.waitFor("inbox.pruned", ({ before }) => before > BigInt(Date.now() - hour));
    await s.produce(0, sent("one", 0));
    expect((await s.effectsReach(7)).at(-1)).toBe("one");
  });

  it.each<[string, Record<string, string>, number | null, boolean]>([
    ["a week", { "retention.ms": "604800000" }, 604_800_000, false],
    ["a month", { "retention.ms": "2592000000" }, 2_592_000_000, true],
    ["for ever", { "retention.ms": "-1" }, Number.POSITIVE_INFINITY, true],
    [
      "as long as there is room for each key",
      { "cleanup.policy": "compact" },
      Number.POSITIVE_INFINITY,
      true,
    ],
    ["a week, and compacted", { "cleanup.policy": "compact,delete" }, 604_800_000, false],
  ])("E5: warns where a topic is kept longer than its ids: %s", async (_, config, kept, warns) => {
    // Guards: a seek back beyond what is remembered, of which nothing would have told.
    await using s = await scene({ config });
    expect(await s.broker.retentionMs(s.topic)).toBe(kept);
    await s.consumer().start();
    const told = s.ear.heard.filter(({ type }) => type === "inbox.window-short");
    expect(told).toHaveLength(warns ? 1 : 0);
    await expect(s.broker.retentionMs("no-such-topic")).rejects.toMatchObject({
      code: "topic-missing",
    });
  });

  it("by the wall clock the same repeats are applied again: the test can see it", async () => {
    await using s = await scene({ partitions: 2 });
    await longStop(s, byTheWallClock(s.storage));
    const twice = ["ahead", "gate", "old", "one", "one", "three", "two", "two"];
    expect((await s.effects()).sort()).toEqual(twice);
  });
});
