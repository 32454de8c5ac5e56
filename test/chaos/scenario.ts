// Owns one run from an empty database and topic to the checker's verdict: a producer, the workers,
// and what is done to them. The same for runs that must hold and for those that must not.

import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { migrate } from "@oncebox/postgres";
import { type Admin, Kafka, logLevel } from "kafkajs";
import type { SqlBreak } from "../fixtures/breaks.ts";
import {
  check,
  explain,
  type Intent,
  type LogEnd,
  type LogRecord,
  ledger,
  type Report,
} from "../fixtures/checker.ts";
import { createDatabase } from "../fixtures/databases.ts";
import {
  deliveriesOf,
  effectColumns,
  type OffsetSource,
  type ParkedPlace,
  parkedOf,
  readCommitted,
  readParked,
  readPositions,
  readTexts,
  trackCommits,
  trackParked,
  trackPositions,
  watchOffsets,
} from "../fixtures/history.ts";
import { uniqueName } from "../fixtures/names.ts";
import { readTopic } from "../fixtures/topic-log.ts";
import { type ActCounts, chanceOf, perform, planOf } from "./acts.ts";
import type { WorkerSettings } from "./churn-worker.ts";
import { Crew, type Heard } from "./crew.ts";
import { ChurnProducer, type MessageSource } from "./producer.ts";
import { type Tally, tallyOf } from "./tally.ts";
import { TransactionalWriters } from "./transactional-writers.ts";

export interface Servers {
  readonly databaseUrl: string;
  readonly brokers: readonly string[];
  /** A folder for the runs' files, removed by its owner. */
  readonly folder: string;
}

export interface ChurnSettings {
  readonly messages: number;
  /** Share of the messages that the producer sends twice. */
  readonly repeats: number;
  readonly acts: ActCounts;
  readonly breaks: readonly SqlBreak[];
  readonly kafkaFirst: boolean;
  readonly pipelined: boolean;
  /** Workers at a time. Default 4. */
  readonly places?: number;
  /** Kafka's transactions, half of them aborted, instead of one producer without. */
  readonly transactional?: boolean;
  /** Whether the workers ask Kafka for what is not committed as well. */
  readonly uncommitted?: boolean;
  /** Messages that fail for a while, as `Failing.every` says. Default none. */
  readonly failingEvery?: number;
}

export interface ChurnOutcome {
  readonly report: Report;
  readonly tally: Tally;
  /** Seed, settings, counts and findings: what a failure has to print. */
  readonly account: string;
  readonly topic: string;
  readonly intents: readonly Intent[];
  /** Records in the log that were aborted. */
  readonly aborted: number;
  /** All others. */
  readonly records: readonly LogRecord[];
  /** Every message that was ever set aside. */
  readonly parked: readonly ParkedPlace[];
}

const partitions = 6;
const placesByDefault = 4;
const sessionTimeoutMs = 3_000;
/** Short: the lease of a turn is so long and 5 s. */
const handlerTimeoutMs = 1_000;
const schema = "oncebox";
const consumer = "ledger";
const nudgeMessages = 60;
/** Of the messages; what is left is a reserve for victims that have nothing to do. */
const feedPart = 0.75;
/** Each is a round trip. */
const leaderAttempts = 1_000;

export async function churn(
  servers: Servers,
  seed: number,
  settings: ChurnSettings,
): Promise<ChurnOutcome> {
  const began = performance.now();
  const context = `seed ${seed}, settings ${JSON.stringify(settings)}`;
  try {
    const { report, tally, ...rest } = await run(servers, seed, settings);
    const seconds = ((performance.now() - began) / 1_000).toFixed(1);
    const counts = JSON.stringify({ ...tally, broken: [...tally.broken] });
    const sums = `produced=${report.acknowledged} redelivered=${report.redelivered}`;
    const tried = rest.parked.filter((place) => place.tried).length;
    const aside = ` parked=${rest.parked.length} (${tried} had failed)`;
    const aborted = settings.transactional ? ` aborted=${rest.aborted}` : "";
    const account = `${seconds} s, ${context}\n  ${ledger(report)} ${sums}${aside}${aborted}\n  ${counts}`;
    return { report, tally, ...rest, account: `${account}\n${explain(report)}` };
  } catch (error) {
    throw new Error(`a run broke off (${context}): ${error}`, { cause: error });
  }
}

async function run(servers: Servers, seed: number, settings: ChurnSettings) {
  const { brokers, folder } = servers;
  const kafka = new Kafka({ brokers: [...brokers], logLevel: logLevel.NOTHING });
  const database = await createDatabase(servers.databaseUrl);
  try {
    const pool = database.pool();
    await migrate(pool);
    await pool.query(`CREATE TABLE effects (${effectColumns})`);
    await trackPositions(database.url, schema);
    await trackParked(database.url, schema);
    await trackCommits(database.url, "effects");
    const topic = await createTopic(kafka);
    const source = {
      databaseUrl: database.url,
      schema,
      brokers,
      groupId: consumer,
      consumer,
      topic,
    };
    const { crew, intents, log, offsets } = await work(kafka, source, folder, seed, settings);
    const { records, logEnds, aborted } = log;
    const parked = await readParked(database.url, schema);
    const report = check({
      intents,
      committed: null,
      ...{ records, logEnds },
      deliveries: deliveriesOf(new Map(crew.lives.map(({ name, steps }) => [name, steps]))),
      effects: await readCommitted(database.url, "effects"),
      parked: parkedOf(parked, records),
      positions: await readPositions(database.url, schema),
      offsets,
    });
    const tally = tallyOf(crew, sessionTimeoutMs);
    return { report, tally, topic, intents, aborted, records, parked };
  } finally {
    await database.drop();
  }
}

