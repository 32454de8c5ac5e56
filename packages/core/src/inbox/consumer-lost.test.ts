import { describe, expect, it } from "vitest";
import { settled } from "../clock-by-hand.ts";
import type { Storage } from "../ports/storage.ts";
import { lastRecordOf } from "./chunk.ts";
import { makeConsumer, reading } from "./consumer-scene.ts";
import { offsetMetadata } from "./group-offsets.ts";
import type { LostPositionPolicy } from "./lost-position.ts";

const truncated = { kind: "out-of-range", log: { start: 0n, end: 7n } } as const;
const recreated = { kind: "topic-recreated", topicId: "topic-2" } as const;
const goOn: LostPositionPolicy = { deleted: "go-on", truncated: "go-on", recreated: "go-on" };

/** What an operator's seek does, as seen from here: another token, another position. */
function sought({ row }: Awaited<ReturnType<typeof reading>>, to: bigint): void {
  row.epoch += 1n;
  Object.assign(row, { nextOffset: to, soughtEpoch: row.epoch });
}

describe("a lost position without a policy", () => {
  it("waits for a person, and tells what blocks it; the rest of the process goes on", async () => {
    // Guards: nothing is moved, fetched or handled until somebody decides.
    const scene = await reading();
    scene.newest().displaced(scene.at, 10n, truncated);
    await scene.advance(300_000);
    expect(scene.seeks).toEqual([]);
    expect(scene.position()).toBeNull();
    expect(scene.consumer.status()[0]).toMatchObject({
      ...{ state: "displaced", nextOffset: 10n },
      blockedBy: { code: "position-out-of-range", details: { from: 7n, to: 9n } },
    });
    expect(scene.ofType("inbox.displaced")).toMatchObject([{ paused: true }]);
    expect(scene.consumer.health().ready).toBe(true);
    // What it does not ask for is no silence.
    expect(scene.ofType("inbox.client-rebuilt")).toEqual([]);
  });

  it("is not told by a process that does not hold the partition any more", async () => {
    // Guards isHeld in front of the announcement: one that was frozen meets a log that others read on.
    const scene = await reading();
    scene.row.epoch += 1n;
    scene.newest().displaced(scene.at, 10n, truncated);
    await settled();
    expect(scene.ofType("inbox.displaced")).toEqual([]);
    expect(scene.ofType("inbox.fenced")).toMatchObject([{ epoch: 1n }]);
  });

  it("is told when the database answers again", async () => {
    const scene = await reading();
    const { lostClaims } = scene.storage;
    scene.storage.lostClaims = () => Promise.reject(new Error("down"));
    scene.newest().displaced(scene.at, 10n, truncated);
    await settled();
    expect(scene.ofType("inbox.displaced")).toEqual([]);
    expect(scene.consumer.health().ready).toBe(false);
    scene.storage.lostClaims = lostClaims;
    await scene.advance(10_000);
    expect(scene.ofType("inbox.displaced")).toHaveLength(1);
    expect(scene.consumer.health().ready).toBe(true);
  });

  it("goes on within a few seconds of an operator's seek", async () => {
    // Guards: lostClaims for displaced partitions: no chunk would ever find out.
    const scene = await reading();
    scene.newest().displaced(scene.at, 10n, truncated);
    await settled();
    sought(scene, 7n);
    await scene.advance(3_000);
    expect(scene.ofType("inbox.fenced")).toMatchObject([{ epoch: 1n }]);
    await scene.advance(4_500);
    expect([scene.position(), scene.consumer.status()[0]?.state]).toEqual([7n, "reading"]);
    await scene.delivered();
    expect(scene.handled).toEqual([7n]);
    // An operator's seek is no database that was set back.
    expect(scene.ofType("inbox.displaced")).toHaveLength(1);
  });
});

