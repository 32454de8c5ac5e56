// The webhook example as a provider meets it: two processes of it on one database, and the same event
// sent to both of them many times at once.

import { fileURLToPath } from "node:url";
import type pg from "pg";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { signatureOf } from "../../examples/inbox-webhook/events.ts";
import { spawnWorker, type Worker } from "../fixtures/child.ts";
import type { TestDatabase } from "../fixtures/databases.ts";
import { freePort } from "../fixtures/ports.ts";
import { testDatabase, uniqueName } from "../fixtures/servers.ts";

const secret = "a secret of the tests";
const folder = new URL("../../examples/inbox-webhook/", import.meta.url);

describe("examples/inbox-webhook", () => {
  let database: TestDatabase;
  let pool: pg.Pool;
  const ports: number[] = [];
  const processes: Worker[] = [];

  function run(entry: string, env: Readonly<Record<string, string>>): Worker {
    const { url } = database;
    return spawnWorker(fileURLToPath(new URL(entry, folder)), {
      env: { DATABASE_URL: url, WEBHOOK_SECRET: secret, ...env },
    });
  }

  async function send(
    event: object | string | Buffer,
    options: { to?: number; signature?: string } = {},
  ) {
    const text = typeof event === "string" ? event : JSON.stringify(event);
    const body = Buffer.isBuffer(event) ? event : Buffer.from(text);
    const { to = 0, signature = signatureOf(body, secret) } = options;
    const answer = await fetch(`http://127.0.0.1:${ports[to]}/webhooks/payments`, {
      method: "POST",
      headers: { "x-signature": signature },
      body,
    });
    return { status: answer.status, answer: (await answer.json()) as Record<string, unknown> };
  }

  async function balanceOf(account: string): Promise<number> {
    const { rows } = await pool.query<{ cents: string }>(
      "SELECT cents FROM balances WHERE account = $1",
      [account],
    );
    return Number(rows[0]?.cents ?? 0);
  }

  beforeAll(async () => {
    database = await testDatabase();
    pool = database.pool();
    const prepared = run("prepare.ts", {});
    expect(await prepared.exited, prepared.output()).toMatchObject({ code: 0 });
    for (const _ of [1, 2]) {
      const port = await freePort();
      ports.push(port);
      processes.push(run("webhook-service.ts", { PORT: String(port) }));
    }
    await Promise.all(
      ports.map((port) =>
        vi.waitFor(() => fetch(`http://127.0.0.1:${port}/healthz`), { timeout: 30_000 }),
      ),
    );
  });

  afterAll(async () => {
    for (const one of processes) one.kill();
    await Promise.all(processes.map(({ exited }) => exited));
    await database.drop();
  });

  test("an event that is sent ten times at once takes effect once", async () => {
    const account = uniqueName("account");
    const event = { id: uniqueName("event"), account, cents: 500 };
    const answers = await Promise.all(
      Array.from({ length: 10 }, (_, index) => send(event, { to: index % 2 })),
    );
    expect(answers.map(({ status }) => status)).toEqual(Array(10).fill(200));
    const seen = answers.map(({ answer }) => answer.seen).sort();
    expect(seen).toEqual([...Array(9).fill("duplicate"), "new"]);
    expect(await balanceOf(account)).toBe(500);
    expect((await send({ ...event, id: uniqueName("event") })).answer.seen).toBe("new");
    expect(await balanceOf(account)).toBe(1_000);
  });

  test("an id that comes again with another body is refused, and has no effect", async () => {
    const account = uniqueName("account");
    const event = { id: uniqueName("event"), account, cents: 500 };
    expect(await send(event)).toMatchObject({ status: 200 });
    expect(await send({ ...event, cents: 900 }, { to: 1 })).toMatchObject({ status: 409 });
    expect(await balanceOf(account)).toBe(500);
  });

  // Guards the signature's being held against the bytes: decoded, and encoded anew, these are others.
  test("a genuine event counts whatever its bytes are: a byte order mark, bytes that are no text", async () => {
    const account = uniqueName("account");
    const event = () => Buffer.from(JSON.stringify({ id: uniqueName("event"), account, cents: 5 }));
    const marked = Buffer.concat([Buffer.from([0xef, 0xbb, 0xbf]), event()]);
    expect(await send(marked)).toMatchObject({ status: 200 });
    const note = Buffer.from([...Buffer.from(',"note":"'), 0xff, ...Buffer.from('"}')]);
    const noted = Buffer.concat([event().subarray(0, -1), note]);
    expect(await send(noted)).toMatchObject({ status: 200 });
    expect(await balanceOf(account)).toBe(10);
  });

  test("what is not signed, or no event, is refused", async () => {
    const event = { id: uniqueName("event"), account: uniqueName("account"), cents: 500 };
    expect(await send(event, { signature: "" })).toMatchObject({ status: 401 });
    expect(await send(event, { signature: "0".repeat(64) })).toMatchObject({ status: 401 });
    expect(await send("{")).toMatchObject({ status: 400 });
    expect(await send({ ...event, cents: "500" })).toMatchObject({ status: 400 });
    expect(await balanceOf(event.account)).toBe(0);
  });

  test("says what is wrong with its environment, and no secret", async () => {
    const wrong = { DATABASE_URL: "mysql://u:hidden@host", WEBHOOK_SECRET: "short", PORT: "x" };
    const refused = run("webhook-service.ts", wrong);
    expect(await refused.exited).toMatchObject({ code: 1 });
    for (const name of ["DATABASE_URL", "WEBHOOK_SECRET", "PORT"]) {
      expect(refused.output()).toContain(`  - ${name} must`);
    }
    expect(refused.output()).not.toMatch(/hidden|short/);
  });

  test("ends with exit code 0 on SIGTERM", async () => {
    processes[0]?.kill("SIGTERM");
    expect(await processes[0]?.exited).toEqual({ code: 0, signal: null });
  });
});
