// The core on the memory broker and the memory storage: everything on one clock, one seed deciding
// everything. What is tested here is the models: that they can do what real servers do to the core.
import {
  createConsumer,
  createOutboxRelay,
  defineTopic,
  json,
  type OnceboxEvent,
} from "@oncebox/core";
import { expect, it } from "vitest";
import { type ManualClock, manualClock } from "../manual-clock.ts";
import { memoryDatabase } from "../memory-storage/database.ts";
import type { MemoryTx } from "../memory-storage/memory-tx.ts";
import { memoryCluster } from "./cluster.ts";
import { clusterAdmin, clusterFaults } from "./cluster-admin.ts";
import { memoryProcess } from "./memory-process.ts";

const orders = defineTopic({ name: "orders", value: json<number>() });
const invoices = defineTopic({ name: "invoices", value: json<number>() });

function world(clock: ManualClock) {
  const cluster = memoryCluster({ clock });
  const database = memoryDatabase({ clock, statementMs: () => clock.random() * 3 });
  const admin = clusterAdmin(cluster);
  admin.createTopic("orders", { partitions: 3 });
  admin.createTopic("invoices", { partitions: 2 });
  const events: string[] = [];
  const note = (who: string) => (event: OnceboxEvent) => {
    const text = JSON.stringify(event, (_, value) =>
      typeof value === "bigint" ? `${value}n` : value instanceof Error ? value.message : value,
    );
    events.push(`${clock.now().toFixed(3)} ${who} ${text}`);
  };
  const worker = (name: string, run?: (value: number, tx: MemoryTx) => Promise<void>) => {
    const process = memoryProcess({ clock, cluster, database, name });
    const { storage, broker } = process;
    const observer = note(name);
    const consumer = createConsumer({
      ...{ name: "billing", storage, broker, clock: process.clock, observer },
    }).handle(orders, async ({ value }, tx, { outbox }) => {
      await tx.append("effects", value);
      await outbox.enqueue(invoices.message({ key: `${value % 5}`, value }));
      await run?.(value, tx);
    });
    const relay = createOutboxRelay({ storage, broker, clock: process.clock, observer });
    return { ...process, consumer, relay };
  };
  const send = (first: number, count: number) => {
    for (let n = first; n < first + count; n += 1) {
      admin.send(orders.message({ key: `${n % 7}`, value: n, id: `order-${n}` }));
    }
  };
  const effects = () => database.rows<number>("effects");
  const of = (type: string) => events.filter((each) => each.includes(`"type":"${type}"`));
  const faults = clusterFaults(cluster);
  return { cluster, database, admin, faults, events, worker, send, effects, of };
}

const upTo = (count: number) => Array.from({ length: count }, (_, n) => n);
const sorted = (numbers: readonly number[]) => [...numbers].sort((a, b) => a - b);

it("reads, commits, publishes and stops within a clock that only a test moves", async () => {
  const clock = manualClock();
  const { worker, send, effects, admin, cluster } = world(clock);
  const { consumer, relay } = worker("a");
  send(0, 50);
  const starting = Promise.all([consumer.start(), relay.start()]);
  await clock.runUntil(() => admin.stored("invoices").length === 50, { limitMs: 20_000 });
  await starting;
  expect(sorted(effects())).toEqual(upTo(50));
  const ends = admin.stored("orders").reduce((all, { partition, offset }) => {
    return all.set(partition, offset + 1n);
  }, new Map<number, bigint>());
  await clock.advance(2_000);
  const group = cluster.group("billing").offsets(["orders"]);
  expect(new Map(group.map(({ partition, offset }) => [partition, offset]))).toEqual(ends);
  let stopped = false;
  const stopping = Promise.all([consumer.stop(), relay.stop()]).then(() => {
    stopped = true;
  });
  await clock.runUntil(() => stopped, { limitMs: 20_000 });
  await stopping;
  expect(cluster.group("billing").members).toEqual([]);
  await clock.runAll({ limitMs: 60_000 });
});

interface Storm {
  /** Called for each message handled, beside the transaction. */
  readonly around?: (value: number) => void;
  /** Whether the clients hand over what was aborted. */
  readonly unfiltered?: boolean;
}

const rounds = 6;
const perRound = 20;
const total = rounds * perRound;

/** Everything at once, drawn from the clock's own chance; then all is well again, and it must end. */
async function storm(seed: number, { around, unfiltered = false }: Storm = {}) {
  const clock = manualClock({ seed });
  const { database, faults, worker, send, effects, admin, events, cluster } = world(clock);
  const run = async (value: number) => around?.(value);
  const workers = ["a", "b", "c"].map((name) => worker(name, run));
  const starting = workers.map(async ({ consumer, relay }) => {
    await consumer.start();
    await relay.start();
  });
  await clock.advance(5_000);
  await Promise.all(starting);
  const draw = (share: number) => clock.random() < share;
  faults.readUncommitted = unfiltered;
  faults.onBatch = () => (draw(0.1) ? { kind: draw(0.5) ? "stale" : "lost" } : null);
  faults.onCommit = () => (draw(0.2) ? "reply-lost" : null);
  faults.onPublish = () => (draw(0.1) ? { kind: "unknown-stored" } : null);
  database.faults.onCommit = () => (draw(0.1) ? (draw(0.5) ? "reply-lost" : "request-late") : null);
  database.faults.onStatement = () => (draw(0.01) ? { fails: "reply-lost" } : null);
  for (let round = 0; round < rounds; round += 1) {
    send(round * perRound, perRound);
    const aborted = admin.transaction();
    aborted.write("orders", round % 3, [{ key: "k", value: "-1" }]);
    aborted.abort();
    const victim = workers[Math.floor(clock.random() * workers.length)];
    if (draw(0.4)) faults.rebalance("billing");
    if (draw(0.4)) victim?.freeze();
    if (draw(0.3)) database.faults.cutConnections();
    await clock.advance(clock.random() * 40_000);
    database.faults.deliverLateCommits();
    victim?.thaw();
    for (const name of cluster.members.keys()) if (draw(0.1)) faults.crash(name);
  }
  faults.onBatch = faults.onCommit = faults.onPublish = null;
  database.faults.onCommit = database.faults.onStatement = null;
  const published = () => new Set(admin.stored("invoices").map(({ value }) => String(value)));
  for (let second = 0; second < 600 && published().size < total; second += 1) {
    await clock.advance(1_000);
  }
  return { events, effects: sorted(effects()), published: published().size };
}

it.each([1, 2, 3])(
  "applies everything once through a storm of seed %s",
  async (seed) => {
    const { effects, published } = await storm(seed);
    expect([effects, published]).toEqual([upTo(total), total]);
  },
  60_000,
);

it("does the same in two runs of one seed, and something else with another", async () => {
  const [first, second, other] = [await storm(7), await storm(7), await storm(8)];
  expect(first.events.length).toBeGreaterThan(100);
  expect(second).toEqual(first);
  expect(other.events).not.toEqual(first.events);
}, 60_000);

it("repeats what is not in the transaction, and lets through what nobody filters", async () => {
  const calls: number[] = [];
  const { effects } = await storm(1, { around: (value) => calls.push(value), unfiltered: true });
  expect(calls.length).toBeGreaterThan(effects.length);
  expect(effects.filter((value) => value === -1).length).toBeGreaterThan(0);
}, 60_000);
