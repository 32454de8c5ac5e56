// Owns what a run without servers stands on: a SQLite file and a broker in memory, and the questions
// asked of them from outside. Its connection and its broker are those of nobody who dies.

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { migrate } from "@oncebox/sqlite";
import { type MemoryBroker, memoryBroker } from "@oncebox/testing";
import type { Database } from "better-sqlite3";
import type { LogEnd, LogRecord, OffsetPair } from "../../../test/fixtures/checker.ts";
import type { Undo } from "../ending.ts";
import { databaseAt, forgetful, type OpenDatabase, tables } from "./database.ts";
import { trackPositions } from "./history.ts";

export const topic = "orders.placed";
/** Of the consumers' stable name, and of their group. */
export const billing = "billing";
export const partitions = 3;

export interface World {
  readonly file: string;
  readonly open: OpenDatabase;
  /** As `open`, for consumers: forgetful where that is what the run is about. */
  readonly openForConsumer: OpenDatabase;
  /** How many statements the break has changed. */
  readonly broken: () => number;
  readonly database: Database;
  readonly broker: MemoryBroker;
}

export async function openWorld(withoutIds: boolean, undo: Undo): Promise<World> {
  const folder = await mkdtemp(join(tmpdir(), "oncebox-demo-"));
  undo.push(() => rm(folder, { recursive: true, force: true }));
  const file = join(folder, "shop.db");
  const open = await databaseAt(file);
  const database = open();
  undo.push(async () => database.close());
  await migrate(database);
  database.exec(tables);
  trackPositions(database);
  const broker = memoryBroker({ name: "checker" });
  broker.admin.createTopic(topic, { partitions });
  let broken = 0;
  const count = () => {
    broken += 1;
  };
  const openForConsumer = withoutIds ? () => forgetful(open(), count) : open;
  return { file, open, openForConsumer, broken: () => broken, database, broker };
}

/** The first offset without a committed outcome, by partition. */
export function positionsOf({ database }: World): ReadonlyMap<number, bigint> {
  const rows = database
    .prepare("SELECT partition, next_offset FROM oncebox_inbox_partitions WHERE topic = ?")
    .safeIntegers(true)
    .all(topic) as { partition: bigint; next_offset: bigint }[];
  return new Map(rows.map((row) => [Number(row.partition), row.next_offset]));
}

/** The group's offsets first: what the database holds later can only be more. */
export async function offsetPairs(world: World): Promise<OffsetPair[]> {
  const { offsets } = await world.broker.group(billing, [topic]);
  const group = new Map(offsets.map(({ partition, offset }) => [partition, offset]));
  return [...positionsOf(world)].map(([partition, nextOffset]) => {
    return { topic, partition, groupOffset: group.get(partition) ?? 0n, nextOffset };
  });
}

/** The whole log, with each record's id as it lies there. */
export function recordsOf({ broker }: World): LogRecord[] {
  return broker.admin.stored(topic).map(({ partition, offset, key, headers }) => {
    const id = headers.find(([name]) => name === "id")?.[1] ?? null;
    return { topic, partition, offset, id: textOf(id), key: textOf(key) };
  });
}

function textOf(bytes: Uint8Array | null): string | null {
  return bytes === null ? null : new TextDecoder().decode(bytes);
}

export async function logEndsOf({ broker }: World): Promise<LogEnd[]> {
  const { offsets } = await broker.offsets(topic, "latest");
  return [...offsets].map(([partition, end]) => ({ topic, partition, end }));
}

/** Orders waiting in the outbox, and records without an outcome in the database. */
export async function left(world: World): Promise<number> {
  const waiting = countOf(world, "SELECT count(*) FROM oncebox_outbox_messages");
  const positions = positionsOf(world);
  const ends = await logEndsOf(world);
  const behind = ends.map(({ partition, end }) => Number(end - (positions.get(partition) ?? 0n)));
  return behind.reduce((sum, count) => sum + count, waiting);
}

export function countOf({ database }: World, query: string, ...values: unknown[]): number {
  return Number(
    database
      .prepare(query)
      .pluck()
      .get(...values),
  );
}
