import { describe, expect, it } from "vitest";
import { clockByHand, settled } from "../clock-by-hand.ts";
import { CommitUnknownError, HandlerError, PermanentError } from "../errors.ts";
import type { OnceboxEvent } from "../events.ts";
import { messageBytesMax } from "../message.ts";
import type { OutboxEntry, Wake } from "../ports/outbox.ts";
import type { ParkedOutcome, ParkedTurn } from "../ports/parking.ts";
import { failurePolicy } from "./failure-policy.ts";
import type { ParkedOutcomeOfRun } from "./parked-run.ts";
import { permits } from "./permits.ts";
import { redriveWorker, settlement } from "./redrive-worker.ts";

const record = { offset: 7n, timestamp: 0n, key: null, value: null, headers: [] };
const turnOf = (attempts: number, id = 1n): ParkedTurn => ({
  ...{ consumer: "billing", topic: "orders", partition: 0, id, token: "t", record, attempts },
});
const failed = (error = new HandlerError("handler-failed", "no")): ParkedOutcomeOfRun => ({
  kind: "failed",
  error,
});
const local: ParkedOutcomeOfRun = {
  kind: "trouble",
  trouble: "local",
  error: new Error("dead lock"),
};
const global: ParkedOutcomeOfRun = { kind: "trouble", trouble: "global", error: new Error("down") };
const policy = failurePolicy({});

/** A worker whose storage hands out these turns, and whose handler comes to these outcomes. */
function scene(
  turns: (ParkedTurn | Error)[],
  outcomes: ParkedOutcomeOfRun[],
  topics = ["orders"],
  settling: (Error | boolean)[] = [],
  permitted = permits(1),
  of = policy,
) {
  const { clock: still, advance } = clockByHand();
  let ms = 0;
  // What ids are made of besides chance, which stands still.
  const clock = { ...still, epochMs: () => ms++ };
  const events: OnceboxEvent[] = [];
  const settlements: ParkedOutcome[] = [];
  const letters: OutboxEntry[] = [];
  const woken: number[] = [];
  const asked: { readonly token: string }[] = [];
  const released: string[] = [];
  const ran: number[] = [];
  const stop = new AbortController();
  const worker = redriveWorker({
    consumer: "billing",
    storage: {
      takeParked: async (request) => {
        asked.push(request);
        const turn = turns.shift();
        if (turn instanceof Error) throw turn;
        return turn === undefined ? [] : [turn];
      },
      releaseParked: async ({ token }) => {
        released.push(token);
        return 1;
      },
      settleParked: async (_, outcome, given = []) => {
        const answer = settling.shift() ?? true;
        if (answer instanceof Error) throw answer;
        settlements.push(outcome);
        letters.push(...given);
        return answer;
      },
      trouble: (error) => ((error as Error).message === "down" ? "global" : null),
      wake: { send: () => woken.push(letters.length) } as unknown as Wake,
    },
    clock,
    observe: (event) => events.push(event),
    topics: () => topics,
    handlerOf: () => ({
      policy: of,
      runParked: async ({ attempt }) => {
        ran.push(attempt);
        return outcomes.shift() ?? { kind: "committed" };
      },
    }),
    permits: permitted,
    handlerTimeoutMs: 5_000,
    pollIntervalMs: 1_000,
    cut: new AbortController().signal,
  });
  const done = worker.run(stop.signal);
  const wrote = { settlements, letters, woken };
  return { advance, events, ...wrote, asked, released, ran, stop, done };
}