describe("a seek while a partition is idle", () => {
  it("is noticed, and what was buffered or asked for under the old claim counts no more", async () => {
    // Guards: the look at idle claims; buffers and claims go together.
    const scene = await reading();
    sought(scene, 3n);
    await scene.advance(3_000);
    expect(scene.ofType("inbox.fenced")).toHaveLength(1);
    // Old answers while nobody holds the partition, and behind the new claim.
    const old = { assignment: 1, fetchedOffset: 10n, endOffset: 11n, endEpoch: 0, records: [] };
    scene.newest().deliver({ ...scene.at, ...old, topicId: "topic-1" });
    await scene.advance(4_500);
    scene.newest().deliver({ ...scene.at, ...old, topicId: "topic-1" });
    scene.newest().displaced(scene.at, 10n, truncated);
    const wrong = { reason: "wrong-position" };
    expect(scene.ofType("inbox.batch-dropped")).toMatchObject([wrong, wrong]);
    expect([scene.position(), scene.consumer.status()[0]?.state]).toEqual([3n, "reading"]);
  });

  it("under the same token, as after a restore, is noticed without a message", async () => {
    // Guards: the look at idle claims compares positions, too (B9). No chunk would ever open.
    const scene = await reading();
    await scene.delivered();
    scene.row.nextOffset = 7n;
    await scene.advance(3_000);
    expect(scene.ofType("inbox.fenced")).toHaveLength(1);
    await scene.advance(4_500);
    const error = expect.objectContaining({ code: "position-rewound" });
    expect(scene.ofType("inbox.displaced")).toMatchObject([{ paused: false, error }]);
    expect(scene.position()).toBe(7n);
  });

  it("is not seen in what a chunk of its own moved after the question", async () => {
    // Guards: an answer counts for the very position that was asked for.
    const scene = await reading();
    const { lostClaims } = scene.storage as unknown as Pick<Storage<"tx">, "lostClaims">;
    scene.storage.lostClaims = async (claims: Parameters<typeof lostClaims>[0]) => {
      await scene.delivered();
      return lostClaims(claims);
    };
    await scene.advance(3_000);
    expect(scene.handled.length).toBeGreaterThan(0);
    expect(scene.ofType("inbox.fenced")).toEqual([]);
  });

  it("while a chunk is open is left to the fence", async () => {
    // Guards: only idle claims are looked at; a running chunk finds out behind the row's lock.
    let release = () => {};
    const first = new Promise<void>((resolve) => {
      release = resolve;
    });
    const scene = await reading(() => first);
    await scene.delivered();
    sought(scene, 3n);
    await scene.advance(9_000);
    expect(scene.ofType("inbox.fenced")).toEqual([]);
    release();
    await settled();
    expect(scene.ofType("inbox.fenced")).toHaveLength(1);
    expect(scene.row.nextOffset).toBe(3n);
    await scene.advance(4_500);
    expect(scene.position()).toBe(3n);
  });

  it("while a chunk waits for its turn commits nothing of that chunk", async () => {
    // Guards: a claim that is lost between the look and the opening costs the chunk, and only it.
    let release = () => {};
    const first = new Promise<void>((resolve) => {
      release = resolve;
    });
    const scene = await reading(() => first, { partitionsAtOnceMax: 1 });
    const other = { topic: "orders", partition: 1 };
    await scene.assigned([other, scene.at]);
    const fields = { timestamp: 0n, leaderEpoch: 0, key: null, value: null, headers: [] };
    for (const at of [other, scene.at]) {
      scene.newest().deliver({
        ...{ ...at, assignment: 2, fetchedOffset: 10n, endOffset: 11n, endEpoch: 0 },
        ...{ records: [{ offset: 10n, ...fields, value: new Uint8Array(1) }], topicId: "topic-1" },
      });
    }
    await settled();
    sought(scene, 3n);
    await scene.advance(6_000);
    expect(scene.ofType("inbox.fenced")).not.toContainEqual(expect.objectContaining(scene.at));
    release();
    await settled();
    expect(scene.ofType("inbox.fenced")).toContainEqual(expect.objectContaining(scene.at));
    expect(scene.handled).toEqual([10n]);
  });

  it("past a message that fails leaves nothing of it behind", async () => {
    // Guards: blockedBy ends with the claim.
    const scene = await reading(async ({ offset }) => {
      if (offset === 10n) throw new Error("the handler's own");
    });
    await scene.delivered(2);
    expect(scene.consumer.status()[0]?.state).toBe("blocked");
    sought(scene, 11n);
    // The next try meets the fence.
    await scene.advance(10_000);
    expect(scene.ofType("inbox.fenced")).toHaveLength(1);
    await scene.delivered();
    expect(scene.handled).toEqual([11n]);
    const status = { state: "reading", blockedBy: null };
    expect(scene.consumer.status()[0]).toMatchObject(status);
  });
});

describe("a policy that goes on", () => {
  it("moves the position under its own claim, audited, and claims again", async () => {
    // Guards: `expected`, so that a lost claim moves nothing; who and why; no replay.
    const scene = await reading(undefined, { onLostPosition: goOn });
    scene.newest().displaced(scene.at, 10n, truncated);
    await settled();
    expect(scene.seeks).toMatchObject([
      {
        ...{ consumer: "billing", topic: "orders", topicId: null, replay: false },
        moves: [{ partition: 0, to: 7n }],
        expected: { token: "1", nextOffset: 10n },
        audit: {
          actor: expect.stringMatching(/^policy of billing:[0-9a-f-]{36}$/),
          reason: expect.stringContaining("what was handled from 7 to 9"),
        },
      },
    ]);
    expect(scene.ofType("inbox.displaced")).toMatchObject([{ paused: false }]);
    expect(scene.ofType("inbox.position-moved")).toMatchObject([{ from: 10n, to: 7n }]);
    expect(scene.ofType("inbox.claimed").map(({ nextOffset }) => nextOffset)).toEqual([10n, 7n]);
    await scene.delivered();
    expect(scene.handled).toEqual([7n]);
  });

  it("in a topic made anew asks where it begins, and under which id", async () => {
    // Guards: the new log's own start and id, not those of the old one.
    const scene = await reading(undefined, { onLostPosition: goOn });
    scene.newest().displaced(scene.at, 10n, recreated);
    await settled();
    expect(scene.seeks).toMatchObject([{ topicId: "topic-2", moves: [{ partition: 0, to: 0n }] }]);
  });

  it("moves nothing where the claim is held no more", async () => {
    // Guards: the answer null of a guarded seek is a fence, not a move.
    const scene = await reading(undefined, { onLostPosition: goOn });
    sought(scene, 12n);
    scene.newest().displaced(scene.at, 10n, truncated);
    await settled();
    expect(scene.ofType("inbox.position-moved")).toEqual([]);
    expect(scene.ofType("inbox.fenced")).toHaveLength(1);
    await scene.advance(4_500);
    expect([scene.row.nextOffset, scene.position()]).toEqual([12n, 12n]);
  });

  it("tries again while the database is away, and ends with a stop", async () => {
    // Guards: a policy's move is not given up, and holds no stop.
    const scene = await reading(undefined, { onLostPosition: goOn });
    let tries = 0;
    scene.storage.seek = async () => {
      tries += 1;
      throw new Error("down");
    };
    scene.newest().displaced(scene.at, 10n, truncated);
    await scene.advance(1_000);
    expect(tries).toBeGreaterThan(2);
    const before = tries;
    await scene.consumer.stop();
    await scene.advance(10_000);
    expect([tries, scene.seeks]).toEqual([before, []]);
  });
});

