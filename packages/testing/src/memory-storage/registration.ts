/** Topics that get their rows, positions that are moved, and the log of who did it. */
import { type AuditEntry, ConfigurationError, type Storage } from "@oncebox/core";
import type { Connection } from "./connection.ts";
import { ownTransaction } from "./own-transaction.ts";
import { freshRow, lockPartition, rowsOf } from "./partitions.ts";
import {
  type PartitionRow,
  partitionKey,
  registerLockTimeoutMs,
  type StorageParts,
} from "./parts.ts";
import type { Transaction } from "./tables.ts";

type Seek = Parameters<Storage<never>["seek"]>[0];
type Moves = Awaited<ReturnType<Storage<never>["seek"]>>;
type RegistrationVerbs = Pick<
  Storage<never>,
  "registerTopic" | "adopt" | "seek" | "audit" | "auditLog"
>;

export function registrationVerbs(parts: StorageParts): RegistrationVerbs {
  return {
    registerTopic: ({ consumer, groupId, ...rows }) =>
      ownTransaction(parts, `registration of ${rows.topic} for ${consumer}`, (connection) =>
        connection.run("register", async (transaction) => {
          await lockTopics(parts, transaction, consumer, [rows.topic]);
          await bind(parts, transaction, consumer, groupId);
          addRows(parts, transaction, consumer, rows);
        }),
      ),
    adopt: (adoption) => adopt(parts, adoption),
    seek: async (request) => {
      for (const { to } of request.moves) checkOffset(to);
      const moved = new Set(request.moves.map((move) => move.partition));
      if (moved.size < request.moves.length) {
        throw new RangeError("a partition is moved once at a time");
      }
      if (moved.size === 0) return [];
      return ownTransaction(parts, `seek of ${request.topic} for ${request.consumer}`, (own) =>
        seek(parts, own, request),
      );
    },
    audit: (entry) =>
      parts.pool.with(`audit of ${entry.consumer}`, (connection) =>
        connection.run("audit", (transaction) => writeAudit(parts, transaction, entry)),
      ),
    auditLog: (consumer, { limit, below }) =>
      parts.pool.with(`audit log of ${consumer}`, (connection) =>
        connection.run(
          "look",
          (transaction) => {
            const lines = parts.database.tables.entries(transaction, "audit");
            return lines
              .map(([, line]) => line as AuditEntry)
              .filter((line) => line.consumer === consumer && (below === null || line.id < below))
              .sort((a, b) => (a.id < b.id ? 1 : -1))
              .slice(0, limit);
          },
          { writes: false },
        ),
      ),
  };
}

type Adoption = Parameters<Storage<never>["adopt"]>[0];

async function adopt(
  parts: StorageParts,
  { consumer, groupId, topics, audit }: Adoption,
): Promise<void> {
  const sorted = [...topics].sort((a, b) => (a.topic < b.topic ? -1 : 1));
  const names = sorted.map(({ topic }) => topic);
  if (new Set(names).size < names.length) throw new RangeError("a topic is adopted once at a time");
  for (const { start } of sorted) for (const offset of start.values()) checkOffset(offset);
  const told = sorted.map(({ topic, topicId, start }) => ({
    ...{ topic, topicId },
    start: [...start].map(([partition, offset]) => ({ partition, offset: String(offset) })),
  }));
  await ownTransaction(parts, `adoption of ${names.join(", ")} for ${consumer}`, (connection) =>
    connection.run("adopt", async (transaction) => {
      await lockTopics(parts, transaction, consumer, names);
      await bind(parts, transaction, consumer, groupId);
      const known = new Set(rowsOf(parts, transaction, consumer).map(({ topic }) => topic));
      const taken = names.filter((name) => known.has(name));
      if (taken.length > 0) throw alreadyRegistered(consumer, taken);
      for (const topic of sorted) {
        addRows(parts, transaction, consumer, { ...topic, added: new Map() });
      }
      const details = { groupId, topics: told };
      writeAudit(parts, transaction, { ...audit, consumer, action: "adopt", details });
    }),
  );
}

/** In one order everywhere: two never wait for each other in a circle. */
async function lockTopics(
  { database }: StorageParts,
  transaction: Transaction,
  consumer: string,
  names: readonly string[],
): Promise<void> {
  for (const name of names) {
    const lock = `registration/${JSON.stringify([consumer, name])}`;
    await database.tables.lock(transaction, lock, registerLockTimeoutMs);
  }
}

/** Gives a new consumer its group. Throws ConfigurationError `group-mismatch`. */
async function bind(
  { database: { tables } }: StorageParts,
  transaction: Transaction,
  consumer: string,
  groupId: string,
): Promise<void> {
  if (tables.get(transaction, "consumers", consumer) === undefined) {
    await tables.lock(transaction, `consumers/${consumer}`, registerLockTimeoutMs);
    if (tables.get(transaction, "consumers", consumer) === undefined) {
      tables.write(transaction, "consumers", consumer, groupId);
    }
  }
  const boundTo = tables.get(transaction, "consumers", consumer);
  if (boundTo === groupId) return;
  throw new ConfigurationError(
    "group-mismatch",
    `consumer ${consumer} belongs to the group ${boundTo}, not to ${groupId}`,
    { details: { consumer, groupId, boundTo } },
  );
}

