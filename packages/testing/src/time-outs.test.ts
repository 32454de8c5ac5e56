// Handlers that take too long beside others, in consumers on the memory broker and the memory storage: who
// is blamed for it.
import { type Consumer, createConsumer, defineTopic, text } from "@oncebox/core";
import { expect, it } from "vitest";
import { eventLog, expectAppliedOnce } from "./assertions.ts";
import { manualClock } from "./manual-clock.ts";
import { memoryCluster } from "./memory-broker/cluster.ts";
import { clusterAdmin } from "./memory-broker/cluster-admin.ts";
import { memoryProcess } from "./memory-broker/memory-process.ts";
import { memoryDatabase } from "./memory-storage/database.ts";
import type { MemoryTx } from "./memory-storage/memory-tx.ts";

const orders = defineTopic({ name: "orders", value: text() });
const forEver = new Promise<never>(() => undefined);

async function handled(values: readonly string[], make: (consumer: Consumer<MemoryTx>) => void) {
  const clock = manualClock();
  const cluster = memoryCluster({ clock });
  const database = memoryDatabase({ clock });
  const admin = clusterAdmin(cluster);
  admin.createTopic("orders");
  for (const value of values) admin.send(orders.message({ key: value, value }));
  const log = eventLog();
  const process = memoryProcess({ clock, cluster, database, name: "process" });
  const { storage, broker } = process;
  const consumer = createConsumer({
    ...{ name: "billing", storage, broker, clock: process.clock, observer: log.observer },
    handlerTimeoutMs: 1_000,
  });
  make(consumer);
  const started = consumer.start();
  const end = BigInt(values.length);
  await clock.runUntil(() =>
    log.ofType("inbox.chunk-committed").some(({ nextOffset }) => nextOffset === end),
  );
  await started;
  return { log, effects: database.rows<string>("effects") };
}

it("of handlers at once the one that hangs is parked, not the one that waits for it", async () => {
  // Guards `blamed`: the oldest of them is a guess, and it would be parked at once here.
  const running = new Set<string>();
  const { log, effects } = await handled(["a", "b", "c"], (consumer) => {
    consumer.handle(
      orders,
      async ({ value }, tx, { signal }) => {
        running.add(value);
        signal.addEventListener("abort", () => running.delete(value));
        await tx.append("effects", value);
        // As behind a row that the other has locked, or on their one connection.
        if (value === "b" || (value === "a" && running.has("b"))) await forEver;
        running.delete(value);
      },
      { ordering: "key", retry: { localAttemptsMax: 1, attemptsMax: 1 } },
    );
  });
  expect(log.ofType("inbox.parked").map(({ offset }) => offset)).toEqual([1n]);
  expectAppliedOnce(effects, ["a", "c"]);
});

it("a batch that takes too long is halved, and nobody is parked for it", async () => {
  // Guards `blamed`: its first message is as good as any other.
  const sizes: number[] = [];
  const values = ["a", "b", "c", "d"];
  const { log, effects } = await handled(values, (consumer) => {
    consumer.handleBatch(
      orders,
      async (messages, tx) => {
        sizes.push(messages.length);
        for (const { value } of messages) await tx.append("effects", value);
        if (messages.length > 2) await forEver;
      },
      { retry: { localAttemptsMax: 1, attemptsMax: 1 } },
    );
  });
  expect(log.ofType("inbox.parked")).toEqual([]);
  expect(sizes.slice(0, 2)).toEqual([4, 2]);
  expectAppliedOnce(effects, values);
});
