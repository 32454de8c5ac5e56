/**
 * Every fetch of a consumer passes through here. Owns what is asked (the core's position, or nothing)
 * and what becomes of the answer: records go straight to the core, decoded and filtered by us, and
 * kafkajs gets an empty answer, so that its own positions, filters and resets play no part. Never
 * keeps a record or a position.
 *
 *   kafkajs asks ─▶ positions? ─ none ─▶ wait until there is one, or maxWait ─▶ empty answer
 *                      │ some
 *                      ▼
 *                 send to Kafka ─▶ same assignment? ─ no ─▶ drop ─▶ empty answer
 *                                        │ yes
 *                                        ▼
 *                 each partition: records ─▶ deliver
 *                                 out of range ─▶ displaced, with the log's bounds
 *                                 other error ─▶ thrown at the end: kafkajs joins again
 */
import {
  type ConsumerCallbacks,
  type LogBounds,
  OnceboxError,
  systemClock,
  type TopicPartition,
} from "@oncebox/core";
import {
  checkApiVersion,
  type FetchRequest,
  type KafkaCluster,
  type KafkaNode,
  withProtocol,
} from "./kafkajs-client.ts";
import { isBug, kafkaCode } from "./kafkajs-errors.ts";
import { type AbortedTransaction, decodeRecords } from "./record-batch.ts";
import { MalformedBytesError, Reader } from "./wire.ts";

/** What this member owns between two joins. */
export interface Assignment {
  readonly number: number;
  readonly has: (topic: string, partition: number) => boolean;
}

interface FetchHookOptions {
  readonly callbacks: Pick<ConsumerCallbacks, "position" | "deliver" | "displaced" | "unreadable">;
  /** The current one; null before the first join and when the consumer stops. */
  readonly assignment: () => Assignment | null;
  readonly cluster: () => KafkaCluster;
  /** Something that must not happen: the consumer ends. */
  readonly fail: (error: unknown) => void;
}

const nothing = { responses: [] } as const;

const fetchKey = 1;
const fetchVersion = 11;

/** How often positions are asked again while there is none. The core has no way to wake us. */
const positionPollMs = 5;
/**
 * Longest wait of a fetch that leaves a partition out: what is left out cannot be asked for before
 * the fetch is back.
 */
const partialWaitMs = 25;

export class FetchHook {
  readonly #options: FetchHookOptions;
  #turn = 0;

  constructor(options: FetchHookOptions) {
    this.#options = options;
  }

  /** Takes the place of kafkajs' `broker.fetch`. Throws only what kafkajs knows how to treat. */
  async fetch(
    node: KafkaNode,
    request: FetchRequest,
    send: (node: KafkaNode, request: FetchRequest) => Promise<unknown>,
  ): Promise<{ responses: readonly never[] }> {
    let phase: "asking" | "sending" | "taking" = "asking";
    try {
      const assignment = this.#options.assignment();
      const plan = assignment === null ? null : await this.#waitForPlan(assignment, request);
      if (assignment === null || plan === null) {
        await pause(assignment === null ? request.maxWaitTime : 0);
        return nothing;
      }
      phase = "sending";
      const answer = (await send(withOwnDecoding(node), plan.request)) as FetchAnswer;
      phase = "taking";
      const failed = await this.#take(node, assignment, plan.positions, answer);
      if (failed !== null) await answer.raise(failed);
    } catch (error) {
      // Kafka's and the network's errors are kafkajs' to recover from. Bytes that do not decode and
      // bugs would come again for ever.
      if (phase === "sending" && !isOurs(error)) throw error;
      if (phase === "taking" && isOfKafkajs(error)) throw error;
      this.#options.fail(error);
      await pause(request.maxWaitTime);
    }
    return nothing;
  }

  async #waitForPlan(assignment: Assignment, request: FetchRequest): Promise<Plan | null> {
    const until = systemClock.now() + request.maxWaitTime;
    for (;;) {
      if (this.#options.assignment() !== assignment) return null;
      const plan = this.#plan(assignment, request);
      if (plan.positions.size > 0) return plan;
      if (systemClock.now() >= until) return null;
      await systemClock.sleep(positionPollMs);
    }
  }

