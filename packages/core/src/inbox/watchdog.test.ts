import { describe, expect, it } from "vitest";
import type { OnceboxError } from "../errors.ts";
import type { Clock } from "../ports/clock.ts";
import type { PartitionClaim } from "../ports/storage.ts";
import { type WatchContext, watch } from "./watchdog.ts";

const claimOf = (partition: number): PartitionClaim => ({
  ...{ consumer: "billing", topic: "orders", partition, token: `${partition}`, epoch: 1n },
  ...{ nextOffset: 0n, log: { topicId: null, leaderEpoch: null, last: null } },
  ...{
    replay: { number: 0, until: 0n },
    soughtEpoch: 0n,
    stalledClaims: 1,
    trying: null,
    incarnation: "db-1",
  },
});

/** Partitions that are watched: what each holds, and for how long it was owed an answer. */
function worker(partition: number, silentMs = 0, idle = true) {
  const told: PartitionClaim[] = [];
  const claim = claimOf(partition);
  const { consumer, topic } = claim;
  return {
    ref: { consumer, topic, partition },
    idleClaim: () => (idle ? claim : null),
    claimLost: (lost: PartitionClaim) => void told.push(lost),
    silentMs: () => silentMs,
    told,
  };
}

type Worker = ReturnType<typeof worker>;

/** Looks so many times, at intervals that take no time, and says what came of it. */
async function watched(
  workers: readonly Worker[],
  given: Partial<WatchContext> = {},
  looks = 1,
  ending = new AbortController(),
) {
  const slept: number[] = [];
  const database: unknown[] = [];
  const silent: OnceboxError[] = [];
  const asked: (readonly PartitionClaim[])[] = [];
  const sleep = async (ms: number) => {
    slept.push(ms);
    if (slept.length > looks) ending.abort();
  };
  const context: WatchContext = {
    ...{ name: "billing", clock: { sleep } as unknown as Clock, intervalMs: 3_000 },
    ...{ stallAfterMs: 60_000, workers: () => workers, joiningMs: () => 0 },
    database: (error) => void database.push(error),
    silent: (error) => void silent.push(error),
    ...given,
    lostClaims: async (claims) => {
      asked.push(claims);
      return given.lostClaims?.(claims) ?? [];
    },
  };
  await watch(context, ending.signal);
  return { slept, database, silent, asked };
}

describe("claims", () => {
  it("that are idle are asked for in one go, and a lost one is told to the workers", async () => {
    // Guards: a seek, or another owner, is noticed where no chunk would find out.
    const workers = [worker(0), worker(1), worker(2, 0, false)];
    const lostClaims = async ([, second]: readonly PartitionClaim[]) => [second as PartitionClaim];
    const { asked, database, slept } = await watched(workers, { lostClaims });
    expect(asked).toEqual([[claimOf(0), claimOf(1)]]);
    // Each compares the token with its own.
    for (const { told } of workers) expect(told).toEqual([claimOf(1)]);
    expect(database).toEqual([null]);
    expect(slept).toEqual([3_000, 3_000]);
  });

  it("are not asked for where there is none", async () => {
    // Guards: no statement while every partition is at work.
    expect((await watched([worker(0, 0, false)])).asked).toEqual([]);
  });

  it("that cannot be asked for are the database's trouble, and asked for again", async () => {
    // Guards: the watch outlives an outage, and health hears of it.
    const down = new Error("no connection");
    let tries = 0;
    const lostClaims = async () => {
      tries += 1;
      if (tries === 1) throw down;
      return [];
    };
    const { database } = await watched([worker(0)], { lostClaims }, 2);
    expect(database).toEqual([down, null]);
  });
});

describe("a client", () => {
  it("that owes a partition an answer for too long is told, with the partition", async () => {
    // Guards: strictly above the limit, and the first one found is named.
    const workers = [worker(0, 60_000), worker(1, 60_001), worker(2, 70_000)];
    const { silent } = await watched(workers);
    expect(silent).toMatchObject([{ code: "consumer-silent", retryable: true }]);
    expect(silent[0]?.message).toBe(
      "the Kafka client of consumer billing is connected but gave no answer for orders/1 for more than 60000 ms",
    );
  });

  it("that is at the limit is not", async () => {
    // Guards: no rebuild of a client that answers in time.
    const joiningMs = () => 120_000;
    expect((await watched([worker(0, 60_000)], { joiningMs }, 3)).silent).toEqual([]);
  });

  it("that joins for more than twice as long is told as well", async () => {
    // Guards: a group that never forms, where no partition could be silent.
    const { silent } = await watched([], { joiningMs: () => 120_001 });
    expect(silent[0]?.message).toContain("has not joined its group");
  });
});

describe("the end", () => {
  it("comes with the signal, before another look", async () => {
    // Guards: a stop does not wait for an interval.
    const ending = new AbortController();
    ending.abort();
    expect((await watched([worker(0)], {}, 1, ending)).slept).toEqual([]);
    expect((await watched([worker(0)], {}, 0)).asked).toEqual([]);
  });

  it("keeps a stopping consumer's client, though the answer of the database came late", async () => {
    // Guards: the second look at the signal; a rebuild would take the stop's client from it.
    const ending = new AbortController();
    const lostClaims = async () => {
      ending.abort();
      return [];
    };
    const { silent } = await watched([worker(0, 99_999)], { lostClaims }, 1, ending);
    expect(silent).toEqual([]);
  });
});
