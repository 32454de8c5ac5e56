import { describe, expect, it } from "vitest";
import { HandlerError, PermanentError } from "../errors.ts";
import {
  afterRedrive,
  failurePolicy,
  giveUpAfter,
  localWaitMs,
  parkedErrorOf,
} from "./failure-policy.ts";

const failed = (message = "no") => new HandlerError("handler-failed", message);
const at = (attempt: number) => ({ offset: 7n, attempt });

describe("a message that fails", () => {
  it("is tried again here five times, then parked until its next try", () => {
    const policy = failurePolicy({});
    expect(giveUpAfter(policy, at(4), failed(), 0.5)).toBeNull();
    expect(giveUpAfter(policy, at(5), failed(), 0.5)).toMatchObject({
      offset: 7n,
      park: { state: "waiting", attempts: 5, afterMs: 500, error: { code: "handler-failed" } },
    });
  });

  it("pauses in all at most a second before it is parked", () => {
    const policy = failurePolicy({});
    const waits = [1, 2, 3, 4].map((attempt) => localWaitMs(policy, attempt, failed(), 1));
    expect(waits).toEqual([50, 100, 200, 400]);
  });

  it("is dead at once where another try cannot help", () => {
    // Guards: five useless tries while the partition waits, and a retry for ever of broken bytes.
    for (const error of [
      new PermanentError("never"),
      new HandlerError("value-not-decodable", "bytes"),
      new HandlerError("message-id-conflict", "id"),
      new HandlerError("message-kills-process", "dies"),
    ]) {
      expect(giveUpAfter(failurePolicy({}), at(1), error, 0)?.park?.state).toBe("dead");
    }
  });

  it("is dead at once where no try is left beside those here", () => {
    const policy = failurePolicy({ retry: { attemptsMax: 3, localAttemptsMax: 3 } });
    expect(giveUpAfter(policy, at(3), failed(), 0)?.park?.state).toBe("dead");
  });

  it("asks for a letter when it is dead or dropped, not while it is tried again", () => {
    // Guards: a copy of each message that was parked, or none of a dropped one.
    const letter = { topic: "orders.dead", headers: "connect", groupId: "billing" } as const;
    const policy = failurePolicy({}, false, letter);
    expect(giveUpAfter(policy, at(5), failed(), 0)?.letter).toBeNull();
    expect(giveUpAfter(policy, at(1), new PermanentError("never"), 0)).toMatchObject({
      ...{ attempts: 1, letter },
    });
    const drop = failurePolicy({ onFailure: "drop" }, false, letter);
    expect(giveUpAfter(drop, at(5), failed(), 0)).toMatchObject({ attempts: 5, letter });
  });

  it("blocks for ever, slowly where another try cannot help", () => {
    const policy = failurePolicy({ onFailure: "block" });
    expect(giveUpAfter(policy, at(1_000), failed(), 0)).toBeNull();
    expect(giveUpAfter(policy, at(1), new PermanentError("never"), 0)).toBeNull();
    expect(localWaitMs(policy, 1, failed(), 1)).toBe(50);
    expect(localWaitMs(policy, 1, new PermanentError("never"), 0)).toBe(5_000);
  });

  it("is dropped after its tries", () => {
    const policy = failurePolicy({ onFailure: "drop" });
    expect(giveUpAfter(policy, at(4), failed(), 0)).toBeNull();
    expect(giveUpAfter(policy, at(5), failed(), 0)).toMatchObject({ offset: 7n, park: null });
  });
});

describe("a parked message that fails again", () => {
  const policy = failurePolicy({});

  it("waits longer each time, up to a ceiling", () => {
    const waits = [6, 7, 8, 19].map(
      (attempts) => afterRedrive(policy, attempts, failed(), 1).afterMs,
    );
    expect(waits).toEqual([2_000, 4_000, 8_000, 300_000]);
  });

  it("begins with short waits where it was never tried here, only stood behind another", () => {
    expect(afterRedrive(policy, 1, failed(), 1).afterMs).toBe(1_000);
  });

  it("is dead when its tries are spent, or cannot help", () => {
    expect(afterRedrive(policy, 20, failed(), 1)).toMatchObject({ state: "dead", counts: true });
    expect(afterRedrive(policy, 6, new PermanentError("never"), 1).state).toBe("dead");
  });
});

it("keeps an error's text bounded and free of what databases refuse", () => {
  const { text } = parkedErrorOf(failed(`\0${"x".repeat(5_000)}`));
  expect(text).toHaveLength(2_000);
  expect(text).not.toContain("\0");
});
