// Owns the HTTP server of a service: it listens, answers the probes, and ends in order.

import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { getRequestListener } from "@hono/node-server";
import { Hono } from "hono";
import { bodyLimit } from "hono/body-limit";
import { HTTPException } from "hono/http-exception";
import { log } from "./log.ts";

const bodyBytesMax = 64 * 1024;

/** What is wrong, for a probe; nothing where all is well. */
export interface Probes {
  /** For /healthz: only what a new process may help against. */
  readonly notLive: () => readonly string[];
  /** For /readyz: also what passes by itself. */
  readonly notReady: () => Promise<readonly string[]>;
}

export function createApp({ notLive, notReady }: Probes): Hono {
  const app = new Hono();
  app.use(bodyLimit({ maxSize: bodyBytesMax }));
  const answer = (reasons: readonly string[]) =>
    Response.json(
      { ok: reasons.length === 0, reasons },
      { status: reasons.length === 0 ? 200 : 503 },
    );
  app.get("/healthz", () => answer(notLive()));
  app.get("/readyz", async () => answer(await notReady()));
  app.onError((error, { req }) => {
    if (error instanceof HTTPException) {
      return Response.json({ error: error.message }, { status: error.status });
    }
    log("error", "http.failed", { method: req.method, path: req.path, error });
    return Response.json({ error: "internal error" }, { status: 500 });
  });
  return app;
}

/** The reasons that there are. */
export function present(...reasons: readonly (string | null)[]): string[] {
  return reasons.filter((reason) => reason !== null);
}

/** Resolves when it listens, with the port, which differs from the one asked for where that was 0. */
export async function listen(app: Hono, host: string, port: number) {
  let closing = false;
  const answer = getRequestListener(app.fetch);
  const server = createServer((request, response) => {
    // Or a client that always asks again over the same connection would keep the server from ending.
    if (closing) response.setHeader("connection", "close");
    return answer(request, response);
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, host, resolve);
  });
  const close = (deadlineMs: number) => {
    closing = true;
    return closed(server, deadlineMs);
  };
  return { port: (server.address() as AddressInfo).port, close };
}

/** Takes no new requests, and lets running ones end: by the deadline, after which they are cut. */
async function closed(server: Server, deadlineMs: number): Promise<void> {
  const sweep = setInterval(() => server.closeIdleConnections(), 50);
  const cut = setTimeout(() => server.closeAllConnections(), deadlineMs);
  await new Promise((resolve) => server.close(resolve));
  clearInterval(sweep);
  clearTimeout(cut);
}
