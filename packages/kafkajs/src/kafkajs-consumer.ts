/**
 * One consumer: a kafkajs client of its own that joins the group, heartbeats and fetches. Owns what
 * this member is (assignment, member id, generation) and its end. Records do not pass through here:
 * the fetch hook gives them to the core. Never decides about positions, and never lets kafkajs.
 *
 *   connecting ─▶ joining ─▶ assigned ─▶ assigned … (each join voids what was before)
 *                    ▲           │
 *                    └─ crashed ◀┘ kafkajs restarts by itself
 *                          │ it does not, or crashes in a loop
 *                          ▼
 *                        failed ─▶ stopped      (from every state: stop)
 */
import {
  type Broker,
  type BrokerConsumer,
  BrokerError,
  type ConsumerCallbacks,
  type GroupOffset,
  systemClock,
  type TopicPartition,
  within,
} from "@oncebox/core";
import type { Consumer } from "kafkajs";
import { createAssigner } from "./assigner.ts";
import type { Ownership } from "./assignment-strategies.ts";
import { type Assignment, FetchHook } from "./fetch-hook.ts";
import {
  connectTo,
  type KafkajsClient,
  type KafkaNode,
  type Membership,
  openClient,
} from "./kafkajs-client.ts";
import {
  clientUnsupported,
  codeName,
  isBug,
  kafkaCode,
  toOnceboxError,
  topicMissing,
} from "./kafkajs-errors.ts";
import type { KafkajsSettings } from "./kafkajs-options.ts";

/**
 * So many crashes within so long, and kafkajs' own restarts are given up. While no broker answers it
 * crashes every few seconds, and comes back by itself: that must not count as a loop.
 */
const crashesMax = 10;
const crashWindowMs = 15_000;

/** A commit that takes longer is given up: another one follows it anyway. */
const commitTimeoutMs = 5_000;

const leaderWaitMs = 100;
const leaderAttempts = 30;

/** kafkajs starts over by itself after an error, in these steps; beyond them it crashes and restarts. */
const retry = {
  initialRetryTime: 200,
  maxRetryTime: 3_000,
  factor: 0.2,
  multiplier: 2,
  retries: 5,
} as const;

type Subscription = Parameters<Broker["consumer"]>[0];

/** Connects, checks the topics and begins to join. Resolves before partitions are assigned. */
export async function startConsumer(
  settings: KafkajsSettings,
  options: Subscription,
  callbacks: ConsumerCallbacks,
): Promise<BrokerConsumer> {
  const consumer = new KafkajsConsumer(settings, options, callbacks);
  try {
    await consumer.start();
  } catch (error) {
    await consumer.stop(0);
    throw toOnceboxError(error, `starting a consumer of group ${options.groupId}`);
  }
  return {
    commit: (positions) => consumer.commit(positions),
    stop: (deadlineMs) => consumer.stop(deadlineMs),
  };
}

class KafkajsConsumer {
  readonly #options: Subscription;
  readonly #callbacks: ConsumerCallbacks;
  readonly #client: KafkajsClient;
  readonly #hook: FetchHook;
  #joins = 0;
  #assignment: Assignment | null = null;
  #joining: (Membership & { readonly node: KafkaNode }) | null = null;
  #member: Member | null = null;
  /** What the sticky assigner tells the group at the next join. */
  #owned: Ownership | null = null;
  #running: Promise<unknown> = Promise.resolve();
  #stopping = false;
  #failed = false;
  #crashes: number[] = [];

