import { describe, expect, it } from "vitest";
import { ClaimLostError, PermanentError, StorageError } from "../errors.ts";
import { utf8 } from "../message.ts";
import type { OutboxEntry } from "../ports/outbox.ts";
import type { PartitionClaim, Recorded, SyncChunk, SyncStorage } from "../ports/storage.ts";
import type { ChunkRun } from "./chunk.ts";
import type { GiveUp } from "./failure-policy.ts";
import type { Handler } from "./handler.ts";
import { runnersOf } from "./sync-runs.ts";

interface Scene {
  readonly run: (message: { readonly offset: bigint }, tx: string, context: Context) => unknown;
  readonly nextOffset?: bigint;
  readonly source?: string;
  readonly giveUp?: GiveUp;
  readonly fails?: {
    readonly open?: Error;
    readonly commit?: Error;
    readonly behind?: Error;
    readonly enqueue?: Error;
  };
}

interface Context {
  readonly outbox: { readonly enqueue: (message: object) => readonly string[] };
}

/** A storage of one call; what it did, in order. */
function scene({ run, nextOffset = 5n, fails = {}, source, giveUp }: Scene) {
  const did: string[] = [];
  const rows: OutboxEntry[] = [];
  const chunkSync: SyncStorage<string>["chunkSync"] = (_, records, body) => {
    if (fails.open) throw fails.open;
    did.push("begin");
    const proveOpen = () => {
      if (fails.behind) throw fails.behind;
    };
    const recorded = records.map((_, index): Recorded => (index === 1 ? "duplicate" : "new"));
    const chunk: SyncChunk<string> = { nextOffset, recorded, tx: "tx", proveOpen };
    try {
      const end = body(chunk);
      if (fails.commit) throw fails.commit;
      did.push(`commit at ${end.nextOffset}`, ...(end.park?.length ? ["parked"] : []));
    } catch (error) {
      did.push("rollback");
      throw error;
    }
  };
  const storage = {
    synchronous: true,
    chunkSync,
    enqueueSync: (_: string, entries: readonly OutboxEntry[]) => {
      if (fails.enqueue) throw fails.enqueue;
      rows.push(...entries);
    },
    trouble: (error: unknown) => ((error as Error).message === "busy" ? "local" : null),
    wake: { send: () => did.push("wake") },
  } as unknown as SyncStorage<string>;
  const sleeps: number[] = [];
  let time = 0;
  const clock = {
    now: () => time,
    epochMs: () => 0,
    sleep: async (ms: number) => {
      sleeps.push(ms);
    },
  } as unknown as ChunkRun["clock"];
  const cut = new AbortController();
  const handler = { topic: "orders", run } as unknown as Handler<string>;
  const { runChunk: work } = runnersOf(storage, handler, { source, deduplicate: "id" });
  const records = [5n, 6n, 7n].map((offset) => ({
    ...{ offset, timestamp: 0n, leaderEpoch: 0, key: null, value: utf8("v") },
    headers: [["id", utf8(`${offset}`)]] as [string, Uint8Array][],
  }));
  const chunk = { firstOffset: 5n, endOffset: 8n, records, topicId: "id", endEpoch: 0 };
  const claim = {
    ...{ consumer: "billing", topic: "orders", partition: 0 },
    replay: { number: 0, until: 0n },
  } as PartitionClaim;
  const outcome = () =>
    work({
      ...{ claim, chunk, attempt: 1, atOnceMax: 1, giveUp: giveUp ?? null },
      ...{ cut: cut.signal, clock, handlerTimeoutMs: 1_000 },
    });
  const advance = (ms: number) => {
    time += ms;
  };
  return { did, rows, sleeps, cut, outcome, advance };
}

const giveUp: GiveUp = {
  ...{ offset: 7n, attempts: 1, error: new PermanentError("never") },
  park: { state: "dead", attempts: 1, afterMs: 0, error: null },
  letter: { topic: "orders.dead", headers: "connect", groupId: "billing" },
};

