/** What the parts of a memory storage share, and the rows they keep. */
import type { LogMark } from "@oncebox/core";
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
}

/** An id that was seen, and by which record. */
export interface IdRow {
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
  const hex = Array.from(id, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return JSON.stringify([consumer, source, hex]);
}