describe("a stop", () => {
  it("while displaced waits for nothing", async () => {
    // Guards: a worker that waits for a person ends like any other.
    const scene = await reading();
    scene.newest().displaced(scene.at, 10n, truncated);
    await settled();
    await scene.consumer.stop();
    expect(scene.consumer.health().reasons).toEqual(["stopping"]);
  });
});

describe("the last handled record", () => {
  it("is looked for after a claim, and another one in its place stops the partition", async () => {
    // Guards: the mark of a claim reaches the reader, and no policy covers it.
    const scene = makeConsumer(undefined, { onLostPosition: goOn });
    const last = lastRecordOf({
      ...{ offset: 9n, timestamp: 5n, leaderEpoch: 0, headers: [] },
      ...{ key: null, value: new Uint8Array([1]) },
    });
    scene.row.log = { topicId: "topic-1", leaderEpoch: 0, last };
    await scene.consumer.start();
    await scene.assigned();
    expect(scene.position()).toBe(9n);
    await scene.delivered(2);
    expect(scene.handled).toEqual([]);
    expect(scene.seeks).toEqual([]);
    expect(scene.consumer.status()[0]?.blockedBy?.code).toBe("record-changed");
  });
});

describe("the group's offset", () => {
  const ahead = async (metadata: string, soughtEpoch = 0n) => {
    const scene = makeConsumer();
    scene.row.epoch = 5n;
    scene.row.soughtEpoch = soughtEpoch;
    scene.group.offsets = [{ ...scene.at, offset: 12n, metadata }];
    await scene.consumer.start();
    await scene.assigned();
    return scene;
  };

  it("above the position is told once it is claimed, and decides nothing", async () => {
    // Guards: the comparison at each claim; the database is the authority.
    const scene = await ahead("by hand");
    expect(scene.ofType("inbox.group-ahead")).toEqual([
      {
        ...{ type: "inbox.group-ahead", consumer: "billing", topic: "orders", partition: 0 },
        ...{ why: "moved", groupOffset: 12n, nextOffset: 10n },
      },
    ]);
    expect(scene.position()).toBe(10n);
  });

  it("is looked at before the relay writes it, however long Kafka takes to tell", async () => {
    // Guards the wait in front of a commit: what stood there would be gone, and nobody told.
    const scene = makeConsumer();
    scene.group.offsets = [{ ...scene.at, offset: 12n, metadata: "by hand" }];
    let tell = () => {};
    scene.group.answers = new Promise((resolve) => {
      tell = resolve;
    });
    await scene.consumer.start();
    await scene.assigned();
    await scene.advance(20_000);
    tell();
    await settled();
    expect(scene.ofType("inbox.group-ahead")).toMatchObject([{ groupOffset: 12n }]);
    expect(scene.group.offsets).toMatchObject([{ offset: 10n }]);
  });

  it("is not written with positions of an assignment that ended while Kafka was asked", async () => {
    // Guards the look at the assignment behind the wait: under the new membership Kafka would store them.
    const scene = makeConsumer();
    let tell = () => {};
    scene.group.answers = new Promise((resolve) => {
      tell = resolve;
    });
    await scene.consumer.start();
    await scene.assigned();
    await scene.advance(2_000);
    await scene.assigned([]);
    tell();
    await settled();
    expect(scene.group.offsets).toEqual([]);
  });

  it("above it because an operator moved the position is not", async () => {
    // Guards: the epoch of the last seek reaches the comparison.
    const metadata = offsetMetadata({ incarnation: "db-1", epoch: 3n }, 12n);
    expect((await ahead(metadata, 4n)).ofType("inbox.group-ahead")).toEqual([]);
    expect((await ahead(metadata)).ofType("inbox.group-ahead")).toMatchObject([
      { why: "set-back" },
    ]);
  });
});