  constructor(settings: KafkajsSettings, options: Subscription, callbacks: ConsumerCallbacks) {
    this.#options = options;
    this.#callbacks = callbacks;
    this.#hook = new FetchHook({
      callbacks,
      assignment: () => (this.#ended ? null : this.#assignment),
      refreshMetadata: () => this.#client.cluster.refreshMetadata(),
      fail: (error) => this.#fail(error),
    });
    const config = consumerConfig(settings, options.groupId, () => !this.#ended);
    this.#client = openClient(settings, config, {
      assigner: (cluster) => createAssigner(cluster, settings.partitionAssigner, () => this.#owned),
      fetch: (node, request) => this.#hook.fetch(node, request),
      described: (node, topic) => this.#hook.described(node, topic),
      joined: (node, member) => {
        this.#joining = { ...member, node };
      },
    });
  }

  get #ended(): boolean {
    return this.#stopping || this.#failed;
  }

  async start(): Promise<void> {
    const { consumer } = this.#client;
    const topics = [...this.#options.topics];
    await connectTo(this.#client, topics);
    if (this.#options.requireTopics !== false) await this.#checkTopics(topics);
    this.#listen(consumer);
    await consumer.subscribe({ topics, fromBeginning: true });
    this.#running = consumer
      .run({
        autoCommit: false,
        eachBatchAutoResolve: false,
        // The hook answers every fetch with nothing. A batch means that it was passed by.
        eachBatch: async () =>
          this.#fail(clientUnsupported("a batch arrived that did not pass the fetch hook")),
      })
      .catch((error: unknown) => this.#fail(error));
  }

  async #checkTopics(topics: readonly string[]): Promise<void> {
    const { cluster, topicError } = this.#client;
    // A topic just created has no leaders for a moment.
    for (let attempt = 1; attempt < leaderAttempts; attempt += 1) {
      if (!topics.some((topic) => topicError(topic) === kafkaCode.leaderNotAvailable)) break;
      await systemClock.sleep(leaderWaitMs);
      await cluster.refreshMetadata();
    }
    const withError = (code: number) => topics.filter((topic) => topicError(topic) === code);
    const missing = withError(kafkaCode.unknownTopicOrPartition);
    if (missing.length > 0) throw topicMissing(missing);
    for (const topic of topics) {
      const code = topicError(topic);
      if (code === kafkaCode.none) continue;
      throw new BrokerError("broker-refused", `Kafka refused topic ${topic}: ${codeName(code)}`, {
        details: { topic, kafkaCode: code },
      });
    }
  }

  #listen(consumer: Consumer): void {
    const { GROUP_JOIN, CRASH } = consumer.events;
    consumer.on(GROUP_JOIN, ({ payload }) => {
      // kafkajs calls this inside of its join: what is thrown here would end the consumer.
      try {
        this.#assign(payload.memberId, payload.memberAssignment);
      } catch (error) {
        this.#fail(error);
      }
    });
    consumer.on(CRASH, ({ payload }) => this.#crashed(payload.error, payload.restart));
  }

  /** Synchronous: nothing can be fetched under the new assignment before the core knows it. */
  #assign(memberId: string, owned: Readonly<Record<string, number[]>>): void {
    if (this.#ended) {
      // A join that outran the stop: leave again, or the group waits for the session to end.
      this.#client.consumer.disconnect().catch(() => undefined);
      return;
    }
    if (this.#joining?.memberId !== memberId) {
      // Before any fetch: what joined past us would fetch past us as well.
      throw clientUnsupported("a join did not pass Oncebox's own door to the broker");
    }
    const { groupId } = this.#options;
    const partitions = Object.entries(owned).flatMap(([topic, numbers]) =>
      numbers.map((partition): TopicPartition => ({ topic, partition })),
    );
    const keys = new Set(partitions.map(({ topic, partition }) => `${topic}/${partition}`));
    this.#joins += 1;
    this.#assignment = {
      number: this.#joins,
      partitions,
      has: (topic, partition) => keys.has(`${topic}/${partition}`),
    };
    this.#member = { ...this.#joining };
    this.#owned = {
      generation: this.#joining.generationId,
      partitions: Object.entries(owned),
    };
    // kafkajs would look up committed offsets first, and resolve missing ones. It needs none: the
    // hook writes each position. Any number that is not negative keeps it from asking.
    for (const { topic, partition } of partitions) {
      this.#client.cluster.markOffsetAsCommitted({ groupId, topic, partition, offset: "0" });
    }
    this.#callbacks.assigned(this.#joins, partitions);
  }

  #crashed(error: unknown, restart: boolean): void {
    if (this.#ended) return;
    const now = systemClock.now();
    this.#crashes = [...this.#crashes.filter((at) => now - at < crashWindowMs), now];
    // With a restart, the next join clears what was before.
    if (restart && this.#crashes.length < crashesMax) return;
    const cause = isBug(error) ? error : toOnceboxError(error, "the consumer");
    const why = error instanceof Error ? error.message : String(error);
    const often = restart ? `crashed ${this.#crashes.length} times in a row` : "crashed";
    this.#fail(
      new BrokerError("consumer-crashed", `kafkajs' consumer ${often}: ${why}`, {
        cause,
        details: { groupId: this.#options.groupId, crashes: this.#crashes.length },
        retryable: true,
      }),
    );
  }

  /** Reported once. A bug is passed on as it is, trouble with Kafka translated. */
  #fail(error: unknown): void {
    if (this.#ended) return;
    this.#failed = true;
    this.#hook.close();
    const bug = isBug(error) && error instanceof Error;
    this.#callbacks.failed(bug ? error : toOnceboxError(error, "the consumer"));
    this.#client.consumer.disconnect().catch(() => undefined);
  }

  /**
   * Not through kafkajs' own commit: that one takes the generation of the moment it is sent, so that
   * a commit meant for a lost partition passes after a rebalance. Here a member of an older
   * generation is refused by the broker.
   */
  async commit(positions: readonly GroupOffset[]): Promise<boolean> {
    const member = this.#member;
    const assignment = this.#assignment;
    if (member === null || assignment === null || this.#failed) return false;
    if (positions.some(({ topic, partition }) => !assignment.has(topic, partition))) return false;
    if (positions.length === 0) return true;
    const committed = this.#commitAs(member, positions).catch(() => {
      // The coordinator may have moved; the next commit looks for it.
      member.node = null;
      return false;
    });
    return within(systemClock, commitTimeoutMs, committed, false);
  }

  async #commitAs(member: Member, positions: readonly GroupOffset[]): Promise<boolean> {
    const { groupId, memberId, generationId } = member;
    member.node ??= await this.#client.cluster.findGroupCoordinator({ groupId });
    const topics = new Map<string, { partition: number; offset: string; metadata: string }[]>();
    for (const { topic, partition, offset, metadata } of positions) {
      const entry = { partition, offset: offset.toString(), metadata };
      topics.set(topic, [...(topics.get(topic) ?? []), entry]);
    }
    await member.node.offsetCommit({
      groupId,
      memberId,
      groupGenerationId: generationId,
      topics: [...topics].map(([topic, partitions]) => ({ topic, partitions })),
    });
    return true;
  }

  async stop(deadlineMs: number): Promise<void> {
    this.#stopping = true;
    this.#hook.close();
    const { consumer } = this.#client;
    const left = (async () => {
      await consumer.disconnect();
      // During the first join a disconnect returns at once; the member may still arrive.
      await this.#running;
      await consumer.disconnect();
      return undefined;
    })().catch(() => undefined);
    await within(systemClock, deadlineMs, left, undefined);
    this.#client.destroy();
    this.#assignment = null;
    this.#member = null;
  }
}

/** This member as the group's coordinator knows it; `node` is null when it must be found again. */
interface Member extends Membership {
  node: KafkaNode | null;
}

function consumerConfig(settings: KafkajsSettings, groupId: string, restart: () => boolean) {
  return {
    groupId,
    sessionTimeout: settings.sessionTimeoutMs,
    heartbeatInterval: settings.heartbeatIntervalMs,
    rebalanceTimeout: settings.rebalanceTimeoutMs,
    maxWaitTimeInMs: settings.maxWaitMs,
    maxBytes: settings.fetchBytesMax,
    maxBytesPerPartition: settings.fetchBytesPerPartitionMax,
    // A restart after `stop` would be a member that nobody knows of.
    retry: { ...retry, restartOnFailure: async () => restart() },
  };
}
