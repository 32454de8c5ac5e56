/** Rows of partitions: claimed by one process at a time, noted about, and looked at. */
import {
  type LogMark,
  type PartitionClaim,
  type PartitionRef,
  StorageError,
  type StorageVerbs,
} from "@oncebox/core";
import type { Database } from "better-sqlite3";
import { claimLost, nameOf } from "./chunk.ts";
import { type Access, reading, writing } from "./locking.ts";
import {
  claimText,
  clockText,
  consumerText,
  heldText,
  incarnationText,
  leftText,
  positionsText,
  tryingText,
} from "./queries.ts";
import { all, int, numberOf, one, prepared } from "./statements.ts";

interface LogColumns {
  readonly topic_id: string | null;
  readonly leader_epoch: bigint | null;
  readonly last_offset: bigint | null;
  readonly last_time: bigint | null;
  readonly last_checksum: bigint | null;
}

interface ClaimedRow extends LogColumns {
  readonly token: string;
  readonly epoch: bigint;
  readonly next_offset: bigint;
  readonly replay: bigint;
  readonly applied_until: bigint;
  readonly sought_epoch: bigint;
  readonly stalled_claims: bigint;
  readonly trying_offset: bigint | null;
  readonly trying_claims: bigint;
  readonly incarnation: string;
}

interface PositionRow extends LogColumns {
  readonly topic: string;
  readonly partition: bigint;
  readonly next_offset: bigint;
  readonly epoch: bigint;
  readonly owner: string | null;
}

type PartitionVerbs = Pick<StorageVerbs, "claim" | "lostClaims" | "noteClaim" | "positions">;

type Note = Parameters<PartitionVerbs["noteClaim"]>[1];

export function partitionVerbs(access: Access): PartitionVerbs {
  return {
    claim: (ref, waitMs) => claim(access, ref, waitMs),
    lostClaims: async (claims) => {
      if (claims.length === 0) return [];
      return reading(access, "look at claims", (db) =>
        claims.filter((each) => heldAt(db, each) !== each.nextOffset),
      );
    },
    noteClaim: (claim, note) =>
      writing(access, { doing: `note about the claim on ${nameOf(claim)}` }, (db) =>
        noteClaim(db, claim, note),
      ),
    positions: (consumer) =>
      reading(access, `look at the positions of ${consumer}`, (db) => positions(db, consumer)),
  };
}

async function claim(
  access: Access,
  ref: PartitionRef & { readonly owner: string },
  waitMs: number,
): Promise<PartitionClaim | null> {
  const { consumer, topic, partition, owner } = ref;
  const doing = `claim of ${topic}/${partition} for ${consumer}`;
  try {
    const row = await writing(access, { doing, waitMs }, (db) =>
      one<ClaimedRow>(db, claimText, owner, consumer, topic, int(partition)),
    );
    return row === undefined ? null : claimOf(ref, row);
  } catch (cause) {
    if (!(cause instanceof StorageError) || cause.code !== "storage-conflict") throw cause;
    throw new StorageError(
      "claim-timeout",
      `${topic}/${partition} for ${consumer} could not be claimed within ${waitMs} ms: a transaction that writes to this database file was open all the time (SQLite does not tell whose)`,
      { cause, retryable: true, details: { consumer, topic, partition } },
    );
  }
}

function claimOf({ consumer, topic, partition }: PartitionRef, row: ClaimedRow): PartitionClaim {
  const { token, epoch, next_offset: nextOffset, incarnation } = row;
  return {
    ...{ consumer, topic, partition, token, epoch, nextOffset, incarnation },
    log: logOf(row),
    replay: { number: Number(row.replay), until: row.applied_until },
    soughtEpoch: row.sought_epoch,
    stalledClaims: Number(row.stalled_claims),
    trying:
      row.trying_offset === null
        ? null
        : { offset: row.trying_offset, claims: Number(row.trying_claims) },
  };
}

function logOf(row: LogColumns): LogMark {
  const { last_offset: offset, last_time: timestamp, last_checksum: checksum } = row;
  return {
    topicId: row.topic_id,
    leaderEpoch: numberOf(row.leader_epoch),
    // The three are written together.
    last:
      offset === null || timestamp === null || checksum === null
        ? null
        : { offset, timestamp, checksum: Number(checksum) },
  };
}

function noteClaim(db: Database, claim: PartitionClaim, note: Note): void {
  const { consumer, topic, partition, token, epoch } = claim;
  const at = { consumer, topic, partition: int(partition), epoch };
  if (note.kind === "left") {
    prepared(db, leftText).run(at);
    return;
  }
  const { changes } = prepared(db, tryingText).run({ ...at, token, offset: note.offset });
  if (changes !== 1) throw claimLost(claim);
}

/** The position of a claim that is held; null of one that is not. */
export function heldAt(db: Database, claim: PartitionClaim): bigint | null {
  const { consumer, topic, partition, token } = claim;
  const values = [consumer, topic, int(partition), token] as const;
  return one<{ next_offset: bigint }>(db, heldText, ...values)?.next_offset ?? null;
}

function positions(db: Database, name: string): Awaited<ReturnType<PartitionVerbs["positions"]>> {
  const consumer = one<{ id: bigint; group_id: string | null }>(db, consumerText, name);
  const meta = one<{ incarnation: string }>(db, incarnationText);
  const clock = one<{ now: bigint }>(db, clockText);
  if (meta === undefined || clock === undefined) throw new TypeError("oncebox_meta has no row");
  const rows = consumer === undefined ? [] : all<PositionRow>(db, positionsText, consumer.id);
  return {
    groupId: consumer?.group_id ?? null,
    incarnation: meta.incarnation,
    at: Number(clock.now),
    positions: rows.map((row) => {
      const { topic, next_offset: nextOffset, epoch, owner } = row;
      const partition = Number(row.partition);
      return { topic, partition, nextOffset, epoch, owner, log: logOf(row) };
    }),
  };
}
