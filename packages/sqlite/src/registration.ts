/** Topics that get their rows: registered when a consumer starts, or adopted at given positions. */
import { ConfigurationError, type StorageVerbs } from "@oncebox/core";
import type { Database } from "better-sqlite3";
import { type Access, reading, writing } from "./locking.ts";
import {
  addConsumerText,
  addPartitionText,
  auditText,
  bindText,
  consumerText,
  registeredText,
} from "./queries.ts";
import { int, one, run } from "./statements.ts";

type RegistrationVerbs = Pick<StorageVerbs, "registerTopic" | "isRegistered" | "adopt">;

export function registrationVerbs(access: Access): RegistrationVerbs {
  return {
    registerTopic: ({ consumer, groupId, topic, topicId, start, added }) =>
      writing(access, { doing: `registration of ${topic} for ${consumer}` }, (db) => {
        const id = bind(db, consumer, groupId);
        const rows = isRegistered(db, consumer, topic) ? added : start;
        addPartitions(db, id, { topic, topicId, start: rows });
      }),
    isRegistered: (consumer, topic) =>
      reading(access, `look-up of ${topic} for ${consumer}`, (db) =>
        isRegistered(db, consumer, topic),
      ),
    adopt: (adoption) => adopt(access, adoption),
  };
}

async function adopt(
  access: Access,
  { consumer, groupId, topics, audit }: Parameters<StorageVerbs["adopt"]>[0],
): Promise<void> {
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
  const { actor, reason } = audit;
  await writing(access, { doing: `adoption of ${names.join(", ")} for ${consumer}` }, (db) => {
    const id = bind(db, consumer, groupId);
    const taken = names.filter((name) => isRegistered(db, consumer, name));
    if (taken.length > 0) throw alreadyRegistered(consumer, taken);
    for (const topic of sorted) addPartitions(db, id, topic);
    run(db, auditText, consumer, actor, "adopt", reason, JSON.stringify(details));
  });
}

/** What a row can hold. Anything else is a mistake of the caller's program, not of its user. */
export function checkOffset(offset: bigint): void {
  if (offset < 0n || offset >= 2n ** 63n) throw new RangeError(`${offset} is no offset`);
}

function isRegistered(db: Database, consumer: string, topic: string): boolean {
  return one(db, registeredText, consumer, topic) !== undefined;
}

function addPartitions(
  db: Database,
  consumer: bigint,
  {
    topic,
    topicId,
    start,
  }: {
    readonly topic: string;
    readonly topicId: string | null;
    readonly start: ReadonlyMap<number, bigint>;
  },
): void {
  for (const [partition, offset] of start) {
    run(db, addPartitionText, consumer, topic, int(partition), offset, topicId);
  }
}

/** Gives a new consumer its row and its group. Throws ConfigurationError `group-mismatch`. */
function bind(db: Database, consumer: string, groupId: string): bigint {
  run(db, addConsumerText, consumer);
  run(db, bindText, groupId, consumer);
  const bound = one<{ id: bigint; group_id: string | null }>(db, consumerText, consumer);
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
