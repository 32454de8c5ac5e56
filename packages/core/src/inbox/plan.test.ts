import { describe, expect, it } from "vitest";
import { HandlerError, InvalidMessageError, PermanentError } from "../errors.ts";
import type { PartitionClaim } from "../ports/storage.ts";
import type { Chunk } from "./chunk.ts";
import { failurePolicy } from "./failure-policy.ts";
import {
  cutOf,
  freshPlan,
  killerOf,
  type Plan,
  planAfterCommit,
  planAfterFailure,
  planAfterTrouble,
  planInOrder,
  planOfClaim,
  toldOf,
} from "./plan.ts";

const max = 64;
const error = new HandlerError("handler-failed", "no");
const policy = failurePolicy({});

function chunk(first: number, end: number): Chunk {
  const records = Array.from({ length: end - first }, (_, i) => ({
    ...{ offset: BigInt(first + i), timestamp: 0n, leaderEpoch: null },
    ...{ key: null, value: null, headers: [] },
  }));
  const [firstOffset, endOffset] = [BigInt(first), BigInt(end)];
  return { firstOffset, endOffset, records, topicId: null, endEpoch: null };
}

describe("a message that keeps failing", () => {
  it("is tried alone, then given up in a chunk of its own, and the plan is as fresh", () => {
    let plan = planAfterFailure(freshPlan(max), chunk(0, 9), { offset: 3n, error }, policy, 1).plan;
    expect(cutOf(plan, 0n)).toMatchObject({ recordsMax: max, before: 3n, giveUp: null });
    plan = planAfterCommit(plan, 3n, policy, max).plan;
    for (let attempt = 2; attempt <= 5; attempt += 1) {
      expect(cutOf(plan, 3n)).toMatchObject({ recordsMax: 1, attempt, giveUp: null });
      plan = planAfterFailure(plan, chunk(3, 4), { offset: 3n, error }, policy, 1).plan;
    }
    expect(cutOf(plan, 3n).giveUp).toMatchObject({ offset: 3n, park: { attempts: 5 } });
    const after = planAfterCommit(plan, 4n, policy, max);
    expect(after.passed).toMatchObject({ attempts: 5, giveUp: { offset: 3n } });
    expect(after.plan).toEqual(freshPlan(max));
  });

  it("is not given up with those before it", () => {
    // Guards: a chunk that was to hold good messages only sets one of them aside.
    const failure = { offset: 3n, error: new PermanentError("never") };
    const { plan } = planAfterFailure(freshPlan(max), chunk(0, 9), failure, policy, 1);
    expect(cutOf(plan, 0n)).toMatchObject({ before: 3n, giveUp: null });
    expect(cutOf(planAfterCommit(plan, 3n, policy, max).plan, 3n).giveUp).toMatchObject({
      offset: 3n,
    });
  });

  it("waits where it cannot even be set aside, and keeps its own error", () => {
    // Guards: a loop as fast as the processor where the table of parked messages cannot be written.
    let { plan } = planAfterFailure(
      freshPlan(max),
      chunk(3, 4),
      { offset: 3n, error: new PermanentError("never") },
      policy,
      1,
    );
    const denied = { offset: null, error: new HandlerError("handler-failed", "permission denied") };
    for (let tries = 1; tries <= 3; tries += 1) {
      const after = planAfterFailure(plan, chunk(3, 4), denied, policy, 1);
      expect(after.waitMs).toBeGreaterThanOrEqual(50);
      plan = after.plan;
    }
    expect(cutOf(plan, 3n).giveUp?.error.message).toBe("never");
  });

  it("is given up without its letter where that cannot be written, and at once", () => {
    // Guards: a copy that is too large holds up the partition for ever.
    const letter = { topic: "orders.dead", headers: "connect", groupId: "billing" } as const;
    const withLetter = failurePolicy({}, false, letter);
    const failure = { offset: 3n, error: new PermanentError("never") };
    const { plan } = planAfterFailure(freshPlan(max), chunk(3, 4), failure, withLetter, 1);
    const large = { offset: 3n, error: new InvalidMessageError("message-too-large", "large") };
    const after = planAfterFailure(plan, chunk(3, 4), large, withLetter, 1);
    expect(after).toMatchObject({ waitMs: 0, letterTo: "orders.dead" });
    expect(cutOf(after.plan, 3n).giveUp).toMatchObject({
      ...{ letter: null, attempts: 1, error: { message: "never" } },
    });
    const passed = planAfterCommit(after.plan, 4n, withLetter, max).passed;
    expect(passed && toldOf(passed, 3n)).toMatchObject({ type: "inbox.parked", attempts: 1 });
  });

  it("keeps its letter where something else fails, or the database is slow", () => {
    // Guards: the letter is lost to a moment without the right to park.
    const letter = { topic: "orders.dead", headers: "connect", groupId: "billing" } as const;
    const withLetter = failurePolicy({}, false, letter);
    const failure = { offset: 3n, error: new PermanentError("never") };
    let { plan } = planAfterFailure(freshPlan(max), chunk(3, 4), failure, withLetter, 1);
    for (const other of [
      { offset: null, error },
      { offset: 3n, error: new HandlerError("handler-timed-out", "slow") },
    ]) {
      const after = planAfterFailure(plan, chunk(3, 4), other, withLetter, 1);
      expect([after.letterTo, after.waitMs > 0]).toEqual([null, true]);
      plan = after.plan;
    }
    expect(cutOf(plan, 3n).giveUp?.letter).toEqual(letter);
  });

  it("is forgotten where one before it fails meanwhile", () => {
    const failure = { offset: 3n, error: new PermanentError("never") };
    let { plan } = planAfterFailure(freshPlan(max), chunk(0, 9), failure, policy, 1);
    plan = planAfterFailure(plan, chunk(0, 3), { offset: 1n, error }, policy, 1).plan;
    expect(plan.giveUp).toBeNull();
    expect(cutOf(plan, 1n)).toMatchObject({ recordsMax: 1, attempt: 2, giveUp: null });
  });
});

