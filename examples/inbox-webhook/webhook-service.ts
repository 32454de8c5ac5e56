// The process around the webhook: it listens, and on SIGTERM answers what has come and ends.

import { createServer } from "node:http";
import { getRequestListener } from "@hono/node-server";
import pg from "pg";
import { settings } from "./settings.ts";
import { createWebhook } from "./webhook.ts";

const stopDeadlineMs = 10_000;

const { databaseUrl, secret, port } = settings(process.env);
const pool = new pg.Pool({ connectionString: databaseUrl, connectionTimeoutMillis: 5_000 });
// Idle connections may break: whoever takes the next one gets a new one.
pool.on("error", ({ message }) => console.error(`an idle connection broke: ${message}`));
const server = createServer(getRequestListener(createWebhook(pool, secret).fetch));
server.listen(port, process.env.HOST ?? "127.0.0.1", () => {
  console.log(`listening on port ${port}`);
});

async function stop(): Promise<void> {
  const overdue = setTimeout(() => process.exit(1), stopDeadlineMs);
  // Connections that are kept for a next request.
  const sweep = setInterval(() => server.closeIdleConnections(), 50);
  await new Promise((resolve) => server.close(resolve));
  clearInterval(sweep);
  await pool.end();
  clearTimeout(overdue);
}

for (const signal of ["SIGTERM", "SIGINT"] as const) {
  process.once(signal, () => void stop());
  // A second one, which npm passes on, too, must not cut off what the first has begun.
  process.on(signal, () => {});
}