describe("the redrive worker", () => {
  it("tries one after another while something is due, then looks again after its interval", async () => {
    const { asked, ran, advance, events } = scene([turnOf(6), turnOf(1)], []);
    await settled();
    expect(ran).toEqual([6, 1]);
    expect(asked).toHaveLength(3);
    expect(asked[0]).toEqual({
      token: asked[0]?.token,
      consumer: "billing",
      topics: ["orders"],
      limit: 1,
      leaseMs: 10_000,
    });
    await advance(1_000);
    expect(asked).toHaveLength(4);
    expect(events.map(({ type }) => type)).toEqual(["inbox.redriven", "inbox.redriven"]);
  });

  it("asks for nothing while all its topics are paused", async () => {
    const { asked, advance } = scene([turnOf(6)], [], []);
    await advance(5_000);
    expect(asked).toEqual([]);
  });

  it("lets a message wait longer after each failure, and ends with it dead", async () => {
    const { settlements, events } = scene([turnOf(6), turnOf(20)], [failed(), failed()]);
    await settled();
    expect(settlements.map(({ state, counts }) => [state, counts])).toEqual([
      ["waiting", true],
      ["dead", true],
    ]);
    expect(events[1]).toMatchObject({ type: "inbox.redrive-failed", state: "dead", offset: 7n });
  });

  it("takes nothing before it may run it", async () => {
    // Guards: a lease that runs out, and an attempt that is spent, while the message waits for a permit.
    const one = permits(1);
    const release = await one.acquire(new AbortController().signal);
    const { asked, ran } = scene([turnOf(6)], [], ["orders"], [], one);
    await settled();
    expect(asked).toEqual([]);
    release?.();
    await settled();
    expect(ran).toEqual([6]);
  });

  it("lets go of its permit before it writes what became of the try", async () => {
    const one = permits(1);
    scene([turnOf(6)], [global], ["orders"], [new Error("down"), new Error("down")], one);
    await settled();
    expect(await Promise.race([one.acquire(new AbortController().signal), settled()])).toBeTypeOf(
      "function",
    );
  });

  it("does not run a message again whose tries were spent by processes that died", async () => {
    // Guards: a parked message that kills would be run for ever, each time by another process.
    const { ran, settlements } = scene([turnOf(21), turnOf(21)], []);
    await settled();
    expect(ran).toEqual([]);
    expect(settlements[1]).toMatchObject({
      state: "dead",
      error: { code: "message-kills-process" },
    });
  });

  it("waits before it gives one up: who tried it last may live, and take the attempt back", async () => {
    // Guards: a message condemned as a killer by an outage that outlasted its turn.
    const { ran, settlements } = scene([turnOf(21), turnOf(20)], []);
    await settled();
    expect(ran).toEqual([20]);
    expect(settlements).toEqual([
      { state: "waiting", counts: false, afterMs: 10_000, error: null },
    ]);
  });

  it("waits anew where the message was tried since", async () => {
    const { settlements } = scene([turnOf(21), turnOf(20), turnOf(21)], []);
    await settled();
    expect(settlements.map(({ state }) => state)).toEqual(["waiting", "waiting"]);
  });

  it("writes nothing of a turn that another has, and says so", async () => {
    const { settlements, events } = scene([turnOf(6)], [{ kind: "fenced" }]);
    await settled();
    expect(settlements).toEqual([]);
    expect(events).toMatchObject([{ type: "inbox.redrive-fenced", offset: 7n }]);
  });

  it("does not tell of a failure that could not be written, because another has the turn", async () => {
    // Guards: an event with a state that stands in no row.
    const { events } = scene([turnOf(6)], [failed()], ["orders"], [false]);
    await settled();
    expect(events).toMatchObject([{ type: "inbox.redrive-fenced" }]);
  });

  it("takes the attempt back where the outcome is unknown or a stop cut it off", async () => {
    // Guards: a message condemned by outages and deploys. A commit that did arrive left no row.
    const unknown = { kind: "unknown", error: new HandlerError("handler-failed", "?") } as const;
    const { settlements } = scene([turnOf(6), turnOf(6)], [unknown, { kind: "cut" }]);
    await settled();
    expect(settlements.map(({ counts, error }) => [counts, error])).toEqual([
      [false, null],
      [false, null],
    ]);
  });

  it("counts ten reruns under local trouble in a row, then a failure", async () => {
    // Guards: a message that alone keeps deadlocking is tried for ever and never told.
    const turns = Array.from({ length: 12 }, () => turnOf(20));
    const { settlements, events } = scene(
      turns,
      Array.from({ length: 12 }, () => local),
    );
    while (events.length < 12) await settled();
    expect(settlements.slice(0, 10).every(({ counts }) => !counts)).toBe(true);
    expect(settlements[10]).toMatchObject({ state: "dead", counts: true });
    expect(events[10]).toMatchObject({ type: "inbox.redrive-failed", state: "dead" });
    expect(settlements[11]).toMatchObject({ state: "waiting", counts: false });
  });

  it("writes what became of a turn until the database has it, and takes no other before", async () => {
    // Guards: an outage under the handler that spends an attempt, because nobody could take it back.
    const down = [new Error("down"), new Error("down")];
    const { settlements, asked, advance } = scene([turnOf(6)], [global], ["orders"], down);
    await settled();
    await advance(60);
    expect([settlements.length, asked.length]).toEqual([0, 1]);
    await advance(1_000);
    expect(settlements).toMatchObject([{ state: "waiting", counts: false }]);
    expect(asked.length).toBeGreaterThan(1);
  });

  it("waits, tells and goes on when the database does not answer", async () => {
    const { ran, events, advance } = scene([new Error("down"), turnOf(6)], []);
    await settled();
    expect(events[0]).toMatchObject({ type: "inbox.redrive-troubled" });
    expect(ran).toEqual([]);
    await advance(100);
    expect(ran).toEqual([6]);
  });

  it("gives back what a request without an answer may have taken, before it takes anything", async () => {
    // Guards: an attempt that an outage spends, and a key that waits for the end of a lease.
    const { asked, released, ran, advance } = scene([new Error("down"), turnOf(6)], []);
    await settled();
    expect(released).toEqual([]);
    await advance(100);
    expect([released, ran]).toEqual([[asked[0]?.token], [6]]);
    await advance(1_000);
    expect(released).toHaveLength(1);
  });

  it("names each request anew, so that what was taken under an older one is fenced", async () => {
    // Guards: a token that two requests share lets an overtaken turn of this process pass for the new one.
    const { asked, advance } = scene([turnOf(6), turnOf(7)], []);
    await advance(1_000);
    expect(asked).toHaveLength(4);
    expect(new Set(asked.map(({ token }) => token)).size).toBe(4);
  });

  it("ends when it is stopped, also while it waits", async () => {
    const { stop, done } = scene([], []);
    await settled();
    stop.abort();
    await done;
  });
});

