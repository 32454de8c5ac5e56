// Two processes on the memory cluster and the memory database, one of which loses the database while it
// tries a parked message for the last time: what becomes of the message.
import { createConsumer, defineTopic, text } from "@oncebox/core";
import { expect, it } from "vitest";
import { eventLog, expectAppliedOnce } from "./assertions.ts";
import { manualClock } from "./manual-clock.ts";
import { memoryCluster } from "./memory-broker/cluster.ts";
import { clusterAdmin } from "./memory-broker/cluster-admin.ts";
import { memoryProcess } from "./memory-broker/memory-process.ts";
import { memoryDatabase } from "./memory-storage/database.ts";

const orders = defineTopic({ name: "orders", value: text() });

it("an outage that outlasts the last turn of a message does not condemn it", async () => {
  // Guards the wait before a message is given up (`spared`), and that who was overtaken takes its attempt
  // back: without either the second process finds the tries spent, and the message dead.
  const clock = manualClock();
  const cluster = memoryCluster({ clock });
  const database = memoryDatabase({ clock });
  const admin = clusterAdmin(cluster);
  admin.createTopic("orders");
  admin.send(orders.message({ key: "k", value: "v" }));
  const log = eventLog();
  const events = log.ofType;
  let away: string | null = null;
  let tries = 0;
  database.faults.onStatement = ({ client }) =>
    client === away && away !== null ? { fails: "connection-lost" } : null;
  for (const name of ["one", "two"]) {
    const process = memoryProcess({ clock, cluster, database, name });
    const { storage, broker } = process;
    const consumer = createConsumer({
      ...{ name: "billing", storage, broker, clock: process.clock, observer: log.observer },
      handlerTimeoutMs: 1_000,
    });
    consumer.handle(
      orders,
      async ({ value }, tx) => {
        tries += 1;
        if (tries === 1) throw new Error("not yet");
        if (tries === 2) away = name;
        await tx.append("effects", value);
      },
      { retry: { localAttemptsMax: 1, attemptsMax: 2 } },
    );
    let started = false;
    void consumer.start().then(() => {
      started = true;
    });
    await clock.runUntil(() => started);
  }
  await clock.runUntil(() => away !== null);
  // Its lease is 6 s; the other process takes the message then, and finds its tries spent.
  await clock.advance(9_000);
  expect(tries).toBe(2);
  away = null;
  await clock.runUntil(() => events("inbox.redriven").length > 0);
  expect(events("inbox.redrive-failed")).toEqual([]);
  expectAppliedOnce(database.rows<string>("effects"), ["v"]);
});
