import { describe, expect, it } from "vitest";
import { clockByHand } from "../clock-by-hand.ts";
import { ConfigurationError, InvalidMessageError } from "../errors.ts";
import { checksumOf } from "../hashes.ts";
import { idBytesOf } from "../ids.ts";
import { utf8 } from "../message.ts";
import type { Pruned, PruneRequest } from "../ports/pruning.ts";
import type { MessageRef, Storage } from "../ports/storage.ts";
import { createInbox, type InboxMessage, type PruneOptions } from "./inbox.ts";

/** Writes down what it is given; the SQL is proved against real databases. */
function noting(answer = "new") {
  const calls: unknown[][] = [];
  const storage = {
    recordIds: async (tx: string, consumer: string, ids: readonly MessageRef[]) => {
      calls.push([tx, consumer, ...ids]);
      return [answer];
    },
  } as unknown as Storage<string>;
  return { inbox: createInbox({ name: "billing", storage }), calls };
}

describe("inbox.once", () => {
  it("records the id under its source, in the caller's transaction", async () => {
    const { inbox, calls } = noting();
    const message = { source: "stripe", id: "evt_1", value: "{}" };
    expect(await inbox.once("tx", message)).toBe("new");
    const id = idBytesOf(utf8("evt_1"));
    const checksum = checksumOf(utf8("{}"));
    expect(calls).toEqual([["tx", "billing", { source: "stripe", id, checksum }]]);
  });

  it.each(["new", "duplicate", "conflict"])("answers %s as the storage does", async (answer) => {
    const { inbox } = noting(answer);
    expect(await inbox.once("tx", { source: "stripe", id: "evt_1" })).toBe(answer);
  });

  it("knows no conflict without a value, which is not an empty one", async () => {
    const { inbox, calls } = noting();
    await inbox.once("tx", { source: "s", id: "1" });
    await inbox.once("tx", { source: "s", id: "1", value: "" });
    const checksums = calls.map((call) => (call[2] as MessageRef).checksum);
    expect(checksums).toEqual([null, checksumOf(new Uint8Array(0))]);
  });

  it("takes text and its bytes as the same", async () => {
    const { inbox, calls } = noting();
    await inbox.once("tx", { source: "s", id: "é", value: "ü" });
    await inbox.once("tx", { source: "s", id: utf8("é"), value: utf8("ü") });
    expect(calls[0]).toEqual(calls[1]);
  });

  it.each([
    { source: "" },
    { source: "a\0b" },
    { source: "x".repeat(1_025) },
    { source: 1 },
    { id: "" },
    { id: new Uint8Array(0) },
    { id: new Uint8Array(1_025) },
    { id: 7 },
    { id: null },
    { value: null },
    { value: { a: 1 } },
  ])("refuses %j before any SQL", async (change) => {
    const { inbox, calls } = noting();
    const message = { source: "s", id: "1", value: "v", ...change } as InboxMessage;
    await expect(inbox.once("tx", message)).rejects.toThrow(InvalidMessageError);
    expect(calls).toEqual([]);
  });

  it("passes on what the storage throws", async () => {
    const storage = { recordIds: () => Promise.reject(new Error("deadlock")) };
    const inbox = createInbox<string>({ name: "billing", storage: storage as never });
    await expect(inbox.once("tx", { source: "s", id: "1" })).rejects.toThrow("deadlock");
  });
});

describe("inbox.prune", () => {
  const week = 604_800_000;
  /** What is kept on top of the window, for clocks that are not exact. */
  const marginMs = 900_000;

  /** A storage whose steps give these answers; `groupId` where the name is a consumer's. */
  function scene(answers: (Partial<Pruned> | Error)[], groupId: string | null = null) {
    const { clock, advance } = clockByHand();
    const asked: (PruneRequest & { readonly at: number })[] = [];
    const storage = {
      recordIds: async () => ["new"],
      positions: async () => ({ groupId, incarnation: "", at: 0, positions: [] }),
      pruneIds: async (request: PruneRequest) => {
        asked.push({ ...request, at: clock.now() });
        const next = answers.shift() ?? {};
        if (next instanceof Error) throw next;
        return { deleted: 0, next: null, before: 1_000n, slowest: null, ...next };
      },
    } as unknown as Storage<string>;
    return { inbox: createInbox({ name: "hooks", storage, clock }), asked, advance };
  }

  it("walks over the ids of its name in steps with pauses, and says how many went", async () => {
    // Guards: one long statement, a walk without an end, and an id that is younger than the window.
    const { inbox, asked, advance } = scene([
      { deleted: 5, next: "a" },
      { next: "b" },
      { deleted: 2 },
    ]);
    const done = inbox.prune({ windowMs: week });
    await advance(1_000);
    expect(await done).toEqual({ ids: 7 });
    expect(asked.map(({ from, at }) => [from, at])).toEqual([
      [null, 0],
      ["a", 100],
      ["b", 200],
    ]);
    for (const { consumer, ends, limit, windowMs } of asked) {
      expect([consumer, ends, limit]).toEqual(["hooks", [], 2_000]);
      expect(windowMs).toBeGreaterThanOrEqual(week + marginMs);
    }
  });

  it("ends between two steps when its signal is aborted, and begins none behind it", async () => {
    const { inbox, asked, advance } = scene([{ deleted: 5, next: "a" }]);
    const stop = new AbortController();
    const done = inbox.prune({ windowMs: week, signal: stop.signal });
    await advance(50);
    stop.abort();
    expect(await done).toEqual({ ids: 5 });
    expect(await inbox.prune({ windowMs: week, signal: stop.signal })).toEqual({ ids: 0 });
    expect(asked).toHaveLength(1);
  });

  it("refuses the name of a consumer, whose partitions say what may go", async () => {
    // Guards the consumer's own window, which may be longer, or null.
    const { inbox, asked } = scene([], "a-group");
    const refused = inbox.prune({ windowMs: week });
    await expect(refused).rejects.toThrow(ConfigurationError);
    await expect(refused).rejects.toThrow("hooks is the name of a consumer");
    expect(asked).toEqual([]);
  });

  it("passes on what the storage throws", async () => {
    const { inbox } = scene([new Error("down")]);
    await expect(inbox.prune({ windowMs: week })).rejects.toThrow("down");
  });

  it.each([{}, { windowMs: 59_999 }, { windowMs: null }, { windowMs: week, signal: 1 }, { ms: 1 }])(
    "refuses %j before anything is asked",
    async (options) => {
      const { inbox, asked } = scene([]);
      const refused = inbox.prune(options as unknown as PruneOptions);
      await expect(refused).rejects.toThrow(ConfigurationError);
      expect(asked).toEqual([]);
    },
  );
});

it("options of the inbox are checked", () => {
  const { storage } = { storage: { recordIds: () => {} } as never };
  expect(() => createInbox({ name: "", storage })).toThrow(ConfigurationError);
  expect(() => createInbox({ name: "a", storage: {} as never })).toThrow(ConfigurationError);
  expect(() => createInbox({ name: "a", storage, window: 1 } as never)).toThrow(ConfigurationError);
  expect(() => createInbox({ name: "a", storage, clock: {} as never })).toThrow(ConfigurationError);
});