describe("a chunk in one call", () => {
  it("handles what is new, publishes with ids that a redo repeats, and wakes after the commit", async () => {
    const run: Scene["run"] = (_, __, { outbox }) =>
      outbox.enqueue({ topic: "echoes", key: null, value: null, headers: [] });
    const first = scene({ run });
    expect(await first.outcome()).toEqual({
      kind: "committed",
      applied: 2,
      duplicates: 1,
      parked: 0,
      dropped: 0,
    });
    expect(first.did).toEqual(["begin", "commit at 8", "wake"]);
    const again = scene({ run });
    await again.outcome();
    expect(again.rows.map(({ id }) => id)).toEqual(first.rows.map(({ id }) => id));
    expect(new Set(first.rows.map(({ id }) => id)).size).toBe(2);
  });

  it("carries the consumer's source on what its handlers enqueue", async () => {
    // Guards: the way of the option to the outbox of a handler, as in the other kind of chunk.
    const run: Scene["run"] = (_, __, { outbox }) =>
      outbox.enqueue({ topic: "echoes", key: null, value: null, headers: [] });
    const { rows, outcome } = scene({ run, source: "/billing" });
    await outcome();
    expect(rows.map(({ headers }) => headers[2])).toEqual(
      Array(2).fill(["ce_source", utf8("/billing")]),
    );
    expect(rows[0]?.headers[4]).toEqual(["ce_time", utf8("1970-01-01T00:00:00.000Z")]);
  });

  it("writes the letter of what is given up in the transaction that parks it", async () => {
    const { did, rows, outcome } = scene({ run: () => undefined, giveUp });
    await outcome();
    expect(rows).toMatchObject([{ topic: "orders.dead", value: utf8("v") }]);
    expect(did).toEqual(["begin", "commit at 8", "parked", "wake"]);
  });

  it("tells by its offset that a letter could not be written, and rolls back", async () => {
    // Guards: the plan goes on without the letter only where it was the letter that failed.
    const failing = new StorageError("storage-failed", "permission denied");
    const { did, outcome } = scene({ run: () => undefined, giveUp, fails: { enqueue: failing } });
    expect(await outcome()).toEqual({ kind: "failed", offset: 7n, error: failing });
    expect(did).toEqual(["begin", "rollback"]);
    const busy = scene({ run: () => undefined, giveUp, fails: { enqueue: new Error("busy") } });
    expect(await busy.outcome()).toMatchObject({ kind: "trouble" });
  });

  it("that is given a promise rolls back and fails that message", async () => {
    // Guards: an async handler would go on outside of the transaction, and pass for done.
    const { did, outcome } = scene({
      run: ({ offset }) => (offset === 7n ? Promise.reject(new Error("later")) : undefined),
    });
    expect(await outcome()).toMatchObject({
      ...{ kind: "failed", offset: 7n },
      error: { name: "HandlerError", code: "handler-not-synchronous" },
    });
    expect(did).toEqual(["begin", "rollback"]);
  });

  it("tells a handler's failure from the database's trouble under it", async () => {
    const failing = (message: string) =>
      scene({
        run: () => {
          throw new Error(message);
        },
      }).outcome();
    expect(await failing("own")).toMatchObject({ kind: "failed", offset: 5n });
    expect(await failing("busy")).toMatchObject({ kind: "trouble", trouble: "local" });
  });

  it("knows the handler that ended the transaction, and nobody where the commit says so", async () => {
    const ended = new StorageError("transaction-ended-early", "ended");
    const run = () => undefined;
    const behind = await scene({ run, fails: { behind: ended } }).outcome();
    expect(behind).toEqual({ kind: "failed", offset: 5n, error: ended });
    const commit = await scene({ run, fails: { commit: ended } }).outcome();
    expect(commit).toEqual({ kind: "failed", offset: null, error: ended });
  });

  it("says fenced, moved, troubled and cut as the other kind of chunk does", async () => {
    const run = () => undefined;
    const fenced = scene({ run, fails: { open: new ClaimLostError("taken") } });
    expect(await fenced.outcome()).toEqual({ kind: "fenced" });
    const moved = scene({ run, nextOffset: 9n });
    expect(await moved.outcome()).toEqual({ kind: "moved", nextOffset: 9n });
    expect(moved.did).toEqual(["begin", "rollback"]);
    const busy = scene({ run, fails: { open: new Error("busy") } });
    expect(await busy.outcome()).toMatchObject({ kind: "trouble", trouble: "local" });
    const cut = scene({ run });
    cut.cut.abort();
    expect([await cut.outcome(), cut.did]).toEqual([{ kind: "cut" }, []]);
  });

  it("gives the rest of the process its turn, not before each chunk", async () => {
    // Guards: chunks that never wait would starve heartbeats.
    const { outcome, sleeps, advance } = scene({ run: () => undefined });
    await outcome();
    await outcome();
    expect(sleeps).toEqual([0]);
    advance(10);
    await outcome();
    expect(sleeps).toEqual([0, 0]);
  });
});
