import { describe, expect, it } from "vitest";
import { textOf, utf8 } from "../message.ts";
import type { PublishResult } from "../ports/broker.ts";
import type { OutboxRow } from "../ports/outbox.ts";
import { Backlog } from "./backlog.ts";
import type { HeldLane } from "./lanes.ts";
import { type Entry, sentBytes } from "./queue.ts";

const leaseOf = (lane: number): HeldLane => ({ lane, token: "t", deadline: 0, state: "active" });

function row(lane: number, position: number, fields: Partial<OutboxRow> = {}): OutboxRow {
  const own = { lane, position: BigInt(position), id: `${lane}-${position}` };
  return { topic: "a", key: utf8("k"), value: utf8("v"), headers: [], ...own, ...fields };
}

const everything = { rowsMax: 500, bytesMax: 2 ** 20, mayUse: () => true, partitionOf: () => 0 };
const ids = (entries: readonly Entry[]) => entries.map((entry) => entry.row.id);
const wait = (attempt: number) => attempt * 100;
const error = new Error("no");

type Answer = "ok" | "unknown" | "message" | "topic" | "silent";

function answered(answers: readonly Answer[]): PublishResult {
  const at = (wanted: Answer) => answers.flatMap((one, index) => (one === wanted ? [index] : []));
  return {
    acknowledged: at("ok"),
    unknown: at("unknown").map((index) => ({ index, error })),
    refused: [
      ...at("message").map((index) => ({ index, error, scope: "message" as const })),
      ...at("topic").map((index) => ({ index, error, scope: "topic" as const })),
    ],
  };
}

describe("the next batch", () => {
  it("holds the rows of a lane in order, whatever order they were read in", () => {
    const backlog = new Backlog();
    const lane = leaseOf(1);
    for (const position of [4, 2, 9, 3]) backlog.add(row(1, position), lane);
    expect(ids(backlog.nextBatch({ ...everything, now: 0 }))).toEqual(["1-2", "1-3", "1-4", "1-9"]);
  });

  it("leaves out lanes whose lease is too short, and takes them later", () => {
    const backlog = new Backlog();
    const [one, two] = [leaseOf(1), leaseOf(2)];
    backlog.add(row(1, 1), one);
    backlog.add(row(2, 1), two);
    const mayUse = (lane: HeldLane) => lane === two;
    expect(ids(backlog.nextBatch({ ...everything, now: 0, mayUse }))).toEqual(["2-1"]);
    expect(backlog.sendableAt(mayUse)).toBe(Number.POSITIVE_INFINITY);
    backlog.outcome(answered(["ok"]), 0, wait);
    expect(ids(backlog.nextBatch({ ...everything, now: 0 }))).toEqual(["1-1"]);
  });

  it("keeps to its limits, but takes one row whatever its size", () => {
    const backlog = new Backlog();
    const lane = leaseOf(1);
    const large = row(1, 1, { value: new Uint8Array(5_000) });
    backlog.add(large, lane);
    for (const position of [2, 3, 4]) backlog.add(row(1, position), lane);
    const next = (limits: object) => {
      const batch = backlog.nextBatch({ ...everything, now: 0, ...limits });
      backlog.outcome(answered(batch.map(() => "ok")), 0, wait);
      return ids(batch);
    };
    expect(next({ bytesMax: 1_000 })).toEqual(["1-1"]);
    expect(next({ rowsMax: 2 })).toEqual(["1-2", "1-3"]);
    expect(next({})).toEqual(["1-4"]);
    expect(next({})).toEqual([]);
  });

  it("leaves rows of a topic whose partitions are not known", () => {
    const backlog = new Backlog();
    const lane = leaseOf(1);
    backlog.add(row(1, 1), lane);
    backlog.add(row(1, 2, { topic: "b" }), lane);
    const partitionOf = ({ topic }: OutboxRow) => (topic === "b" ? 0 : null);
    expect(ids(backlog.nextBatch({ ...everything, now: 0, partitionOf }))).toEqual(["1-2"]);
    expect([...backlog.topics(0)]).toEqual(["a"]);
  });

  it("does not take in a row twice", () => {
    const backlog = new Backlog();
    const lane = leaseOf(1);
    backlog.add(row(1, 1), lane);
    backlog.add(row(1, 1), lane);
    expect(backlog.pending()).toHaveLength(1);
    const [sent] = backlog.nextBatch({ ...everything, now: 0 });
    backlog.add(row(1, 1), lane);
    expect(backlog.ready.rows).toBe(0);
    backlog.outcome(answered(["ok"]), 0, wait);
    expect(backlog.pending()).toHaveLength(1);
    backlog.settled([sent as Entry]);
    expect(backlog.pending()).toEqual([]);
  });
});