  #plan(assignment: Assignment, request: FetchRequest): Plan {
    const positions = new Map<string, bigint>();
    let leftOut = false;
    // Kafka gives an oversized batch only to the first partition that has something: each gets its
    // turn to be the first.
    this.#turn += 1;
    const topics = rotated(request.topics, this.#turn).map(({ topic, partitions }) => {
      const asked = [];
      for (const entry of rotated(partitions, this.#turn)) {
        const at = { topic, partition: entry.partition };
        const owned = assignment.has(topic, entry.partition);
        const position = owned ? this.#options.callbacks.position(at) : null;
        if (position === null) {
          leftOut = true;
          continue;
        }
        positions.set(keyOf(at), position);
        asked.push({ ...entry, fetchOffset: position.toString() });
      }
      return { topic, partitions: asked };
    });
    const maxWaitTime = leftOut
      ? Math.min(request.maxWaitTime, partialWaitMs)
      : request.maxWaitTime;
    const kept = topics.filter(({ partitions }) => partitions.length > 0);
    return { positions, request: { ...request, maxWaitTime, topics: kept } };
  }

  /** Hands over what arrived; returns a partition whose error is for kafkajs to treat, if any. */
  async #take(
    node: KafkaNode,
    assignment: Assignment,
    positions: ReadonlyMap<string, bigint>,
    answer: FetchAnswer,
  ): Promise<FetchedPartition | null> {
    let failed: FetchedPartition | null = null;
    const outside: FetchedPartition[] = [];
    for (const fetched of answer.partitions) {
      const asked = positions.get(keyOf(fetched));
      if (asked === undefined) continue;
      if (fetched.errorCode === kafkaCode.offsetOutOfRange) outside.push(fetched);
      else if (fetched.errorCode !== kafkaCode.none) failed ??= fetched;
      else {
        const decoded = await this.#decoded(assignment, fetched, asked);
        if (decoded === null) continue;
        const { records, endOffset } = decoded;
        // Decoding waits where records are compressed, and a join may have come in between.
        if (this.#options.assignment() !== assignment) return failed;
        if (endOffset === null || endOffset <= asked) continue;
        this.#options.callbacks.deliver({
          topic: fetched.topic,
          partition: fetched.partition,
          assignment: assignment.number,
          fetchedOffset: asked,
          endOffset,
          records,
          logEnd: fetched.highWatermark,
        });
      }
    }
    for (const at of outside) await this.#displace(node, assignment, at, positions);
    if (failed?.errorCode === kafkaCode.unknownTopicOrPartition) {
      await this.#reportIfGone(assignment, failed, positions);
    }
    return failed;
  }

  /** Null where the bytes do not decode: they never will, and the other partitions can go on. */
  async #decoded(assignment: Assignment, fetched: FetchedPartition, asked: bigint) {
    try {
      return await decodeRecords(fetched.bytes, asked, fetched.aborted);
    } catch (error) {
      const { topic, partition } = fetched;
      const cause = error instanceof Error ? error : new Error(`its codec failed: ${error}`);
      if (this.#options.assignment() === assignment) {
        this.#options.callbacks.unreadable({ topic, partition }, asked, cause);
      }
      return null;
    }
  }

  async #displace(
    node: KafkaNode,
    assignment: Assignment,
    at: TopicPartition,
    positions: ReadonlyMap<string, bigint>,
  ): Promise<void> {
    const asked = positions.get(keyOf(at)) as bigint;
    const bounds = await boundsOf(node, at);
    if (this.#options.assignment() !== assignment) return;
    this.#options.callbacks.displaced({ topic: at.topic, partition: at.partition }, asked, bounds);
  }

  /** A topic that was deleted: reported, while the others go on. A new one may not be known yet. */
  async #reportIfGone(
    assignment: Assignment,
    at: TopicPartition,
    positions: ReadonlyMap<string, bigint>,
  ): Promise<void> {
    const cluster = this.#options.cluster();
    await cluster.refreshMetadata();
    if (cluster.findTopicPartitionMetadata(at.topic).length > 0) return;
    if (this.#options.assignment() !== assignment) return;
    const asked = positions.get(keyOf(at)) as bigint;
    this.#options.callbacks.displaced({ topic: at.topic, partition: at.partition }, asked, null);
  }
}

function rotated<T>(list: readonly T[], turn: number): readonly T[] {
  const at = list.length === 0 ? 0 : turn % list.length;
  return [...list.slice(at), ...list.slice(0, at)];
}

