/** Where a consumer begins in a topic that it has never read: resolved once, for all partitions. */
import { ConfigurationError } from "../errors.ts";
import type { Observer } from "../events.ts";
import type { Rule } from "../options.ts";
import type { Broker, TopicOffsets } from "../ports/broker.ts";
import type { StorageVerbs } from "../ports/storage.ts";

/**
 * `earliest`: with the first message that is kept. `latest`: with the next one that is written. A
 * time: with the first message at or after it. Offsets: with these, one for each partition.
 */
export type StartFrom =
  | "earliest"
  | "latest"
  | { readonly timestamp: Date | number }
  | { readonly offsets: Readonly<Record<number, bigint | number>> };

export const aStart: Rule = {
  is: '"earliest", "latest", { timestamp: a Date or milliseconds since 1970 } or { offsets: { partition: offset } }',
  fits: (value) =>
    value === "earliest" || value === "latest" || timeOf(value) !== null || givenIn(value) !== null,
  optional: true,
};

type Offsets = Pick<Broker, "offsets">;

/** Throws ConfigurationError where given offsets do not fit the topic. */
export async function resolveStart(
  broker: Offsets,
  topic: string,
  from: StartFrom,
): Promise<TopicOffsets> {
  if (from === "earliest" || from === "latest") return broker.offsets(topic, from);
  const timestamp = timeOf(from);
  if (timestamp !== null) return broker.offsets(topic, { timestamp });
  const given = givenIn(from) ?? new Map<number, bigint>();
  const [{ topicId, offsets: first }, { offsets: next }] = await Promise.all([
    broker.offsets(topic, "earliest"),
    broker.offsets(topic, "latest"),
  ]);
  const problems = [
    ...[...first.keys()].filter((partition) => !given.has(partition)).map(missing),
    ...[...given.keys()].filter((partition) => !first.has(partition)).map(unknown),
    ...[...given].flatMap(([partition, offset]) =>
      outside(partition, offset, first.get(partition), next.get(partition)),
    ),
  ];
  if (problems.length > 0) {
    throw new ConfigurationError(
      "invalid-options",
      `startFrom of ${topic}: ${problems.join("; ")}`,
      { details: { topic, problems } },
    );
  }
  return { topicId, offsets: given };
}

interface Subscriber {
  readonly name: string;
  readonly groupId: string;
  readonly broker: Pick<Broker, "offsets" | "retentionMs">;
  readonly storage: Pick<StorageVerbs, "isRegistered" | "registerTopic">;
  readonly observe: Observer;
  readonly deduplicationWindowMs: number | null;
}

/**
 * Every partition gets its row at once, so that no start is resolved later by another rule. Then tells
 * of a topic that keeps more than its ids are remembered for.
 */
export async function registerTopic(
  subscriber: Subscriber,
  topic: string,
  handled: { readonly startFrom: StartFrom; readonly byId: boolean } | undefined,
): Promise<void> {
  const { startFrom, byId } = handled ?? { startFrom: "earliest", byId: false };
  await register(subscriber, topic, startFrom);
  if (byId) await tellShortWindow(subscriber, topic);
}

async function register(
  { name: consumer, groupId, broker, storage }: Subscriber,
  topic: string,
  startFrom: StartFrom,
): Promise<void> {
  const known = await storage.isRegistered(consumer, topic);
  const { topicId, offsets: start } = await resolveStart(
    broker,
    topic,
    known ? "earliest" : startFrom,
  );
  // Added partitions begin at 0, not at what retention has left: what is gone must be told.
  const added = new Map(Array.from(start.keys(), (partition) => [partition, 0n]));
  await storage.registerTopic({ consumer, groupId, topic, topicId, start, added });
}

/** Nothing else rests on it, so where Kafka does not answer nothing is said. */
async function tellShortWindow(
  { name: consumer, broker, observe, deduplicationWindowMs: windowMs }: Subscriber,
  topic: string,
): Promise<void> {
  if (windowMs === null) return;
  const retentionMs = await broker.retentionMs(topic).catch(() => null);
  if (retentionMs === null || retentionMs <= windowMs) return;
  observe({ type: "inbox.window-short", consumer, topic, windowMs, retentionMs });
}

function missing(partition: number): string {
  return `partition ${partition} has no offset`;
}

function unknown(partition: number): string {
  return `there is no partition ${partition}`;
}

function outside(
  partition: number,
  offset: bigint,
  first: bigint | undefined,
  next: bigint | undefined,
): string[] {
  if (first === undefined || next === undefined) return [];
  if (offset >= first && offset <= next) return [];
  return [`partition ${partition} holds ${first} to ${next}, not ${offset}`];
}

function timeOf(value: unknown): bigint | null {
  const time = (value as { timestamp?: unknown } | null)?.timestamp;
  const ms = time instanceof Date ? time.getTime() : time;
  return typeof ms === "number" && Number.isSafeInteger(ms) && ms >= 0 ? BigInt(ms) : null;
}

function givenIn(value: unknown): ReadonlyMap<number, bigint> | null {
  const offsets = (value as { offsets?: unknown } | null)?.offsets;
  if (typeof offsets !== "object" || offsets === null) return null;
  const given = new Map<number, bigint>();
  for (const [partition, offset] of Object.entries(offsets)) {
    const whole = typeof offset === "bigint" || Number.isSafeInteger(offset);
    if (!/^\d{1,9}$/.test(partition) || !whole || BigInt(offset) < 0n) return null;
    given.set(Number(partition), BigInt(offset));
  }
  return given;
}