describe("a parked message that dies", () => {
  const letter = { topic: "orders.dead", headers: "connect", groupId: "billing" } as const;
  const withLetter = failurePolicy({}, false, letter);
  const dying = (settling: (Error | boolean)[] = [], turn = turnOf(20), of = withLetter) =>
    scene([turn], [failed()], ["orders"], settling, permits(1), of);

  it("leaves a letter with its end, and wakes the relays behind it", async () => {
    const { letters, settlements, woken, events } = dying();
    await settled();
    expect(settlements).toMatchObject([{ state: "dead" }]);
    expect(letters).toMatchObject([{ topic: "orders.dead", key: null, value: null }]);
    expect(woken).toEqual([1]);
    expect(events.map(({ type }) => type)).toEqual(["inbox.redrive-failed"]);
  });

  it("leaves none while it waits for another try, nor where none is asked for", async () => {
    const waiting = dying([], turnOf(6));
    const unasked = dying([], turnOf(20), policy);
    await settled();
    expect([waiting.letters, unasked.letters]).toEqual([[], []]);
    expect(waiting.woken).toEqual([]);
  });

  it("that another has by then wakes nobody", async () => {
    const { woken, events } = dying([false]);
    await settled();
    expect(woken).toEqual([]);
    expect(events.map(({ type }) => type)).toEqual(["inbox.redrive-fenced"]);
  });

  it("keeps its letter through an outage, the same one", async () => {
    const { letters, advance } = dying([new Error("down"), new CommitUnknownError("?")]);
    await settled();
    await advance(5_000);
    expect(letters).toHaveLength(1);
  });

  it("dies without a letter that cannot be written, and tells of that", async () => {
    // Guards: one large message that keeps the redrive worker from all others, for ever.
    const value = new Uint8Array(messageBytesMax);
    const large = dying([], { ...turnOf(20), record: { ...record, value } });
    const denied = dying([new Error("permission denied")]);
    await settled();
    for (const [{ letters, settlements, events }, code] of [
      [large, "message-too-large"],
      [denied, "storage-failed"],
    ] as const) {
      expect([letters, settlements]).toMatchObject([[], [{ state: "dead" }]]);
      expect(events).toMatchObject([
        { type: "inbox.letter-failed", deadLetterTopic: "orders.dead", error: { code } },
        { type: "inbox.redrive-failed", state: "dead" },
      ]);
    }
  });
});

describe("what is written of a turn", () => {
  it("is no attempt where the database was in trouble", () => {
    // Guards: an outage or a deadlock that condemns a message.
    expect(settlement(policy, turnOf(6), global, 99, 0)).toMatchObject({
      state: "waiting",
      counts: false,
    });
    expect(settlement(policy, turnOf(6), local, 10, 0)).toMatchObject({
      state: "waiting",
      counts: false,
    });
  });

  it("is its death where another try cannot help", () => {
    const never = failed(new PermanentError("never"));
    expect(settlement(policy, turnOf(1), never, 1, 0)).toMatchObject({
      state: "dead",
      counts: true,
    });
  });
});
