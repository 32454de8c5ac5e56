/**
 * Positions moved by hand or by a policy, and the log of who did what. Decides nothing about where
 * to: it moves all or nothing, with the write lock held, and fences whoever read there.
 */
import { type AuditEntry, ConfigurationError, type Moved, type StorageVerbs } from "@oncebox/core";
import type { Database } from "better-sqlite3";
import { type Access, reading, writing } from "./locking.ts";
import { heldAt } from "./partitions.ts";
import { auditLogText, auditText, partitionText, seekText } from "./queries.ts";
import { consumerId } from "./record-ids.ts";
import { checkOffset } from "./registration.ts";
import { all, int, one, prepared, run } from "./statements.ts";

type Seek = Parameters<StorageVerbs["seek"]>[0];
type SeekVerbs = Pick<StorageVerbs, "seek" | "audit" | "auditLog">;

interface AuditRow extends Pick<AuditEntry, "actor" | "action" | "reason"> {
  readonly id: bigint;
  readonly at: bigint;
  readonly details: string;
}

export function seekVerbs(access: Access): SeekVerbs {
  return {
    seek: (request) => seek(access, request),
    audit: ({ consumer, actor, action, reason, details }) =>
      writing(access, { doing: `audit of ${consumer}` }, (db) => {
        run(db, auditText, consumer, actor, action, reason, JSON.stringify(details));
      }),
    auditLog: async (consumer, { limit, below }) => {
      const from = below ?? 2n ** 63n - 1n;
      const rows = await reading(access, `audit log of ${consumer}`, (db) =>
        all<AuditRow>(db, auditLogText, consumer, from, int(limit)),
      );
      return rows.map(({ id, at, actor, action, reason, details }) => ({
        ...{ id, at: Number(at), consumer, actor, action, reason },
        details: JSON.parse(details),
      }));
    },
  };
}

async function seek(access: Access, request: Seek): Promise<readonly Moved[] | null> {
  const { consumer, topic, moves } = request;
  for (const { to } of moves) checkOffset(to);
  if (new Set(moves.map((move) => move.partition)).size < moves.length)
    throw new RangeError("a partition is moved once at a time");
  if (moves.length === 0) return [];
  const doing = `seek of ${topic} for ${consumer}`;
  return writing(access, { doing }, (db) => move(db, request));
}

function move(db: Database, request: Seek): readonly Moved[] | null {
  const { consumer: name, topic, topicId, moves, replay, expected, audit } = request;
  if (expected !== null && heldAt(db, expected) === null) return null;
  const consumer = consumerId(db, name);
  const rowOf = (partition: number) =>
    consumer === null
      ? undefined
      : one<{ next_offset: bigint }>(db, partitionText, consumer, topic, int(partition));
  const rows = moves.map(({ partition, to }) => ({
    ...{ partition, to },
    from: rowOf(partition)?.next_offset,
  }));
  const missing = rows.filter(({ from }) => from === undefined);
  if (consumer === null || missing.length > 0) {
    throw notRegistered(
      name,
      topic,
      missing.map(({ partition }) => partition),
    );
  }
  const moved = rows.map(({ partition, to, from = to }): Moved => ({ partition, to, from }));
  for (const { partition, to } of moved) {
    const at = { consumer, topic, partition: int(partition) };
    prepared(db, seekText).run({ ...at, to, topicId, replay: int(Number(replay)) });
  }
  const details = {
    ...{ topic, replay },
    moves: moved.map((each) => ({ ...each, from: String(each.from), to: String(each.to) })),
  };
  run(db, auditText, name, audit.actor, "seek", audit.reason, JSON.stringify(details));
  return moved;
}

function notRegistered(
  consumer: string,
  topic: string,
  partitions: readonly number[],
): ConfigurationError {
  return new ConfigurationError(
    "not-registered",
    `consumer ${consumer} has no position in ${topic}/${partitions.join(", ")}: nothing was moved`,
    { details: { consumer, topic, partitions } },
  );
}
