// Everything on this machine, without Docker: PostgreSQL and Kafka where DATABASE_URL and
// KAFKA_BROKERS do not name some, then tables and topic, then both services. Ctrl-C ends it all and
// removes the servers it started. Not part of what is worth copying.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { openGuard } from "../../test/fixtures/guard.ts";
import { kafkaAvailability, provideKafka } from "../../test/fixtures/kafka.ts";
import { kafkaObstacle } from "../../test/fixtures/kafka-jars.ts";
import { startPostgres } from "../../test/fixtures/postgres.ts";

const undo: (() => Promise<unknown>)[] = [];
// Kills what is left, however this process ends.
const guard = openGuard();
undo.push(() => guard.close());
// To be ended is how this is meant to end.
let interrupted: () => void = () => {};
const interruption = new Promise<number>((resolve) => {
  interrupted = () => resolve(0);
});
for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => interrupted());

async function servers(): Promise<Record<string, string>> {
  if (kafkaAvailability() === "none") {
    throw new Error(`no Kafka: ${kafkaObstacle()}, and KAFKA_BROKERS is not set`);
  }
  const named = process.env.DATABASE_URL;
  const postgres = named ? { url: named, stop: async () => {} } : startPostgres();
  const starting = [postgres, provideKafka()] as const;
  for (const server of starting) undo.push(async () => (await server).stop());
  const [{ url }, { brokers }] = await Promise.all(starting);
  return { DATABASE_URL: url, KAFKA_BROKERS: brokers.join(",") };
}

function run(entry: string, env: Readonly<Record<string, string>>): ChildProcess {
  const file = fileURLToPath(new URL(entry, import.meta.url));
  const child = spawn(process.execPath, ["--import", "tsx", file], {
    env: { ...process.env, ...env },
    cwd: import.meta.dirname,
    stdio: "inherit",
    // Ctrl-C reaches this process alone, which then stops them in order.
    detached: true,
  });
  if (child.pid !== undefined) guard.watch(child.pid);
  child.once("exit", () => child.pid !== undefined && guard.forget(child.pid));
  return child;
}

async function ended(child: ChildProcess): Promise<number> {
  if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
  return child.exitCode ?? 1;
}

async function stop(child: ChildProcess): Promise<void> {
  child.kill("SIGTERM");
  await ended(child);
}

async function play(): Promise<number> {
  const env = await servers();
  const prepared = await ended(run("prepare.ts", env));
  if (prepared !== 0) return prepared;
  const services = ["order-service.ts", "invoice-service.ts"].map((entry) => {
    // Each has its own default: one PORT for both would not do.
    const child = run(entry, { ...env, PORT: "" });
    undo.push(() => stop(child));
    return child;
  });
  console.log(`
  curl -i localhost:3001/orders -H 'content-type: application/json' \\
    -d '{"id":"7d3c1f5e-0b8a-4c57-9f0e-2a6b5d1c9e10","customer":"ada","cents":4200}'
  curl -i localhost:3002/invoices/7d3c1f5e-0b8a-4c57-9f0e-2a6b5d1c9e10
  curl -i localhost:3002/readyz
`);
  return Promise.race(services.map(ended));
}

let code = 1;
try {
  code = await Promise.race([play(), interruption]);
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
}
for (const step of undo.reverse()) await step().catch(() => undefined);
process.exit(code);
