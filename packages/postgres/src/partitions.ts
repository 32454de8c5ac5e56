/** Rows of partitions: claimed by one process at a time, noted about, and looked at. */
import type { LogMark, PartitionClaim, PartitionRef, Storage } from "@oncebox/core";
import { beginScript } from "./begin.ts";
import { blockerOf, lockTimeout } from "./blockers.ts";
import { claimLost, nameOf } from "./chunk.ts";
import type { ClaimedRow, ClaimQueries, LogColumns } from "./claim-queries.ts";
import type { Connections } from "./connections.ts";
import { rollBack, settled } from "./handler-transaction.ts";
import type { OperatorQueries, PositionRow } from "./operator-queries.ts";
import { ownTransaction } from "./own-transaction.ts";
import { type StorageErrors, sqlState } from "./postgres-errors.ts";
import type { InboxQueries } from "./queries.ts";

export interface PartitionParts {
  readonly connections: Connections;
  readonly queries: InboxQueries;
  readonly claims: ClaimQueries;
  readonly operator: OperatorQueries;
  readonly errors: StorageErrors;
  readonly idleInTransactionTimeoutMs: number | null;
  /** Of a note about a claim: who holds the row counts by himself what he commits. */
  readonly lockTimeoutMs: number;
}

type PartitionVerbs = Pick<Storage<never>, "claim" | "lostClaims" | "noteClaim" | "positions"> & {
  /** The consumer as an integer; null where it was never registered. */
  readonly consumerId: (name: string) => Promise<number | null>;
};

export function partitionVerbs(parts: PartitionParts): PartitionVerbs {
  // Rows of consumers are never deleted, and a stale number only fences: a claim's token is random.
  const consumers = new Map<string, number>();
  return {
    claim: async (ref, waitMs) => {
      const row = await claim(parts, ref, waitMs);
      if (row === null) return null;
      consumers.set(ref.consumer, row.consumer);
      return claimOf(ref, row);
    },
    lostClaims: (claims) => lostClaims(parts, claims),
    noteClaim: (claim, note) => noteClaim(parts, claim, note),
    positions: (consumer) => positions(parts, consumer),
    consumerId: async (name) => {
      const known = consumers.get(name);
      if (known !== undefined) return known;
      const { rows } = await parts.connections.with("look-up of a consumer", (connection) =>
        connection.run<{ id: number }>(parts.queries.bound(name)),
      );
      const id = rows[0]?.id ?? null;
      if (id !== null) consumers.set(name, id);
      return id;
    },
  };
}

function claimOf({ consumer, topic, partition }: PartitionRef, row: ClaimedRow): PartitionClaim {
  const { token, epoch, next_offset: nextOffset, incarnation } = row;
  return {
    ...{ consumer, topic, partition, token, epoch, nextOffset, incarnation },
    log: logOf(row),
    replay: { number: row.replay, until: row.applied_until },
    soughtEpoch: row.sought_epoch,
    stalledClaims: row.stalled_claims,
    trying:
      row.trying_offset === null ? null : { offset: row.trying_offset, claims: row.trying_claims },
  };
}

function logOf(row: LogColumns): LogMark {
  const { last_offset: offset, last_time: timestamp, last_checksum: checksum } = row;
  return {
    topicId: row.topic_id,
    leaderEpoch: row.leader_epoch,
    // The three are written together.
    last:
      offset === null || timestamp === null || checksum === null
        ? null
        : { offset, timestamp, checksum },
  };
}

async function claim(
  { connections, claims, errors, idleInTransactionTimeoutMs }: PartitionParts,
  ref: PartitionRef & { readonly owner: string },
  waitMs: number,
): Promise<ClaimedRow | null> {
  const connection = await connections.acquire();
  // 0 would mean no limit.
  const lockTimeoutMs = Math.max(1, Math.ceil(waitMs));
  connection.mayWait(lockTimeoutMs);
  const begun = settled(
    connection.script(beginScript({ lockTimeoutMs, idleInTransactionTimeoutMs })),
  );
  if (!connection.pipelined) await begun;
  const claiming = settled(connection.run<ClaimedRow & Record<string, unknown>>(claims.claim(ref)));
  if (!connection.pipelined) await claiming;
  // After a failure it rolls back, and says so.
  const committing = settled(connection.script("COMMIT"));
  const [first, second, third] = await Promise.all([begun, claiming, committing]);
  try {
    for (const result of [first, second, third]) {
      if (result.status === "rejected") throw result.reason;
    }
    connection.release();
    return second.status === "fulfilled" ? (second.value.rows[0] ?? null) : null;
  } catch (cause) {
    const { consumer, topic, partition } = ref;
    const timedOut = sqlState(cause) === "55P03";
    const blocker = timedOut ? await blockerOf(connection, claims, ref, [partition]) : null;
    await rollBack(connection);
    const name = nameOf(ref);
    if (!timedOut) throw errors.translated(`claim of ${name}`, cause);
    const details = { consumer, topic, partition };
    throw lockTimeout(`${name} could not be claimed`, waitMs, blocker, { cause, details });
  }
}

async function lostClaims(
  { connections, operator }: PartitionParts,
  claims: readonly PartitionClaim[],
): Promise<readonly PartitionClaim[]> {
  if (claims.length === 0) return [];
  const { rows } = await connections.with("look at claims", (connection) =>
    connection.run<{ place: bigint }>(operator.lostClaims(claims)),
  );
  const lost = new Set(rows.map((row) => Number(row.place) - 1));
  return claims.filter((_, index) => lost.has(index));
}

async function noteClaim(
  parts: PartitionParts,
  claim: PartitionClaim,
  note: Parameters<PartitionVerbs["noteClaim"]>[1],
): Promise<void> {
  const { claims, lockTimeoutMs } = parts;
  const doing = `note about the claim on ${nameOf(claim)}`;
  const statement = note.kind === "left" ? claims.left(claim) : claims.trying(claim, note.offset);
  const { rowCount } = await ownTransaction(parts, { doing, lockTimeoutMs }, (connection) =>
    connection.run(statement),
  );
  if (note.kind === "trying" && rowCount !== 1) throw claimLost(claim);
}

async function positions(
  { connections, operator }: PartitionParts,
  consumer: string,
): ReturnType<Storage<never>["positions"]> {
  const { rows } = await connections.with(`look at the positions of ${consumer}`, (connection) =>
    connection.run<PositionRow & Record<string, unknown>>(operator.positions(consumer)),
  );
  const [first] = rows;
  if (first === undefined) throw new TypeError("oncebox_positions answered nothing");
  return {
    groupId: first.group_id,
    incarnation: first.incarnation,
    at: Number(first.now),
    positions: rows.flatMap((row) => {
      const { topic, partition, next_offset: nextOffset, epoch, owner } = row;
      if (topic === null) return [];
      return [{ topic, partition, nextOffset, epoch, owner, log: logOf(row) }];
    }),
  };
}
