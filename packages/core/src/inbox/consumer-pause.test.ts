import { describe, expect, it } from "vitest";
import { settled } from "../clock-by-hand.ts";
import { makeConsumer, orders, reading } from "./consumer-scene.ts";

const down = async (): Promise<never> => {
  throw new Error("down");
};

describe("a pause", () => {
  it.each([
    ["of the topic by name", "orders"],
    ["of the topic", orders],
    ["of everything", undefined],
  ])("%s: nothing is fetched and nothing handled until it ends", async (_, topic) => {
    // Guards: `paused` in the position and in front of each chunk, and the nudge of `resume`.
    const { consumer, delivered, position, handled, newest, at } = await reading();
    const before = newest().position(at);
    consumer.pause(topic);
    expect([position(), consumer.status()[0]?.state]).toEqual([null, "paused"]);
    // The answer to a fetch of before the pause.
    newest().deliver({
      ...{ ...at, assignment: 1, fetchedOffset: before?.offset ?? 0n, endOffset: 11n, endEpoch: 0 },
      ...{ records: [{ ...record, offset: 10n }], topicId: "topic-1" },
    });
    await settled();
    expect(handled).toEqual([]);
    consumer.resume(topic);
    await settled();
    expect([handled, consumer.status()[0]?.state]).toEqual([[10n], "reading"]);
    await delivered();
    expect(handled).toEqual([10n, 11n]);
  });

  it("holds over a new assignment, and over one of another client", async () => {
    // Guards: the pause belongs to the consumer, not to the workers of an assignment.
    const { consumer, assigned, position, newest, advance } = await reading();
    consumer.pause("orders");
    await assigned();
    expect(position()).toBeNull();
    newest().failed(new Error("crashed"));
    await advance(1_000);
    await assigned();
    expect([position(), consumer.status()[0]?.state]).toEqual([null, "paused"]);
    consumer.resume("orders");
    expect(position()).toBe(10n);
  });

  it("of everything ends with a resume of everything, which ends all of them", async () => {
    // Guards: two switches: one topic is not let go on by the other.
    const { consumer, position } = await reading();
    consumer.pause();
    consumer.pause("orders");
    consumer.resume("orders");
    expect(position()).toBeNull();
    consumer.pause("orders");
    consumer.resume();
    expect(position()).toBe(10n);
  });

  it("of a topic that is not handled is a mistake", async () => {
    // Guards: a slip of the finger must not look like a pause.
    const { consumer } = makeConsumer();
    const refused = expect.objectContaining({ code: "invalid-options" });
    expect(() => consumer.pause("order")).toThrow(refused);
    expect(() => consumer.resume("order")).toThrow(refused);
  });

  it("is no silence, and neither is what follows at once", async () => {
    // Guards: what is not asked for is not owed; after the pause the client gets its full time.
    const { consumer, advance, fetched, ofType } = await reading();
    consumer.pause();
    await advance(300_000);
    consumer.resume();
    fetched(11n);
    await advance(57_000);
    expect(ofType("inbox.client-rebuilt")).toEqual([]);
    await advance(9_000);
    expect(ofType("inbox.client-rebuilt")).toHaveLength(1);
  });

  it("while a message is tried again keeps its count, and tries no more until it ends", async () => {
    // Guards: pause and isolation do not lose each other.
    const attempts: number[] = [];
    const scene = await reading(async ({ offset }, _, { attempt }) => {
      attempts.push(attempt);
      if (attempts.length < 3) throw new Error(`not yet: ${offset}`);
    });
    await scene.delivered(2);
    expect(scene.consumer.status()[0]?.state).toBe("blocked");
    scene.consumer.pause();
    await scene.advance(60_000);
    expect(attempts).toEqual([1]);
    scene.consumer.resume();
    await scene.advance(60_000);
    expect(attempts).toEqual([1, 2, 3, 1]);
    expect(scene.handled).toEqual([10n, 11n]);
  });

  it("holds a chunk that waits for its turn among the partitions", async () => {
    // Guards: the look at the pause behind the permit.
    let release = () => {};
    const first = new Promise<void>((resolve) => {
      release = resolve;
    });
    const scene = await reading(() => first, { partitionsAtOnceMax: 1 });
    await scene.assigned([scene.at, { topic: "orders", partition: 1 }]);
    const deliver = (partition: number) =>
      scene.newest().deliver({
        ...{ topic: "orders", partition, assignment: 2, fetchedOffset: 10n, endOffset: 11n },
        ...{ endEpoch: 0, records: [{ ...record, offset: 10n }], topicId: "topic-1" },
      });
    deliver(0);
    deliver(1);
    await settled();
    scene.consumer.pause();
    release();
    await settled();
    expect(scene.ofType("inbox.chunk-opening").map(({ partition }) => partition)).toEqual([0]);
  });
});

const record = {
  ...{ timestamp: 0n, leaderEpoch: 0, key: null, value: new Uint8Array(1), headers: [] },
};

