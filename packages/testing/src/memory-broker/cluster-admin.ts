/** What is done to a cluster's topics by others: written, created, deleted, cut short, read as it is. */
import { BrokerError, type Headers, murmur2, type OutgoingMessage } from "@oncebox/core";
import type { BrokerFaults } from "./broker-faults.ts";
import type { FaultyMember, MemoryCluster, Topic } from "./cluster.ts";
import { nameOf } from "./group.ts";
import { PartitionLog } from "./partition-log.ts";

export interface TopicSettings {
  /** @defaultValue 1 */
  readonly partitions?: number;
  /**
   * Limit of one record.
   * @defaultValue 1048588
   */
  readonly recordBytesMax?: number;
  /**
   * How long it says that it keeps its records, in milliseconds; Infinity: for ever. Nothing is removed
   * by it, only by `deleteRecords`.
   * @defaultValue 604800000, a week
   */
  readonly retentionMs?: number;
  /**
   * Whether it lacks replicas: nothing is acknowledged, and nothing stored.
   * @defaultValue false
   */
  readonly understaffed?: boolean;
}

/** A record as an ordinary producer writes it. */
export interface NewTopicRecord {
  readonly key?: string | Uint8Array | null;
  readonly value: string | Uint8Array | null;
  readonly headers?: Headers;
  /** Milliseconds since 1970; without, the time of writing. */
  readonly timestamp?: bigint;
}

/** A record in a log that was not aborted. */
export interface LogRecord {
  readonly partition: number;
  readonly offset: bigint;
  readonly timestamp: bigint;
  readonly key: Uint8Array | null;
  readonly value: Uint8Array | null;
  readonly headers: Headers;
}

/** A transaction of another producer. One that is never ended hangs. */
export interface MemoryProducerTransaction {
  readonly write: (topic: string, partition: number, records: readonly NewTopicRecord[]) => void;
  readonly commit: () => void;
  readonly abort: () => void;
}

export interface ClusterAdmin {
  readonly createTopic: (topic: string, settings?: TopicSettings) => void;
  readonly deleteTopic: (topic: string) => void;
  /** Deletes it and makes it anew, empty. Returns its new id. */
  readonly recreateTopic: (topic: string, settings?: TopicSettings) => string;
  readonly addPartitions: (topic: string, total: number) => void;
  /** Publishes a message of a topic definition; returns where it lies. */
  readonly send: (message: OutgoingMessage) => {
    readonly partition: number;
    readonly offset: bigint;
  };
  /** Appends in one batch; returns the first offset. */
  readonly produce: (
    topic: string,
    partition: number,
    records: readonly NewTopicRecord[],
  ) => bigint;
  readonly transaction: () => MemoryProducerTransaction;
  /** The whole topic, by partition and offset. */
  readonly stored: (topic: string) => readonly LogRecord[];
  /** As retention does: the log begins at this offset afterwards. */
  readonly deleteRecords: (topic: string, partition: number, below: bigint) => void;
  /** As compaction does: holes remain. */
  readonly compact: (topic: string, partition: number, offsets: readonly bigint[]) => void;
  /** An unclean election: the new leader lacks everything from this offset on. */
  readonly truncate: (topic: string, partition: number, from: bigint) => void;
  /** A clean election: another leader epoch. */
  readonly electLeader: (topic: string, partition: number) => void;
  /** What lies there cannot be read any more. */
  readonly corrupt: (topic: string, partition: number, offset: bigint) => void;
  /** Names of the group's members that run, as faults take them. */
  readonly members: (groupId: string) => readonly string[];
}

const encoder = new TextEncoder();

function bytesOf(value: string | Uint8Array | null): Uint8Array | null {
  return typeof value === "string" ? encoder.encode(value) : value;
}

/** As Kafka's Java client chooses for a key; the id decides where there is none. */
export function partitionOf(key: Uint8Array | null, id: string, partitions: number): number {
  return (murmur2(key ?? encoder.encode(id)) & 0x7fff_ffff) % partitions;
}

