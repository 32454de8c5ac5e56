import fc from "fast-check";
import { expect, it } from "vitest";
import { textOf, utf8 } from "../message.ts";
import type { PublishResult } from "../ports/broker.ts";
import type { OutboxRow } from "../ports/outbox.ts";
import { Backlog } from "./backlog.ts";
import type { HeldLane } from "./lanes.ts";
import type { Entry } from "./queue.ts";

const leaseOf = (lane: number): HeldLane => ({ lane, token: "t", deadline: 0, state: "active" });

function row(lane: number, position: number, fields: Partial<OutboxRow> = {}): OutboxRow {
  const own = { lane, position: BigInt(position), id: `${lane}-${position}` };
  return { topic: "a", key: utf8("k"), value: utf8("v"), headers: [], ...own, ...fields };
}

const wait = (attempt: number) => attempt * 100;
const error = new Error("no");

type Answer = "ok" | "unknown" | "message" | "topic";

function answered(answers: readonly Answer[]): PublishResult {
  const at = (wanted: Answer) => answers.flatMap((one, index) => (one === wanted ? [index] : []));
  return {
    acknowledged: at("ok"),
    unknown: at("unknown").map((index) => ({ index, error })),
    refused: [
      ...at("message").map((index) => ({ index, error, scope: "message" as const })),
      ...at("topic").map((index) => ({ index, error, scope: "topic" as const })),
    ],
  };
}

/**
 * A database and a Kafka in a few lines, with every failure the relay must live with. Rows of one
 * key become visible in order, as transactions that lock the same business row make them.
 */
class World {
  readonly rows: OutboxRow[] = [];
  readonly visible = new Set<OutboxRow>();
  readonly deleted = new Set<OutboxRow>();
  readonly log: string[] = [];
  readonly poison = new Set<string>();
  readonly gone = new Set<string>();
  readonly leases = new Map([0, 1].map((lane) => [lane, leaseOf(lane)]));
  readonly backlog = new Backlog();
  partitions = 2;
  now = 0;
  #batch: readonly Entry[] = [];

  constructor(shape: readonly { lane: number; key: number; poison: boolean }[]) {
    for (const [i, { lane, key, poison }] of shape.entries()) {
      const topic = key % 2 === 0 ? "a" : "b";
      const bytes = key === 5 ? null : utf8(`${lane}${key}`);
      this.rows.push(row(lane, i + 1, { topic, key: bytes }));
      if (poison) this.poison.add(`${lane}-${i + 1}`);
    }
  }

  commit(pick: number) {
    const waiting = this.rows.filter((one) => !this.visible.has(one));
    const allowed = waiting.filter((one) => waiting.find((other) => sameKey(one, other)) === one);
    const chosen = allowed[pick % Math.max(1, allowed.length)];
    if (chosen !== undefined) this.visible.add(chosen);
  }

  read(limit: number) {
    const pending = new Set(this.backlog.pending());
    for (const lease of this.leases.values()) {
      const mine = this.rows.filter((one) => one.lane === lease.lane && this.visible.has(one));
      const next = mine.filter((one) => !this.deleted.has(one) && !pending.has(one));
      for (const one of next.slice(0, limit)) this.backlog.add(one, lease);
    }
  }

  send(rowsMax: number) {
    if (this.#batch.length > 0) return;
    for (const topic of this.backlog.topics(this.now)) {
      if (this.gone.has(topic)) this.backlog.blockTopic(topic, error, this.now, wait);
    }
    this.#batch = this.backlog.nextBatch({
      now: this.now,
      rowsMax,
      bytesMax: 2 ** 20,
      mayUse: (lane) => lane.state === "active",
      partitionOf: (one) => (this.gone.has(one.topic) ? null : this.#partition(one)),
    });
  }

  /** Each partition has a fate of its own; a refused message holds back later ones of its key. */
  answer(fates: readonly number[]) {
    const refusedKeys: OutboxRow[] = [];
    const answers = this.#batch.map(({ row: one }): Answer => {
      const fate = fates[((one.topic === "a" ? 0 : 2) + this.#partition(one)) % 4] ?? 0;
      if (fate === 3) return "topic";
      if (fate === 2) return "unknown";
      if (refusedKeys.some((other) => sameKey(one, other))) return "unknown";
      if (this.poison.has(one.id)) {
        refusedKeys.push(one);
        return "message";
      }
      this.log.push(one.id);
      return fate === 1 ? "unknown" : "ok";
    });
    this.#batch = [];
    this.backlog.outcome(answered(answers), this.now, wait);
  }

  settle() {
    const entries = this.backlog.published;
    for (const entry of entries) this.deleted.add(entry.row);
    this.backlog.settled(entries);
  }

