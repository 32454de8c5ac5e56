/** Rows of partitions: registered once for each topic, claimed by one process at a time. */
import { ConfigurationError, type PartitionRef, type Storage, StorageError } from "@oncebox/core";
import { rollBack, settled } from "./chunk.ts";
import type { Connection, Connections } from "./connections.ts";
import { type StorageErrors, sqlState } from "./postgres-errors.ts";
import type { BlockerRow, ClaimedRow, InboxQueries } from "./queries.ts";

export interface PartitionParts {
  readonly connections: Connections;
  readonly queries: InboxQueries;
  readonly errors: StorageErrors;
}

type PartitionVerbs = Pick<Storage<never>, "registerTopic" | "claim"> & {
  /** The consumer as an integer; null where it was never registered. */
  readonly consumerId: (name: string) => Promise<number | null>;
};

/** A registration waits for others of the same topic, which take milliseconds. */
const registerLockTimeoutMs = 10_000;

export function partitionVerbs(parts: PartitionParts): PartitionVerbs {
  // Rows of consumers are never deleted, and a stale number only fences: a claim's token is random.
  const consumers = new Map<string, number>();
  return {
    registerTopic: (registration) => register(parts, registration),
    claim: async (ref, waitMs) => {
      const claimed = await claim(parts, ref, waitMs);
      if (claimed === null) return null;
      consumers.set(ref.consumer, claimed.consumer);
      const { consumer, topic, partition } = ref;
      const { token, epoch, next_offset: nextOffset, incarnation } = claimed;
      return { consumer, topic, partition, token, epoch, nextOffset, incarnation };
    },
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

async function claim(
  { connections, queries, errors }: PartitionParts,
  ref: PartitionRef & { readonly owner: string },
  waitMs: number,
): Promise<ClaimedRow | null> {
  const connection = await connections.acquire();
  // 0 would mean no limit.
  const lockTimeoutMs = Math.max(1, Math.ceil(waitMs));
  const begun = settled(
    connection.script(
      `BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = ${lockTimeoutMs}`,
    ),
  );
  if (!connection.pipelined) await begun;
  const claiming = settled(
    connection.run<ClaimedRow & Record<string, unknown>>(queries.claim(ref)),
  );
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
  } catch (error) {
    const timedOut = sqlState(error) === "55P03";
    const blocker = timedOut ? await blockerOf(connection, queries, ref) : null;
    await rollBack(connection);
    if (!timedOut) throw errors.translated(`claim of ${nameOf(ref)}`, error);
    throw claimTimeout(ref, waitMs, blocker, error);
  }
}

/** Who holds the row, if it still does. The connection is outside a transaction here. */
async function blockerOf(
  connection: Connection,
  queries: InboxQueries,
  ref: PartitionRef,
): Promise<BlockerRow | null> {
  try {
    const { rows } = await connection.run<BlockerRow & Record<string, unknown>>(
      queries.blocker(ref),
    );
    return rows[0] ?? null;
  } catch {
    // Only words are missing then.
    return null;
  }
}

function claimTimeout(
  ref: PartitionRef,
  waitMs: number,
  blocker: BlockerRow | null,
  cause: unknown,
): StorageError {
  const { consumer, topic, partition } = ref;
  const who =
    blocker === null
      ? "by a transaction that has ended meanwhile"
      : `by backend ${blocker.pid} (${blocker.state ?? "state unknown"}, transaction open for ${blocker.transaction_age_ms ?? "?"} ms)`;
  return new StorageError(
    "claim-timeout",
    `${nameOf(ref)} could not be claimed within ${waitMs} ms: its row is locked ${who}`,
    {
      cause,
      retryable: true,
      details: {
        ...{ consumer, topic, partition, waitMs },
        ...(blocker === null
          ? {}
          : {
              blockingPid: blocker.pid,
              blockingState: blocker.state,
              blockingApplication: blocker.application,
              blockingTransactionAgeMs: numberOf(blocker.transaction_age_ms),
              blockingStateAgeMs: numberOf(blocker.state_age_ms),
            }),
      },
    },
  );
}

function numberOf(value: bigint | null): number | null {
  return value === null ? null : Number(value);
}

async function register(
  { connections, queries, errors }: PartitionParts,
  registration: Parameters<Storage<never>["registerTopic"]>[0],
): Promise<void> {
  const { consumer, groupId, topic, start, added } = registration;
  const connection = await connections.acquire();
  try {
    await connection.script(
      `BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = ${registerLockTimeoutMs}`,
    );
    await connection.run(queries.registerLock(consumer, topic));
    await connection.run(queries.registerConsumer(consumer, groupId));
    const { rows } = await connection.run<{ id: number; group_id: string | null }>(
      queries.bound(consumer),
    );
    const [bound] = rows;
    if (bound?.group_id !== groupId) throw groupMismatch(consumer, groupId, bound?.group_id);
    await connection.run(queries.registerPartitions(bound.id, topic, start, added));
    await connection.script("COMMIT");
    connection.release();
  } catch (error) {
    await rollBack(connection);
    throw errors.translated(`registration of ${topic} for ${consumer}`, error);
  }
}

function groupMismatch(
  consumer: string,
  groupId: string,
  bound: string | null | undefined,
): ConfigurationError {
  return new ConfigurationError(
    "group-mismatch",
    `consumer ${consumer} belongs to the group ${bound ?? "(none)"}, not to ${groupId}: two groups under one name would take each other's partitions. Use another consumer name, or the group it had`,
    { details: { consumer, groupId, boundTo: bound ?? null } },
  );
}

function nameOf({ consumer, topic, partition }: PartitionRef): string {
  return `${topic}/${partition} for ${consumer}`;
}
