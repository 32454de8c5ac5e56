// Owns what the tests of the Postgres storage stand on: a schema of its own in a database that the
// test file shares, pools on it, and small shapes of records and rows.

import { randomUUID } from "node:crypto";
import type { LogMark, OutboxEntry, PartitionClaim, RecordRef, Storage } from "@oncebox/core";
import { migrate, type PostgresStorageOptions, postgresStorage } from "@oncebox/postgres";
import type { ClientBase, Pool, PoolConfig } from "pg";
import type { TestDatabase } from "../fixtures/databases.ts";
import { uniqueName } from "../fixtures/names.ts";

export interface Place {
  readonly schema: string;
  readonly pool: Pool;
  readonly storage: Storage<ClientBase>;
  /** A pool for looking at the database beside the storage. */
  readonly admin: Pool;
  /** Registers the partition (0 of "topic" at 0 for "consumer") and claims it. */
  readonly claimed: (partition?: number) => Promise<PartitionClaim>;
  readonly nextOffset: (partition?: number) => Promise<bigint>;
  readonly effects: () => Promise<string[]>;
  readonly insert: (tx: ClientBase, text: string) => Promise<unknown>;
}

export interface PlaceOptions {
  readonly pool?: PoolConfig;
  readonly storage?: Omit<PostgresStorageOptions, "pool" | "schema">;
}

export async function place(
  database: TestDatabase,
  { pool: config = {}, storage: options = {} }: PlaceOptions = {},
): Promise<Place> {
  const schema = uniqueName("place");
  const admin = database.pool({ max: 4 });
  await migrate(admin, { schema });
  await admin.query(`CREATE TABLE ${schema}.effects (text text NOT NULL)`);
  const pool = database.pool({ max: 5, ...config });
  const storage = postgresStorage({ pool, schema, ...options });
  return {
    schema,
    pool,
    storage,
    admin,
    claimed: async (partition = 0) => {
      const start = new Map([[partition, 0n]]);
      await storage.registerTopic({ ...registration, start, added: start });
      return claimOf(storage, partition);
    },
    nextOffset: async (partition = 0) => {
      const { rows } = await admin.query<{ next_offset: string }>(
        `SELECT next_offset FROM ${schema}.inbox_partitions WHERE partition = $1`,
        [partition],
      );
      return BigInt(rows[0]?.next_offset ?? -1);
    },
    effects: async () => {
      const { rows } = await admin.query<{ text: string }>(`SELECT text FROM ${schema}.effects`);
      return rows.map((row) => row.text).sort();
    },
    insert: (tx, text) => tx.query(`INSERT INTO ${schema}.effects VALUES ($1)`, [text]),
  };
}

const registration = { consumer: "consumer", groupId: "group", topic: "topic", topicId: null };

/** What a commit says of a log that the test does not ask about. */
export const noMark: LogMark = { topicId: null, leaderEpoch: null, last: null };

export async function claimOf(
  storage: Storage<ClientBase>,
  partition = 0,
  waitMs = 5_000,
): Promise<PartitionClaim> {
  const { consumer, topic } = registration;
  const claim = await storage.claim({ consumer, topic, partition, owner: "test" }, waitMs);
  if (claim === null) throw new Error(`partition ${partition} is not registered`);
  return claim;
}

/** A message id made of one number. */
export function idOf(number: number): Uint8Array {
  const id = new Uint8Array(16);
  new DataView(id.buffer).setUint32(12, number);
  return id;
}

export function recordAt(offset: number, more: Partial<RecordRef> = {}): RecordRef {
  return {
    offset: BigInt(offset),
    timestamp: 1_700_000_000_000n,
    source: "topic",
    id: idOf(offset),
    checksum: 1,
    key: null,
    ...more,
  };
}

export function entry(lane: number, more: Partial<OutboxEntry> = {}): OutboxEntry {
  const value = new TextEncoder().encode("value");
  return { lane, id: randomUUID(), topic: "topic", key: null, value, headers: [], ...more };
}