it("runs a chunk in order after its handlers failed at once, and those behind it at once again", () => {
  const plan = planInOrder(freshPlan(max), chunk(0, 9));
  expect(cutOf(plan, 0n).inOrder).toBe(true);
  expect(cutOf(plan, 9n).inOrder).toBe(false);
});

describe("trouble of the database", () => {
  it("halves the chunks that share rows with others, down to one, and lets them grow slowly", () => {
    // Guards: chunks of several partitions that share rows collapse in deadlocks.
    let plan = freshPlan(max);
    for (const size of [32, 16, 8, 4, 2, 1, 1]) {
      plan = planAfterTrouble(plan, "local", 1)?.plan ?? plan;
      expect(cutOf(plan, 0n).recordsMax).toBe(size);
    }
    plan = planAfterCommit(plan, 1n, policy, max).plan;
    expect(plan.sizeMax).toBe(2);
    for (let commits = 0; commits < max; commits += 1)
      plan = planAfterCommit(plan, 2n, policy, max).plan;
    expect(plan.sizeMax).toBe(max);
  });

  it("of the whole database halves nothing and never ends", () => {
    let plan = freshPlan(max);
    for (let rerun = 1; rerun < 100; rerun += 1) {
      plan = planAfterTrouble(plan, "global", 1)?.plan ?? plan;
      expect(plan).toMatchObject({ sizeMax: max, reruns: rerun });
    }
  });

  it("of one transaction ends after ten reruns, then its messages run one by one", () => {
    let plan = freshPlan(max);
    for (let rerun = 1; rerun <= 10; rerun += 1)
      plan = planAfterTrouble(plan, "local", 1)?.plan ?? plan;
    expect(planAfterTrouble(plan, "local", 1)).toBeNull();
    plan = planAfterFailure(plan, chunk(0, 3), { offset: null, error }, policy, 1).plan;
    expect(cutOf(plan, 0n)).toMatchObject({ recordsMax: 1, attempt: 1 });
    expect(plan.reruns).toBe(0);
  });
});

describe("claims that ended with their process", () => {
  const claim = (stalledClaims: number, trying: PartitionClaim["trying"] = null) =>
    ({ topic: "t", partition: 0, nextOffset: 5n, stalledClaims, trying }) as PartitionClaim;

  it("change nothing up to three", () => {
    expect(planOfClaim(freshPlan(max), claim(3), max)).toEqual(freshPlan(max));
  });

  it("have the next messages run one by one, written down before, until they are through", () => {
    const plan = planOfClaim(freshPlan(max), claim(4), max);
    expect(cutOf(plan, 5n)).toMatchObject({ recordsMax: 1, careful: true });
    expect(cutOf(plan, 68n)).toMatchObject({ recordsMax: 1, careful: true });
    expect(cutOf(planAfterCommit(plan, 69n, policy, max).plan, 69n)).toMatchObject({
      recordsMax: max,
      careful: false,
    });
  });

  it("keep to that where the last one died with a message tried alone", () => {
    // Guards: progress in between, which ends the count of claims, would begin the search anew.
    expect(
      cutOf(planOfClaim(freshPlan(max), claim(1, { offset: 5n, claims: 1 }), max), 5n),
    ).toMatchObject({ careful: true });
  });

  it("condemn only the message that was being tried, twice", () => {
    // Guards: an innocent message condemned by deploys, rebalances or the one beside it.
    expect(killerOf(claim(9, { offset: 5n, claims: 1 }), 5n)).toBeNull();
    expect(killerOf(claim(9, { offset: 5n, claims: 2 }), 6n)).toBeNull();
    expect(killerOf(claim(9), 5n)).toBeNull();
    expect(killerOf(claim(9, { offset: 5n, claims: 2 }), 5n)?.code).toBe("message-kills-process");
  });
});

describe("a batch that failed as a whole", () => {
  const halving = failurePolicy({}, true);
  const fail = (plan: Plan, first: number, end: number) =>
    planAfterFailure(plan, chunk(first, end), { offset: null, error }, halving, 1).plan;
  const size = (plan: Plan, at: bigint) => cutOf(plan, at).recordsMax;

  it("is halved down to the message that fails, and grows behind it", () => {
    let plan = fail(freshPlan(max), 0, 8);
    expect(size(plan, 0n)).toBe(4);
    plan = fail(plan, 0, 4);
    plan = fail(plan, 0, 2);
    expect(size(plan, 0n)).toBe(1);
    plan = planAfterCommit(plan, 1n, halving, max).plan;
    expect(size(plan, 1n)).toBe(2);
    plan = fail(plan, 1, 3);
    expect(size(plan, 1n)).toBe(1);
    for (let attempt = 1; attempt <= 5; attempt += 1) {
      expect(cutOf(plan, 1n)).toMatchObject({ attempt, recordsMax: 1, giveUp: null });
      plan = fail(plan, 1, 2);
    }
    expect(cutOf(plan, 1n).giveUp).toMatchObject({ offset: 1n });
    plan = planAfterCommit(plan, 2n, halving, max).plan;
    expect(size(plan, 2n)).toBe(2);
    plan = planAfterCommit(plan, 4n, halving, max).plan;
    expect(size(plan, 4n)).toBe(4);
    expect(planAfterCommit(plan, 8n, halving, max).plan).toEqual(freshPlan(max));
  });
});
