import { describe, expect, it } from "vitest";
import { clockByHand } from "../clock-by-hand.ts";
import { BrokerError } from "../errors.ts";
import type { OnceboxEvent } from "../events.ts";
import { utf8 } from "../message.ts";
import type { Broker, OutgoingRecord } from "../ports/broker.ts";
import type { LaneLease, LeaseRequest, OutboxRow } from "../ports/outbox.ts";
import type { Storage } from "../ports/storage.ts";
import { createOutboxRelay } from "./outbox-relay.ts";

const sweepIntervalMs = 60_000;

function row(position: number, topic: string): OutboxRow {
  const id = `${topic}-${position}`;
  const own = { lane: 0, position: BigInt(position), id, topic };
  return { ...own, key: utf8("k"), value: utf8("v"), headers: [] };
}

interface Look {
  readonly sweep: boolean;
  readonly pending: number;
}

/** One lane, which this relay holds, with these rows. */
function fakeStorage(rows: OutboxRow[]) {
  const looks: Look[] = [];
  const storage = {
    check: async () => ({ pipelined: true, poolSize: 10, idleInTransactionTimeoutMs: null }),
    // So many relays that one lane is a fair share.
    leaseLanes: async (_: LeaseRequest) => ({ leases: [{ lane: 0, token: "t" }], relays: 64 }),
    releaseLanes: async () => undefined,
    wake: { listen: async () => async () => undefined },
    readLanes: async (
      _: readonly LaneLease[],
      request: { rows: number; pending: readonly OutboxRow[]; sweep: boolean },
    ) => {
      looks.push({ sweep: request.sweep, pending: request.pending.length });
      const known = new Set(request.pending.map(({ position }) => position));
      const unread = rows.filter(({ position }) => !known.has(position));
      const read = unread.slice(0, request.rows);
      return { rows: read, more: read.length < unread.length, belowFloor: 0 };
    },
    settleBatch: async (_: readonly LaneLease[], published: readonly OutboxRow[]) => {
      for (const { position } of published) {
        rows.splice(
          rows.findIndex((one) => one.position === position),
          1,
        );
      }
      return { lost: [] };
    },
  } as unknown as Storage<"tx">;
  return { storage, looks };
}

/** Takes everything for topics that exist. */
function fakeBroker(missing: ReadonlySet<string>) {
  const sent: string[] = [];
  const broker = {
    timing: {
      sessionTimeoutMs: 30_000,
      heartbeatIntervalMs: 3_000,
      rebalanceTimeoutMs: 60_000,
      publishTimeoutMs: 5_000,
    },
    partitions: async (topic: string) => {
      if (missing.has(topic)) throw new BrokerError("topic-missing", `${topic} does not exist`);
      return 1;
    },
    partitionOf: () => 0,
    producer: async () => ({
      publish: async (records: readonly OutgoingRecord[]) => {
        sent.push(...records.map(({ topic }) => topic));
        return { acknowledged: records.map((_, index) => index), unknown: [], refused: [] };
      },
      close: async () => undefined,
    }),
  } as unknown as Broker;
  return { broker, sent };
}

describe("a relay whose lanes are all paused for their blocked rows", () => {
  it("still sweeps, and goes on when a person has deleted them", async () => {
    // Guards: a sweep is due also while no lane may be read, and forgets what is blocked.
    const rows = [row(1, "gone"), row(2, "gone"), row(3, "orders")];
    const { storage, looks } = fakeStorage(rows);
    const { broker, sent } = fakeBroker(new Set(["gone"]));
    const { clock, advance } = clockByHand();
    const events: OnceboxEvent[] = [];
    const relay = createOutboxRelay({
      storage,
      broker,
      clock,
      sweepIntervalMs,
      batchRowsMax: 2,
      blockedRowsMax: 2,
      observer: (event) => events.push(event),
    });
    const paused = () => events.filter(({ type }) => type === "outbox.reading-paused");
    await relay.start();
    await advance(1_000);
    expect(paused()).toMatchObject([{ lanes: [0], blockedRows: 2 }]);
    const before = looks.length;
    await advance(sweepIntervalMs - 2_000);
    expect(looks).toHaveLength(before);
    expect(sent).toEqual([]);

    // The rows are there still: the sweep finds them, and they block again.
    await advance(2_000);
    expect(looks.slice(before)).toEqual([{ sweep: true, pending: 0 }]);
    expect(paused()).toHaveLength(2);

    rows.splice(0, 2);
    await advance(sweepIntervalMs);
    expect(sent).toEqual(["orders"]);
    expect(rows).toEqual([]);
    await relay.stop();
  });
});
