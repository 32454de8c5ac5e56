/**
 * Questions about topics and groups, and the offsets of a group, over a connection that belongs to no
 * member. Owns that connection, opened by the first question; one question at a time. Never reads or
 * writes a record.
 */
import {
  BrokerError,
  type GroupOffset,
  type GroupState,
  systemClock,
  type TopicOffsets,
} from "@oncebox/core";
import { connectTo, type KafkajsClient, type PartitionMetadata } from "./kafkajs-client.ts";
import { codeName, kafkaCode, toOnceboxError, topicMissing } from "./kafkajs-errors.ts";
import { lookUpTopics } from "./metadata-request.ts";

/** A topic just created has no leaders for a moment; a coordinator that moved neither. */
const leaderWaitMs = 100;
const leaderAttempts = 30;

type OffsetsAt = "earliest" | "latest" | { readonly timestamp: bigint };

export class Cluster {
  readonly #open: () => KafkajsClient;
  #client: KafkajsClient | null = null;
  #last: Promise<unknown> = Promise.resolve();
  #closed = false;

  constructor(open: () => KafkajsClient) {
    this.#open = open;
  }

  describe(topic: string): Promise<readonly PartitionMetadata[]> {
    const askedAt = systemClock.now();
    return this.#ask(`asking for topic ${topic}`, (client) => describe(client, topic, askedAt));
  }

  offsets(topic: string, at: OffsetsAt): Promise<TopicOffsets> {
    return this.#ask(
      `asking for offsets of ${topic}`,
      again(unledCodes, (client) => offsets(client, topic, at)),
    );
  }

  retentionMs(topic: string): Promise<number | null> {
    return this.#ask(
      `asking how long ${topic} is kept`,
      again(unledCodes, (client) => retentionMs(client, topic)),
    );
  }

  group(groupId: string, topics: readonly string[]): Promise<GroupState> {
    return this.#ask(
      `asking for group ${groupId}`,
      again(coordinatorCodes, async (client) => {
        const { node, members } = await groupOf(client, groupId);
        const wanted = new Set(topics);
        const { responses } = await node.offsetFetch({ groupId, topics: [] });
        const offsets = responses.flatMap(({ topic, partitions }) =>
          partitions.map(({ partition, offset, metadata }): GroupOffset => {
            return { topic, partition, offset: BigInt(offset), metadata: metadata ?? "" };
          }),
        );
        const found = offsets.filter(({ topic, offset }) => wanted.has(topic) && offset >= 0n);
        return { members, offsets: found };
      }),
    );
  }

  setGroupOffsets(groupId: string, offsets: readonly GroupOffset[]): Promise<void> {
    return this.#ask(
      `writing offsets of group ${groupId}`,
      again(coordinatorCodes, async (client) => {
        const { node, members } = await groupOf(client, groupId);
        if (members > 0) throw groupActive(groupId, members);
        if (offsets.length === 0) return;
        const commit = { groupId, groupGenerationId: -1, memberId: "", topics: byTopic(offsets) };
        try {
          await node.offsetCommit(commit);
        } catch (error) {
          // A member may have come in between: then Kafka refuses whoever is none.
          const type = (error as { readonly type?: unknown } | null)?.type;
          throw activeTypes.has(type) ? groupActive(groupId, null, error) : error;
        }
      }),
    );
  }

  /** Questions that wait or are under way end with an error, and none connects any more. */
  close(): void {
    this.#closed = true;
    this.#client?.destroy();
    this.#client = null;
  }

  #ask<T>(what: string, question: (client: KafkajsClient) => Promise<T>): Promise<T> {
    const answer = this.#last.then(async () => {
      if (this.#closed) throw closed(what);
      this.#client ??= this.#open();
      const client = this.#client;
      try {
        return await question(client);
      } catch (error) {
        if (this.#closed) throw closed(what, error);
        client.destroy();
        this.#client = null;
        throw toOnceboxError(error, what);
      }
    });
    this.#last = answer.catch(() => undefined);
    return answer;
  }
}

