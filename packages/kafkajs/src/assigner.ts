/**
 * Which member of a group gets which partition: in turn, among the members that subscribe to the
 * topic. kafkajs' own assigner takes the leader's subscription for everybody's. Runs in the member
 * that Kafka elects as leader; knows names and numbers only, never positions.
 */
import kafkajs, { type Assigner, type GroupMember } from "kafkajs";
import type { KafkaCluster } from "./kafkajs-client.ts";

/** Of our own, so that a group with members of another kind is refused by Kafka instead of mixed. */
export const assignerName = "oncebox-round-robin";
const version = 1;

interface Subscriber {
  readonly memberId: string;
  readonly topics: readonly string[];
}

/** Partitions by topic, by member. Every member is listed; a topic without partitions is left out. */
export function assignRoundRobin(
  subscribers: readonly Subscriber[],
  partitionsOf: (topic: string) => readonly number[],
): Map<string, Record<string, number[]>> {
  const members = [...subscribers].sort((a, b) => (a.memberId < b.memberId ? -1 : 1));
  const assignment = new Map(
    members.map(({ memberId }): [string, Record<string, number[]>] => [
      memberId,
      Object.create(null),
    ]),
  );
  const topics = [...new Set(members.flatMap((member) => member.topics))].sort();
  const loads = new Map(members.map(({ memberId }) => [memberId, 0]));
  // How many partitions a member could get at all.
  const choices = new Map(
    members.map((member) => [
      member.memberId,
      member.topics.reduce((sum, topic) => sum + partitionsOf(topic).length, 0),
    ]),
  );
  for (const topic of topics) {
    const subscribed = members.filter((member) => member.topics.includes(topic));
    for (const partition of [...partitionsOf(topic)].sort((a, b) => a - b)) {
      const { memberId } = leastLoaded(subscribed, loads, choices);
      const owned = assignment.get(memberId);
      if (owned !== undefined) owned[topic] = [...(owned[topic] ?? []), partition];
      loads.set(memberId, (loads.get(memberId) ?? 0) + 1);
    }
  }
  return assignment;
}

/** In turn where all subscribe to the same; among equals, the one that fewer partitions suit. */
function leastLoaded(
  subscribed: readonly Subscriber[],
  loads: ReadonlyMap<string, number>,
  choices: ReadonlyMap<string, number>,
): Subscriber {
  const of = (counts: ReadonlyMap<string, number>, { memberId }: Subscriber) =>
    counts.get(memberId) ?? 0;
  return subscribed.reduce((least, member) => {
    const difference =
      of(loads, member) - of(loads, least) || of(choices, member) - of(choices, least);
    return difference < 0 ? member : least;
  });
}

export function createAssigner(cluster: KafkaCluster): Assigner {
  const partitionsOf = (topic: string) => {
    return cluster.findTopicPartitionMetadata(topic).map(({ partitionId }) => partitionId);
  };
  return {
    name: assignerName,
    version,
    async assign({ members }: { members: GroupMember[] }) {
      const subscribers = members.map(({ memberId, memberMetadata }) => {
        const topics = kafkajs.AssignerProtocol.MemberMetadata.decode(memberMetadata)?.topics ?? [];
        return { memberId, topics };
      });
      // The leader knows its own topics only; a missing one is remembered without partitions.
      await cluster.addMultipleTargetTopics(subscribers.flatMap(({ topics }) => topics));
      const assignment = assignRoundRobin(subscribers, partitionsOf);
      return [...assignment].map(([memberId, owned]) => ({
        memberId,
        memberAssignment: kafkajs.AssignerProtocol.MemberAssignment.encode({
          version,
          assignment: owned,
          userData: Buffer.alloc(0),
        }),
      }));
    },
    protocol({ topics }: { topics: string[] }) {
      return { name: assignerName, metadata: memberMetadata(topics, partitionsOf) };
    },
  };
}

/**
 * A member that joins again with the same metadata causes no rebalance unless it leads. The numbers
 * of partitions are part of it, so that new partitions, and a topic that is gone, reach the leader
 * also where only another member subscribes to the topic.
 */
function memberMetadata(
  topics: readonly string[],
  partitionsOf: (topic: string) => readonly number[],
): Buffer {
  const counts = topics.map((topic) => `${topic}=${partitionsOf(topic).length}`).join(",");
  return kafkajs.AssignerProtocol.MemberMetadata.encode({
    version,
    topics: [...topics],
    userData: Buffer.from(counts),
  });
}
