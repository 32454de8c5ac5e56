import { describe, expect, it } from "vitest";
import { ConfigurationError } from "../errors.ts";
import type { Broker } from "../ports/broker.ts";
import type { SyncStorage } from "../ports/storage.ts";
import { checkConsumerOptions, withDefaults } from "./consumer-options.ts";

const broker = {
  timing: { sessionTimeoutMs: 30_000, rebalanceTimeoutMs: 60_000 },
  consumer: () => undefined,
  offsets: () => undefined,
  retentionMs: () => undefined,
} as unknown as Broker;
const storage = {
  ...{ synchronous: true, chunkSync: () => undefined, claim: () => undefined },
} as unknown as SyncStorage<string>;

/** As `createConsumer` does: both checks. */
function completed(more: object) {
  const given = { name: "billing", broker, storage, ...more };
  checkConsumerOptions(given);
  return withDefaults(given);
}

describe("on a storage that does not wait", () => {
  it.each(["handlerTimeoutMs", "handlersAtOnceMax"])("%s is refused", (name) => {
    // Guards: a limit that is set and has no effect.
    expect(() => completed({ [name]: 100 })).toThrow(ConfigurationError);
  });

  it("undefined is a time limit that was not given", () => {
    // Guards: that values are looked at, not keys.
    expect(completed({ handlerTimeoutMs: undefined }).handlerTimeoutMs).toBe(15_000);
  });
});

describe("the deduplication window", () => {
  it("is a week unless told otherwise, and null is kept: for ever", () => {
    expect(completed({}).deduplicationWindowMs).toBe(604_800_000);
    expect(completed({ deduplicationWindowMs: undefined }).deduplicationWindowMs).toBe(604_800_000);
    expect(completed({ deduplicationWindowMs: null }).deduplicationWindowMs).toBeNull();
  });

  it.each([0, 59_999, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, "7d"])(
    "%s is refused",
    (window) => {
      // Guards: a window so short, or so odd, that it recognises nothing.
      expect(() => completed({ deduplicationWindowMs: window })).toThrow(
        /deduplicationWindowMs.*60000.*or null/,
      );
    },
  );
});