/** A backlog with rows of keys k and l and of topic b in one lane, and a way to send. */
function scene() {
  const backlog = new Backlog();
  const lane = leaseOf(1);
  const keys = ["k", "l", "k", "l"].map((key, i) => row(1, i + 1, { key: utf8(key) }));
  for (const one of [...keys, row(1, 5, { topic: "b" })]) backlog.add(one, lane);
  /** `partitionOf` puts each key in a partition of its own. */
  const partitionOf = ({ key }: OutboxRow) => (key === null ? 9 : textOf(key).charCodeAt(0));
  const send = (now: number, answer: (id: string) => Answer) => {
    const batch = backlog.nextBatch({ ...everything, now, partitionOf });
    const answers = batch.map((entry) => answer(entry.row.id));
    return { sent: ids(batch), outcome: backlog.outcome(answered(answers), now, wait) };
  };
  return { backlog, lane, send };
}

describe("a refused message", () => {
  it("blocks its key, and nothing else", () => {
    const { backlog, lane, send } = scene();
    const first = send(0, (id) => (id === "1-1" ? "message" : id === "1-3" ? "unknown" : "ok"));
    expect(first.outcome).toMatchObject({ published: 3, unknown: { messages: 1 } });
    expect(first.outcome.blocked).toEqual([
      { scope: "message", topic: "a", id: "1-1", attempt: 1, waitMs: 100, error },
    ]);
    backlog.add(row(1, 6), lane);
    backlog.add(row(1, 7, { key: utf8("l") }), lane);
    expect(send(50, () => "ok").sent).toEqual(["1-7"]);
    expect(backlog.blocked.rows).toBe(3);
    expect([...backlog.blockedLanes()]).toEqual([lane]);
  });

  it("is tried again alone, with growing pauses, and then its key flows in order", () => {
    const { backlog, lane, send } = scene();
    send(0, (id) => (id === "1-1" || id === "1-3" ? "message" : "ok"));
    expect(backlog.sendableAt(() => true)).toBe(100);
    expect(send(99, () => "ok").sent).toEqual([]);
    const again = send(100, () => "message");
    expect(again.sent).toEqual(["1-1"]);
    expect(again.outcome.blocked).toMatchObject([{ id: "1-1", attempt: 2, waitMs: 200 }]);
    backlog.add(row(1, 6), lane);
    expect(send(300, () => "ok").sent).toEqual(["1-1"]);
    expect(send(300, () => "ok").sent).toEqual(["1-3", "1-6"]);
    expect(backlog.blocked).toEqual({ rows: 0, bytes: 0 });
  });

  it("that a person deletes holds its key up no longer than until it is read again", () => {
    const { backlog, lane, send } = scene();
    send(0, (id) => (id === "1-1" || id === "1-3" ? "message" : "ok"));
    backlog.forgetBlocked();
    expect(backlog.blocked).toEqual({ rows: 0, bytes: 0 });
    expect(backlog.pending().map(({ id }) => id)).not.toContain("1-1");
    // Still blocked: it was read again, and its pause is not over.
    for (const position of [1, 3]) backlog.add(row(1, position), lane);
    expect(send(50, () => "ok").sent).toEqual([]);
    expect(send(100, () => "message").outcome.blocked).toMatchObject([{ attempt: 2 }]);
    backlog.forgetBlocked();
    backlog.add(row(1, 3), lane);
    expect(send(299, () => "ok").sent).toEqual([]);
    expect(send(300, () => "ok").sent).toEqual(["1-3"]);
  });

  it("is not overtaken by rows that were ready when it was forgotten", () => {
    const { backlog, lane, send } = scene();
    send(0, (id) => (id === "1-1" || id === "1-3" ? "message" : "ok"));
    backlog.add(row(1, 6), lane);
    backlog.forgetBlocked();
    expect(send(1_000, () => "ok").sent).toEqual([]);
    for (const position of [1, 3, 6]) backlog.add(row(1, position), lane);
    expect(send(1_000, () => "ok").sent).toEqual(["1-1", "1-3", "1-6"]);
  });

  it("without a key blocks only itself", () => {
    const backlog = new Backlog();
    const lane = leaseOf(1);
    for (const position of [1, 2]) backlog.add(row(1, position, { key: null }), lane);
    backlog.nextBatch({ ...everything, now: 0 });
    backlog.outcome(answered(["message", "ok"]), 0, wait);
    backlog.add(row(1, 3, { key: null }), lane);
    expect(ids(backlog.nextBatch({ ...everything, now: 0 }))).toEqual(["1-3"]);
  });

  it("with an empty key, or another of the same text, is another key's", () => {
    const backlog = new Backlog();
    const lane = leaseOf(1);
    const keys = [Uint8Array.of(0xff), Uint8Array.of(0xfe), utf8(""), utf8("\ufffd")];
    for (const [i, key] of keys.entries()) backlog.add(row(1, i + 1, { key }), lane);
    backlog.nextBatch({ ...everything, now: 0 });
    backlog.outcome(answered(["message", "ok", "ok", "ok"]), 0, wait);
    for (const [i, key] of keys.entries()) backlog.add(row(1, i + 5, { key }), lane);
    expect(ids(backlog.nextBatch({ ...everything, now: 0 }))).toEqual(["1-6", "1-7", "1-8"]);
  });
});

