/** From SIGKILL or SIGSTOP inside a chunk to the first commit of its partition by somebody else. */
import { migrate } from "@oncebox/postgres";
import { Kafka, logLevel, Partitioners } from "kafkajs";
import { spawnWorker, type Worker } from "../test/fixtures/child.ts";
import { createDatabase } from "../test/fixtures/databases.ts";
import { uniqueName } from "../test/fixtures/names.ts";
import type { Servers } from "./bench.ts";
import { median } from "./figures.ts";

const rounds = 3;
const partitions = 4;

type Blow = "SIGKILL" | "SIGSTOP";

export async function takeover(servers: Servers): Promise<string> {
  const killed = await takeovers(servers, "SIGKILL");
  const frozen = await takeovers(servers, "SIGSTOP");
  return `kill → first commit by the new owner: ${told(killed)}; freeze inside a transaction: ${told(frozen)} (session 6,000 ms, idle in transaction 3,000 ms)`;
}

function told(took: readonly number[]): string {
  return `median ${median(took).toFixed(0)} ms of ${took.map((ms) => ms.toFixed(0)).join(", ")}`;
}

async function takeovers({ databaseUrl, brokers }: Servers, blow: Blow): Promise<number[]> {
  const database = await createDatabase(databaseUrl);
  await migrate(database.pool());
  const kafka = new Kafka({ brokers: [...brokers], logLevel: logLevel.NOTHING });
  const topic = uniqueName("takeover");
  const admin = kafka.admin();
  await admin.connect();
  await admin.createTopics({
    topics: [{ topic, numPartitions: partitions }],
    waitForLeaders: true,
  });
  await admin.disconnect();
  const producer = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner });
  await producer.connect();
  const NAME = uniqueName("takeover");
  const env = {
    DATABASE_URL: database.url,
    KAFKA_BROKERS: brokers.join(","),
    TOPIC: topic,
    NAME,
  };
  const start = () => spawnWorker(new URL("takeover-worker.ts", import.meta.url), { env });
  const feeding = setInterval(() => {
    const messages = Array.from({ length: 20 }, (_, i) => ({
      partition: i % partitions,
      value: "x",
    }));
    // A send that fails shows in the result: nothing is taken over then.
    producer.send({ topic, messages }).catch(() => undefined);
  }, 50);
  const took: number[] = [];
  const workers: Worker[] = [start()];
  const all = [...workers];
  const startMore = () => {
    const worker = start();
    all.push(worker);
    return worker;
  };
  try {
    for (let round = 0; round < rounds; round += 1) {
      took.push(await oneRound(workers, startMore, blow));
    }
  } finally {
    clearInterval(feeding);
    for (const worker of all) worker.kill();
    await Promise.all(all.map((worker) => worker.exited));
    await producer.disconnect();
    await database.drop();
  }
  return took;
}

async function oneRound(workers: Worker[], start: () => Worker, blow: Blow): Promise<number> {
  const [victim] = workers as [Worker];
  const heir = start();
  workers.push(heir);
  await heir.waitFor("inbox.chunk-committed");
  const since = victim.steps.length;
  const opened = await victim.waitFor(
    (step) => step.step === "inbox.chunk-opening" && victim.steps.indexOf(step) >= since,
  );
  const killedAt = Date.now();
  victim.kill(blow);
  workers.shift();
  const committed = await heir.waitFor(
    (step) =>
      step.step === "inbox.chunk-committed" &&
      step.at >= killedAt &&
      step.data?.partition === opened.data?.partition,
  );
  return committed.at - killedAt;
}
