/**
 * The consumer service: subscription, assignments, and the order of start and stop. It holds the
 * workers of the current assignment and throws all of them away at the next one. It never reads a
 * position from Kafka and never waits inside a callback of the broker.
 */
import { ConfigurationError } from "../errors.ts";
import { guarded, type Observer } from "../events.ts";
import { uuidv7 } from "../ids.ts";
import { checkOptions, oneOf } from "../options.ts";
import type { BrokerConsumer, ConsumerCallbacks, TopicPartition } from "../ports/broker.ts";
import { type Clock, systemClock } from "../ports/clock.ts";
import type { StorageFacts } from "../ports/storage.ts";
import { backoffMs } from "../retry.ts";
import { type Service, service } from "../service.ts";
import type { Topic } from "../topic.ts";
import {
  type CompleteOptions,
  type ConsumerOptions,
  checkConsumerOptions,
  withDefaults,
} from "./consumer-options.ts";
import type { Handler, HandlerOptions, Run } from "./handler.ts";
import { type OffsetRelay, offsetRelay } from "./offset-relay.ts";
import {
  type PartitionContext,
  type PartitionStatus,
  type PartitionWorker,
  partitionWorker,
} from "./partition.ts";
import { permits } from "./permits.ts";

/** Handles the messages of its topics exactly once, relative to the database. */
export interface Consumer<Tx> extends Service {
  /**
   * Handles a topic. One handler per topic; before `start`. Throws ConfigurationError otherwise.
   */
  handle<In, Out>(topic: Topic<In, Out>, run: Run<Out, Tx>, options?: HandlerOptions): this;
  handle(handler: Handler<Tx>, options?: HandlerOptions): this;
  /** The partitions assigned now, and what each waits for. */
  readonly status: () => readonly PartitionStatus[];
}

/** Claims that may wait for a lock at once, beside the open chunks. */
const claimsAtOnceMax = 2;

/** Part of a stop's deadline that running chunks do not get: see `#stop`. */
const stopReserveMs = 1_000;

/** A client that lived as long had recovered: its end starts a new count of rebuilds. */
const stableAfterMs = 30_000;

const rebuildBackoff = { initialMs: 200, maxMs: 10_000 };

/**
 * Makes a consumer; `handle` gives it its topics, `start` runs it. Throws ConfigurationError that
 * lists every wrong option. `start` rejects with ConfigurationError (schema missing or of another
 * version, read-only database, pool too small, name bound to another group) and with BrokerError
 * (`topic-missing`, `broker-unavailable`).
 */
export function createConsumer<Tx>(options: ConsumerOptions<Tx>): Consumer<Tx> {
  checkConsumerOptions(options);
  return new InboxConsumer(options);
}

/** The assignment at hand; a new one replaces it whole. */
interface Assignment {
  readonly number: number;
  readonly workers: ReadonlyMap<string, PartitionWorker>;
}

const noAssignment: Assignment = { number: 0, workers: new Map() };

class InboxConsumer<Tx> implements Consumer<Tx> {
  readonly start: Service["start"];
  readonly stop: Service["stop"];
  readonly [Symbol.asyncDispose] = () => this.stop();

  readonly #options: CompleteOptions<Tx>;
  readonly #groupId: string;
  readonly #clock: Clock;
  readonly #observe: Observer;
  readonly #handlers = new Map<string, Handler<Tx>>();
  readonly #context: Omit<PartitionContext<Tx>, "handler">;
  readonly #offsets: OffsetRelay;
  readonly #cut = new AbortController();
  readonly #stopping = new AbortController();
  /** Workers of earlier assignments whose last chunk still runs. */
  readonly #finishing = new Set<Promise<void>>();
  #assignment = noAssignment;
  #client: BrokerConsumer | null = null;
  #clientNumber = 0;
  #connectedAt = 0;
  #rebuilds = 0;
  #rebuilding: Promise<void> = Promise.resolve();
  #offsetsDone: Promise<void> = Promise.resolve();
  #started = false;

