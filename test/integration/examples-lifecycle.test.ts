// The life of a service's process, as examples/orders-postgres have it: what a second signal does.

import { setTimeout as delay } from "node:timers/promises";
import { expect, test, vi } from "vitest";
import { spawnWorker } from "../fixtures/child.ts";

test.each([
  ["SIGINT", 130],
  ["SIGTERM", 143],
] as const)("a second %s cuts a stop off, one that npm doubled does not", async (signal, code) => {
  const service = spawnWorker(new URL("../fixtures/workers/slow-to-stop.ts", import.meta.url));
  const said = (event: string) =>
    vi.waitFor(() => expect(service.output()).toContain(event), { timeout: 30_000 });
  await said("service.started");
  service.kill(signal);
  await said("service.stopping");
  service.kill(signal);
  // What tells a doubled signal from a second one is the time between them.
  await delay(1_500);
  expect(service.output()).not.toContain("service.stop-cut");
  service.kill(signal);
  expect(await service.exited, service.output()).toEqual({ code, signal: null });
});
