// What a user writes, held against the built packages by `tsc --noEmit` (the check "types" runs it):
// what must compile stands plain, what must not compile behind @ts-expect-error. Nothing here runs.

import {
  type Broker,
  createConsumer,
  createInbox,
  createOutbox,
  defineTopic,
  type Handler,
  json,
  type StandardSchema,
  type Storage,
  text,
} from "@oncebox/core";
import { type PostgresStorageOptions, postgresStorage } from "@oncebox/postgres";
import type { ClientBase, Pool, PoolClient } from "pg";

/** The handle of another driver: a function with methods, as query builders have them. */
interface BuilderTransaction {
  (table: string): { readonly insert: (row: object) => Promise<void> };
  readonly commit: () => Promise<void>;
}

declare const pool: Pool;
declare const client: PoolClient;
declare const broker: Broker;
declare const builderStorage: Storage<BuilderTransaction>;
declare const builderTransaction: BuilderTransaction;
declare const clientStorage: Storage<PoolClient>;
/** What is sent differs from what is handled: the schema turns text into a number. */
declare const orderSchema: StandardSchema<
  { id: string; total: string },
  { id: string; total: number }
>;

const orderPlaced = defineTopic({ name: "orders.placed", value: json(orderSchema) });
const orderGone = defineTopic({ name: "orders.gone", value: text(), tombstones: true });
const storage = postgresStorage({ pool });
const base = { name: "billing", broker };

export function handlers() {
  createConsumer({ ...base, storage })
    .handle(orderPlaced, async ({ value, id, key, keyBytes, offset }, tx, context) => {
      const total: number = value.total;
      const position: bigint = offset;
      const names: readonly [string | null, string | null, Uint8Array | null] = [id, key, keyBytes];
      const { rowCount } = await tx.query("INSERT INTO invoices VALUES ($1, $2)", [total, names]);
      const { signal, idempotencyKey, attempt, outbox } = context;
      await fetch("https://example.com", { signal, headers: { idempotencyKey } });
      const message = orderPlaced.message({ key, value: { id: value.id, total: `${attempt}` } });
      const ids: readonly string[] = await outbox.enqueue([message]);
      console.log(rowCount, position, ids);
    })
    .handle(orderGone, async ({ value }) => {
      const gone: string | null = value;
      console.log(gone);
    });

  // In a file of its own a handler names the handle it wants.
  const own = orderPlaced.handler<ClientBase>(async ({ value }, tx) => {
    await tx.query("INSERT INTO invoices VALUES ($1)", [value.total]);
  });
  const typed: Handler<ClientBase> = own;
  createConsumer({ ...base, storage }).handle(typed, { onFailure: "block" });
  // Asking for less than the storage gives is fine; asking for more is not.
  createConsumer({ ...base, storage: clientStorage }).handle(own);
  const greedy = orderPlaced.handler<PoolClient>(async (_, tx) => tx.release());
  // @ts-expect-error a chunk's client is not the handler's to release
  createConsumer({ ...base, storage }).handle(greedy);

  const other = orderPlaced.handler<BuilderTransaction>(async ({ value }, trx) => {
    await trx("invoices").insert({ total: value.total });
  });
  createConsumer({ ...base, storage: builderStorage }).handle(other);
  // @ts-expect-error a handler for another driver's handle
  createConsumer({ ...base, storage }).handle(other);
  // @ts-expect-error a handler for this driver's handle on another's storage
  createConsumer({ ...base, storage: builderStorage }).handle(own);

  createConsumer({ ...base, storage: builderStorage }).handle(orderPlaced, async (_, trx) => {
    await trx("invoices").insert({});
    // @ts-expect-error another driver's method on the inferred handle
    await trx.query("SELECT 1");
  });
  createConsumer({ ...base, storage }).handle(orderPlaced, async ({ value }) => {
    // @ts-expect-error a property that the value does not have
    console.log(value.nothing);
    // @ts-expect-error the decoded value, not the encoded one
    const total: string = value.total;
    return console.log(total);
  });
  createConsumer({ ...base, storage }).handle(orderGone, async ({ value }) => {
    // @ts-expect-error a tombstone has no value
    console.log(value.length);
  });
  // @ts-expect-error a handler that nobody can wait for
  createConsumer({ ...base, storage }).handle(orderPlaced, () => {});
  // @ts-expect-error an option that does not exist
  createConsumer({ ...base, storage, chunkSize: 5 });
}

