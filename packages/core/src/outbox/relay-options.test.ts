import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ConfigurationError } from "../errors.ts";
import { createOutboxRelay, nextPollMs } from "./outbox-relay.ts";
import { type OutboxRelayOptions, relaySettings } from "./relay-options.ts";

const nothing = () => {};

function options(publishTimeoutMs = 5_000): OutboxRelayOptions<unknown> {
  const timing = { sessionTimeoutMs: 1, heartbeatIntervalMs: 1, publishTimeoutMs };
  const storage = { leaseLanes: nothing, readLanes: nothing };
  const broker = { producer: nothing, partitionOf: nothing, timing };
  return { storage, broker } as never;
}

function problemsOf(given: object, publishTimeoutMs?: number): readonly string[] {
  try {
    createOutboxRelay({ ...options(publishTimeoutMs), ...given });
    return [];
  } catch (error) {
    if (!(error instanceof ConfigurationError)) throw error;
    return error.details.problems as string[];
  }
}

describe("options of the outbox relay", () => {
  it("have defaults, also where undefined is given", () => {
    const settings = relaySettings({ ...options(), batchRowsMax: undefined } as never);
    expect(settings).toMatchObject({
      leaseDurationMs: 10_000,
      batchRowsMax: 500,
      batchBytesMax: 2 ** 20,
      pollBusyMs: 20,
      pollIdleMs: 1_000,
      sweepIntervalMs: 60_000,
    });
    expect(settings.leaseNeededMs).toBe(5_500);
  });

  it("are refused where they are unknown or wrong, in one list", () => {
    const wrong = { batchRowsMax: 0, pollBusyMs: Number.NaN, leaseMs: 5, storage: {} };
    expect(problemsOf(wrong)).toHaveLength(4);
  });

  it("are refused where they contradict each other, in one list", () => {
    const problems = problemsOf({
      leaseDurationMs: 6_000,
      pollBusyMs: 2_000,
      blockedRowsMax: 10,
      blockedBytesMax: 10,
    });
    expect(problems).toHaveLength(4);
    expect(problems[0]).toContain("make it 8109 or more");
  });

  it("name a lease that fits", () => {
    fc.assert(
      fc.property(fc.integer({ min: 100, max: 60_000 }), (publishTimeoutMs) => {
        const [problem] = problemsOf({ leaseDurationMs: 100 }, publishTimeoutMs);
        const fitting = Number(/make it (\d+) or more/.exec(problem ?? "")?.[1]);
        expect(problemsOf({ leaseDurationMs: fitting }, publishTimeoutMs)).toEqual([]);
        expect(problemsOf({ leaseDurationMs: fitting - 2 }, publishTimeoutMs)).toHaveLength(1);
      }),
    );
  });
});

describe("the pause before the next look", () => {
  const bounds = { pollBusyMs: 20, pollIdleMs: 1_000 };
  const empty = { rows: 0, more: false };

  it("is none while there is more", () => {
    expect(nextPollMs({ rows: 5, more: true }, 1_000, false, bounds)).toBe(0);
  });

  it("is the busy one after rows, and while rows are expected", () => {
    expect(nextPollMs({ rows: 5, more: false }, 1_000, false, bounds)).toBe(20);
    expect(nextPollMs(empty, 1_000, true, bounds)).toBe(20);
  });

  it("is the busy one where a limit left everything out", () => {
    expect(nextPollMs({ rows: 0, more: true }, 0, false, bounds)).toBe(20);
  });

  it("doubles up to the idle one", () => {
    const pauses = [0];
    for (let i = 0; i < 8; i += 1) {
      pauses.push(nextPollMs(empty, pauses.at(-1) as number, false, bounds));
    }
    expect(pauses).toEqual([0, 20, 40, 80, 160, 320, 640, 1_000, 1_000]);
  });
});