/** Runs the workers until everything is drained; what they did is in the crew's logs. */
async function work(
  kafka: Kafka,
  source: OffsetSource,
  folder: string,
  seed: number,
  settings: ChurnSettings,
) {
  const watch = await watchOffsets(source);
  const crew = new Crew({
    file: new URL("./churn-worker.ts", import.meta.url),
    folder: runFolder(folder, source.topic),
    places: settings.places ?? placesByDefault,
    argumentOf: (name, orders) => {
      const { databaseUrl, brokers, topic } = source;
      const { breaks, kafkaFirst, pipelined, uncommitted = false, failingEvery: every } = settings;
      const failing = every === undefined ? null : { every, handlerTimeoutMs };
      const place = { name, orders, consumer, databaseUrl, brokers, topic, sessionTimeoutMs };
      return JSON.stringify({
        ...place,
        ...{ breaks, kafkaFirst, pipelined, uncommitted, failing },
      } satisfies WorkerSettings);
    },
  });
  try {
    const intents = await produceAndChurn(kafka, source.topic, crew, seed, settings);
    const log = await readTopic(source.brokers, source.topic);
    await drained(crew, log.logEnds);
    await noneParked(crew, source.databaseUrl);
    await crew.stop();
    return { crew, intents, log, offsets: await watch.stop() };
  } catch (error) {
    await watch.stop().catch(() => undefined);
    throw error;
  } finally {
    await crew.end();
  }
}

/**
 * Each third of an act lets an equal share of the messages go; the rest goes after all. What a victim
 * without work is given beyond that is lent by the shares to come: the last acts need messages as well.
 */
async function produceAndChurn(
  kafka: Kafka,
  topic: string,
  crew: Crew,
  seed: number,
  { messages, repeats, acts, places = placesByDefault, transactional = false }: ChurnSettings,
): Promise<readonly Intent[]> {
  const chance = chanceOf(seed);
  const plan = planOf(acts, places, chance);
  const share = Math.ceil((messages * feedPart) / (3 * plan.length + 1));
  let lent = 0;
  const options = { kafka, topic, messages, repeats, chance };
  const producer: MessageSource = transactional
    ? new TransactionalWriters(options, partitions)
    : new ChurnProducer(options);
  const producing = producer.run();
  const acting = (async () => {
    const feed = () => {
      const repaid = Math.min(lent, share);
      lent -= repaid;
      producer.allow(share - repaid);
    };
    const nudge = () => {
      lent += nudgeMessages;
      producer.allow(nudgeMessages);
    };
    feed();
    for (const act of plan) await perform(act, { crew, sessionTimeoutMs, feed, nudge });
    producer.allowAll();
  })();
  try {
    await Promise.all([producing, acting]);
  } finally {
    producer.abandon();
  }
  return producer.intents;
}

/**
 * Until some worker has said, of each partition, that the database's position is the log's end. Or,
 * where Kafka is trusted, that it goes on from there because the group's offset says so.
 */
async function drained(crew: Crew, logEnds: readonly LogEnd[]): Promise<void> {
  for (const { topic, partition, end } of logEnds) {
    const reached = ({ step: { step, data = {} } }: Heard) => {
      const [place, groupOffset = -1] = String(data.what).split("@");
      if (place === `${topic}/${partition}`) return BigInt(groupOffset) >= end;
      if (step !== "inbox.chunk-committed" && step !== "inbox.claimed") return false;
      return Number(data.partition) === partition && BigInt(String(data.nextOffset)) >= end;
    };
    if (end > 0n) await crew.waitFor(`partition ${partition} to reach ${end}`, reached);
  }
}

/** Until the redrive workers have applied all that was set aside. Throws where something is dead. */
async function noneParked(crew: Crew, databaseUrl: string): Promise<void> {
  for (;;) {
    // Before the look: what is redriven behind it is heard behind it.
    const since = crew.heard.length;
    const left = await readTexts(
      databaseUrl,
      `SELECT concat_ws(' ', topic || '/' || partition || '@' || record_offset, state, attempts, error)
       FROM "${schema}".parked_messages ORDER BY state <> 'dead', id`,
    );
    if (left.length === 0) return;
    const dead = left.filter((each) => each.includes(" dead "));
    if (dead.length > 0) throw new Error(`dead for ever:\n${dead.slice(0, 5).join("\n")}`);
    const redriven = ({ step }: Heard) => step.step === "inbox.redriven";
    await crew.waitFor(`${left.length} parked messages, such as ${left[0]}`, redriven, since);
  }
}

async function createTopic(kafka: Kafka): Promise<string> {
  const topic = uniqueName("churn");
  const admin = kafka.admin();
  await admin.connect();
  try {
    await admin.createTopics({
      topics: [{ topic, numPartitions: partitions }],
      waitForLeaders: true,
    });
    await led(admin, topic);
  } finally {
    await admin.disconnect();
  }
  return topic;
}

/**
 * Until the leader of each partition says that it is. Metadata name it earlier; a send that some
 * partitions still refuse would have to be repeated, and the others would hold it twice.
 */
async function led(admin: Admin, topic: string): Promise<void> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      await admin.fetchTopicOffsets(topic);
      return;
    } catch (error) {
      if (attempt === leaderAttempts) throw error;
    }
  }
}

function runFolder(folder: string, topic: string): string {
  const path = join(folder, topic);
  mkdirSync(path);
  return path;
}