interface Plan {
  readonly request: FetchRequest;
  readonly positions: ReadonlyMap<string, bigint>;
}

interface FetchedPartition extends TopicPartition {
  readonly errorCode: number;
  readonly highWatermark: bigint;
  readonly lastStableOffset: bigint;
  readonly logStart: bigint;
  readonly aborted: readonly AbortedTransaction[];
  readonly bytes: Buffer;
}

interface FetchAnswer {
  readonly throttleMs: number;
  readonly partitions: readonly FetchedPartition[];
  /** Throws kafkajs' own error for a partition, by its own translation. */
  readonly raise: (failed: FetchedPartition) => Promise<unknown>;
}

/**
 * kafkajs' decoding throws away everything when one partition has an error, drops batches without
 * records (and then stands still before them), and loses the order of headers.
 */
function withOwnDecoding(node: KafkaNode): KafkaNode {
  return withProtocol(node, fetchKey, (call) => {
    checkApiVersion(call, fetchVersion, "2.3");
    return {
      ...call,
      response: {
        decode: async (bytes) => {
          const answer = decodeFetch(bytes);
          // The name under which kafkajs looks for it (KIP-219).
          return { ...answer, clientSideThrottleTime: answer.throttleMs };
        },
        parse: async (answer: Omit<FetchAnswer, "raise">): Promise<FetchAnswer> => ({
          ...answer,
          raise: (failed) => call.response.parse(asKafkajs(failed)),
        }),
      },
    };
  });
}

function asKafkajs({ topic, partition, errorCode }: FetchedPartition): never {
  return { responses: [{ topicName: topic, partitions: [{ partition, errorCode }] }] } as never;
}

/** The answer to a Fetch of version 11. */
function decodeFetch(bytes: Buffer): Omit<FetchAnswer, "raise"> {
  const reader = new Reader(bytes);
  const throttleMs = reader.int32();
  reader.int16(); // an error of the fetch session; there is none, as kafkajs uses no sessions
  reader.int32();
  const topics = reader.list(() => {
    const topic = reader.string();
    return reader.list(() => decodePartition(reader, topic));
  });
  return { throttleMs, partitions: topics.flat() };
}

function decodePartition(reader: Reader, topic: string): FetchedPartition {
  const partition = reader.int32();
  const errorCode = reader.int16();
  const highWatermark = reader.int64();
  const lastStableOffset = reader.int64();
  const logStart = reader.int64();
  const aborted = reader.list(() => ({
    producerId: reader.int64(),
    firstOffset: reader.int64(),
  }));
  reader.int32(); // preferred read replica: only with a rack
  const size = reader.int32();
  // Records keep a view of these bytes: a copy, so that one partition's do not hold the whole answer.
  const body = size > 0 ? Buffer.from(reader.take(size)) : Buffer.alloc(0);
  return {
    topic,
    partition,
    errorCode,
    highWatermark,
    lastStableOffset,
    logStart,
    aborted,
    bytes: body,
  };
}

const earliest = -2;
const latest = -1;

/** Null where Kafka does not say: the report matters more than its numbers. */
async function boundsOf(node: KafkaNode, at: TopicPartition): Promise<LogBounds | null> {
  const offset = async (timestamp: number): Promise<bigint> => {
    const { responses } = await node.listOffsets({
      // Uncommitted included: the end of the log, not the last stable offset.
      isolationLevel: 0,
      topics: [{ topic: at.topic, partitions: [{ partition: at.partition, timestamp }] }],
    });
    const listed = responses[0]?.partitions[0]?.offset;
    if (listed === undefined) throw new Error("no offset was listed");
    return BigInt(listed);
  };
  try {
    return { start: await offset(earliest), end: await offset(latest) };
  } catch {
    return null;
  }
}

function keyOf({ topic, partition }: TopicPartition): string {
  return `${topic}/${partition}`;
}

function isOfKafkajs(error: unknown): boolean {
  const name = (error as { name?: unknown }).name;
  return typeof name === "string" && name.startsWith("KafkaJS");
}

/** Also what our own decoding throws inside of kafkajs' request. */
function isOurs(error: unknown): boolean {
  return isBug(error) || error instanceof MalformedBytesError || error instanceof OnceboxError;
}

async function pause(ms: number): Promise<void> {
  if (ms > 0) await systemClock.sleep(ms);
}
