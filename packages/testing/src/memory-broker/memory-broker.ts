/**
 * The broker port in memory: a cluster that several brokers may share, each as a process of its own,
 * on a clock that may be anybody's. Puts the parts together.
 */
import {
  type Broker,
  BrokerError,
  type BrokerProducer,
  type Clock,
  type ConsumerCallbacks,
  systemClock,
} from "@oncebox/core";
import type { BrokerFaults } from "./broker-faults.ts";
import { type MemoryCluster, memoryCluster, topicMissing } from "./cluster.ts";
import { type ClusterAdmin, clusterAdmin, clusterFaults, partitionOf } from "./cluster-admin.ts";
import { Link } from "./link.ts";
import { MemberClient } from "./member.ts";
import { memoryProducer } from "./producer.ts";

type BrokerConsumerOptions = Parameters<Broker["consumer"]>[0];

export interface MemoryBrokerOptions {
  /**
   * Time of this process, and of the cluster where none is given.
   * @defaultValue the cluster's, or the machine's
   */
  readonly clock?: Clock;
  /**
   * The cluster to work on, to be shared by several brokers.
   * @defaultValue one of its own, without a topic
   */
  readonly cluster?: MemoryCluster;
  /**
   * How its members begin to be called.
   * @defaultValue member
   */
  readonly name?: string;
  /** @defaultValue 30000 */
  readonly sessionTimeoutMs?: number;
  /** @defaultValue 3000 */
  readonly heartbeatIntervalMs?: number;
  /** @defaultValue 60000 */
  readonly rebalanceTimeoutMs?: number;
  /** @defaultValue 5000 */
  readonly publishTimeoutMs?: number;
  /**
   * How long a fetch waits for records.
   * @defaultValue 500
   */
  readonly maxWaitMs?: number;
  /**
   * How long a request takes.
   * @defaultValue 1
   */
  readonly requestMs?: number;
  /**
   * Most records of one batch.
   * @defaultValue 500
   */
  readonly batchRecordsMax?: number;
  /**
   * Most bytes of one batch; a single larger record still goes through.
   * @defaultValue 1048576
   */
  readonly batchBytesMax?: number;
}

/** What lies between this broker's process and the cluster. */
export interface MemoryNetwork {
  /** Requests that are under way are lost; new ones pass. */
  readonly cut: () => void;
  /** Nothing passes in either direction, and nothing fails, until `resume`. */
  readonly silence: () => void;
  readonly resume: () => void;
  /** While it is down every request of this process fails. */
  readonly down: (on: boolean) => void;
}

export interface MemoryBroker extends Broker {
  readonly cluster: MemoryCluster;
  /** Topics, and what others write into them. */
  readonly admin: ClusterAdmin;
  /** What goes wrong in the cluster, for all of its brokers. */
  readonly faults: BrokerFaults;
  readonly network: MemoryNetwork;
}

const closeDeadlineMs = 5_000;

/** A broker in memory. */
export function memoryBroker(options: MemoryBrokerOptions = {}): MemoryBroker {
  const cluster = options.cluster ?? memoryCluster({ clock: options.clock ?? systemClock });
  const settings = withDefaults(options, cluster.clock);
  const link = new Link();
  const reach = async <R>(work: () => R): Promise<R> => {
    await link.pass();
    if (cluster.down) throw unavailable();
    return work();
  };
  const ask = async <R>(work: () => R): Promise<R> => {
    await settings.clock.sleep(settings.requestMs);
    return reach(work);
  };
  const { timing, clock, requestMs: publishMs } = settings;
  const { publishTimeoutMs } = timing;
  const producers = new Set<BrokerProducer>();
  const consumers = new Set<MemberClient>();
  return {
    ...{ cluster, timing, partitionOf },
    admin: clusterAdmin(cluster),
    faults: clusterFaults(cluster),
    network: networkOf(link),
    ...questions(cluster, ask),
    // Takes no time: no schedule of a test should move because a setting was looked up.
    retentionMs: (topic) => reach(() => cluster.topic(topic).retentionMs),
    producer: async () => {
      const producer = memoryProducer({ cluster, clock, link, publishMs, publishTimeoutMs });
      producers.add(producer);
      return producer;
    },
    consumer: async (wanted, callbacks) => {
      const consumer = await ask(() => joined(settings, cluster, link, wanted, callbacks));
      consumers.add(consumer);
      return {
        commit: consumer.commit,
        stop: async (deadlineMs) => {
          consumers.delete(consumer);
          await consumer.stop(deadlineMs);
        },
      };
    },
    close: async () => {
      await Promise.all([...consumers].map((consumer) => consumer.stop(closeDeadlineMs)));
      await Promise.all([...producers].map((producer) => producer.close()));
    },
  };
}

