/**
 * The sending half of the relay: where each row goes, one publish at a time, and what its answer
 * means for the backlog. It holds the producer and what is known of topics.
 */
import { BrokerError } from "../errors.ts";
import type { Observer } from "../events.ts";
import type { Broker, BrokerProducer, OutgoingRecord, PublishResult } from "../ports/broker.ts";
import { type Clock, within } from "../ports/clock.ts";
import type { Backlog, Blocked } from "./backlog.ts";
import type { HeldLane } from "./lanes.ts";
import type { Entry } from "./queue.ts";
import { atOnce, pauseMs } from "./steps.ts";

export interface PublisherContext {
  readonly relay: string;
  readonly broker: Broker;
  readonly backlog: Backlog;
  readonly clock: Clock;
  readonly observe: Observer;
  readonly batchRowsMax: number;
  readonly batchBytesMax: number;
  /** Whether the lane's lease outlasts a publish that starts now. */
  readonly mayUse: (lane: HeldLane, now: number) => boolean;
  /** A batch is on its way: there is room to read ahead. */
  readonly taken: () => void;
  /** No publish starts any more. */
  readonly stopping: () => boolean;
}

export interface Publisher {
  /** Sends the next batch and takes its outcome in. Rejects where nothing could be sent at all. */
  readonly publish: () => Promise<void>;
  readonly close: () => Promise<void>;
}

/** How long the number of partitions of a topic is believed. */
const partitionsForMs = 15_000;

/** How much longer, when it could not be read again: leaders move, the number stays. */
const partitionsAgainMs = 1_000;

/** How long sending waits for the number of partitions of a topic, known already or not. */
const askAgainMs = 50;
const askNewMs = 1_000;

type PartitionsAnswer = { readonly count: number } | { readonly error: unknown };

export function createPublisher(context: PublisherContext): Publisher {
  return new BacklogPublisher(context);
}

class BacklogPublisher implements Publisher {
  readonly #context: PublisherContext;
  readonly #partitions = new Map<string, { readonly count: number; readonly until: number }>();
  /** Questions on their way, and answers that came too late to be used. */
  readonly #asking = new Map<string, Promise<PartitionsAnswer>>();
  #producer: BrokerProducer | null = null;

  constructor(context: PublisherContext) {
    this.#context = context;
  }

  readonly publish = async (): Promise<void> => {
    const { backlog, broker, clock } = this.#context;
    await this.#learnPartitions();
    this.#producer ??= await broker.producer();
    if (this.#context.stopping()) return;
    const now = clock.now();
    const batch = backlog.nextBatch({
      now,
      rowsMax: this.#context.batchRowsMax,
      bytesMax: this.#context.batchBytesMax,
      mayUse: (lane) => this.#context.mayUse(lane, now),
      partitionOf: ({ topic, key, id }) => {
        const known = this.#partitions.get(topic);
        return known === undefined ? null : broker.partitionOf(key, id, known.count);
      },
    });
    this.#context.taken();
    // From the check of the leases in here to the send, nothing is waited for.
    if (batch.length > 0) await this.#send(this.#producer, batch, now);
  };

  readonly close = async (): Promise<void> => {
    await this.#producer?.close();
  };

  async #send(producer: BrokerProducer, batch: readonly Entry[], sentAt: number): Promise<void> {
    const { relay, backlog, clock, observe } = this.#context;
    const result = await published(producer, batch);
    const now = clock.now();
    const outcome = backlog.outcome(result, now, (attempt) => pauseMs(clock, attempt));
    if (outcome.published > 0) {
      const ms = now - sentAt;
      observe({ type: "outbox.published", relay, messages: outcome.published, ms });
    }
    if (outcome.unknown !== null) {
      observe({ type: "outbox.publish-unknown", relay, ...outcome.unknown });
    }
    for (const blocked of outcome.blocked) {
      if (blocked.scope === "topic") this.#partitions.delete(blocked.topic);
      this.#tell(blocked);
    }
  }

  /** Asks for the number of partitions of every topic that is due and not known well enough. */
  async #learnPartitions(): Promise<void> {
    const now = this.#context.clock.now();
    const topics = [...this.#context.backlog.topics(now)].filter(
      (topic) => (this.#partitions.get(topic)?.until ?? atOnce) <= now,
    );
    await Promise.all(topics.map((topic) => this.#learn(topic, now)));
  }

  async #learn(topic: string, now: number): Promise<void> {
    const { backlog, clock } = this.#context;
    const known = this.#partitions.get(topic);
    const answer = await this.#ask(topic, known === undefined ? askNewMs : askAgainMs);
    if (answer !== null && "count" in answer) {
      this.#partitions.set(topic, { count: answer.count, until: now + partitionsForMs });
      if (known?.count !== answer.count) backlog.repartitioned(topic);
      return;
    }
    const error = answer?.error ?? noAnswer(topic);
    const refused = error instanceof BrokerError && isRefusal(error);
    if (known !== undefined && !refused) {
      this.#partitions.set(topic, { ...known, until: now + partitionsAgainMs });
      if (answer !== null) this.#trouble(partitionsAgainMs, error);
      return;
    }
    this.#partitions.delete(topic);
    const pause = (attempt: number) => pauseMs(clock, attempt);
    const blocked = backlog.blockTopic(topic, error, clock.now(), pause);
    if (refused) for (const one of blocked) this.#tell(one);
    else this.#trouble(Math.max(0, ...blocked.map((one) => one.waitMs)), error);
  }

  /** Null where the answer takes too long: other topics do not wait for it, and it is kept. */
  async #ask(topic: string, withinMs: number): Promise<PartitionsAnswer | null> {
    let asking = this.#asking.get(topic);
    if (asking === undefined) {
      asking = askedPartitions(this.#context.broker, topic);
      this.#asking.set(topic, asking);
    }
    const answer = await within(this.#context.clock, withinMs, asking, null);
    if (answer !== null) this.#asking.delete(topic);
    return answer;
  }

  #tell({ scope, ...blocked }: Blocked): void {
    const { relay, observe } = this.#context;
    const told = scope === "message" ? scope : "topic";
    observe({ type: "outbox.blocked", relay, scope: told, ...blocked });
  }

  #trouble(waitMs: number, error: unknown): void {
    const { relay, observe } = this.#context;
    observe({ type: "outbox.trouble", relay, step: "publish", waitMs, error });
  }
}

async function askedPartitions(broker: Broker, topic: string): Promise<PartitionsAnswer> {
  try {
    return { count: await broker.partitions(topic) };
  } catch (error) {
    return { error };
  }
}

function noAnswer(topic: string): BrokerError {
  const message = `the number of partitions of ${topic} is not known within ${askNewMs} ms`;
  return new BrokerError("broker-unavailable", message, { retryable: true, details: { topic } });
}

async function published(
  producer: BrokerProducer,
  batch: readonly Entry[],
): Promise<PublishResult> {
  try {
    return await producer.publish(batch.map(recordOf));
  } catch (cause) {
    // Against the port's promise, so it says nothing about what was stored.
    const error = cause instanceof Error ? cause : new Error(String(cause));
    const unknown = batch.map((_, index) => ({ index, error }));
    return { acknowledged: [], unknown, refused: [] };
  }
}

function recordOf({ row, partition }: Entry): OutgoingRecord {
  return { topic: row.topic, partition, key: row.key, value: row.value, headers: row.headers };
}

/** Kafka has answered, and asking again changes nothing until somebody acts. */
function isRefusal(error: BrokerError): boolean {
  return error.code === "topic-missing" || !error.retryable;
}
