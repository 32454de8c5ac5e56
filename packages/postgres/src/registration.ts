/** Topics that get their rows: registered when a consumer starts, or adopted at given positions. */
import { ConfigurationError, type Storage } from "@oncebox/core";
import type { Connection } from "./connections.ts";
import { ownTransaction } from "./own-transaction.ts";
import type { PartitionParts } from "./partitions.ts";

/** A registration waits for others of the same topics, which take milliseconds. */
export const registerLockTimeoutMs = 10_000;

type RegistrationVerbs = Pick<Storage<never>, "registerTopic" | "isRegistered" | "adopt">;

export function registrationVerbs(parts: PartitionParts): RegistrationVerbs {
  return {
    registerTopic: (registration) => register(parts, registration),
    isRegistered: async (consumer, topic) => {
      const doing = `look-up of ${topic} for ${consumer}`;
      const { rows } = await parts.connections.with(doing, (connection) =>
        connection.run<{ registered: boolean }>(parts.operator.registered(consumer, topic)),
      );
      return rows[0]?.registered === true;
    },
    adopt: (adoption) => adopt(parts, adoption),
  };
}

async function register(
  parts: PartitionParts,
  registration: Parameters<Storage<never>["registerTopic"]>[0],
): Promise<void> {
  const { consumer, groupId, topic } = registration;
  const doing = `registration of ${topic} for ${consumer}`;
  await ownTransaction(
    parts,
    { doing, lockTimeoutMs: registerLockTimeoutMs },
    async (connection) => {
      await connection.run(parts.queries.registerLock(consumer, topic));
      const id = await bind(parts, connection, consumer, groupId);
      await connection.run(parts.queries.registerPartitions(id, registration));
    },
  );
}

async function adopt(
  parts: PartitionParts,
  { consumer, groupId, topics, audit }: Parameters<Storage<never>["adopt"]>[0],
): Promise<void> {
  const { queries, operator } = parts;
  // One order everywhere: two adoptions never wait for each other in a circle.
  const sorted = [...topics].sort((a, b) => (a.topic < b.topic ? -1 : 1));
  const names = sorted.map(({ topic }) => topic);
  if (new Set(names).size < names.length) throw new RangeError("a topic is adopted once at a time");
  for (const { start } of sorted) for (const offset of start.values()) checkOffset(offset);
  const details = {
    groupId,
    topics: sorted.map(({ topic, topicId, start }) => ({
      ...{ topic, topicId },
      start: [...start].map(([partition, offset]) => ({ partition, offset: String(offset) })),
    })),
  };
  const doing = `adoption of ${names.join(", ")} for ${consumer}`;
  await ownTransaction(
    parts,
    { doing, lockTimeoutMs: registerLockTimeoutMs },
    async (connection) => {
      for (const name of names) await connection.run(queries.registerLock(consumer, name));
      const id = await bind(parts, connection, consumer, groupId);
      const { rows } = await connection.run<{ topic: string }>(operator.adoptTaken(id, names));
      if (rows.length > 0) {
        throw alreadyRegistered(
          consumer,
          rows.map((row) => row.topic),
        );
      }
      for (const topic of sorted) {
        await connection.run(queries.registerPartitions(id, { ...topic, added: new Map() }));
      }
      await connection.run(operator.audit({ ...audit, consumer, action: "adopt", details }));
    },
  );
}

/** What a row can hold. Anything else is a mistake of the caller's program, not of its user. */
export function checkOffset(offset: bigint): void {
  if (offset < 0n || offset >= 2n ** 63n) throw new RangeError(`${offset} is no offset`);
}

/** Gives a new consumer its row and its group. Throws ConfigurationError `group-mismatch`. */
async function bind(
  { queries }: PartitionParts,
  connection: Connection,
  consumer: string,
  groupId: string,
): Promise<number> {
  await connection.run(queries.registerConsumer(consumer, groupId));
  const { rows } = await connection.run<{ id: number; group_id: string | null }>(
    queries.bound(consumer),
  );
  const [bound] = rows;
  if (bound?.group_id === groupId) return bound.id;
  const boundTo = bound?.group_id ?? null;
  throw new ConfigurationError(
    "group-mismatch",
    `consumer ${consumer} belongs to the group ${boundTo ?? "(none)"}, not to ${groupId}: two groups under one name would take each other's partitions. Use another consumer name, or the group it had`,
    { details: { consumer, groupId, boundTo } },
  );
}

function alreadyRegistered(consumer: string, topics: readonly string[]): ConfigurationError {
  return new ConfigurationError(
    "already-registered",
    `consumer ${consumer} has positions already in ${topics.join(", ")}: nothing was adopted. Move them with a seek, or leave these topics out`,
    { details: { consumer, topics } },
  );
}
