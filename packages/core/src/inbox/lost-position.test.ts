import { describe, expect, it } from "vitest";
import { StorageError } from "../errors.ts";
import type { Displacement, FetchPosition, RecordBatch } from "../ports/broker.ts";
import {
  brokenBatch,
  claimError,
  type LostPositionPolicy,
  lostPosition,
  recordChanged,
  rewound,
  unreadable,
} from "./lost-position.ts";

const ref = { consumer: "billing", topic: "orders", partition: 2 };
const at: FetchPosition = { offset: 10n, topicId: "topic-1", leaderEpoch: 3 };

const goOn: LostPositionPolicy = { deleted: "go-on", truncated: "go-on", recreated: "go-on" };

function judged(why: Displacement, policy: LostPositionPolicy = {}) {
  const { error, ...rest } = lostPosition(ref, at, why, policy);
  const { code, message, details } = error;
  return { code, message, details, ...rest };
}

const outOfRange = (start: bigint, end: bigint): Displacement => ({
  kind: "out-of-range",
  log: { start, end },
});

describe("records that are gone", () => {
  it("below the start of the log: told from the position to the last one that is gone", () => {
    // Guards: the exact range, in the text as in the details.
    expect(judged(outOfRange(15n, 40n))).toEqual({
      code: "position-out-of-range",
      message:
        "messages 10 to 14 of orders/2 are gone before they were handled: the log starts at 15",
      details: { ...ref, position: 10n, logStart: 15n, logEnd: 40n, from: 10n, to: 14n },
      goOn: null,
      mayPass: false,
    });
  });

  it("by truncation: told from the end of the log to the last one that was handled", () => {
    // Guards: the exact range on the other side.
    expect(judged(outOfRange(0n, 7n))).toEqual({
      code: "position-out-of-range",
      message:
        "the log of orders/2 ends at 7, before the position 10: it was truncated, and what was handled from 7 to 9 is no longer in it",
      details: { ...ref, position: 10n, logStart: 0n, logEnd: 7n, from: 7n, to: 9n },
      goOn: null,
      mayPass: false,
    });
  });

  it.each([
    [0n, 20n],
    [10n, 20n],
    [0n, 10n],
  ])("is not said of a log that holds the position: %d to %d", (start, end) => {
    // Guards: a policy must not move the position up to the end of a log that only lagged when it
    // refused the fetch: everything in between would be passed over.
    const { message, details, ...rest } = judged(outOfRange(start, end), goOn);
    expect(rest).toEqual({ code: "position-out-of-range", goOn: null, mayPass: true });
    expect(message).toContain(`holds ${start} to ${end} by now`);
    expect(details).toEqual({ ...ref, position: 10n, logStart: start, logEnd: end });
  });

  it("without bounds: nothing is guessed, and it may pass", () => {
    // Guards: no policy moves a position to bounds that nobody knows.
    const { message, ...rest } = judged({ kind: "out-of-range", log: null }, goOn);
    expect(rest).toEqual({
      code: "position-out-of-range",
      details: { ...ref, position: 10n, logStart: null, logEnd: null },
      goOn: null,
      mayPass: true,
    });
    expect(message).toContain("does not hold 10");
  });
});

describe("a log that has gone on differently", () => {
  it("from a known offset on: told from there", () => {
    // Guards: the exact range of what the log lost.
    expect(judged({ kind: "log-diverged", endOffset: 6n })).toEqual({
      code: "log-diverged",
      message:
        "what was handled of orders/2 from 6 to 9 is no longer in its log, which has gone on differently from 6 on (leader epoch 3 ended there: an unclean election)",
      details: { ...ref, position: 10n, leaderEpoch: 3, from: 6n, to: 9n },
      goOn: null,
      mayPass: false,
    });
  });

  it.each([null, 10n, 14n])("from nobody knows where (%s): no policy moves anything", (end) => {
    // Guards: an end at or above the position says nothing of where they part; to go on from it
    // would pass messages over.
    const { message, ...rest } = judged({ kind: "log-diverged", endOffset: end }, goOn);
    expect(rest).toEqual({
      code: "log-diverged",
      details: { ...ref, position: 10n, leaderEpoch: 3, from: null, to: null },
      goOn: null,
      mayPass: false,
    });
    expect(message).toContain("knows nothing of leader epoch 3");
  });
});

