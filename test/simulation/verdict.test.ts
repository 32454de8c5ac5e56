// What only a simulator can see, each in an outcome made by hand: found there, found alone, and not
// found in the outcome beside it in which all is well.

import {
  BrokerError,
  OnceboxError,
  type OnceboxEvent,
  type OutgoingRecord,
  PositionError,
} from "@oncebox/core";
import { memoryStorage } from "@oncebox/testing";
import { describe, expect, it } from "vitest";
import { Happenings } from "./happenings.ts";
import { Hits } from "./hits.ts";
import { Manners, type manners } from "./manners.ts";
import { type Plan, planOf } from "./plan.ts";
import { Sources } from "./sources.ts";
import { judge, type ownAnomalies, Witness } from "./verdict.ts";
import { PlannedFailure, Worker } from "./worker.ts";
import { consumerName, invoices, orders, World } from "./world.ts";

/** Of all processes: the one that holds the partition, and another one. */
const holder = "w0.1";
const other = "w1.1";
const at = { consumer: consumerName, topic: orders.name, partition: 0 };
const assigned = {
  ...({ type: "inbox.assigned", consumer: consumerName, assignment: 1 } as const),
  partitions: [{ topic: orders.name, partition: 0 }],
};
const noMark = { topicId: null, leaderEpoch: null, last: null };
const encoder = new TextEncoder();

class Scene {
  readonly world: World;
  readonly witness = new Witness();
  readonly manners: Manners;
  readonly happenings: Happenings;
  readonly #sources: Sources;
  readonly #storages;

  constructor(change: Partial<Plan>) {
    const plan = { ...planOf(1), source: "log", partitions: 1, publishing: false, committing: 0 };
    this.world = new World({ ...plan, ...change } as Plan, null);
    const { world } = this;
    this.manners = new Manners(world);
    const worker = new Worker(0, world, {} as ConstructorParameters<typeof Worker>[2]);
    this.happenings = new Happenings(world, [worker]);
    this.#sources = new Sources(world);
    // What the storages below do is theirs by name.
    new Hits(world, [], this.manners, () => undefined);
    const storageOf = (name: string) => memoryStorage({ database: world.database, name });
    this.#storages = { [holder]: storageOf(holder), [other]: storageOf(other) };
  }

  /** Time passes until it is done. */
  async done<R>(work: Promise<R>): Promise<R> {
    let over = false;
    const end = () => {
      over = true;
    };
    work.then(end, end);
    while (!over) await this.world.clock.advance(10);
    return await work;
  }

  say(worker: string, event: OnceboxEvent): void {
    this.witness.event(worker, event);
    this.manners.event(worker, event);
  }

  /** A message that lies in the log, and was meant to. */
  write(number: number) {
    const order = { id: `m${number}`, key: "k", sequence: number };
    const record = { key: order.key, value: JSON.stringify(order) };
    const offset = this.world.outside.admin.produce(orders.name, 0, [record]);
    this.world.written.push({ ...order, state: "acknowledged" });
    return { ...order, partition: 0, offset };
  }

  #claim: Awaited<ReturnType<ReturnType<typeof memoryStorage>["claim"]>> = null;

  /** The first message is written and handled, as it should be. */
  async begin(): Promise<void> {
    const start = new Map([[0, 0n]]);
    const topic = { topic: orders.name, topicId: null, start, added: new Map() };
    const storage = this.#storages[holder];
    const registering = { consumer: consumerName, groupId: consumerName, ...topic };
    await this.done(storage.registerTopic(registering));
    const { offset, ...order } = this.write(1);
    this.say(holder, assigned);
    this.#claim = await this.done(storage.claim({ ...at, owner: holder }, 1_000));
    this.say(holder, { ...at, type: "inbox.claimed", epoch: 1n, nextOffset: 0n, ms: 1 });
    this.say(holder, opening(1));
    await this.advance(holder, 1n);
    await this.done(
      storage.transaction(async (tx) => {
        await tx.append("effects", { ...order, offset, worker: holder });
        await tx.update<number>("totals", order.key, (sum) => (sum ?? 0) + 1);
      }),
    );
  }

