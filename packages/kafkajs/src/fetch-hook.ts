/**
 * Every fetch of a consumer passes through here. Owns what is asked: the core's position in the topic
 * that it belongs to, or nothing. Records go straight to the core, decoded and filtered by us, and
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
 *                                 not our log ─▶ displaced, with what Kafka says of it
 *                                 its leader moved ─▶ left out until the metadata is read again
 *                                 other error ─▶ troubled, left out for a while
 */
import {
  type ConsumerCallbacks,
  type FetchPosition,
  OnceboxError,
  systemClock,
  type TopicPartition,
} from "@oncebox/core";
import {
  type AnswerContext,
  type Asked,
  answerKey,
  notFetched,
  takeAnswer,
  troubleTopic,
} from "./fetch-answer.ts";
import {
  type AskedPartition,
  type FetchAnswer,
  type FetchQuestion,
  fetchRequest,
} from "./fetch-request.ts";
import type { FetchRequest, KafkaNode, TopicMetadata } from "./kafkajs-client.ts";
import { isBug, kafkaCode } from "./kafkajs-errors.ts";
import { lookUpTopics, type TopicAnswer } from "./metadata-request.ts";
import { ask } from "./own-request.ts";
import { Lasting, Setbacks } from "./setbacks.ts";
import { TopicIds } from "./topic-ids.ts";
import { MalformedBytesError } from "./wire.ts";

/** What this member owns between two joins. */
export interface Assignment {
  readonly number: number;
  readonly partitions: readonly TopicPartition[];
  readonly has: (topic: string, partition: number) => boolean;
}

/** The requests of the hook itself. */
export interface FetchWire {
  readonly fetch: (node: KafkaNode, question: FetchQuestion) => Promise<FetchAnswer>;
  readonly topics: (
    node: KafkaNode,
    topics: readonly string[],
  ) => Promise<ReadonlyMap<string, TopicAnswer>>;
}

interface FetchHookOptions {
  readonly callbacks: Pick<
    ConsumerCallbacks,
    "position" | "fetched" | "deliver" | "displaced" | "unreadable" | "troubled"
  >;
  /** The current one; null before the first join and when the consumer stops. */
  readonly assignment: () => Assignment | null;
  /** Reads topics, partitions and leaders again. */
  readonly refreshMetadata: () => Promise<void>;
  /** Something that must not happen: the consumer ends. */
  readonly fail: (error: unknown) => void;
  readonly wire?: FetchWire;
}

const realWire: FetchWire = {
  fetch: (node, question) => ask(node, fetchRequest(question)),
  topics: lookUpTopics,
};

const nothing = { responses: [] } as const;

/** How often positions are asked again while there is none. The core has no way to wake us. */
const positionPollMs = 5;
/**
 * Wait of the first fetch that leaves a partition out: what is left out cannot be asked for before
 * the fetch is back. Later ones wait as long as it has been left out by then: at most as long again,
 * and a partition that is paused for days costs no more fetches than the others.
 */
const partialWaitMs = 25;
/** How soon the metadata is read again while a partition has no leader. */
const leaderWaitMs = 500;

export class FetchHook {
  readonly #options: FetchHookOptions;
  readonly #wire: FetchWire;
  readonly #topicIds: TopicIds;
  readonly #lookErrors = new Map<KafkaNode, unknown>();
  #setbacks = new Setbacks();
  #lasting = new Lasting();
  /** The last question of each partition: when its leader moves, two nodes may be asked at once. */
  readonly #latest = new Map<string, Asked>();
  #seen: Assignment | null = null;
  readonly #end = new AbortController();
  #refreshing = false;
  #waitingForLeader = false;
  /** Fetches sent so far, by node: a count of all would give each node the same turn every time. */
  readonly #turns = new WeakMap<KafkaNode, number>();
  /** What each node's fetches leave out, and since when just that. */
  readonly #leftOut = new WeakMap<KafkaNode, { readonly which: string; readonly since: number }>();

