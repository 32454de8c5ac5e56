/**
 * Which id each topic has. Owns the doubt about it: an id is looked up when it is needed first and
 * when a position or a broker contradicts it, and bad news count only when a second look, a while
 * later, finds the same; a broker that lags behind may still answer with the topic as it was before.
 * Never holds up the fetch of another topic, and never decides what becomes of a position.
 *
 *   unknown ─▶ looking ─ fits ─▶ known ─ contradicted ─▶ looking …
 *                 │ another id, or no such topic
 *                 ▼
 *              in doubt ─ wait ─ look ─ the same ─▶ settled: reported
 *                 ▲──────────────── otherwise
 */
import { type Clock, ConfigurationError, systemClock } from "@oncebox/core";
import type { KafkaNode } from "./kafkajs-client.ts";
import { kafkaCode } from "./kafkajs-errors.ts";
import type { TopicAnswer } from "./metadata-request.ts";

interface TopicIdsOptions {
  /** What one node knows of topics. */
  readonly look: (
    node: KafkaNode,
    topics: readonly string[],
  ) => Promise<ReadonlyMap<string, TopicAnswer>>;
  /** Certain now: the topic has this id (not the one that was wanted), or is gone. */
  readonly settled: (topic: string, topicId: string | null) => void;
  /** Kafka does not tell, and says why. */
  readonly refused: (topic: string, code: number) => void;
  /** A look failed: the node is in trouble, or the broker is too old. */
  readonly failed: (node: KafkaNode, error: unknown) => void;
  /** Only `sleep` is used. */
  readonly clock?: Pick<Clock, "sleep">;
}

/** The least time between two looks that have to agree. */
const confirmAfterMs = 500;

export class TopicIds {
  readonly #options: TopicIdsOptions;
  readonly #clock: Pick<Clock, "sleep">;
  readonly #known = new Map<string, string>();
  readonly #inDoubt = new Set<string>();
  /** Looks of the same moment go out as one request. */
  readonly #gathering = new Map<KafkaNode, { topics: Set<string>; answer: Promise<Answers> }>();
  readonly #end = new AbortController();

  constructor(options: TopicIdsOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
  }

  /** The id to fetch by; null: not known, or not the one that is wanted, and being looked up. */
  idFor(topic: string, wanted: string | null, node: KafkaNode): string | null {
    const known = this.#known.get(topic);
    if (known !== undefined && (wanted === null || wanted === known)) return known;
    this.#doubt(topic, wanted, node);
    return null;
  }

  /** A broker did not know the topic, or not by this id: what is known counts no more. */
  contradicted(topic: string, wanted: string | null, node: KafkaNode): void {
    if (!this.#inDoubt.has(topic)) this.#known.delete(topic);
    this.#doubt(topic, wanted, node);
  }

  close(): void {
    this.#end.abort();
  }

  #doubt(topic: string, wanted: string | null, node: KafkaNode): void {
    if (this.#inDoubt.has(topic) || this.#end.signal.aborted) return;
    this.#inDoubt.add(topic);
    this.#resolve(topic, wanted, node)
      .catch((error: unknown) => this.#options.failed(node, error))
      .finally(() => this.#inDoubt.delete(topic));
  }

  async #resolve(topic: string, wanted: string | null, node: KafkaNode): Promise<void> {
    let seen: string | null | undefined;
    while (!this.#end.signal.aborted) {
      const found = (await this.#look(topic, node)) ?? { code: kafkaCode.leaderNotAvailable };
      const { code, topicId = null } = found as TopicAnswer;
      if (this.#end.signal.aborted) return;
      if (topicId === null && code === kafkaCode.none) throw withoutIds();
      if (topicId === null && code !== kafkaCode.unknownTopicOrPartition) {
        return this.#options.refused(topic, code);
      }
      // Also an id that is not the wanted one: for positions that want none.
      if (topicId === null) this.#known.delete(topic);
      else this.#known.set(topic, topicId);
      if (topicId !== null && (wanted === null || wanted === topicId)) return;
      if (seen === topicId) return this.#options.settled(topic, topicId);
      seen = topicId;
      await this.#clock.sleep(confirmAfterMs, this.#end.signal);
    }
  }

  async #look(topic: string, node: KafkaNode): Promise<TopicAnswer | undefined> {
    let gathered = this.#gathering.get(node);
    if (gathered === undefined) {
      const topics = new Set<string>();
      const answer = Promise.resolve().then(() => {
        this.#gathering.delete(node);
        return this.#options.look(node, [...topics]);
      });
      gathered = { topics, answer };
      this.#gathering.set(node, gathered);
    }
    gathered.topics.add(topic);
    return (await gathered.answer).get(topic);
  }
}

function withoutIds(): Error {
  return new ConfigurationError(
    "client-unsupported",
    "the brokers give topics no ids: use Kafka 3.1 or newer, with its own metadata version",
  );
}

type Answers = ReadonlyMap<string, TopicAnswer>;