  constructor(options: ConsumerOptions<Tx>) {
    this.#options = withDefaults(options);
    this.#groupId = options.groupId ?? options.name;
    this.#clock = options.clock ?? systemClock;
    this.#observe = guarded(options.observer);
    this.#offsets = offsetRelay({
      consumer: options.name,
      intervalMs: this.#options.offsetCommitIntervalMs,
      clock: this.#clock,
      observe: this.#observe,
      commit: async (positions) => (await this.#client?.commit(positions)) ?? false,
    });
    this.#context = this.#makeContext();
    const { start, stop } = service({
      start: (stopping) => this.#start(stopping),
      stop: (deadlineMs) => this.#stop(deadlineMs),
    });
    this.start = start;
    this.stop = stop;
  }

  handle<In, Out>(topic: Topic<In, Out>, run: Run<Out, Tx>, options?: HandlerOptions): this;
  handle(handler: Handler<Tx>, options?: HandlerOptions): this;
  handle<In, Out>(
    what: Topic<In, Out> | Handler<Tx>,
    runOrOptions?: Run<Out, Tx> | HandlerOptions,
    optionsOfRun?: HandlerOptions,
  ): this {
    const given = "run" in what ? what : what.handler(runOrOptions as Run<Out, Tx>);
    const options = "run" in what ? (runOrOptions as HandlerOptions | undefined) : optionsOfRun;
    const { name } = this.#options;
    if (
      typeof given.run !== "function" ||
      (!("run" in what) && typeof runOrOptions !== "function")
    ) {
      throw new ConfigurationError(
        "invalid-options",
        `consumer ${name}: a handler of ${given.topic} must be a function`,
      );
    }
    checkOptions(`consumer ${name}, handler of ${given.topic}`, options ?? {}, {
      ordering: oneOf("partition"),
      onFailure: oneOf("block"),
    });
    if (this.#started) {
      throw new ConfigurationError(
        "invalid-options",
        `consumer ${name} has started: handle ${given.topic} before`,
      );
    }
    if (this.#handlers.has(given.topic)) {
      throw new ConfigurationError(
        "invalid-options",
        `consumer ${name} handles ${given.topic} already: one handler per topic`,
      );
    }
    this.#handlers.set(given.topic, given);
    return this;
  }

  readonly status = (): readonly PartitionStatus[] =>
    [...this.#assignment.workers.values()].map((worker) => worker.status());

  #makeContext(): Omit<PartitionContext<Tx>, "handler"> {
    const options = this.#options;
    return {
      storage: options.storage,
      clock: this.#clock,
      observe: this.#observe,
      owner: `${options.name}:${uuidv7(this.#clock)}`,
      chunks: permits(options.partitionsAtOnceMax),
      claims: permits(claimsAtOnceMax),
      chunkSizeMax: options.chunkSizeMax,
      chunkBytesMax: options.chunkBytesMax,
      buffer: { batchesMax: options.bufferBatchesMax, bytesMax: options.bufferBytesMax },
      claimWaitMs: options.claimWaitMs,
      heartbeatIntervalMs: options.broker.timing.heartbeatIntervalMs,
      sessionTimeoutMs: options.broker.timing.sessionTimeoutMs,
      register: (topic) => this.#register(topic),
      committed: (claim, nextOffset) => this.#offsets.note(claim, nextOffset),
      cut: this.#cut.signal,
    };
  }

  async #start(stopping: AbortSignal): Promise<void> {
    this.#started = true;
    const { name, storage } = this.#options;
    if (this.#handlers.size === 0) {
      throw new ConfigurationError(
        "invalid-options",
        `consumer ${name} has no handler: call handle(topic, run) before start`,
      );
    }
    this.#checkFacts(await storage.check());
    for (const topic of this.#handlers.keys()) await this.#register(topic);
    if (stopping.aborted) return;
    stopping.addEventListener("abort", () => this.#stopping.abort(), { once: true });
    await this.#connect(true);
    this.#offsetsDone = this.#offsets.run(this.#stopping.signal);
  }

  #checkFacts(facts: StorageFacts): void {
    const { name, partitionsAtOnceMax, broker } = this.#options;
    const needed = partitionsAtOnceMax + claimsAtOnceMax;
    if (facts.poolSize < needed) {
      throw new ConfigurationError(
        "pool-too-small",
        `consumer ${name} needs ${needed} connections (partitionsAtOnceMax ${partitionsAtOnceMax} + ${claimsAtOnceMax} for claims), the pool has ${facts.poolSize}: enlarge the pool or lower partitionsAtOnceMax`,
        { details: { needed, poolSize: facts.poolSize } },
      );
    }
    const idle = facts.idleInTransactionTimeoutMs;
    const { sessionTimeoutMs } = broker.timing;
    if (idle !== null && idle > sessionTimeoutMs) {
      throw new ConfigurationError(
        "invalid-options",
        `consumer ${name}: the storage's idleInTransactionTimeoutMs ${idle} is above the broker's sessionTimeoutMs ${sessionTimeoutMs}: a stopped process would hold its partitions longer than its membership`,
        { details: { idleInTransactionTimeoutMs: idle, sessionTimeoutMs } },
      );
    }
  }

  /** Every partition gets its row at once, so that no start is resolved later by another rule. */
  async #register(topic: string): Promise<void> {
    const { broker, storage, name: consumer } = this.#options;
    const start = await broker.offsets(topic, "earliest");
    // Added partitions begin at 0, not at what retention has left: what is gone must be told.
    const added = new Map(Array.from(start.keys(), (partition) => [partition, 0n]));
    await storage.registerTopic({ consumer, groupId: this.#groupId, topic, start, added });
  }

  async #connect(requireTopics: boolean): Promise<void> {
    this.#clientNumber += 1;
    const { broker } = this.#options;
    const client = await broker.consumer(
      { groupId: this.#groupId, topics: [...this.#handlers.keys()], requireTopics },
      this.#callbacks(this.#clientNumber),
    );
    // A stop that did not wait for this must not leave a member of the group behind.
    if (this.#stopping.signal.aborted) await client.stop(broker.timing.heartbeatIntervalMs);
    else this.#client = client;
    this.#connectedAt = this.#clock.now();
  }

  /** Callbacks of a client that was thrown away change nothing. */
  #callbacks(number: number): ConsumerCallbacks {
    const current = () => number === this.#clientNumber && !this.#stopping.signal.aborted;
    const worker = ({ topic, partition }: TopicPartition) =>
      this.#assignment.workers.get(`${topic}/${partition}`);
    return {
      assigned: (assignment, partitions) => {
        if (current()) this.#assigned(assignment, partitions);
      },
      position: (partition) => (current() ? (worker(partition)?.position() ?? null) : null),
      deliver: (batch) => {
        if (!current()) return;
        const { topic, partition } = batch;
        const stale = batch.assignment !== this.#assignment.number;
        const target = stale ? undefined : worker(batch);
        if (target !== undefined) return target.deliver(batch);
        const consumer = this.#options.name;
        const reason = stale ? "stale-assignment" : "not-assigned";
        this.#observe({ type: "inbox.batch-dropped", consumer, topic, partition, reason });
      },
      displaced: (partition, asked, log) => {
        if (current()) worker(partition)?.displaced(asked, log);
      },
      unreadable: (partition, asked, error) => {
        if (current()) worker(partition)?.unreadable(asked, error);
      },
      failed: (error) => {
        if (current()) this.#rebuilding = this.#rebuild(error);
      },
    };
  }

  /** Rule 4: nothing in memory outlives an assignment, even where the same partition comes back. */
  #assigned(number: number, partitions: readonly TopicPartition[]): void {
    this.#voidAssignment();
    const consumer = this.#options.name;
    this.#observe({ type: "inbox.assigned", consumer, assignment: number, partitions });
    const workers = new Map<string, PartitionWorker>();
    this.#assignment = { number, workers };
    for (const { topic, partition } of partitions) {
      const handler = this.#handlers.get(topic);
      if (handler === undefined) continue;
      const context = { ...this.#context, handler };
      workers.set(
        `${topic}/${partition}`,
        partitionWorker(context, { consumer, topic, partition }),
      );
    }
  }

  #voidAssignment(): void {
    this.#offsets.clear();
    for (const worker of this.#assignment.workers.values()) {
      worker.void();
      const done = worker.done.finally(() => this.#finishing.delete(done));
      this.#finishing.add(done);
    }
    this.#assignment = noAssignment;
  }

  /** The client died: a new one, until it runs or the service stops. */
  async #rebuild(cause: unknown): Promise<void> {
    this.#clientNumber += 1;
    this.#voidAssignment();
    const dead = this.#client;
    this.#client = null;
    // What a dead client says of its own end helps nobody.
    await dead?.stop(this.#options.broker.timing.heartbeatIntervalMs).catch(() => undefined);
    let error = cause;
    // A client that connects and dies again at once has not recovered.
    if (this.#clock.now() - this.#connectedAt > stableAfterMs) this.#rebuilds = 0;
    while (!this.#stopping.signal.aborted) {
      this.#rebuilds += 1;
      const rebuild = this.#rebuilds;
      const waitMs = backoffMs(rebuildBackoff, rebuild, this.#clock.random());
      const consumer = this.#options.name;
      this.#observe({ type: "inbox.client-rebuilt", consumer, rebuild, waitMs, error });
      await this.#clock.sleep(waitMs, this.#stopping.signal);
      if (this.#stopping.signal.aborted) return;
      try {
        // A topic deleted meanwhile must not keep the others from going on.
        return await this.#connect(false);
      } catch (failed) {
        error = failed;
      }
    }
  }

  /** No new chunk; running ones finish or are cut; the group's offsets; leave; in this order. */
  async #stop(deadlineMs: number): Promise<void> {
    const began = this.#clock.now();
    const left = () => Math.max(0, deadlineMs - (this.#clock.now() - began));
    // What is cut needs a moment to end, and the group a moment to be left.
    const reserveMs = Math.min(stopReserveMs, deadlineMs / 4);
    this.#stopping.abort();
    const workers = [...this.#assignment.workers.values()];
    for (const worker of workers) worker.end();
    const finished = Promise.all([...workers.map((worker) => worker.done), ...this.#finishing]);
    await this.#atMost(left() - reserveMs, finished);
    this.#cut.abort();
    await this.#atMost(reserveMs / 2, Promise.all([finished, this.#rebuilding]));
    await this.#atMost(left(), this.#offsetsDone);
    await this.#atMost(left(), this.#offsets.flush());
    await this.#client?.stop(left());
  }

  async #atMost(ms: number, work: Promise<unknown>): Promise<void> {
    const enough = new AbortController();
    await Promise.race([work, this.#clock.sleep(ms, enough.signal)]);
    enough.abort();
  }
}
