// What a user of knex on PostgreSQL writes, held against the built packages as in public-interface.ts.

import type { Broker, Storage } from "@oncebox/core";
import { createConsumer, createInbox, createOutbox, defineTopic, json } from "@oncebox/core";
import { postgresStorage } from "@oncebox/postgres";
import {
  type KnexStorageOptions,
  knexStorage,
  migrate,
  migrationSource,
} from "@oncebox/postgres/knex";
import type { Knex } from "knex";
import type { ClientBase, Pool, PoolClient } from "pg";

declare const knex: Knex;
declare const pool: Pool;
declare const client: PoolClient;
declare const broker: Broker;

const orderPlaced = defineTopic({ name: "orders.placed", value: json<{ total: number }>() });
const storage = knexStorage(knex);
const other = postgresStorage({ pool });
const base = { name: "billing", broker };

export function handlers() {
  createConsumer({ ...base, storage }).handle(orderPlaced, async ({ value }, trx, { outbox }) => {
    await trx("invoices").insert({ total: value.total });
    await trx.transaction(async (inner) => inner.raw("SELECT 1"));
    await outbox.enqueue(orderPlaced.message({ key: "k", value }));
    // @ts-expect-error another driver's method on the inferred handle
    await trx.query("SELECT 1");
  });
  const own = orderPlaced.handler<Knex.Transaction>(async ({ value }, trx) => {
    await trx("invoices").insert({ total: value.total });
  });
  createConsumer({ ...base, storage }).handle(own);
  // @ts-expect-error a handler of knex on a storage of node-postgres
  createConsumer({ ...base, storage: other }).handle(own);
  const clients = orderPlaced.handler<ClientBase>(async (_, tx) => {
    await tx.query("SELECT 1");
  });
  // @ts-expect-error a handler of node-postgres on a storage of knex
  createConsumer({ ...base, storage }).handle(clients);
}

export async function publishing() {
  const outbox = createOutbox({ storage });
  const message = orderPlaced.message({ key: "k", value: { total: 1 } });
  await knex.transaction(async (trx) => {
    const ids: readonly string[] = await outbox.enqueue(trx, message);
    await trx.transaction((inner) => outbox.enqueue(inner, message));
    // @ts-expect-error a transaction of knex on a storage of node-postgres
    await createOutbox({ storage: other }).enqueue(trx, message);
    return ids;
  });
  // @ts-expect-error knex itself runs each statement in a transaction of its own
  await outbox.enqueue(knex, message);
  // @ts-expect-error a client of node-postgres
  await outbox.enqueue(client, message);
  // @ts-expect-error knex itself is no transaction for an inbox either
  await createInbox({ name: "hooks", storage }).once(knex, { source: "/hooks", id: "1" });
  // @ts-expect-error another driver's storage
  const wrong: Storage<Knex.Transaction> = other;
  return wrong;
}

export async function settingUp() {
  const options: KnexStorageOptions = { schema: "s", answerTimeoutMs: 1_000 };
  // @ts-expect-error a pool is for postgresStorage
  knexStorage(pool);
  // @ts-expect-error an option that does not exist
  knexStorage(knex, { poolSize: 5 });
  const applied: readonly string[] = await migrate(knex, { schema: "s" });
  await knex.migrate.latest({ migrationSource: migrationSource(), tableName: "oncebox_knex" });
  return [knexStorage(knex, options), applied];
}
