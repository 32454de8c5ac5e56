// The shop's handlers as they run in production, on a SQLite file and a broker in memory. Nothing
// sleeps: time stands still until a test moves it, and hours pass in milliseconds.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { manualClock, memoryBroker } from "@oncebox/testing";
import Database from "better-sqlite3";
import { expect, onTestFinished, test } from "vitest";
import {
  CreditExceeded,
  createShop,
  creditCentsMax,
  install,
  invoiceMade,
  orderPlaced,
} from "./shop.ts";

/** One database, one broker, one clock; as many shops on them as a test wants to start. */
async function world() {
  const folder = mkdtempSync(join(tmpdir(), "sqlite-local-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const clock = manualClock();
  const broker = memoryBroker({ clock });
  for (const { name } of [orderPlaced, invoiceMade]) broker.admin.createTopic(name);
  const connect = () => {
    const database = new Database(join(folder, "shop.db"));
    database.pragma("journal_mode = WAL");
    database.pragma("synchronous = FULL");
    onTestFinished(() => {
      database.close();
    });
    return database;
  };
  const database = connect();
  await install(database);

  /** Moves the time until the promise is settled. */
  const inTime = async <T>(promise: Promise<T>): Promise<T> => {
    let settled = false;
    const noted = () => {
      settled = true;
    };
    promise.then(noted, noted);
    await clock.runUntil(() => settled);
    return promise;
  };
  const open = async () => {
    const shop = createShop({ database: connect(), broker, clock });
    await inTime(Promise.all([shop.consumer.start(), shop.relay.start()]));
    return shop;
  };
  const close = ({ consumer, relay }: ReturnType<typeof createShop>) =>
    inTime(Promise.all([consumer.stop(), relay.stop()]));
  const invoices = () => database.prepare("SELECT order_id, cents FROM invoices").all();
  return { clock, broker, database, open, close, invoices };
}

const order = { id: "o-1", customer: "ann", cents: 1_250 };

test("an order becomes an invoice, and a message about it", async () => {
  const { clock, broker, open, close, invoices } = await world();
  const shop = await open();
  shop.placeOrder(order);
  await clock.runUntil(() => broker.admin.stored(invoiceMade.name).length === 1);
  expect(invoices()).toEqual([{ order_id: "o-1", cents: 1_250 }]);
  const [message] = broker.admin.stored(invoiceMade.name);
  expect(JSON.parse(Buffer.from(message?.value ?? []).toString())).toEqual({
    order: "o-1",
    cents: 1_250,
  });
  await close(shop);
});

test("a refused order leaves neither an order nor a message", async () => {
  const { clock, broker, database, open, close } = await world();
  const shop = await open();
  shop.placeOrder({ ...order, cents: creditCentsMax });
  const second = { ...order, id: "o-2", cents: 1 };
  expect(() => shop.placeOrder(second)).toThrow(CreditExceeded);
  await clock.runUntil(() => broker.admin.stored(orderPlaced.name).length > 0);
  await clock.advance(60_000);
  expect(database.prepare("SELECT id FROM orders").pluck().all()).toEqual(["o-1"]);
  expect(broker.admin.stored(orderPlaced.name)).toHaveLength(1);
  await close(shop);
});

test("a message that its producer sent twice makes one invoice", async () => {
  const { clock, broker, open, close, invoices } = await world();
  const shop = await open();
  const message = orderPlaced.message({ key: order.customer, value: order, id: "message-1" });
  broker.admin.send(message);
  broker.admin.send(message);
  await clock.advance(5_000);
  expect(broker.admin.stored(orderPlaced.name)).toHaveLength(2);
  expect(invoices()).toHaveLength(1);
  await close(shop);
});

test("an answer of the broker that was lost has the message sent again, and handled once", async () => {
  const { clock, broker, open, close, invoices } = await world();
  const shop = await open();
  let lost = 0;
  broker.faults.onPublish = ({ topic }) => {
    if (topic !== orderPlaced.name || lost > 0) return null;
    lost += 1;
    return { kind: "unknown-stored" };
  };
  shop.placeOrder(order);
  await clock.runUntil(() => broker.admin.stored(orderPlaced.name).length === 2);
  await clock.advance(5_000);
  expect(lost).toBe(1);
  expect(invoices()).toHaveLength(1);
  await close(shop);
});

test("where the group's offsets were never committed, nothing is handled again", async () => {
  const { clock, broker, open, close, invoices } = await world();
  broker.faults.onCommit = () => "lost";
  const shop = await open();
  shop.placeOrder(order);
  await clock.runUntil(() => invoices().length === 1);
  await close(shop);
  const { offsets } = await (async () => {
    const asked = broker.group("billing", [orderPlaced.name]);
    await clock.advance(100);
    return asked;
  })();
  expect(offsets).toEqual([]);

  // A new process, an hour later: the database knows where to go on.
  await clock.advance(3_600_000);
  const next = await open();
  await clock.advance(60_000);
  expect(invoices()).toHaveLength(1);
  next.placeOrder({ ...order, id: "o-2" });
  await clock.runUntil(() => invoices().length === 2);
  await close(next);
});

test("an invoice that cannot be written is tried again, and nothing of it stays", async () => {
  const { clock, broker, database, open, close, invoices } = await world();
  // As long as there is no table, every attempt fails.
  database.exec("ALTER TABLE invoices RENAME TO away");
  const shop = await open();
  shop.placeOrder(order);
  await clock.advance(60_000);
  // Set aside after five tries, and tried again now and then; other customers' orders go on.
  expect(shop.consumer.status()).toMatchObject([{ state: "reading" }]);
  const parked = database.prepare("SELECT state, error FROM oncebox_parked_messages").all();
  expect(parked).toMatchObject([{ state: "waiting", error: expect.stringContaining("invoices") }]);
  database.exec("ALTER TABLE away RENAME TO invoices");
  await clock.runUntil(() => broker.admin.stored(invoiceMade.name).length === 1);
  expect(invoices()).toHaveLength(1);
  await close(shop);
});