  constructor(options: FetchHookOptions) {
    this.#options = options;
    this.#wire = options.wire ?? realWire;
    this.#topicIds = new TopicIds({
      look: this.#wire.topics,
      settled: (topic, topicId) => this.#guarded(() => this.#displaceAll(topic, topicId)),
      refused: (topic, code) => this.#guarded(() => troubleTopic(this.#context(), topic, code)),
      failed: (node, error) => this.#lookErrors.set(node, error),
    });
  }

  /** Takes the place of kafkajs' `broker.fetch`. Throws only what kafkajs knows how to treat. */
  async fetch(node: KafkaNode, request: FetchRequest): Promise<{ responses: readonly never[] }> {
    let phase: "asking" | "sending" | "taking" = "asking";
    try {
      const assignment = this.#current();
      const plan = assignment === null ? null : await this.#waitForPlan(node, assignment, request);
      if (assignment === null || plan === null) {
        phase = "sending";
        this.#throwLookError(node);
        await pause(assignment === null ? request.maxWaitTime : 0);
        return nothing;
      }
      phase = "sending";
      const answer = await this.#wire.fetch(node, plan.question);
      phase = "taking";
      await takeAnswer(this.#context(), node, assignment, plan.asked, answer);
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

  /**
   * What kafkajs reads of a topic. It asks no more for partitions that do not exist or have no leader,
   * so no fetch would ever find out what became of them, and none would tell of it.
   */
  described(node: KafkaNode, described: TopicMetadata): void {
    const { topic, topicErrorCode } = described;
    const owned = this.#current()?.partitions.filter((at) => at.topic === topic) ?? [];
    if (owned.length === 0) return;
    if (topicErrorCode === kafkaCode.unknownTopicOrPartition) {
      this.#topicIds.contradicted(topic, null, node);
      return;
    }
    const unasked = owned.flatMap((at) => {
      const code = codeOf(described, at.partition);
      return code === kafkaCode.none ? [] : [{ at, code }];
    });
    if (unasked.length === 0) return;
    this.#refreshLater();
    this.#guarded(() => {
      for (const { at, code } of unasked) notFetched(this.#context(), at, code);
    });
  }

  close(): void {
    this.#end.abort();
    this.#topicIds.close();
  }

  /** What a partition was left out for under one assignment does not count under the next. */
  #current(): Assignment | null {
    const assignment = this.#options.assignment();
    if (assignment !== this.#seen) {
      this.#seen = assignment;
      this.#setbacks = new Setbacks();
      this.#lasting = new Lasting();
      this.#latest.clear();
    }
    return assignment;
  }

  #context(): AnswerContext {
    return {
      callbacks: this.#options.callbacks,
      assignment: () => this.#current(),
      isLatest: (asked) => this.#latest.get(answerKey(asked.topicId, asked.at.partition)) === asked,
      topicIds: this.#topicIds,
      setbacks: this.#setbacks,
      lasting: this.#lasting,
      refresh: () => this.#refresh(),
    };
  }

  async #waitForPlan(
    node: KafkaNode,
    assignment: Assignment,
    request: FetchRequest,
  ): Promise<Plan | null> {
    const until = systemClock.now() + request.maxWaitTime;
    for (;;) {
      if (this.#current() !== assignment) return null;
      const plan = this.#plan(node, assignment, request);
      if (plan.asked.size > 0) {
        this.#lookErrors.delete(node);
        this.#turns.set(node, (this.#turns.get(node) ?? 0) + 1);
        return plan;
      }
      if (this.#lookErrors.has(node) || systemClock.now() >= until) return null;
      await systemClock.sleep(positionPollMs);
    }
  }

  #plan(node: KafkaNode, assignment: Assignment, request: FetchRequest): Plan {
    const asked = new Map<string, Asked>();
    const partitions: AskedPartition[] = [];
    const now = systemClock.now();
    let maxWaitMs = request.maxWaitTime;
    const leftOut: string[] = [];
    const all = request.topics.flatMap(({ topic, partitions: entries }) =>
      entries.map(({ partition, maxBytes }) => ({ at: { topic, partition }, maxBytes })),
    );
    // Kafka gives an oversized batch only to the first partition that has something: each gets its
    // turn to be the first.
    for (const { at, maxBytes } of rotated(all, this.#turns.get(node) ?? 0)) {
      const waitMs = assignment.has(at.topic, at.partition) ? this.#setbacks.left(at, now) : 0;
      const position = waitMs > 0 ? null : this.#positionOf(assignment, at);
      const topicId =
        position === null ? null : this.#topicIds.idFor(at.topic, position.topicId, node);
      if (position === null || topicId === null) {
        if (waitMs === 0) leftOut.push(`${at.topic}/${at.partition}`);
        else maxWaitMs = Math.min(maxWaitMs, Math.max(partialWaitMs, Math.ceil(waitMs)));
        continue;
      }
      const { offset, leaderEpoch } = position;
      const key = answerKey(topicId, at.partition);
      const question: Asked = { at, position, topicId };
      asked.set(key, question);
      this.#latest.set(key, question);
      partitions.push({
        topicId,
        partition: at.partition,
        offset,
        leaderEpoch,
        bytesMax: maxBytes,
      });
    }
    maxWaitMs = Math.min(maxWaitMs, this.#partialWait(node, assignment, leftOut, now));
    const { minBytes = 1, maxBytes: bytesMax } = request;
    return { asked, question: { maxWaitMs, minBytes, bytesMax, partitions } };
  }

  /** How long a fetch may wait for the sake of what it leaves out. */
  #partialWait(
    node: KafkaNode,
    { number }: Assignment,
    leftOut: readonly string[],
    now: number,
  ): number {
    const which = `${number}: ${[...leftOut].sort().join(" ")}`;
    let known = this.#leftOut.get(node);
    if (known?.which !== which) {
      known = { which, since: now };
      this.#leftOut.set(node, known);
    }
    if (leftOut.length === 0) return Number.POSITIVE_INFINITY;
    return Math.max(partialWaitMs, Math.floor(now - known.since));
  }

  #positionOf(assignment: Assignment, at: TopicPartition): FetchPosition | null {
    return assignment.has(at.topic, at.partition) ? this.#options.callbacks.position(at) : null;
  }

  /** Of a topic that is certainly another one now, or gone: every position that means the old one. */
  #displaceAll(topic: string, topicId: string | null): void {
    const assignment = this.#current();
    for (const at of assignment?.partitions ?? []) {
      if (at.topic !== topic || this.#current() !== assignment) continue;
      const position = this.#options.callbacks.position(at);
      if (position === null) continue;
      const { displaced } = this.#options.callbacks;
      if (topicId === null) displaced(at, position.offset, { kind: "topic-missing" });
      else if (position.topicId !== null && position.topicId !== topicId) {
        displaced(at, position.offset, { kind: "topic-recreated", topicId });
      }
    }
    if (topicId !== null) this.#refresh();
  }

  /** One at a time, and not waited for: the other partitions go on. */
  #refresh(): void {
    if (this.#refreshing) return;
    this.#refreshing = true;
    this.#options
      .refreshMetadata()
      // Whatever is wrong shows at the next fetch as well, where kafkajs recovers from it.
      .catch(() => undefined)
      .finally(() => {
        this.#refreshing = false;
      });
  }

  /** While a partition has no leader. */
  #refreshLater(): void {
    if (this.#waitingForLeader) return;
    this.#waitingForLeader = true;
    systemClock
      .sleep(leaderWaitMs, this.#end.signal)
      .then(() => {
        this.#waitingForLeader = false;
        if (!this.#end.signal.aborted) this.#refresh();
      })
      .catch((error: unknown) => this.#options.fail(error));
  }

  #throwLookError(node: KafkaNode): void {
    if (!this.#lookErrors.has(node)) return;
    const error = this.#lookErrors.get(node);
    this.#lookErrors.delete(node);
    throw error;
  }

  /** For what runs outside of a fetch. */
  #guarded(work: () => void): void {
    try {
      work();
    } catch (error) {
      this.#options.fail(error);
    }
  }
}

interface Plan {
  readonly question: FetchQuestion;
  readonly asked: ReadonlyMap<string, Asked>;
}

/** What keeps kafkajs from asking for a partition; none: nothing does. */
function codeOf({ topicErrorCode, partitionMetadata }: TopicMetadata, partition: number): number {
  if (topicErrorCode !== kafkaCode.none) return topicErrorCode;
  const found = partitionMetadata.find(({ partitionId }) => partitionId === partition);
  if (found === undefined) return kafkaCode.unknownTopicOrPartition;
  return found.leader < 0 ? kafkaCode.leaderNotAvailable : kafkaCode.none;
}

function rotated<T>(list: readonly T[], turn: number): readonly T[] {
  const at = list.length === 0 ? 0 : turn % list.length;
  return [...list.slice(at), ...list.slice(0, at)];
}

function isOfKafkajs(error: unknown): boolean {
  const name = (error as { name?: unknown } | null)?.name;
  return typeof name === "string" && name.startsWith("KafkaJS");
}

/** Also what our own decoding throws inside of kafkajs' request. */
function isOurs(error: unknown): boolean {
  return isBug(error) || error instanceof MalformedBytesError || error instanceof OnceboxError;
}

async function pause(ms: number): Promise<void> {
  if (ms > 0) await systemClock.sleep(ms);
}