describe("an unknown outcome", () => {
  it("holds its partition; the same rows come again first, in order", () => {
    const { backlog, lane, send } = scene();
    const first = send(0, (id) => (id === "1-1" || id === "1-3" ? "unknown" : "ok"));
    expect(first.outcome.unknown).toEqual({ messages: 2, waitMs: 100, error });
    expect(first.outcome.blocked).toEqual([]);
    backlog.add(row(1, 6), lane);
    backlog.add(row(1, 7, { key: utf8("l") }), lane);
    expect(send(50, () => "ok").sent).toEqual(["1-7"]);
    expect(send(100, () => "unknown").sent).toEqual(["1-1"]);
    expect(send(200, () => "ok").sent).toEqual([]);
    expect(send(300, () => "ok").sent).toEqual(["1-1"]);
    expect(send(300, () => "ok").sent).toEqual(["1-3", "1-6"]);
  });

  it("is what an answer means that leaves a row out", () => {
    const { send } = scene();
    expect(send(0, () => "silent").outcome).toMatchObject({
      published: 0,
      unknown: {
        messages: 5,
        error: new Error("the broker's answer left this message out"),
      },
    });
  });

  it("no longer goes by partition where keys have moved to others", () => {
    const { backlog, send } = scene();
    send(0, (id) => (id === "1-1" || id === "1-3" ? "unknown" : "ok"));
    backlog.repartitioned("b");
    expect(backlog.ready.rows).toBe(0);
    backlog.repartitioned("a");
    expect(send(1, () => "ok").sent).toEqual(["1-1", "1-3"]);
  });
});

