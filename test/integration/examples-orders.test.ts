// The example of an order service and an invoice service as processes of their own on real servers:
// orders placed over HTTP, the invoice service killed and started again, both asked whether they are
// ready, and stopped.

import { randomUUID } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import type pg from "pg";
import { afterAll, beforeAll, describe, expect, inject, test, vi } from "vitest";
import { spawnWorker, type Worker } from "../fixtures/child.ts";
import type { TestDatabase } from "../fixtures/databases.ts";
import { freePort } from "../fixtures/ports.ts";
import { hasKafka, testDatabase, testKafka, uniqueName } from "../fixtures/servers.ts";

const folder = new URL("../../examples/orders-postgres/", import.meta.url);
const stopDeadlineMs = 6_000;
const sessionTimeoutMs = 6_000;
const patienceMs = 60_000;

const nothing = () => {};

describe.skipIf(!hasKafka())("examples/orders-postgres", { timeout: 180_000 }, () => {
  let database: TestDatabase;
  let pool: pg.Pool;
  let env: Readonly<Record<string, string>>;
  let orders: { readonly url: string; readonly process: Worker };
  let invoices: { readonly url: string; readonly process: Worker };
  const processes: Worker[] = [];

  function run(entry: string, more: Readonly<Record<string, string>> = {}): Worker {
    const worker = spawnWorker(fileURLToPath(new URL(entry, folder)), { env: { ...env, ...more } });
    processes.push(worker);
    return worker;
  }

  async function serve(entry: string) {
    const port = await freePort();
    return { url: `http://127.0.0.1:${port}`, process: run(entry, { PORT: String(port) }) };
  }

  /** Status 0 where nobody listens. */
  async function get(url: string): Promise<{ status: number; body: Record<string, unknown> }> {
    try {
      const answer = await fetch(url);
      return { status: answer.status, body: (await answer.json()) as Record<string, unknown> };
    } catch {
      return { status: 0, body: {} };
    }
  }

  /** Every different answer of /readyz until it is ready. */
  async function statusesUntilReady(service: typeof orders): Promise<number[]> {
    const statuses: number[] = [];
    const deadline = performance.now() + patienceMs;
    for (;;) {
      const { status } = await get(`${service.url}/readyz`);
      if (statuses.at(-1) !== status) statuses.push(status);
      if (status === 200) return statuses;
      const { process } = service;
      const over = await Promise.race([process.exited, delay(10)]);
      if (over !== undefined || performance.now() > deadline) {
        throw new Error(`not ready (${statuses}):\n${process.output()}`);
      }
    }
  }

  async function place(order: { id: string; customer: string; cents: number }) {
    const answer = await fetch(`${orders.url}/orders`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(order),
    });
    return answer.status;
  }

  async function count(sql: string): Promise<number> {
    const { rows } = await pool.query<{ count: string }>(`SELECT count(*) FROM ${sql}`);
    return Number(rows[0]?.count);
  }

  async function until(sql: string, wanted: number): Promise<void> {
    const poll = expect.poll(() => count(sql), { timeout: patienceMs, interval: 100 });
    await poll.toBeGreaterThanOrEqual(wanted);
  }

  /** Has nothing written to a table while `work` runs, which begins with a statement that waits for it. */
  async function held(table: string, causing: () => unknown, work: () => Promise<void>) {
    const client = await pool.connect();
    try {
      await client.query(`BEGIN; LOCK TABLE ${table} IN SHARE MODE`);
      causing();
      await until(`pg_stat_activity WHERE query ~ '${table}' AND wait_event_type = 'Lock'`, 1);
      await work();
      await client.query("COMMIT");
    } finally {
      client.release();
    }
  }

  beforeAll(async () => {
    database = await testDatabase();
    pool = database.pool();
    env = {
      DATABASE_URL: database.url,
      KAFKA_BROKERS: (inject("kafkaBrokers") ?? []).join(","),
      KAFKA_SESSION_TIMEOUT_MS: String(sessionTimeoutMs),
      ORDERS_TOPIC: uniqueName("orders"),
      INVOICE_CONSUMER: uniqueName("invoices"),
      STOP_DEADLINE_MS: String(stopDeadlineMs),
    };
    // Twice, as two deployments would.
    for (const _ of [1, 2]) {
      const prepared = run("prepare.ts");
      expect(await prepared.exited, prepared.output()).toMatchObject({ code: 0 });
    }
    orders = await serve("order-service.ts");
    invoices = await serve("invoice-service.ts");
  }, 120_000);

  afterAll(async () => {
    for (const one of processes) one.kill();
    await Promise.all(processes.map(({ exited }) => exited));
    await database.drop();
    const admin = testKafka().admin();
    await admin.connect();
    await admin.deleteTopics({ topics: [env.ORDERS_TOPIC ?? ""] });
    await admin.disconnect();
  });

  test("the invoice service is alive first, and ready when it has joined its group", async () => {
    const statuses = await statusesUntilReady(invoices);
    expect(statuses.slice(-2), invoices.process.output()).toEqual([503, 200]);
    expect((await get(`${invoices.url}/healthz`)).status).toBe(200);
    await statusesUntilReady(orders);
  });

  test("an order is placed once, whatever is sent again under its id", async () => {
    const order = { id: randomUUID(), customer: "ada", cents: 4_200 };
    expect(await place(order)).toBe(201);
    expect(await place(order)).toBe(200);
    expect(await place({ ...order, cents: 1 })).toBe(409);
    expect(await place({ ...order, cents: -1 })).toBe(400);
    expect(await get(`${orders.url}/orders/${order.id}`)).toEqual({ status: 200, body: order });
    expect((await get(`${orders.url}/orders/${randomUUID()}`)).status).toBe(404);
    await expect
      .poll(() => get(`${invoices.url}/invoices/${order.id}`), { timeout: patienceMs })
      .toMatchObject({ status: 200, body: { orderId: order.id, customer: "ada", cents: 4_200 } });
  });

  test("every order gets one invoice, though the invoice service is killed", async () => {
    const total = 200;
    const before = await count("invoices");
    const placing = (async () => {
      for (let placed = 0; placed < total; placed += 10) {
        const some = Array.from({ length: 10 }, (_, index) =>
          place({ id: randomUUID(), customer: `customer-${index}`, cents: 100 + placed + index }),
        );
        expect(await Promise.all(some)).toEqual(Array(10).fill(201));
      }
    })();
    await until("invoices", before + 1);
    // Inside a handler that waits for its INSERT, which PostgreSQL then finishes: a write that did not
    // belong to the transaction of the chunk would stay, and be made again.
    await held("invoices", nothing, async () => {
      invoices.process.kill("SIGKILL");
      expect(await invoices.process.exited).toMatchObject({ signal: "SIGKILL" });
    });
    await placing;
    const left = (await count("orders")) - (await count("invoices"));
    expect(left, "orders without an invoice when it was killed").toBeGreaterThan(0);

    invoices = await serve("invoice-service.ts");
    await statusesUntilReady(invoices);
    await until("invoices", await count("orders"));
    // Marks the end of what can still come: behind it in every partition that has one.
    const last = Array.from({ length: 10 }, (_, index) => ({
      id: randomUUID(),
      customer: `customer-${index}`,
      cents: 1,
    }));
    await Promise.all(last.map(place));
    await until("invoices WHERE cents = 1", last.length);
    expect(await count("invoices")).toBe(await count("orders"));
    expect(
      await count("invoices NATURAL JOIN (SELECT id AS order_id, customer, cents FROM orders) o"),
    ).toBe(await count("orders"));
    expect(await count("(SELECT DISTINCT order_id FROM invoices) i")).toBe(await count("orders"));
  });

  test("its log is one line of JSON for each event, without the database's URL", () => {
    const lines = invoices.process.output().trim().split("\n");
    const events = lines.map((line) => (JSON.parse(line) as { event: string }).event);
    expect(events).toContain("service.started");
    expect(events).toContain("inbox.chunk-committed");
    expect(invoices.process.output()).not.toContain(database.url);
  });

  test("told to stop, the invoice service cuts a handler that does not end by the deadline", async () => {
    const before = await count("invoices");
    const order = { id: randomUUID(), customer: "ada", cents: 4_200 };
    await held(
      "invoices",
      () => place(order),
      async () => {
        const began = performance.now();
        invoices.process.kill("SIGTERM");
        const exit = await invoices.process.exited;
        expect(exit, invoices.process.output()).toEqual({ code: 0, signal: null });
        expect(performance.now() - began).toBeLessThan(stopDeadlineMs);
        expect(invoices.process.output()).toContain("inbox.chunk-cut");
      },
    );
    expect(await count("invoices")).toBe(before);
    expect(await count("oncebox.outbox_messages")).toBe(0);
  });

  test("told to stop, the order service answers what it has begun", async () => {
    const order = { id: randomUUID(), customer: "ada", cents: 4_200 };
    let answer: Promise<number> | undefined;
    const placing = () => {
      answer = place(order);
    };
    await held("orders", placing, async () => {
      orders.process.kill("SIGINT");
      await vi.waitFor(() => expect(orders.process.output()).toContain("service.stopping"));
      expect((await get(`${orders.url}/healthz`)).status).toBe(0);
    });
    expect(await answer).toBe(201);
    const exit = await orders.process.exited;
    expect(exit, orders.process.output()).toEqual({ code: 0, signal: null });
    expect(await count(`orders WHERE id = '${order.id}'`)).toBe(1);
  });

  test("a wrong environment is listed, without its secrets, and ends with exit code 1", async () => {
    const refused = run("invoice-service.ts", {
      DATABASE_URL: "mysql://user:hidden@host/shop",
      KAFKA_BROKERS: "",
      PORT: "70000",
      STOP_DEADLINE_MS: "soon",
    });
    expect(await refused.exited).toEqual({ code: 1, signal: null });
    expect(refused.output()).toBe(`the environment is not right:
  - DATABASE_URL must be a postgres://… URL
  - KAFKA_BROKERS is missing: host:port, or several with commas between
  - PORT must be a whole number from 0 to 65535, not "70000"
  - STOP_DEADLINE_MS must be a whole number from 1000 to 300000, not "soon"
`);
  });

  test("a start that cannot succeed ends with exit code 1 and the reason", async () => {
    const refused = run("invoice-service.ts", { PORT: "0", ORDERS_TOPIC: uniqueName("missing") });
    expect(await refused.exited, refused.output()).toEqual({ code: 1, signal: null });
    expect(refused.output()).toContain("topic-missing");
  });
});
