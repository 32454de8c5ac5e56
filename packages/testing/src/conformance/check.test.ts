import { ClaimLostError, StorageError } from "@oncebox/core";
import { describe, expect, it } from "vitest";
import { bounded } from "./case.ts";
import {
  attempt,
  ConformanceError,
  eventually,
  failureOf,
  holds,
  rejected,
  same,
  settled,
  within,
} from "./check.ts";

describe("same", () => {
  it("compares by content, bytes and bigints included", () => {
    const made = () => ({ b: [1n, new Uint8Array([0, 255])], a: null, c: undefined });
    expect(() => same(made(), { c: undefined, a: null, b: made().b }, "it")).not.toThrow();
    expect(() => same<unknown>(1n, 1, "it")).toThrow("it must be 1, but is 1n");
    expect(() => same([new Uint8Array([1])], [new Uint8Array([2])], "it")).toThrow(
      "it must be [<02>], but is [<01>]",
    );
    expect(() => same<unknown>("null", null, "it")).toThrow(ConformanceError);
  });
});

describe("rejected", () => {
  it("wants a rejection with one of the codes, and gives the error back", async () => {
    const lost = new ClaimLostError("lost");
    const codes = ["claim-lost", "claim-timeout"] as const;
    expect(await rejected(Promise.reject(lost), codes, "it")).toBe(lost);
    const wrong = rejected(Promise.reject(new StorageError("storage-failed", "no")), codes, "it");
    await expect(wrong).rejects.toThrow("claim-lost or claim-timeout, but did with storage-failed");
    const foreign = rejected(Promise.reject(new Error("other")), "claim-lost", "it");
    await expect(foreign).rejects.toThrow("but did with Error: other");
    const none = rejected(Promise.resolve(5), "claim-lost", "it");
    await expect(none).rejects.toThrow("it must reject with claim-lost, but resolved with 5");
  });
});

describe("failureOf", () => {
  it("takes what is thrown at once as well", async () => {
    const thrown = attempt(() => {
      throw new RangeError("now");
    });
    expect(await failureOf(thrown, "it must reject")).toBeInstanceOf(RangeError);
  });
});

describe("waiting", () => {
  const never = new Promise<never>(() => {});

  it("is bounded", async () => {
    await expect(within(5, never, "it")).rejects.toThrow("it must take less than 5 ms");
    expect(await within(1_000, Promise.resolve("done"), "it")).toBe("done");
    const vain = eventually(5, async () => undefined, "it");
    await expect(vain).rejects.toThrow("it must happen within 5 ms");
    let asked = 0;
    const third = async () => {
      asked += 1;
      return asked === 3 ? asked : undefined;
    };
    expect(await eventually(1_000, third, "it")).toBe(3);
  });

  it("knows what has settled, whatever the outcome", async () => {
    const over = settled(Promise.reject(new Error("no")));
    expect(over()).toBe(false);
    await Promise.resolve();
    expect([over(), settled(never)()]).toEqual([true, false]);
  });
});

describe("a bounded case", () => {
  it("hands its context on and fails as the case does", async () => {
    const run = async (context: number) => holds(context === 1, "the context must be 1");
    const { promise, run: guarded } = bounded({ promise: "X1", name: "a case", run });
    expect(promise).toBe("X1");
    await guarded(1);
    await expect(guarded(2)).rejects.toThrow("the context must be 1");
  });
});