describe("a refused topic", () => {
  it("waits as a whole; its first row tries for all", () => {
    const { backlog, lane, send } = scene();
    const first = send(0, (id) => (id === "1-5" ? "ok" : "topic"));
    expect(first.outcome.blocked).toMatchObject([{ scope: "topic", topic: "a", id: "1-1" }]);
    backlog.add(row(1, 6), lane);
    backlog.add(row(1, 7, { topic: "b" }), lane);
    expect(send(50, () => "ok").sent).toEqual(["1-7"]);
    expect(send(100, () => "ok").sent).toEqual(["1-1"]);
    expect(send(100, () => "ok").sent).toEqual(["1-2", "1-3", "1-4", "1-6"]);
  });

  it("gives way to what its first row tells", () => {
    const { send } = scene();
    send(0, (id) => (id === "1-5" ? "ok" : "topic"));
    // The topic is there again; this message alone is the trouble.
    const { outcome } = send(100, () => "message");
    expect(outcome.blocked).toMatchObject([{ scope: "message", id: "1-1", attempt: 1 }]);
    expect(send(101, () => "ok").sent).toEqual(["1-2", "1-4"]);
  });

  it("is known before sending, where its partitions cannot be had", () => {
    const { backlog, send } = scene();
    expect(backlog.blockTopic("a", error, 0, wait)).toMatchObject([
      { scope: "topic", topic: "a", id: "1-1", attempt: 1, waitMs: 100 },
    ]);
    // Not due: nothing to tell again.
    expect(backlog.blockTopic("a", error, 50, wait)).toEqual([]);
    expect(send(50, () => "ok").sent).toEqual(["1-5"]);
    expect([...backlog.topics(50)]).toEqual([]);
    expect([...backlog.topics(100)]).toEqual(["a"]);
    expect(backlog.blockTopic("a", error, 100, wait)).toMatchObject([{ attempt: 2 }]);
    expect(send(300, () => "ok").sent).toEqual(["1-1"]);
  });

  it("puts off the blocked keys of it that are due", () => {
    const { backlog, send } = scene();
    send(0, (id) => (id === "1-1" || id === "1-3" ? "message" : "ok"));
    expect(backlog.blockTopic("a", error, 100, wait)).toMatchObject([
      { scope: "message", id: "1-1", attempt: 2, waitMs: 200 },
    ]);
    expect(backlog.sendableAt(() => true)).toBe(300);
  });

  it("does not take rows away from a key that is blocked already", () => {
    const { backlog, lane, send } = scene();
    send(0, (id) => (id === "1-1" || id === "1-3" ? "message" : "ok"));
    backlog.add(row(1, 6), lane);
    expect(backlog.blockTopic("a", error, 10, wait)).toMatchObject([{ scope: "topic" }]);
    send(10, () => "ok");
    expect(send(100, () => "message").sent).toEqual(["1-1"]);
    // The topic's pause is over, the key's is not.
    expect(send(200, () => "ok").sent).toEqual([]);
    expect(send(300, () => "ok").sent).toEqual(["1-1"]);
    expect(send(300, () => "ok").sent).toEqual(["1-3", "1-6"]);
  });

  it("that nothing waits for is no news", () => {
    expect(new Backlog().blockTopic("a", error, 0, wait)).toEqual([]);
  });
});

describe("a lane", () => {
  it("that drains keeps what was sent until it is settled, and forgets the rest", () => {
    const backlog = new Backlog();
    const lane = leaseOf(1);
    for (const position of [1, 2, 3, 4]) backlog.add(row(1, position), lane);
    backlog.nextBatch({ ...everything, now: 0, rowsMax: 2 });
    lane.state = "draining";
    backlog.drain(lane);
    expect(backlog.isBusy(lane)).toBe(true);
    expect(backlog.ready.rows).toBe(0);
    backlog.outcome(answered(["ok", "unknown"]), 0, wait);
    // The next holder sends the unknown row again, before anything behind it.
    expect(ids(backlog.published)).toEqual(["1-1"]);
    expect(backlog.isBusy(lane)).toBe(true);
    backlog.settled(backlog.published);
    expect(backlog.isBusy(lane)).toBe(false);
    expect(backlog.pending()).toEqual([]);
    expect(backlog.blocked.rows).toBe(0);
  });

  it("that is lost takes everything with it, also what is on its way", () => {
    const backlog = new Backlog();
    const lane = leaseOf(1);
    for (const position of [1, 2, 3]) backlog.add(row(1, position), lane);
    backlog.nextBatch({ ...everything, now: 0, rowsMax: 2 });
    lane.state = "lost";
    backlog.drop(lane);
    expect(backlog.pending()).toEqual([]);
    backlog.outcome(answered(["ok", "unknown"]), 0, wait);
    expect(backlog.hasPublished).toBe(false);
    expect(backlog.sendableAt(() => true)).toBe(Number.POSITIVE_INFINITY);
  });

  it("that is lost with the head of a block on its way leaves no block behind", () => {
    const { backlog, lane, send } = scene();
    send(0, (id) => (id === "1-1" || id === "1-3" ? "message" : "ok"));
    backlog.nextBatch({ ...everything, now: 100 });
    lane.state = "lost";
    backlog.drop(lane);
    backlog.outcome(answered(["message"]), 100, wait);
    const next = leaseOf(1);
    backlog.add(row(1, 1), next);
    expect(ids(backlog.nextBatch({ ...everything, now: 100 }))).toEqual(["1-1"]);
  });
});

it("the size of a row is at least what Kafka's format takes", () => {
  const headers = [["é", utf8("1")]] as const;
  expect(sentBytes(row(1, 1, { key: null, value: null }))).toBe(64);
  expect(sentBytes(row(1, 1, { headers }))).toBeGreaterThanOrEqual(64 + 2 + 2 + 1);
});
