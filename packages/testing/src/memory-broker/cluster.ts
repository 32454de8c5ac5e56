/**
 * A Kafka cluster in memory: topics with their logs, groups, and what goes wrong with them. Shared by
 * the brokers of all processes. Answers fetches; delivers nothing by itself.
 */
import {
  BrokerError,
  type Clock,
  type Displacement,
  type FetchPosition,
  type LogState,
  systemClock,
  type TopicPartition,
} from "@oncebox/core";
import type { BrokerFaults } from "./broker-faults.ts";
import { Group, nameOf } from "./group.ts";
import type { PartitionLog, Read, ReadLimits } from "./partition-log.ts";

export interface Topic {
  readonly name: string;
  readonly id: string;
  readonly logs: PartitionLog[];
  /** Limit of one record. */
  readonly recordBytesMax: number;
  /** How long it says to keep records; nothing is removed by it. */
  readonly retentionMs: number;
  /** Whether it lacks replicas, so that nothing is acknowledged. */
  readonly understaffed: boolean;
}

/** What a fetch of one partition found. */
export type Found =
  | { readonly kind: "troubled"; readonly error: Error }
  | { readonly kind: "displaced"; readonly why: Displacement }
  | {
      readonly kind: "log";
      readonly log: LogState;
      readonly topicId: string;
      readonly read: Read | null;
    };

/** A member, as faults reach it by its name. */
export interface FaultyMember {
  readonly groupId: string;
  readonly expelled: () => void;
  readonly freeze: () => void;
  readonly thaw: () => void;
  readonly mute: () => void;
  readonly crash: (error: Error) => void;
  /** Something was written or changed that it may wait for. */
  readonly poke: (at: TopicPartition) => void;
}

type Hooks = Pick<BrokerFaults, "onBatch" | "onCommit" | "onPublish" | "readUncommitted">;

export class MemoryCluster {
  readonly clock: Clock;
  /** @internal */
  readonly hooks: { -readonly [K in keyof Hooks]: Hooks[K] } = {
    onBatch: null,
    onCommit: null,
    onPublish: null,
    readUncommitted: false,
  };
  /** @internal */
  readonly topics = new Map<string, Topic>();
  /** @internal */
  readonly groups = new Map<string, Group>();
  /** @internal */
  readonly members = new Map<string, FaultyMember>();
  /** @internal */
  readonly troubles = new Map<string, Error>();
  /** @internal */
  down = false;
  #numbers = 0;

  constructor(clock: Clock) {
    this.clock = clock;
  }

  /** Counts up over everything that gets a name here. @internal */
  number(): number {
    this.#numbers += 1;
    return this.#numbers;
  }

  /** Throws BrokerError `topic-missing`. @internal */
  topic(name: string): Topic {
    const topic = this.topics.get(name);
    if (topic === undefined) throw topicMissing([name]);
    return topic;
  }

  /** Throws where there is no such partition. @internal */
  log({ topic, partition }: TopicPartition): PartitionLog {
    const log = this.topic(topic).logs[partition];
    if (log === undefined) throw new RangeError(`${topic} has no partition ${partition}`);
    return log;
  }

  /** @internal */
  group(id: string): Group {
    const known = this.groups.get(id);
    if (known !== undefined) return known;
    const count = (topic: string) => this.topics.get(topic)?.logs.length ?? 0;
    const group = new Group(this.clock, count, () => this.down);
    this.groups.set(id, group);
    return group;
  }

  /** @internal */
  fetch(at: TopicPartition, position: FetchPosition, limits: ReadLimits): Found {
    const trouble = this.troubles.get(nameOf(at));
    if (trouble !== undefined) return { kind: "troubled", error: trouble };
    const topic = this.topics.get(at.topic);
    if (topic === undefined) return { kind: "displaced", why: { kind: "topic-missing" } };
    const { id: topicId, logs } = topic;
    if (position.topicId !== null && position.topicId !== topicId) {
      return { kind: "displaced", why: { kind: "topic-recreated", topicId } };
    }
    const log = logs[at.partition];
    if (log === undefined) return { kind: "displaced", why: { kind: "topic-missing" } };
    const why = log.displacement(position);
    if (why !== null) return { kind: "displaced", why };
    const read = log.read(position.offset, limits);
    return { kind: "log", log: log.state(), topicId, read };
  }

  /** Whoever waits for something of this partition looks again. @internal */
  changed(at: TopicPartition): void {
    for (const member of this.members.values()) member.poke(at);
  }

  /** Members hear of another number of partitions by a rebalance. @internal */
  resized(topic: string): void {
    for (const group of this.groups.values()) if (group.subscribes(topic)) group.rebalance();
  }
}

/** A cluster of its own, without a topic. */
export function memoryCluster(options: { readonly clock?: Clock } = {}): MemoryCluster {
  return new MemoryCluster(options.clock ?? systemClock);
}

export function topicMissing(names: readonly string[]): BrokerError {
  const [first = ""] = names;
  const text = names.length === 1 ? `topic ${first} does` : `topics ${names.join(", ")} do`;
  return new BrokerError("topic-missing", `${text} not exist: create it first`, {
    details: { topics: names },
  });
}