interface NewRows {
  readonly topic: string;
  readonly topicId: string | null;
  readonly start: ReadonlyMap<number, bigint>;
  readonly added: ReadonlyMap<number, bigint>;
}

/** All partitions of a topic without rows, or those that were added to one that has some. */
function addRows(
  parts: StorageParts,
  transaction: Transaction,
  consumer: string,
  { topic, topicId, start, added }: NewRows,
): void {
  const { tables } = parts.database;
  const known = rowsOf(parts, transaction, consumer).some((row) => row.topic === topic);
  for (const [partition, offset] of known ? added : start) {
    checkOffset(offset);
    const at = { consumer, topic, partition };
    const key = partitionKey(at);
    if (tables.get(transaction, "partitions", key) !== undefined) continue;
    tables.write(transaction, "partitions", key, freshRow(at, offset, topicId));
  }
}

async function seek(parts: StorageParts, connection: Connection, request: Seek): Promise<Moves> {
  const { consumer, topic, moves, expected, replay, audit } = request;
  const { database } = parts;
  const moved = moves.map(({ partition }) => partition);
  const partitions = expected === null ? moved : [...new Set([...moved, expected.partition])];
  return connection.run("seek", async (transaction) => {
    const rows = new Map<number, PartitionRow>();
    for (const partition of [...partitions].sort((a, b) => a - b)) {
      const at = { consumer, topic, partition };
      const find = () => database.tables.get(transaction, "partitions", partitionKey(at));
      if (find() === undefined) continue;
      await lockPartition(parts, transaction, at, registerLockTimeoutMs, "could not be moved");
      rows.set(partition, find() as PartitionRow);
    }
    if (expected !== null && rows.get(expected.partition)?.token !== expected.token) return null;
    const missing = moved.filter((partition) => !rows.has(partition));
    if (missing.length > 0) throw notRegistered(consumer, topic, missing);
    const done = moves.map(({ partition, to }) => {
      const row = rows.get(partition) as PartitionRow;
      const next = soughtRow(row, to, request, database.token());
      database.tables.write(transaction, "partitions", partitionKey(row), next);
      return { partition, to, from: row.nextOffset };
    });
    const inWords = done.map(({ partition, from, to }) => {
      return { partition, from: String(from), to: String(to) };
    });
    const details = { topic, replay, moves: inWords };
    writeAudit(parts, transaction, { ...audit, consumer, action: "seek", details });
    return done;
  });
}

/** The new token is nobody's: whoever held a claim is fenced. */
function soughtRow(
  row: PartitionRow,
  to: bigint,
  { replay, topicId }: Pick<Seek, "replay" | "topicId">,
  token: string,
): PartitionRow {
  const appliedUntil = row.appliedUntil > row.nextOffset ? row.appliedUntil : row.nextOffset;
  const replaying = replay && to < appliedUntil;
  const epoch = row.epoch + 1n;
  return {
    ...row,
    ...{ nextOffset: to, token, epoch, soughtEpoch: epoch, appliedUntil, replaying },
    replay: row.replay + (replaying ? 1 : 0),
    ...{ stalledClaims: 0, trying: null },
    log: { topicId, leaderEpoch: null, last: null },
  };
}

export function writeAudit(
  { database }: StorageParts,
  transaction: Transaction,
  entry: Omit<AuditEntry, "id" | "at">,
): void {
  const id = database.tables.next("audit");
  const { consumer, actor, action, reason } = entry;
  // Through JSON, as any database would keep it.
  const details = JSON.parse(JSON.stringify(entry.details)) as AuditEntry["details"];
  const line = { id, at: database.clock.epochMs(), consumer, actor, action, reason, details };
  database.tables.write(transaction, "audit", String(id), line);
}

function checkOffset(offset: bigint): void {
  if (offset < 0n || offset >= 2n ** 63n) throw new RangeError(`${offset} is no offset`);
}

function alreadyRegistered(consumer: string, topics: readonly string[]): ConfigurationError {
  return new ConfigurationError(
    "already-registered",
    `consumer ${consumer} has positions already in ${topics.join(", ")}: nothing was adopted`,
    { details: { consumer, topics } },
  );
}

function notRegistered(
  consumer: string,
  topic: string,
  partitions: readonly number[],
): ConfigurationError {
  return new ConfigurationError(
    "not-registered",
    `consumer ${consumer} has no position in ${topic}, partitions ${partitions.join(", ")}: nothing was moved`,
    { details: { consumer, topic, partitions } },
  );
}
