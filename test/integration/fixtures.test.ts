// The fixtures on real servers: what every other integration test stands on.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { Kafka, logLevel } from "kafkajs";
import pg from "pg";
import { describe, expect, inject, test, vi } from "vitest";
import { spawnWorker, type Worker } from "../fixtures/child.ts";
import { openPool } from "../fixtures/databases.ts";
import { startKafka } from "../fixtures/kafka.ts";
import { startPostgres } from "../fixtures/postgres.ts";
import { startProxy } from "../fixtures/proxy.ts";
import { hasKafka, testDatabase, testKafka, testTopic, uniqueName } from "../fixtures/servers.ts";

const owner = new URL("../fixtures/workers/owner.ts", import.meta.url);

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    // ESRCH: there is no such process.
    return false;
  }
}

/** Processes of others report their end to nobody here, so they are looked at. */
async function expectGone({ pids, folder }: { pids: number[]; folder?: string }): Promise<void> {
  await vi.waitFor(
    () => {
      expect(pids.filter(isAlive)).toEqual([]);
      if (folder !== undefined) expect(existsSync(folder)).toBe(false);
    },
    { timeout: 8_000, interval: 20 },
  );
}

async function whatWasStarted(worker: Worker, step: string) {
  const { data } = await worker.waitFor(step, 60_000);
  const started = data as { pids: number[]; folder?: string };
  expect(started.pids.length > 0 && started.pids.every(isAlive)).toBe(true);
  return started;
}

describe("embedded PostgreSQL", () => {
  test("is durable, UTF8, roomy, and takes settings", async () => {
    const server = await startPostgres({ settings: { work_mem: "5MB" } });
    const pool = openPool({ connectionString: server.url });
    const names = ["fsync", "server_encoding", "max_connections", "work_mem"];
    const columns = names.map((name) => `current_setting('${name}') AS ${name}`);
    const { rows } = await pool.query(`SELECT datcollate, ${columns} FROM pg_database`);
    expect(rows[0]).toEqual({
      fsync: "on",
      server_encoding: "UTF8",
      datcollate: "C",
      max_connections: "200",
      work_mem: "5MB",
    });
    expect(server.version).toMatch(/^18\./);
    await pool.end();
    const { pid, folder } = server;
    await server.stop();
    await server.stop();
    await expectGone({ pids: [pid], folder });
  });

  test("keeps committed rows over a crash and a restart", async () => {
    const server = await startPostgres();
    const pool = openPool({ connectionString: server.url });
    await pool.query("CREATE TABLE kept (id int)");
    await pool.query("INSERT INTO kept VALUES (1)");
    await server.stopAbruptly();
    await expect(pool.query("SELECT 1")).rejects.toThrow();
    await server.restart();
    await server.restart();
    const { rows } = await pool.query("SELECT id FROM kept");
    expect(rows).toEqual([{ id: 1 }]);
    await pool.end();
    await server.stop();
  });
});

describe("the shared PostgreSQL", () => {
  test("gives databases of their own, which drop with clients connected", async () => {
    const [one, other] = await Promise.all([testDatabase(), testDatabase()]);
    await one.pool().query("CREATE TABLE mine (id int)");
    await expect(other.pool().query("SELECT * FROM mine")).rejects.toThrow("does not exist");
    const left = new pg.Client({ connectionString: one.url });
    const broken = new Promise((resolve) => left.on("error", resolve));
    await left.connect();
    await one.drop();
    await other.drop();
    await broken;
    await expect(new pg.Client({ connectionString: one.url }).connect()).rejects.toThrow();
  });

  test.each([
    ["toServer", 0],
    ["toClient", 1],
  ] as const)("a COMMIT cut on its way %s leaves %i row", async (direction, rowsLeft) => {
    const database = await testDatabase();
    const url = new URL(database.url);
    const proxy = await startProxy(Number(url.port), url.hostname);
    const direct = database.pool();
    await direct.query("CREATE TABLE effects (id int)");
    let committing = false;
    proxy.onChunk = (towards, _id, bytes) => {
      committing ||= bytes.includes("COMMIT");
      return committing && towards === direction ? "cut" : "pass";
    };
    url.port = String(proxy.port);
    url.hostname = "127.0.0.1";
    const client = await database.pool({ connectionString: url.href }).connect();
    await client.query("BEGIN");
    await client.query("INSERT INTO effects VALUES (1)");
    await expect(client.query("COMMIT")).rejects.toThrow("Connection terminated");
    client.release(true);
    const { rows } = await direct.query("SELECT id FROM effects");
    expect(rows).toHaveLength(rowsLeft);
    await database.drop();
    await proxy.close();
  });
});

