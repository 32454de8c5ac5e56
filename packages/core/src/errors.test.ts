import { describe, expect, it, vi } from "vitest";
import * as errors from "./errors.ts";

const { OnceboxError, StorageError, CommitUnknownError, PermanentError, BrokerError } = errors;

describe("errors", () => {
  it("say what happened, whether to try again, and why", () => {
    const cause = new Error("ECONNRESET");
    const error = new StorageError("storage-unavailable", "the database is gone", {
      cause,
      retryable: true,
      details: { host: "db" },
    });
    expect(error).toMatchObject({
      name: "StorageError",
      code: "storage-unavailable",
      message: "the database is gone",
      retryable: true,
      details: { host: "db" },
      cause,
    });
    expect(error.stack).toContain("errors.test");
  });

  it("are not to be tried again unless they say so, and have no cause unless one is given", () => {
    const error = new BrokerError("topic-missing", "no topic");
    expect(error.retryable).toBe(false);
    expect(error.details).toEqual({});
    expect("cause" in error).toBe(false);
  });

  it("with a fixed code bring it themselves", () => {
    expect(new CommitUnknownError("lost").code).toBe("commit-unknown");
    expect(new errors.ClaimLostError("lost").code).toBe("claim-lost");
    expect(new errors.TransactionFinishedError("over").code).toBe("transaction-finished");
    expect(new PermanentError("no").code).toBe("permanent");
  });

  it("are of their class and of those above it, and of no other", () => {
    const error = new CommitUnknownError("lost");
    expect(error).toBeInstanceOf(CommitUnknownError);
    expect(error).toBeInstanceOf(StorageError);
    expect(error).toBeInstanceOf(OnceboxError);
    expect(error).toBeInstanceOf(Error);
    expect(error).not.toBeInstanceOf(BrokerError);
    expect(new StorageError("storage-failed", "x")).not.toBeInstanceOf(CommitUnknownError);
  });

  it.each([null, undefined, 1, "OnceboxError", {}, new Error("x"), Symbol("x")])(
    "%s is none of them",
    (value) => {
      expect(value instanceof OnceboxError).toBe(false);
    },
  );

  it("of a user's own subclass are told apart by the class itself", () => {
    class OutOfStock extends PermanentError {}
    class OutOfMoney extends PermanentError {}
    const error = new OutOfStock("none left");
    expect(error).toBeInstanceOf(OutOfStock);
    expect(error).toBeInstanceOf(PermanentError);
    expect(error).not.toBeInstanceOf(OutOfMoney);
    expect(new PermanentError("x")).not.toBeInstanceOf(OutOfStock);
  });

  it("are recognised by another copy of this module", async () => {
    vi.resetModules();
    const copy: typeof errors = await import("./errors.ts");
    expect(copy.StorageError).not.toBe(StorageError);
    const theirs = new copy.CommitUnknownError("lost");
    expect(theirs).toBeInstanceOf(CommitUnknownError);
    expect(theirs).toBeInstanceOf(StorageError);
    expect(theirs).not.toBeInstanceOf(BrokerError);
    expect(new CommitUnknownError("lost")).toBeInstanceOf(copy.OnceboxError);
  });
});
