/**
 * The partition assigner that kafkajs runs: what a member tells the group about itself, and what the
 * leader makes of it. kafkajs' own assigner takes the leader's subscription for everybody's. How
 * partitions are shared out is decided in assignment-strategies.ts.
 */
import kafkajs, { type Assigner, type GroupMember } from "kafkajs";
import {
  type Ownership,
  range,
  roundRobin,
  type Strategy,
  type Subscriber,
  sticky,
} from "./assignment-strategies.ts";
import type { KafkaCluster } from "./kafkajs-client.ts";
import type { PartitionAssigner } from "./kafkajs-options.ts";

const strategies: Readonly<Record<PartitionAssigner, Strategy>> = {
  "round-robin": roundRobin,
  range,
  sticky,
};

const version = 1;

/**
 * `owned` is what this member has at the moment, null before its first assignment. The name is of our
 * own, so that a group with members of another kind is refused by Kafka instead of mixed.
 */
export function createAssigner(
  cluster: KafkaCluster,
  kind: PartitionAssigner = "round-robin",
  owned: () => Ownership | null = () => null,
): Assigner {
  const name = `oncebox-${kind}`;
  const partitionsOf = (topic: string) => {
    return cluster.findTopicPartitionMetadata(topic).map(({ partitionId }) => partitionId);
  };
  return {
    name,
    version,
    async assign({ members }: { members: GroupMember[] }) {
      const subscribers = members.map(({ memberId, memberMetadata }) =>
        subscriberOf(memberId, memberMetadata),
      );
      // The leader knows its own topics only; a missing one is remembered without partitions.
      await cluster.addMultipleTargetTopics(subscribers.flatMap(({ topics }) => topics));
      const shares = strategies[kind](subscribers, partitionsOf);
      return [...shares].map(([memberId, assignment]) => ({
        memberId,
        memberAssignment: kafkajs.AssignerProtocol.MemberAssignment.encode({
          version,
          assignment,
          userData: Buffer.alloc(0),
        }),
      }));
    },
    protocol({ topics }: { topics: string[] }) {
      const counts = topics.map((topic) => [topic, partitionsOf(topic).length] as const);
      const userData = encodeUserData(counts, kind === "sticky" ? owned() : null);
      const metadata = kafkajs.AssignerProtocol.MemberMetadata.encode({
        version,
        topics: [...topics],
        userData,
      });
      return { name, metadata };
    },
  };
}

function subscriberOf(memberId: string, metadata: Buffer): Subscriber {
  const { topics = [], userData } = kafkajs.AssignerProtocol.MemberMetadata.decode(metadata) ?? {};
  const owned = userData === undefined ? null : decodeOwnership(userData);
  return owned === null ? { memberId, topics } : { memberId, topics, owned };
}

/**
 * What a member says beside its topics. A member that joins again with the same metadata causes no
 * rebalance unless it leads: so the numbers of partitions are part of it, and new partitions, or a
 * topic that is gone, reach the leader also where only another member subscribes to the topic.
 */
export function encodeUserData(
  counts: readonly (readonly [topic: string, partitions: number])[],
  owned: Ownership | null,
): Buffer {
  return Buffer.from(JSON.stringify(owned === null ? { counts } : { counts, owned }));
}

/** Null for anything that is not what `encodeUserData` writes: such a member owns nothing. */
export function decodeOwnership(userData: Buffer): Ownership | null {
  let owned: Partial<Ownership> | null | undefined;
  try {
    owned = (JSON.parse(userData.toString("utf8")) as { owned?: Partial<Ownership> | null }).owned;
  } catch {
    return null;
  }
  const { generation, partitions } = owned ?? {};
  if (!isCount(generation) || !Array.isArray(partitions)) return null;
  return partitions.every(isEntry) ? { generation, partitions } : null;
}

function isEntry(entry: unknown): entry is readonly [string, readonly number[]] {
  if (!Array.isArray(entry) || entry.length !== 2) return false;
  const [topic, partitions] = entry as unknown[];
  return typeof topic === "string" && Array.isArray(partitions) && partitions.every(isCount);
}

function isCount(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}