/** Sends one message and reads the topic from its start until `count` are there. */
async function sendAndRead(kafka: Kafka, topic: string, value: string, count: number) {
  const producer = kafka.producer();
  await producer.connect();
  await producer.send({ topic, messages: [{ value }] });
  await producer.disconnect();
  const timing = { sessionTimeout: 3_000, heartbeatInterval: 500 };
  const consumer = kafka.consumer({ groupId: uniqueName("group"), ...timing });
  await consumer.connect();
  await consumer.subscribe({ topic, fromBeginning: true });
  const values: string[] = [];
  await new Promise<void>((resolve, reject) => {
    const eachMessage = async ({ message }: { message: { value: Buffer | null } }) => {
      values.push(String(message.value));
      if (values.length === count) resolve();
    };
    consumer.run({ eachMessage }).catch(reject);
  });
  await consumer.disconnect();
  return values;
}

describe.skipIf(!hasKafka())("Kafka", () => {
  test("gives topics of their own, with settings", async () => {
    const kafka = testKafka();
    const topic = await testTopic(kafka, {
      partitions: 3,
      config: { "cleanup.policy": "compact" },
    });
    const admin = kafka.admin();
    await admin.connect();
    const { topics } = await admin.fetchTopicMetadata({ topics: [topic] });
    expect(topics[0]?.partitions).toHaveLength(3);
    await admin.disconnect();
    expect(await sendAndRead(kafka, await testTopic(kafka), "hello", 1)).toEqual(["hello"]);
  });
});

// The broker of KAFKA_BROKERS belongs to somebody else: these need our own.
describe.skipIf(!hasKafka() || process.env.KAFKA_BROKERS)("our own Kafka", () => {
  test("comes back with its topics after a kill, its clients behind a proxy", async () => {
    let proxy: Awaited<ReturnType<typeof startProxy>> | undefined;
    const cluster = await startKafka({
      settings: { "message.max.bytes": "2000000" },
      advertise: async (port) => {
        proxy = await startProxy(port);
        return proxy.port;
      },
    });
    expect(cluster.brokers).toEqual([`127.0.0.1:${proxy?.port}`]);
    const kafka = new Kafka({ brokers: cluster.brokers, logLevel: logLevel.NOTHING });
    const topic = await testTopic(kafka);
    expect(await sendAndRead(kafka, topic, "before", 1)).toEqual(["before"]);
    await cluster.kill();
    await cluster.restart();
    expect(await sendAndRead(kafka, topic, "after", 2)).toEqual(["before", "after"]);
    const { pids, folder } = cluster;
    await cluster.stop();
    await cluster.stop();
    await expectGone({ pids, folder });
    await proxy?.close();
  });

  test("ends with its owner, however that ends", async () => {
    const worker = spawnWorker(owner, { args: ["kafka"] });
    const kafka = await whatWasStarted(worker, "kafka");
    worker.kill("SIGKILL");
    await worker.exited;
    await expectGone(kafka);
  });
});

describe("a test process that dies", () => {
  test("takes its PostgreSQL and its frozen workers with it", async () => {
    const worker = spawnWorker(owner, { args: ["postgres", "frozen worker"] });
    const postgres = await whatWasStarted(worker, "postgres");
    const frozen = await whatWasStarted(worker, "frozen worker");
    worker.kill("SIGKILL");
    await worker.exited;
    await expectGone(postgres);
    await expectGone(frozen);
  });

  test("may leave without stopping anything: it ends, and so does its server", async () => {
    const worker = spawnWorker(owner, { args: ["postgres", "leave"] });
    const postgres = await worker.waitFor("postgres");
    expect(await worker.exited).toEqual({ code: 0, signal: null });
    await expectGone(postgres.data as { pids: number[]; folder: string });
  });
});

test("a red suite exits with 1 after servers have run", async () => {
  const config = fileURLToPath(new URL("../fixtures/red-suite/vitest.config.ts", import.meta.url));
  const vitest = fileURLToPath(new URL("./vitest.mjs", import.meta.resolve("vitest/package.json")));
  // Any address does for Kafka: the suite never connects to it.
  const env = { ...process.env, DATABASE_URL: "", KAFKA_BROKERS: "127.0.0.1:1", CI: "" };
  // This loader writes nothing beside the configuration, where we may not be allowed to.
  const args = [vitest, "run", "--config", config, "--configLoader", "runner"];
  const run = spawn(process.execPath, args, { env });
  let output = "";
  for (const stream of [run.stdout, run.stderr]) {
    stream.on("data", (text) => {
      output += text;
    });
  }
  const [code] = await once(run, "close");
  expect([code, output]).toEqual([1, expect.stringContaining("fails on purpose")]);
});

test("the shared servers are the ones the environment names, where it does", () => {
  const { DATABASE_URL: url, KAFKA_BROKERS: brokers } = process.env;
  if (url) expect(new URL(inject("databaseUrl")).host).toBe(new URL(url).host);
  if (brokers) expect(inject("kafkaBrokers")).toEqual(brokers.split(","));
});
