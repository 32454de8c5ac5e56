import { describe, expect, it } from "vitest";
import { settled } from "../clock-by-hand.ts";
import type { OnceboxEvent } from "../events.ts";
import type { Broker, BrokerConsumer, ConsumerCallbacks } from "../ports/broker.ts";
import type { Clock } from "../ports/clock.ts";
import { type ClientContext, SteadyClient } from "./client.ts";

const at = { topic: "orders", partition: 0 };
const log = { start: 0n, lastStable: 0n, end: 0n };
const silence = new Error("gave no answer");

/** Sleeps take no time; what the clients are told and what becomes of them is kept. */
function scene(given: { making?: () => Promise<void> } = {}) {
  const clients: ConsumerCallbacks[] = [];
  const stopped: number[] = [];
  const events: OnceboxEvent[] = [];
  const heard: string[] = [];
  const stopping = new AbortController();
  let now = 0;
  let gone = 0;
  const clock = {
    ...{ now: () => now, random: () => 0.5, sleep: async () => undefined },
  } as unknown as Clock;
  const broker = {
    timing: {
      sessionTimeoutMs: 30_000,
      heartbeatIntervalMs: 3_000,
      rebalanceTimeoutMs: 60_000,
      publishTimeoutMs: 5_000,
    },
    consumer: async (_: unknown, says: ConsumerCallbacks): Promise<BrokerConsumer> => {
      clients.push(says);
      const number = clients.length;
      await given.making?.();
      return {
        commit: async () => number > 0,
        stop: async () => void stopped.push(number),
      };
    },
  } as unknown as Broker;
  const context: ClientContext = {
    ...{ name: "billing", groupId: "billing", broker, clock, stopping: stopping.signal },
    observe: (event) => void events.push(event),
    topics: () => ["orders"],
    gone: () => {
      gone += 1;
    },
    callbacks: {
      assigned: () => void heard.push("assigned"),
      position: () => ({ offset: 7n, topicId: null, leaderEpoch: null }),
      fetched: () => void heard.push("fetched"),
      deliver: () => void heard.push("deliver"),
      displaced: () => void heard.push("displaced"),
      unreadable: () => void heard.push("unreadable"),
      troubled: () => void heard.push("troubled"),
    },
  };
  const client = new SteadyClient(context);
  const says = (number: number) => clients[number - 1] as ConsumerCallbacks;
  const goneTimes = () => gone;
  const pass = (ms: number) => {
    now += ms;
  };
  return { client, clients, says, stopped, events, heard, stopping, goneTimes, pass };
}

/** The newest client falls silent, and is replaced. */
async function fallsSilent({ client }: ReturnType<typeof scene>) {
  client.silent(silence);
  await client.settled;
}

describe("clients that fall silent", () => {
  it("are thrown away and built anew, and whatever was assigned is void", async () => {
    // Guards: a silent client is as good as a dead one.
    const made = scene();
    await made.client.connect();
    await fallsSilent(made);
    expect([made.clients.length, made.stopped, made.goneTimes()]).toEqual([2, [1], 1]);
    expect(made.events).toMatchObject([{ type: "inbox.client-rebuilt", error: silence }]);
    expect(made.client.connected).toBe(true);
  });

  it("three times in a row say that a new process may help; one answer takes it back", async () => {
    // Guards: the liveness probe's count, and that only an answer ends it.
    const made = scene();
    await made.client.connect();
    const live = [made.client.live];
    for (let times = 0; times < 3; times += 1) {
      await fallsSilent(made);
      live.push(made.client.live);
    }
    expect(live).toEqual([true, true, true, false]);
    made.says(4).assigned(1, [at]);
    expect(made.client.live).toBe(false);
    made.says(4).fetched(at, log);
    expect(made.client.live).toBe(true);
  });

  it("are not counted on when an older client still answers", async () => {
    // Guards: late answers of a client that was thrown away count for nothing.
    const made = scene();
    await made.client.connect();
    for (let times = 0; times < 3; times += 1) await fallsSilent(made);
    made.says(1).fetched(at, log);
    expect([made.client.live, made.heard]).toEqual([false, []]);
  });
});

describe("a client that was thrown away", () => {
  it("changes nothing, whatever it says", async () => {
    // Guards: every callback belongs to the current client alone.
    const made = scene();
    await made.client.connect();
    await fallsSilent(made);
    const old = made.says(1);
    old.assigned(1, [at]);
    old.fetched(at, log);
    old.deliver({} as Parameters<ConsumerCallbacks["deliver"]>[0]);
    old.displaced(at, 7n, { kind: "topic-missing" });
    old.unreadable(at, 7n, silence);
    old.troubled(at, silence);
    old.failed(silence);
    await settled();
    expect([made.heard, made.clients.length, old.position(at)]).toEqual([[], 2, null]);
    expect(made.says(2).position(at)?.offset).toBe(7n);
  });

  it("before it was ready is not kept beside its successor", async () => {
    // Guards: the number is compared again once a client is made, or a second member of the group
    // lives on that nobody ever stops.
    const ready: (() => void)[] = [];
    const made = scene({ making: () => new Promise((resolve) => void ready.push(resolve)) });
    const connected = made.client.connect();
    made.says(1).failed(silence);
    await settled();
    expect(made.clients).toHaveLength(2);
    ready[1]?.();
    await made.client.settled;
    ready[0]?.();
    await connected;
    expect(made.stopped).toEqual([1]);
    await made.client.stop(1_000);
    expect(made.stopped).toEqual([1, 2]);
  });

  it("is not replaced while the consumer stops, and one that is made too late leaves", async () => {
    // Guards: a stop leaves no member of the group behind.
    const ready: (() => void)[] = [];
    const made = scene({ making: () => new Promise((resolve) => void ready.push(resolve)) });
    const connected = made.client.connect();
    made.stopping.abort();
    ready[0]?.();
    await connected;
    expect([made.stopped, made.client.connected]).toEqual([[1], false]);
    made.says(1).failed(silence);
    await settled();
    expect(made.clients).toHaveLength(1);
  });
});

it("tells for how long it is connected, and nothing while it is not", async () => {
  // Guards: joining is counted from the connection, not from the start.
  const made = scene();
  made.pass(500);
  expect([made.client.connectedMs, made.client.connected]).toEqual([0, false]);
  await made.client.connect();
  made.pass(700);
  expect(made.client.connectedMs).toBe(700);
});