describe("another topic", () => {
  it("of the same name: told with both ids", () => {
    // Guards: a position never counts in a topic that it does not belong to.
    expect(judged({ kind: "topic-recreated", topicId: "topic-2" })).toEqual({
      code: "topic-recreated",
      message:
        "the topic orders was deleted and made anew: position 10 of orders/2 belongs to the old one",
      details: { ...ref, position: 10n, topicId: "topic-1", newTopicId: "topic-2" },
      goOn: null,
      mayPass: false,
    });
  });

  it("or none: no policy moves anything, and it may pass", () => {
    // Guards: a topic that is missing for a moment costs no position.
    expect(judged({ kind: "topic-missing" }, goOn)).toEqual({
      code: "topic-deleted",
      message: "the topic orders is gone",
      details: { ...ref, position: 10n },
      goOn: null,
      mayPass: true,
    });
  });
});

describe("a policy", () => {
  const deleted = outOfRange(15n, 40n);
  const truncated = outOfRange(0n, 7n);
  const diverged: Displacement = { kind: "log-diverged", endOffset: 6n };
  const recreated: Displacement = { kind: "topic-recreated", topicId: "topic-2" };

  it.each([
    ["deleted", deleted, { to: 15n, topicId: "topic-1" }],
    ["truncated", truncated, { to: 7n, topicId: "topic-1" }],
    ["truncated", diverged, { to: 6n, topicId: "topic-1" }],
    ["recreated", recreated, { to: "earliest", topicId: "topic-2" }],
  ] as const)("of %s goes on for its own kind only", (choice, why, to) => {
    // Guards: each choice is about one kind of loss, and names the log that it goes on in.
    expect(judged(why, { [choice]: "go-on" }).goOn).toEqual(to);
    expect(judged(why, { ...goOn, [choice]: "pause" }).goOn).toBeNull();
    expect(judged(why, {}).goOn).toBeNull();
  });
});

describe("what no policy covers", () => {
  const nobody = { goOn: null, mayPass: false };
  const last = { offset: 9n, timestamp: 5n, checksum: 1 };

  it.each([
    ["timestamp", { ...last, timestamp: 6n }],
    ["key or value", { ...last, checksum: 2 }],
  ])("another record where the last one was: another %s", (what, found) => {
    // Guards: it says what differs, and never the value.
    const { error, ...rest } = recordChanged(ref, last, found, 12n);
    expect(rest).toEqual(nobody);
    expect(error.code).toBe("record-changed");
    expect(error.message).toContain(`orders/2@9 is not the one`);
    expect(error.message).toContain(`another ${what})`);
    expect(error.details).toEqual({ ...ref, position: 12n, offset: 9n });
  });

  it("what cannot be decoded, and a batch that does not add up", () => {
    // Guards: code, place and cause.
    const cause = new Error("no codec");
    const damaged = unreadable(ref, 10n, cause);
    expect(damaged).toMatchObject(nobody);
    expect(damaged.error).toMatchObject({ code: "position-unreadable", cause });
    expect(damaged.error.details).toEqual({ ...ref, position: 10n });
    const broken = brokenBatch(ref, { fetchedOffset: 10n, endOffset: 9n } as RecordBatch);
    expect(broken).toMatchObject(nobody);
    expect(broken.error.code).toBe("position-gap");
    expect(broken.error.details).toEqual({ ...ref, fetchedOffset: 10n, endOffset: 9n });
  });

  it("a row that was set back: both numbers", () => {
    // Guards: what a person needs to find out which of the two is right.
    const { code, message, details } = rewound(ref, 10n, 4n);
    expect([code, details]).toEqual(["position-rewound", { ...ref, known: 10n, found: 4n }]);
    expect(message).toContain("held 10 for orders/2 and now holds 4");
  });

  it("a claim that failed keeps an error of the storage, and wraps any other", () => {
    // Guards: `claim-timeout` and its blocker reach the event as they are.
    const timeout = new StorageError("claim-timeout", "held by 42");
    expect(claimError(ref, timeout)).toBe(timeout);
    const cause = new Error("odd");
    expect(claimError(ref, cause)).toMatchObject({
      ...{ code: "storage-failed", retryable: true, cause },
      message: "orders/2 could not be claimed: odd",
    });
  });
});