  /** Under the holder's claim, whoever does it. */
  async advance(worker: typeof holder | typeof other, to: bigint): Promise<void> {
    if (this.#claim === null) throw new Error("nobody has claimed");
    const chunk = await this.done(this.#storages[worker].open(this.#claim, []));
    await this.done(chunk.commit(to, noMark));
  }

  async count(): Promise<void> {
    const storage = this.#storages[holder];
    await this.done(
      storage.transaction((tx) => tx.update<number>("totals", "k", (sum) => (sum ?? 0) + 1)),
    );
  }

  async lease(): Promise<void> {
    const request = { relay: "relay", leaseMs: 60_000, renew: [], acquireMax: 64 };
    await this.done(this.#storages[holder].leaseLanes(request));
    const lanes = Array.from({ length: 64 }, (_, lane) => lane);
    this.say(holder, { type: "outbox.lanes-held", relay: "relay", lanes, relays: 1 });
  }

  /** Retention takes a message that nobody has read; whoever is asked next goes on behind it. */
  async passOver(told: boolean): Promise<void> {
    const { offset } = this.write(2);
    const fault = { at: 0, worker: 0, step: null, act: "retention-ahead", ms: 0 } as const;
    expect(this.happenings.act(fault)).toBe(true);
    const details = { from: offset, to: offset };
    const error = new PositionError("position-out-of-range", "gone", { details });
    if (told) this.say(holder, { ...at, type: "inbox.displaced", error, paused: true });
    await this.advance(holder, offset + 1n);
  }

  /** What one process sends: twice the same. */
  async publish(how: "at once" | "in turn"): Promise<void> {
    const producer = this.manners.watched(holder, {
      publish: async (records) => {
        await this.world.clock.sleep(1);
        return { acknowledged: [...records.keys()], unknown: [], refused: [] };
      },
      close: async () => undefined,
    });
    const key = encoder.encode("k");
    const record: OutgoingRecord = { ...at, key, value: null, headers: [] };
    const first = producer.publish([record]);
    if (how === "in turn") await this.done(first);
    await this.done(Promise.all([first, producer.publish([record])]));
  }

  found(): Readonly<Record<string, readonly string[]>> {
    const { world, witness, manners, happenings } = this;
    const judged = { sources: this.#sources, happenings, manners };
    return Object.fromEntries(judge(world, witness, judged));
  }
}

function opening(messages: number): OnceboxEvent & { type: "inbox.chunk-opening" } {
  const endOffset = BigInt(messages);
  const span = { epoch: 1n, firstOffset: 0n, endOffset, messages };
  return { ...at, type: "inbox.chunk-opening", ...span };
}

function blocked(cause: Error): OnceboxEvent {
  const error = new OnceboxError("handler-failed", "it failed", { cause });
  return { ...at, type: "inbox.blocked", offset: 0n, attempt: 1, waitMs: 1, error };
}

function rewound(): OnceboxEvent {
  const error = new PositionError("position-rewound", "it stands elsewhere");
  return { ...at, type: "inbox.displaced", error, paused: false };
}

const committed: OnceboxEvent = {
  ...({ ...at, type: "inbox.chunk-committed", epoch: 1n, applied: 1, duplicates: 0 } as const),
  ...{ firstOffset: 0n, nextOffset: 1n, parked: 0, ms: 1 },
};
const cut: OnceboxEvent = { ...at, type: "inbox.chunk-cut", firstOffset: 0n };
const claimed: OnceboxEvent = { ...at, type: "inbox.claimed", epoch: 2n, nextOffset: 1n, ms: 1 };
const unreachable = new BrokerError("broker-unavailable", "Kafka is away");

type Act = (scene: Scene) => Promise<void> | void;

/** One for each finding, and what looks like it and is none. */
const outcomes: Record<
  keyof typeof ownAnomalies | keyof typeof manners,
  { readonly bad: Act; readonly good: Act }
> = {
  attemptSpent: {
    bad: (scene) => scene.say(holder, blocked(unreachable)),
    good: (scene) => scene.say(holder, blocked(new PlannedFailure("it should"))),
  },
  floorAnomaly: {
    bad: (scene) => scene.say(holder, { type: "outbox.floor-anomaly", relay: "relay", rows: 1 }),
    good: (scene) => scene.lease(),
  },
  unannounced: {
    bad: (scene) => scene.passOver(false),
    good: (scene) => scene.passOver(true),
  },
  totals: {
    bad: (scene) => scene.count(),
    good: () => undefined,
  },
  absent: {
    bad: ({ witness }) => witness.running([{ name: holder, member: null }]),
    good: ({ witness }) => witness.running([{ name: holder, member: `${holder}-1` }]),
  },
  unstopped: {
    bad: ({ witness }) => witness.stopped([{ name: holder, down: false }]),
    good: ({ witness }) => witness.stopped([{ name: holder, down: true }]),
  },
  broke: {
    bad: ({ witness }) => witness.broke(new Error("nobody caught it")),
    good: () => undefined,
  },
  strayClaim: {
    bad: (scene) => scene.say(other, claimed),
    good: (scene) => {
      scene.say(other, assigned);
      scene.say(other, claimed);
    },
  },
  strayOpen: {
    bad: (scene) => scene.say(other, rewound()),
    good: (scene) => scene.say(holder, rewound()),
  },
  strayCommit: {
    bad: (scene) => scene.advance(other, 1n),
    good: (scene) => scene.advance(holder, 1n),
  },
  strayOffsets: {
    bad: (scene) => scene.manners.offsetsSent(`${other}-1`, [at]),
    good: (scene) => scene.manners.offsetsSent(`${holder}-1`, [at]),
  },
  earlyEnd: {
    bad: (scene) => {
      scene.manners.endingEarly(holder, 0);
      scene.say(holder, committed);
    },
    good: (scene) => {
      scene.manners.endingEarly(holder, 0);
      scene.say(holder, opening(1));
      scene.say(holder, committed);
    },
  },
  hastyCut: {
    bad: (scene) => {
      scene.manners.leaving(holder);
      scene.say(holder, cut);
    },
    good: async (scene) => {
      scene.manners.leaving(holder);
      await scene.world.clock.advance(1);
      scene.say(holder, cut);
    },
  },
  crowdedRetry: {
    bad: (scene) => {
      scene.say(holder, blocked(new PlannedFailure("it should")));
      scene.say(holder, opening(2));
    },
    good: (scene) => {
      scene.say(holder, blocked(new PlannedFailure("it should")));
      scene.say(holder, opening(1));
      scene.say(holder, opening(2));
    },
  },
  strayPublish: {
    bad: async (scene) => {
      await scene.lease();
      await scene.world.clock.advance(60_001);
      await scene.publish("in turn");
    },
    good: async (scene) => {
      await scene.lease();
      await scene.publish("in turn");
    },
  },
  overlappingSends: {
    bad: async (scene) => {
      await scene.lease();
      await scene.publish("at once");
    },
    good: async (scene) => {
      await scene.lease();
      await scene.publish("in turn");
    },
  },
};

async function outcomeOf(act: Act, change: Partial<Plan> = {}) {
  const scene = new Scene(change);
  await scene.begin();
  await act(scene);
  return scene.found();
}

describe.each(Object.entries(outcomes))("%s", (name, { bad, good }) => {
  it("is found, and nothing else", async () => {
    expect(Object.keys(await outcomeOf(bad))).toEqual([name]);
  });

  it("is not found where all is well", async () => {
    expect(await outcomeOf(good)).toEqual({});
  });
});

it("what the checker finds in the topic of orders is passed on", async () => {
  const found = await outcomeOf(({ world }) => {
    world.written.push({ id: "m2", key: "k", sequence: 2, state: "acknowledged" });
  });
  expect(Object.keys(found).sort()).toEqual(["lost", "unpublished"]);
});

it("an effect whose handler should publish owes a message", async () => {
  const publishing = { publishing: true };
  expect(await outcomeOf(() => undefined, publishing)).toEqual({
    unpublished: [expect.stringMatching(/^invoice /)],
  });
  const published: Act = ({ world }) => {
    const record = { key: "k", value: JSON.stringify({ id: "m1" }) };
    world.outside.admin.produce(invoices.name, 0, [record]);
  };
  expect(await outcomeOf(published, publishing)).toEqual({});
});

it("a handler that commits behind our back may be repeated", async () => {
  expect(await outcomeOf((scene) => scene.count(), { committing: 0.1 })).toEqual({});
});