describe("health", () => {
  const healthy = { ready: true, live: true, reasons: [] };

  it("names the state before, while and after it runs", async () => {
    // Guards: a probe is not ready before the group is joined, nor once a stop has begun.
    const { consumer, assigned, newest, advance } = makeConsumer();
    const reasons = () => consumer.health().reasons;
    expect([consumer.health().ready, reasons()]).toEqual([false, ["not started"]]);
    await consumer.start();
    expect(reasons()).toEqual(["has not joined its group yet"]);
    await assigned();
    expect(consumer.health()).toEqual(healthy);
    newest().failed(new Error("crashed"));
    expect(reasons()).toEqual(["no Kafka client: one is being made"]);
    await advance(1_000);
    await assigned([]);
    expect(consumer.health()).toEqual(healthy);
    await consumer.stop();
    expect([consumer.health().ready, reasons()]).toEqual([false, ["stopping"]]);
  });

  it("is not ready while the database is away, and turns by itself", async () => {
    // Guards: the look at idle claims, which also finds that the database is back.
    const { consumer, storage, parts, advance } = await reading();
    storage.lostClaims = down;
    await advance(3_000);
    const reasons = ["the database cannot be reached"];
    expect(consumer.health()).toEqual({ ready: false, live: true, reasons });
    storage.lostClaims = parts.lostClaims;
    await advance(3_000);
    expect(consumer.health()).toEqual(healthy);
  });

  it("is ready again once the database answers, also where it answers to a message that fails", async () => {
    // Guards: a failing handler is no outage; such a partition asks for nothing else.
    const { consumer, storage, parts, advance, delivered } = await reading(async () => {
      throw new Error("the handler's own");
    });
    storage.open = down;
    await delivered();
    expect(consumer.health().ready).toBe(false);
    storage.open = parts.open;
    await advance(1_000);
    expect(consumer.health()).toEqual(healthy);
    expect(consumer.status()[0]?.lastError).toMatchObject({ code: "handler-failed" });
  });

  it("is ready with no partition at all, whatever the database said before", async () => {
    // Guards: a member with nothing to do would never learn that the outage is over.
    const { consumer, storage, assigned, advance } = await reading();
    storage.lostClaims = down;
    await advance(3_000);
    await assigned([]);
    expect(consumer.health()).toEqual(healthy);
  });

  it("is not live once clients kept falling silent, until one answers", async () => {
    // Guards: the liveness probe; an outage of Kafka makes no silent client.
    const { consumer, assigned, advance, fetched, clients } = await reading();
    for (let silent = 1; silent <= 3; silent += 1) {
      expect(consumer.health().live).toBe(true);
      await advance(70_000);
      expect(clients).toHaveLength(silent + 1);
      await assigned();
    }
    const reasons = ["the Kafka client keeps falling silent"];
    expect(consumer.health()).toEqual({ ready: true, live: false, reasons });
    fetched(10n);
    expect(consumer.health()).toEqual(healthy);
  });
});

describe("status", () => {
  it("says of a partition where it stands", async () => {
    // Guards: each field from its source.
    const scene = await reading();
    const { consumer, fetched, delivered, advance } = scene;
    const before = { topic: "orders", partition: 0, state: "reading", epoch: 1n, nextOffset: 10n };
    const nothing = { blockedBy: null, lastError: null };
    const never = { logEnd: null, lag: null, sinceProgressMs: null };
    expect(consumer.status()).toEqual([{ ...before, ...nothing, ...never }]);
    fetched(15n);
    expect(consumer.status()[0]).toMatchObject({ logEnd: 15n, lag: 5n });
    await delivered(2);
    await advance(700);
    const after = { nextOffset: 12n, logEnd: 15n, lag: 3n, sinceProgressMs: 700 };
    expect(consumer.status()).toEqual([{ ...before, ...nothing, ...after }]);
    const trouble = new Error("its disk");
    scene.newest().troubled(scene.at, trouble);
    expect(consumer.status()[0]).toMatchObject({ lastError: trouble, blockedBy: null });
  });

  it("says what it waits for: its claim, a message, the log", async () => {
    // Guards: the states, and what blocks in each.
    let fails = true;
    const failure = new Error("the handler's own");
    const scene = makeConsumer(async () => {
      if (fails) throw failure;
    });
    const { consumer, storage, parts, delivered, advance, newest, at } = scene;
    const [state, blockedBy] = [
      () => consumer.status()[0]?.state,
      () => consumer.status()[0]?.blockedBy?.code,
    ];
    await consumer.start();
    storage.claim = down;
    await scene.assigned();
    expect([state(), blockedBy(), consumer.status()[0]?.epoch]).toEqual([
      ...["claiming", undefined, null],
    ]);
    expect(consumer.status()[0]?.lastError).toMatchObject({ code: "storage-failed" });
    storage.claim = parts.claim;
    await advance(1_000);
    await delivered();
    expect([state(), blockedBy()]).toEqual(["blocked", "handler-failed"]);
    fails = false;
    await advance(5_000);
    expect([state(), blockedBy()]).toEqual(["reading", undefined]);
    // What went wrong last stays to be seen.
    expect(consumer.status()[0]?.lastError).toMatchObject({ cause: failure });
    newest().displaced(at, 11n, { kind: "topic-missing" });
    expect([state(), blockedBy()]).toEqual(["displaced", "topic-deleted"]);
  });
});
