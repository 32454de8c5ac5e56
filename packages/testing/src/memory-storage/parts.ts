/** What the parts of a memory storage share, and the rows they keep. */
import type { LogMark, ParkedError, ParkedRecord, ParkedState } from "@oncebox/core";
import type { MemoryDatabase } from "./database.ts";
import type { Pool } from "./pool.ts";

export interface StorageParts {
  readonly database: MemoryDatabase;
  readonly pool: Pool;
  /** How long a statement of a handler waits for a lock; null: without limit. */
  readonly lockTimeoutMs: number | null;
}

/** A registration or a seek waits for others of the same topic. */
export const registerLockTimeoutMs = 10_000;

/** One partition of a consumer. */
export interface PartitionRow {
  readonly consumer: string;
  readonly topic: string;
  readonly partition: number;
  readonly nextOffset: bigint;
  readonly token: string | null;
  readonly epoch: bigint;
  readonly owner: string | null;
  readonly log: LogMark;
  readonly appliedUntil: bigint;
  readonly replay: number;
  readonly replaying: boolean;
  readonly soughtEpoch: bigint;
  readonly stalledClaims: number;
  /** The record that is tried alone, in how many claims, and under which of them last. */
  readonly trying: {
    readonly offset: bigint;
    readonly claims: number;
    readonly epoch: bigint | null;
  } | null;
  /** Whether messages of it may be parked. False is true: only chunks park, and each sets it. */
  readonly parked: boolean;
}

/** A message that was set aside. */
export interface ParkedRow {
  /** In the order of parking. */
  readonly id: bigint;
  readonly consumer: string;
  readonly topic: string;
  readonly partition: number;
  readonly record: ParkedRecord;
  /** Its key as text, to be compared; null: it has none, and holds up nothing. */
  readonly key: string | null;
  readonly state: ParkedState;
  readonly attempts: number;
  /** Of the turn that tries it; null: there is none. */
  readonly token: string | null;
  readonly error: ParkedError | null;
  /** Milliseconds since 1970, as is `nextAttemptAt`: what is shown. */
  readonly parkedAt: number;
  readonly nextAttemptAt: number;
  /** What decides, by the database's clock: the next try, or the end of the lease. */
  readonly dueAt: number;
}

/** An id that was seen, and by which record. */
export interface IdRow {
  readonly consumer: string;
  /** That of its record, brought to where its partition is; of `inbox.once`, that of the clock. */
  readonly time: bigint;
  readonly checksum: number | null;
  /** Null where it came through `inbox.once`. */
  readonly taker: {
    readonly topic: string;
    readonly partition: number;
    readonly offset: bigint;
  } | null;
}

export interface LaneRow {
  readonly token: string;
  readonly owner: string;
  /** By the database's clock. */
  readonly leasedUntil: number;
}

export function partitionKey(at: {
  readonly consumer: string;
  readonly topic: string;
  readonly partition: number;
}): string {
  return JSON.stringify([at.consumer, at.topic, at.partition]);
}

export function idKey(consumer: string, source: string, id: Uint8Array): string {
  return JSON.stringify([consumer, source, hexOf(id)]);
}

export function hexOf(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