function closed(what: string, cause?: unknown): BrokerError {
  return new BrokerError("broker-unavailable", `${what}: the broker of this process was closed`, {
    ...(cause === undefined ? {} : { cause }),
  });
}

/** Again for a while where somebody has just moved, or does not know yet that it is in charge. */
function again<T>(passing: ReadonlySet<number>, question: (client: KafkajsClient) => Promise<T>) {
  return async (client: KafkajsClient): Promise<T> => {
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await question(client);
      } catch (error) {
        const code = (error as { readonly code?: unknown } | null)?.code;
        const passes = typeof code === "number" && passing.has(code);
        if (!passes || attempt >= leaderAttempts) throw error;
        await systemClock.sleep(leaderWaitMs);
        await client.cluster.refreshMetadata();
      }
    }
  };
}

/** The topic is known when these come: unknown topic or partition, no leader, not the leader. */
const unledCodes: ReadonlySet<number> = new Set([3, 5, 6]);
/** The coordinator is loading, there is none, it is another node. */
const coordinatorCodes: ReadonlySet<number> = new Set([14, 15, 16]);

/** What Kafka answers to a commit of somebody who is no member while the group has some. */
const activeTypes: ReadonlySet<unknown> = new Set([
  "UNKNOWN_MEMBER_ID",
  "ILLEGAL_GENERATION",
  "REBALANCE_IN_PROGRESS",
]);

function groupActive(groupId: string, members: number | null, cause?: unknown): BrokerError {
  const many = members === null ? "members" : `${members} ${members === 1 ? "member" : "members"}`;
  return new BrokerError(
    "group-active",
    `group ${groupId} has ${many}: stop its consumers before its offsets are set`,
    { details: { groupId, members }, ...(cause === undefined ? {} : { cause }) },
  );
}

/** The group's coordinator and how many live members it counts; none for a group it never heard of. */
async function groupOf(client: KafkajsClient, groupId: string) {
  await connectTo(client, []);
  const node = await client.cluster.findGroupCoordinator({ groupId });
  const { groups } = await node.describeGroups({ groupIds: [groupId] });
  return { node, members: groups[0]?.members.length ?? 0 };
}

function byTopic(offsets: readonly GroupOffset[]) {
  const topics = new Map<string, { partition: number; offset: string; metadata: string }[]>();
  for (const { topic, partition, offset, metadata } of offsets) {
    const entry = { partition, offset: offset.toString(), metadata };
    topics.set(topic, [...(topics.get(topic) ?? []), entry]);
  }
  return [...topics].map(([topic, partitions]) => ({ topic, partitions }));
}

/** How often a topic may be made anew between two questions about it, before that is an error. */
const recreatedMax = 5;

async function offsets(client: KafkajsClient, topic: string, at: OffsetsAt): Promise<TopicOffsets> {
  for (let attempt = 1; ; attempt += 1) {
    const partitions = await describe(client, topic, systemClock.now());
    const topicId = await idOf(client, topic, partitions);
    const time = typeof at === "string" ? times[at] : at.timestamp.toString();
    const listed = await listOffsets(client, topic, partitions, time);
    const none = partitions.filter(({ partitionId }) => (listed.get(partitionId) ?? -1n) < 0n);
    // No record that late: the next one will be the first.
    const next = await listOffsets(client, topic, none, times.latest);
    const found = new Map([...listed, ...next].sort(([a], [b]) => a - b));
    // Offsets are asked for by name: between the questions the name may have got another topic.
    if ((await idOf(client, topic, partitions)) === topicId) return { topicId, offsets: found };
    if (attempt >= recreatedMax) {
      throw new BrokerError("broker-unavailable", `topic ${topic} is made anew again and again`, {
        retryable: true,
      });
    }
  }
}

const aTopic = 2;
/** The right to describe a topic's settings is another than that to read it. */
const notAuthorized: ReadonlySet<unknown> = new Set([29, 30, 31]);