export function clusterAdmin(cluster: MemoryCluster): ClusterAdmin {
  const append = (
    topic: string,
    partition: number,
    records: readonly NewTopicRecord[],
    transaction: number | null = null,
  ) => {
    const at = { topic, partition };
    const now = BigInt(cluster.clock.epochMs());
    const rows = records.map(({ key = null, value, headers = [], timestamp = now }) => {
      return { key: bytesOf(key), value: bytesOf(value), headers, timestamp };
    });
    const first = cluster.log(at).append(rows, transaction);
    cluster.changed(at);
    return first;
  };
  const create = (name: string, settings: TopicSettings = {}): Topic => {
    const { partitions = 1, recordBytesMax = 1_048_588, understaffed = false } = settings;
    const { retentionMs = 604_800_000 } = settings;
    const logs = Array.from({ length: partitions }, () => new PartitionLog());
    const id = `topic-${cluster.number()}`;
    const topic = { name, id, logs, recordBytesMax, retentionMs, understaffed };
    cluster.topics.set(name, topic);
    for (const partition of logs.keys()) cluster.changed({ topic: name, partition });
    return topic;
  };
  return {
    ...topicVerbs(cluster, create),
    ...logVerbs(cluster),
    produce: (topic, partition, records) => append(topic, partition, records),
    send: ({ topic, key: given, value, headers, id }) => {
      const key = bytesOf(given);
      const { logs } = cluster.topic(topic);
      const named: Headers = id === undefined ? headers : [["id", encoder.encode(id)], ...headers];
      const partition = partitionOf(key, id ?? "", logs.length);
      const offset = append(topic, partition, [{ key, value, headers: named }]);
      return { partition, offset };
    },
    transaction: () => {
      const number = cluster.number();
      const written = new Map<string, { topic: string; partition: number }>();
      const end = (outcome: "committed" | "aborted") => {
        for (const at of written.values()) {
          cluster.topics.get(at.topic)?.logs[at.partition]?.finish(number, outcome);
          cluster.changed(at);
        }
      };
      return {
        write: (topic, partition, records) => {
          append(topic, partition, records, number);
          written.set(nameOf({ topic, partition }), { topic, partition });
        },
        commit: () => end("committed"),
        abort: () => end("aborted"),
      };
    },
    members: (groupId) =>
      [...cluster.members].filter(([, each]) => each.groupId === groupId).map(([name]) => name),
  };
}

function topicVerbs(
  cluster: MemoryCluster,
  create: (name: string, settings?: TopicSettings) => Topic,
) {
  const deleteTopic = (name: string) => {
    const { logs } = cluster.topic(name);
    cluster.topics.delete(name);
    for (const group of cluster.groups.values()) group.forget(name);
    for (const partition of logs.keys()) cluster.changed({ topic: name, partition });
  };
  return {
    createTopic: (name, settings) => {
      if (cluster.topics.has(name)) throw new BrokerError("broker-refused", `${name} exists`);
      create(name, settings);
      cluster.resized(name);
    },
    deleteTopic,
    recreateTopic: (name, settings = {}) => {
      const { logs } = cluster.topic(name);
      deleteTopic(name);
      const topic = create(name, { partitions: logs.length, ...settings });
      if (topic.logs.length !== logs.length) cluster.resized(name);
      return topic.id;
    },
    addPartitions: (name, total) => {
      const { logs } = cluster.topic(name);
      while (logs.length < total) logs.push(new PartitionLog());
      cluster.resized(name);
    },
  } satisfies Partial<ClusterAdmin>;
}

function logVerbs(cluster: MemoryCluster) {
  const change = (topic: string, partition: number, act: (log: PartitionLog) => void) => {
    act(cluster.log({ topic, partition }));
    cluster.changed({ topic, partition });
  };
  return {
    stored: (topic) =>
      cluster
        .topic(topic)
        .logs.flatMap((log, partition) =>
          log.stored().map(({ leaderEpoch: _, ...record }) => ({ partition, ...record })),
        ),
    deleteRecords: (topic, partition, below) =>
      change(topic, partition, (log) => log.deleteBelow(below)),
    compact: (topic, partition, offsets) =>
      change(topic, partition, (log) => log.compact(new Set(offsets))),
    truncate: (topic, partition, from) => change(topic, partition, (log) => log.truncate(from)),
    electLeader: (topic, partition) => change(topic, partition, (log) => log.newLeader()),
    corrupt: (topic, partition, offset) => change(topic, partition, (log) => log.corrupt(offset)),
  } satisfies Partial<ClusterAdmin>;
}

/** Assigning to a hook takes effect at once, for every broker of the cluster. */
export function clusterFaults(cluster: MemoryCluster): BrokerFaults {
  const member = (name: string): FaultyMember => {
    const found = cluster.members.get(name);
    if (found === undefined) throw new RangeError(`no member is called ${name}`);
    return found;
  };
  const verbs = {
    outage: (on: boolean) => {
      cluster.down = on;
      if (!on) for (const group of cluster.groups.values()) group.recovered();
    },
    trouble: (at, error) => {
      if (error === null) cluster.troubles.delete(nameOf(at));
      else cluster.troubles.set(nameOf(at), error);
      cluster.changed(at);
    },
    rebalance: (groupId) => cluster.group(groupId).rebalance(),
    expel: (name) => member(name).expelled(),
    freeze: (name) => member(name).freeze(),
    thaw: (name) => member(name).thaw(),
    mute: (name) => member(name).mute(),
    crash: (name, error = new Error("crashed by a fault")) => member(name).crash(error),
  } satisfies Partial<BrokerFaults>;
  // The very object that is asked: what is assigned to it counts from then on.
  return Object.assign(cluster.hooks, verbs);
}