  change(lane: number, how: "lost" | "draining") {
    const lease = this.leases.get(lane) as HeldLane;
    if (how === "draining") {
      lease.state = "draining";
      this.backlog.drain(lease);
      if (this.backlog.isBusy(lease)) return;
    }
    lease.state = "lost";
    this.backlog.drop(lease);
    this.leases.set(lane, leaseOf(lane));
  }

  heal() {
    this.poison.clear();
    this.gone.clear();
    for (const lane of this.leases.keys()) this.change(lane, "lost");
    for (let turn = 0; turn < 5 * this.rows.length + 20; turn += 1) {
      this.commit(0);
      this.now += 10_000;
      this.read(100);
      this.send(100);
      this.answer([]);
      this.settle();
    }
  }

  #partition(one: OutboxRow): number {
    return one.key === null ? 0 : (one.key.at(-1) as number) % this.partitions;
  }
}

function sameKey(one: OutboxRow, other: OutboxRow): boolean {
  if (one === other) return true;
  if (one.key === null || other.key === null) return false;
  return one.topic === other.topic && textOf(one.key) === textOf(other.key);
}

it("keeps first occurrences in order per key and loses nothing, whatever happens", () => {
  const shape = fc.array(
    fc.record({
      lane: fc.nat(1),
      // Two keys of two topics, and rows without a key.
      key: fc.constantFrom(0, 0, 1, 1, 2, 5),
      poison: fc.nat(4).map((n) => n === 0),
    }),
    { minLength: 1, maxLength: 40 },
  );
  const fates = fc.array(fc.constantFrom(0, 0, 0, 0, 1, 2, 2, 3), { minLength: 4, maxLength: 4 });
  const ms = fc.constantFrom(0, 0, 50, 100, 300, 1_000);
  const lane = fc.nat(1);
  const step = fc.oneof(
    { weight: 5, arbitrary: fc.record({ do: fc.constant("cycle" as const), fates, ms }) },
    fc.record({ do: fc.constant("commit" as const), pick: fc.nat(30) }),
    fc.record({ do: fc.constant("read" as const), limit: fc.integer({ min: 1, max: 6 }) }),
    fc.record({ do: fc.constant("send" as const), limit: fc.integer({ min: 1, max: 8 }) }),
    fc.record({ do: fc.constant("answer" as const), fates }),
    fc.record({ do: fc.constant("settle" as const) }),
    fc.record({ do: fc.constant("lose" as const), lane }),
    fc.record({ do: fc.constant("drain" as const), lane }),
    fc.record({ do: fc.constant("cure" as const) }),
    { weight: 2, arbitrary: fc.record({ do: fc.constant("forget" as const) }) },
    fc.record({ do: fc.constant("topic" as const), name: fc.constantFrom("a", "b") }),
    fc.record({ do: fc.constant("partitions" as const), count: fc.integer({ min: 1, max: 3 }) }),
  );
  let sent = 0;
  const property = fc.property(shape, fc.array(step, { maxLength: 120 }), (rows, steps) => {
    const world = new World(rows);
    let answered = true;
    for (const one of steps) {
      if (one.do === "commit") world.commit(one.pick);
      if (one.do === "read") world.read(one.limit);
      if (one.do === "send") {
        world.send(one.limit);
        answered = false;
      }
      if (one.do === "answer") {
        world.answer(one.fates);
        answered = true;
      }
      if (one.do === "settle") world.settle();
      if (one.do === "cycle") {
        for (let pick = 0; pick < 4; pick += 1) world.commit(pick * 7);
        world.now += one.ms;
        world.read(5);
        world.send(20);
        world.answer(one.fates);
        answered = true;
      }
      if (one.do === "lose") world.change(one.lane, "lost");
      if (one.do === "drain") world.change(one.lane, "draining");
      if (one.do === "forget") world.backlog.forgetBlocked();
      if (one.do === "cure") world.poison.clear();
      if (one.do === "topic" && answered) {
        if (!world.gone.delete(one.name)) world.gone.add(one.name);
      }
      if (one.do === "partitions" && answered && world.partitions !== one.count) {
        world.partitions = one.count;
        for (const topic of ["a", "b"]) world.backlog.repartitioned(topic);
      }
    }
    world.answer([]);
    world.heal();
    sent += world.log.length;
    // Nothing lost.
    expect(world.deleted.size).toBe(world.rows.length);
    expect(world.backlog.pending()).toEqual([]);
    expect(world.backlog.blocked).toEqual({ rows: 0, bytes: 0 });
    // First occurrences of each key in order.
    const first = new Map(world.rows.map((one) => [one.id, world.log.indexOf(one.id)]));
    for (const [i, one] of world.rows.entries()) {
      for (const other of world.rows.slice(i + 1)) {
        if (!sameKey(one, other)) continue;
        expect((first.get(one.id) as number) < (first.get(other.id) as number)).toBe(true);
      }
    }
  });
  fc.assert(property, { numRuns: 500 });
  expect(sent).toBeGreaterThan(1_000);
}, 60_000);