async function retentionMs(client: KafkajsClient, topic: string): Promise<number | null> {
  const [partition] = await describe(client, topic, systemClock.now());
  const node = await client.cluster.findBroker({ nodeId: String(partition?.leader) });
  const configNames = ["retention.ms", "cleanup.policy"];
  try {
    const resources = [{ type: aTopic, name: topic, configNames }];
    const described = await node.describeConfigs({ resources });
    const found = described.resources.flatMap(({ configEntries }) => configEntries);
    const value = (name: string) => found.find((each) => each.configName === name)?.configValue;
    const ms = Number(value("retention.ms") ?? Number.NaN);
    if (Number.isNaN(ms)) return null;
    const deletes = value("cleanup.policy")?.includes("delete") ?? true;
    return deletes && ms >= 0 ? ms : Number.POSITIVE_INFINITY;
  } catch (error) {
    if (notAuthorized.has((error as { readonly code?: unknown } | null)?.code)) return null;
    throw error;
  }
}

/** For "latest" the last stable offset: a transaction that is still open is not passed over. */
const readCommitted = 1;
const times = { earliest: "-2", latest: "-1" } as const;

async function listOffsets(
  client: KafkajsClient,
  topic: string,
  partitions: readonly PartitionMetadata[],
  timestamp: string,
): Promise<Map<number, bigint>> {
  const found = new Map<number, bigint>();
  for (const [leader, numbers] of byLeader(partitions)) {
    const node = await client.cluster.findBroker({ nodeId: String(leader) });
    const { responses } = await node.listOffsets({
      isolationLevel: readCommitted,
      topics: [{ topic, partitions: numbers.map((partition) => ({ partition, timestamp })) }],
    });
    for (const listed of responses[0]?.partitions ?? []) {
      found.set(listed.partition, BigInt(listed.offset));
    }
  }
  return found;
}

async function idOf(
  client: KafkajsClient,
  topic: string,
  partitions: readonly PartitionMetadata[],
): Promise<string | null> {
  const nodeId = String(partitions[0]?.leader);
  const node = await client.cluster.findBroker({ nodeId });
  return (await lookUpTopics(node, [topic])).get(topic)?.topicId ?? null;
}

/** When the metadata of all topics that a client was asked for were read last, at the earliest. */
const readAt = new WeakMap<KafkajsClient, number>();

async function readMetadata(client: KafkajsClient): Promise<void> {
  const now = systemClock.now();
  await client.cluster.refreshMetadata();
  readAt.set(client, now);
}

/**
 * As Kafka has it, not as it was known when the question was asked: a topic that was deleted since
 * then is still there in what is known. Questions of one moment share one look.
 */
async function describe(
  client: KafkajsClient,
  topic: string,
  askedAt: number,
): Promise<readonly PartitionMetadata[]> {
  await connectTo(client, [topic]);
  if ((readAt.get(client) ?? Number.NEGATIVE_INFINITY) < askedAt) await readMetadata(client);
  for (let attempt = 1; ; attempt += 1) {
    const partitions = client.cluster.findTopicPartitionMetadata(topic);
    const code = client.topicError(topic);
    const ready = partitions.length > 0 && partitions.every(({ leader }) => leader >= 0);
    if (code === kafkaCode.none && ready) return partitions;
    // Asked once more before it counts: another broker may know more.
    if (attempt > 1) refuseTopic(topic, code, attempt);
    if (attempt > 1) await systemClock.sleep(leaderWaitMs);
    await readMetadata(client);
  }
}

function refuseTopic(topic: string, code: number, attempt: number): void {
  if (code === kafkaCode.unknownTopicOrPartition) throw topicMissing([topic]);
  const waiting = code === kafkaCode.none || code === kafkaCode.leaderNotAvailable;
  if (waiting && attempt < leaderAttempts) return;
  const why = waiting ? "a partition has no leader" : codeName(code);
  throw new BrokerError(
    waiting ? "broker-unavailable" : "broker-refused",
    `topic ${topic}: ${why}`,
    { retryable: waiting, details: { topic, kafkaCode: code } },
  );
}

function byLeader(partitions: readonly PartitionMetadata[]): Map<number, number[]> {
  const found = new Map<number, number[]>();
  for (const { leader, partitionId } of partitions) {
    found.set(leader, [...(found.get(leader) ?? []), partitionId]);
  }
  return found;
}
