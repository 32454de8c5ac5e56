// What a user of a storage that answers at once writes, held against the built packages as in
// public-interface.ts. Nothing here runs.

import {
  type Broker,
  createConsumer,
  createInbox,
  createOutbox,
  createOutboxRelay,
  defineTopic,
  json,
  type Storage,
  type SyncStorage,
} from "@oncebox/core";
import { migrate, sqliteStorage } from "@oncebox/sqlite";
import { migrate as migrateKnex, knexStorage as sqliteKnexStorage } from "@oncebox/sqlite/knex";
import { compareOrderings, failing, killing } from "@oncebox/testing";
import type { Database } from "better-sqlite3";
import type { Knex } from "knex";
import type { ClientBase, Pool } from "pg";

declare const database: Database;
declare const knex: Knex;
declare const pool: Pool;
declare const client: ClientBase;
declare const broker: Broker;

const orderPlaced = defineTopic({ name: "orders.placed", value: json<{ total: number }>() });
const storage = sqliteStorage({ database });
const knexed = sqliteKnexStorage(knex, { busyTimeoutMs: 1_000 });
const base = { name: "billing", broker };

export function handlers() {
  createConsumer({ ...base, storage })
    .handle(orderPlaced, ({ value, offset }, tx, { outbox, attempt, idempotencyKey }) => {
      const total: number = value.total;
      tx.prepare("INSERT INTO invoices VALUES (?, ?, ?)").run(total, offset, idempotencyKey);
      const ids: readonly string[] = outbox.enqueue(orderPlaced.message({ key: null, value }));
      console.log(ids, attempt);
    })
    // What it returns is nobody's concern, as long as it is no promise.
    .handle(orderPlaced, ({ value }, tx) => tx.prepare("INSERT …").run(value.total), {
      startFrom: "latest",
    });
  // @ts-expect-error an async handler on a storage that answers at once
  createConsumer({ ...base, storage }).handle(orderPlaced, async ({ value }, tx) => {
    tx.prepare("INSERT …").run(value.total);
  });
  // @ts-expect-error a handler that returns a promise
  createConsumer({ ...base, storage }).handle(orderPlaced, () => Promise.resolve());
  const waits = orderPlaced.handler<Database>(async () => {});
  // @ts-expect-error a handler of a file of its own may wait
  createConsumer({ ...base, storage }).handle(waits);
  createConsumer({ ...base, storage }).handle(orderPlaced, (_, tx, context) => {
    // @ts-expect-error another driver's method
    tx.query("SELECT 1");
    // @ts-expect-error nobody can abort a call
    context.signal.throwIfAborted();
  });
  // @ts-expect-error nobody can cut off a call
  createConsumer({ ...base, storage, handlerTimeoutMs: 1_000 });

  createConsumer({ ...base, storage: knexed }).handle(orderPlaced, async ({ value }, trx) => {
    await trx("invoices").insert({ total: value.total });
  });
  // @ts-expect-error a handler that nobody can wait for
  createConsumer({ ...base, storage: knexed }).handle(orderPlaced, () => {});
  createOutboxRelay({ storage, broker });
  createOutboxRelay({ storage: knexed, broker });
}

export async function publishing(trx: Knex.Transaction) {
  const message = orderPlaced.message({ key: "k", value: { total: 1 } });
  const outbox = createOutbox({ storage });
  const ids: readonly string[] = outbox.enqueue(database, message);
  // @ts-expect-error another driver's handle
  outbox.enqueue(client, message);
  // @ts-expect-error a pool is no handle of this driver either
  outbox.enqueue(pool, message);
  // @ts-expect-error the knex handle of the same database
  outbox.enqueue(trx, message);
  const waiting = createOutbox({ storage: knexed });
  await waiting.enqueue(trx, message);
  // @ts-expect-error knex itself runs each statement in a transaction of its own
  await waiting.enqueue(knex, message);
  // @ts-expect-error the Database beneath
  await waiting.enqueue(database, message);
  const seen: "new" | "duplicate" | "conflict" = createInbox({ name: "hooks", storage }).once(
    database,
    { source: "/hooks", id: "1" },
  );
  const { ids: pruned } = await createInbox({ name: "hooks", storage }).prune({ windowMs: 60_000 });
  // @ts-expect-error a walk over ids waits between its steps
  createInbox({ name: "hooks", storage }).prune({ windowMs: 60_000 }).ids;
  console.log(pruned);
  await migrate(database);
  await migrateKnex(knex);
  return [ids, seen];
}

export async function testing() {
  const handler = orderPlaced.handler<unknown>(async () => {});
  const how = { handler, messages: [], reset: () => {}, snapshot: () => [] };
  await compareOrderings({ ...how, storage: knexed });
  // @ts-expect-error one call runs no two handlers at once
  await compareOrderings({ ...how, storage });
  // @ts-expect-error a function that ends when it returns is no handler of a file of its own
  failing(() => {});
  // @ts-expect-error what ends the process is told
  killing(handler, {});
  // @ts-expect-error deaths are not counted in attempts
  killing(handler, { kill: () => {}, attempts: 1 });
}

export function invariance() {
  const exact: SyncStorage<Database> = storage;
  // @ts-expect-error a storage that answers at once has nothing to wait for
  const waits: Storage<Database> = storage;
  // @ts-expect-error a storage that waits cannot answer at once
  const atOnce: SyncStorage<Knex.Transaction> = knexed;
  // @ts-expect-error another driver's handle
  const other: SyncStorage<ClientBase> = storage;
  // @ts-expect-error a knex is no Database
  const wrong = sqliteStorage({ database: knex });
  return [exact, waits, atOnce, other, wrong];
}