export function batches() {
  createConsumer({ ...base, storage }).handleBatch(
    orderPlaced,
    async (messages, tx, { of, signal, attempt }) => {
      const totals: readonly number[] = messages.map(({ value }) => value.total);
      await tx.query("INSERT INTO invoices SELECT unnest($1::int[])", [totals]);
      for (const message of messages) {
        const { idempotencyKey, outbox } = of(message);
        const [id] = await outbox.enqueue(orderGone.message({ key: idempotencyKey, value: null }));
        console.log(id, signal, attempt);
      }
    },
    { onFailure: "drop", deduplicate: "offset" },
  );
  createConsumer({ ...base, storage }).handleBatch(orderPlaced, async (messages, _, { of }) => {
    // @ts-expect-error the decoded values, not the encoded ones
    const totals: readonly string[] = messages.map(({ value }) => value.total);
    // @ts-expect-error one of the messages, not its value
    of(messages[0]?.value);
    console.log(totals);
  });
  createConsumer({ ...base, storage }).handleBatch(orderPlaced, async () => {}, {
    // @ts-expect-error a batch has one order
    ordering: "key",
  });
  // @ts-expect-error a handler that nobody can wait for
  createConsumer({ ...base, storage }).handleBatch(orderPlaced, () => {});
}

export async function publishing() {
  const outbox = createOutbox({ storage });
  const message = orderPlaced.message({ key: "k", value: { id: "1", total: "2" } });
  const ids: readonly string[] = await outbox.enqueue(client, message);
  await storage.transaction((tx) => outbox.enqueue(tx, [message, message]));
  await createOutbox({ storage: builderStorage }).enqueue(builderTransaction, message);
  // @ts-expect-error a pool runs each statement in a transaction of its own
  await outbox.enqueue(pool, message);
  // @ts-expect-error another driver's handle
  await outbox.enqueue(builderTransaction, message);
  // @ts-expect-error this driver's handle on another's storage
  await createOutbox({ storage: builderStorage }).enqueue(client, message);
  // @ts-expect-error a value that was not encoded
  await outbox.enqueue(client, { ...message, value: "text" });
  // @ts-expect-error the decoded form of a value
  orderPlaced.message({ key: "k", value: { id: "1", total: 2 } });
  // @ts-expect-error a value that lacks a property
  orderPlaced.message({ key: "k", value: { id: "1" } });
  // @ts-expect-error a message without a key says so with null
  orderPlaced.message({ value: { id: "1", total: "2" } });
  // @ts-expect-error a tombstone on a topic that has none
  orderPlaced.message({ key: "k", value: null });
  orderGone.message({ key: "k", value: null });

  const inbox = createInbox({ name: "webhooks", storage });
  const seen: "new" | "duplicate" | "conflict" = await inbox.once(client, {
    ...{ source: "/hooks", id: "1", value: "body" },
  });
  // @ts-expect-error a pool is no transaction for an inbox either
  await inbox.once(pool, { source: "/hooks", id: "1" });
  // @ts-expect-error an id has a source
  await inbox.once(client, { id: "1" });
  const pruned: { readonly ids: number } = await inbox.prune({ windowMs: 60_000 });
  // @ts-expect-error nothing is deleted without a window
  await inbox.prune({});
  // @ts-expect-error nor with one that never ends
  await inbox.prune({ windowMs: null });
  console.log(pruned.ids);
  return [ids, seen];
}

// A storage takes handles in (enqueue) and gives them out (transaction): it is neither a narrower
// nor a wider driver's storage, although a PoolClient is a ClientBase.
export function invariance() {
  const exact: Storage<ClientBase> = storage;
  // @ts-expect-error gives out clients that cannot be released
  const narrower: Storage<PoolClient> = storage;
  // @ts-expect-error takes only clients that can be released
  const wider: Storage<ClientBase> = clientStorage;
  // @ts-expect-error another driver's storage
  const other: Storage<BuilderTransaction> = storage;
  // @ts-expect-error anything at all
  const any: Storage<unknown> = storage;
  // @ts-expect-error a single client cannot be a pool
  const options: PostgresStorageOptions = { pool: client };
  return [exact, narrower, wider, other, any, options];
}
