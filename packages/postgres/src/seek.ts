/**
 * Positions moved by hand or by a policy, and the log of who did what. Decides nothing about where
 * to: it moves all or nothing, behind the locks of the partitions, and fences whoever read there.
 */
import { type AuditEntry, ConfigurationError, type Storage, StorageError } from "@oncebox/core";
import { blockerOf, lockTimeout } from "./blockers.ts";
import type { Connection } from "./connections.ts";
import type { AuditRow, LockedRow } from "./operator-queries.ts";
import { ownTransaction } from "./own-transaction.ts";
import type { PartitionParts } from "./partitions.ts";
import { sqlState } from "./postgres-errors.ts";
import { checkOffset, registerLockTimeoutMs } from "./registration.ts";

type Seek = Parameters<Storage<never>["seek"]>[0];
type Moves = Awaited<ReturnType<Storage<never>["seek"]>>;
type SeekVerbs = Pick<Storage<never>, "seek" | "audit" | "auditLog">;

export function seekVerbs(parts: PartitionParts): SeekVerbs {
  const { connections, operator } = parts;
  return {
    seek: (request) => seek(parts, request),
    audit: async (entry) => {
      const statement = operator.audit(entry);
      await connections.with(`audit of ${entry.consumer}`, (connection) =>
        connection.run(statement),
      );
    },
    auditLog: async (consumer, page) => {
      const { rows } = await connections.with(`audit log of ${consumer}`, (connection) =>
        connection.run<AuditRow & Record<string, unknown>>(operator.auditLog(consumer, page)),
      );
      return rows.map(
        ({ id, at, actor, action, reason, details }): AuditEntry => ({
          ...{ id, at: Number(at), consumer, actor, action, reason },
          details: JSON.parse(details),
        }),
      );
    },
  };
}

async function seek(parts: PartitionParts, request: Seek): Promise<Moves> {
  const { consumer, topic, moves, expected } = request;
  for (const { to } of moves) checkOffset(to);
  const moved = moves.map((move) => move.partition);
  if (new Set(moved).size < moved.length)
    throw new RangeError("a partition is moved once at a time");
  if (moves.length === 0) return [];
  const partitions = expected === null ? moved : [...new Set([...moved, expected.partition])];
  const doing = `seek of ${topic} for ${consumer}`;
  try {
    return await ownTransaction(
      parts,
      { doing, lockTimeoutMs: registerLockTimeoutMs },
      (connection) => move(parts, connection, request, partitions),
    );
  } catch (error) {
    if (!(error instanceof StorageError) || sqlState(error.cause) !== "55P03") throw error;
    const blocker = await parts.connections.with(doing, (connection) =>
      blockerOf(connection, parts.claims, request, partitions),
    );
    const what = `${topic}${blocker === null ? "" : `/${blocker.partition}`} for ${consumer} could not be moved`;
    const details = { consumer, topic, partitions };
    throw lockTimeout(what, registerLockTimeoutMs, blocker, { cause: error.cause, details });
  }
}

async function move(
  { operator }: PartitionParts,
  connection: Connection,
  { consumer, expected, audit, ...request }: Seek,
  partitions: readonly number[],
): Promise<Moves> {
  const { topic, moves, replay } = request;
  const { rows } = await connection.run<LockedRow & Record<string, unknown>>(
    operator.seekLock(consumer, topic, partitions),
  );
  const byPartition = new Map(rows.map((row) => [row.partition, row]));
  if (expected !== null && byPartition.get(expected.partition)?.token !== expected.token) {
    return null;
  }
  const [first] = rows;
  const missing = moves.filter(({ partition }) => !byPartition.has(partition));
  if (first === undefined || missing.length > 0) {
    throw notRegistered(
      consumer,
      topic,
      missing.map(({ partition }) => partition),
    );
  }
  const moved = moves.map(({ partition, to }) => ({
    ...{ partition, to },
    from: byPartition.get(partition)?.next_offset ?? to,
  }));
  const inWords = moved.map(({ partition, from, to }) => ({
    ...{ partition, from: String(from), to: String(to) },
  }));
  await connection.run(operator.seek(first.consumer, request));
  const details = { topic, replay, moves: inWords };
  await connection.run(operator.audit({ ...audit, consumer, action: "seek", details }));
  return moved;
}

function notRegistered(
  consumer: string,
  topic: string,
  partitions: readonly number[],
): ConfigurationError {
  return new ConfigurationError(
    "not-registered",
    `consumer ${consumer} has no position in ${topic}, partitions ${partitions.join(", ")}: nothing was moved. They get one when the consumer starts, or by an adoption`,
    { details: { consumer, topic, partitions } },
  );
}