function withDefaults(options: MemoryBrokerOptions, clusterClock: Clock) {
  const { clock = clusterClock, name = "member", requestMs = 1 } = options;
  const { sessionTimeoutMs = 30_000, heartbeatIntervalMs = 3_000 } = options;
  const { rebalanceTimeoutMs = 60_000, publishTimeoutMs = 5_000, maxWaitMs = 500 } = options;
  const { batchRecordsMax: recordsMax = 500, batchBytesMax: bytesMax = 2 ** 20 } = options;
  const timing = { sessionTimeoutMs, heartbeatIntervalMs, rebalanceTimeoutMs, publishTimeoutMs };
  return { clock, name, requestMs, maxWaitMs, timing, batches: { recordsMax, bytesMax } };
}

type Questions = Pick<Broker, "partitions" | "offsets" | "group" | "setGroupOffsets">;

function questions(cluster: MemoryCluster, ask: <R>(work: () => R) => Promise<R>): Questions {
  return {
    partitions: (topic) => ask(() => cluster.topic(topic).logs.length),
    offsets: (topic, at) =>
      ask(() => {
        const { id: topicId, logs } = cluster.topic(topic);
        const offsets = logs.map((log) => {
          if (typeof at === "object") return log.offsetAt(at.timestamp);
          // What an open transaction may still commit is not passed over.
          return at === "earliest" ? log.state().start : log.state().lastStable;
        });
        return { topicId, offsets: new Map(offsets.entries()) };
      }),
    group: (groupId, topics) =>
      ask(() => {
        const group = cluster.groups.get(groupId);
        if (group === undefined) return { members: 0, offsets: [] };
        return { members: group.members.length, offsets: group.offsets(topics) };
      }),
    setGroupOffsets: (groupId, offsets) =>
      ask(() => {
        const group = cluster.group(groupId);
        if (group.members.length > 0) {
          throw new BrokerError("group-active", `group ${groupId} has members`, {
            details: { groupId, members: group.members.length },
          });
        }
        group.store(offsets);
      }),
  };
}

function joined(
  settings: ReturnType<typeof withDefaults>,
  cluster: MemoryCluster,
  link: Link,
  { groupId, topics, requireTopics = true }: BrokerConsumerOptions,
  callbacks: ConsumerCallbacks,
): MemberClient {
  const missing = topics.filter((topic) => !cluster.topics.has(topic));
  if (requireTopics && missing.length > 0) throw topicMissing(missing);
  const { clock, name, maxWaitMs, requestMs: fetchMs, timing, batches } = settings;
  const consumer = new MemberClient({
    ...{ cluster, clock, link, groupId, topics, callbacks, batches },
    name: `${name}-${cluster.number()}`,
    times: { ...timing, maxWaitMs, fetchMs },
  });
  consumer.start();
  return consumer;
}

function networkOf(link: Link): MemoryNetwork {
  return {
    cut: () => link.cut(),
    silence: () => link.silence(),
    resume: () => link.resume(),
    down: (on) => link.setDown(on),
  };
}

function unavailable(): BrokerError {
  return new BrokerError("broker-unavailable", "no broker can be reached", { retryable: true });
}
