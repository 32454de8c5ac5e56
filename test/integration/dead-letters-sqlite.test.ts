// Dead letters on SQLite, native and through knex, with a broker in memory: a death in a chunk and one in a
// turn leave a letter each, what is tried again leaves none.

import { join } from "node:path";
import {
  type ConsumerOptions,
  createConsumer,
  defineTopic,
  type OnceboxEvent,
  PermanentError,
  text,
} from "@oncebox/core";
import { migrate, sqliteStorage } from "@oncebox/sqlite";
import { knexStorage } from "@oncebox/sqlite/knex";
import { memoryBroker } from "@oncebox/testing";
import type Database from "better-sqlite3";
import createKnex from "knex";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { openDatabase, temporaryFolder } from "../conformance/sqlite-knex-under-test.ts";

const orders = defineTopic({ name: "orders", value: text() });
const options = {
  retry: { localAttemptsMax: 1, attemptsMax: 2, redriveBackoffMs: 100 },
  deadLetter: { topic: "orders.dead" },
} as const;

let place: ReturnType<typeof temporaryFolder>;
let database: Database.Database;
let running: { stop(): Promise<void> } | undefined;

beforeEach(async () => {
  place = temporaryFolder();
  database = openDatabase(join(place.folder, "main.db"));
  await migrate(database);
});
afterEach(async () => {
  await running?.stop();
  running = undefined;
  database.close();
  place.remove();
});

function fail(value: string): void {
  if (value === "never") throw new PermanentError(value);
  if (value === "not yet") throw new Error(value);
}

type Common = Omit<ConsumerOptions<never>, "storage">;

const made = {
  native: (common: Common) =>
    createConsumer({ ...common, storage: sqliteStorage({ database }) }).handle(
      orders,
      ({ value }) => fail(value),
      options,
    ),
  knex: (common: Common) => {
    const connection = { filename: join(place.folder, "main.db") };
    const knex = createKnex({ client: "better-sqlite3", connection, useNullAsDefault: true });
    return createConsumer({ ...common, storage: knexStorage(knex) }).handle(
      orders,
      async ({ value }) => fail(value),
      options,
    );
  },
};

// Guards letterIn in sync-runs.ts, and settleParked with letters in sqlite/parking.ts.
test.each(["native", "knex"] as const)("%s: each death leaves a letter", async (kind) => {
  // Time is the machine's: SQLite says when a parked message is due, and knows no clock of a test.
  const broker = memoryBroker();
  broker.admin.createTopic("orders");
  const events: OnceboxEvent[] = [];
  const observer = (event: OnceboxEvent) => void events.push(event);
  const consumer = made[kind]({ name: "billing", broker, observer });
  broker.admin.produce("orders", 0, [
    { key: "a", value: "never" },
    { key: "b", value: "not yet" },
    { key: "a", value: "behind" },
  ]);
  await consumer.start();
  running = consumer;
  const until = (type: OnceboxEvent["type"]) =>
    vi.waitFor(() => expect(events.map((event) => event.type)).toContain(type), {
      timeout: 20_000,
    });
  await until("inbox.parked");
  await until("inbox.redrive-failed");
  const letters = database
    .prepare("SELECT topic, CAST(value AS TEXT) AS value FROM oncebox_outbox_messages")
    .all();
  expect(letters).toEqual([
    { topic: "orders.dead", value: "never" },
    { topic: "orders.dead", value: "not yet" },
  ]);
  const states = "SELECT state FROM oncebox_parked_messages ORDER BY record_offset";
  expect(database.prepare(states).pluck().all()).toEqual(["dead", "dead", "waiting"]);
});
