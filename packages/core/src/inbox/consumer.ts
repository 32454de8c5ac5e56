/**
 * The consumer service: subscription, assignments, and the order of start and stop. It holds the
 * workers of the current assignment and throws all of them away at the next one. It never reads a
 * position from Kafka and never waits inside a callback of the broker.
 */
import { ConfigurationError } from "../errors.ts";
import { guarded, type Observer } from "../events.ts";
import { uuidv7 } from "../ids.ts";
import type { GroupOffset, RecordBatch, TopicPartition } from "../ports/broker.ts";
import { type Clock, systemClock, within } from "../ports/clock.ts";
import type { PartitionClaim } from "../ports/storage.ts";
import { type Service, service } from "../service.ts";
import type { Topic } from "../topic.ts";
import { type ClientContext, SteadyClient } from "./client.ts";
import {
  type CompleteOptions,
  type ConsumerOptions,
  checkConsumerOptions,
  checkFacts,
  checkHandled,
  type SyncConsumerOptions,
  withDefaults,
} from "./consumer-options.ts";
import type { Consumer, SyncConsumer } from "./consumer-service.ts";
import { groupAhead, groupOffsetsOf } from "./group-offsets.ts";
import { batchHandledOf, type Handled, handledOf } from "./handled.ts";
import type { BatchHandlerOptions, BatchRun, Handler, HandlerOptions, Run } from "./handler.ts";
import { pruneIds } from "./id-pruning.ts";
import { type OffsetRelay, offsetRelay } from "./offset-relay.ts";
import { PartitionWorker } from "./partition.ts";
import type { PartitionContext } from "./partition-context.ts";
import { permits } from "./permits.ts";
import { type RedriveContext, redriveWorker } from "./redrive-worker.ts";
import { registerTopic } from "./start.ts";
import { type Health, healthOf, type PartitionStatus } from "./status.ts";
import { type WatchContext, watch } from "./watchdog.ts";

/** Claims that may wait for a lock at once, beside the open chunks. */
const claimsAtOnceMax = 2;

/** Parked messages that are tried again at once, in this process. */
const redrivesAtOnceMax = 1;

/** Part of a stop's deadline that running chunks do not get: see `#stop`. */
const stopReserveMs = 1_000;

/**
 * Makes a consumer; `handle` gives it its topics, `start` runs it. Throws ConfigurationError that
 * lists every wrong option. `start` rejects with ConfigurationError (schema missing or of another
 * version, read-only database, pool too small, name bound to another group) and with BrokerError
 * (`topic-missing`, `broker-unavailable`).
 */
export function createConsumer<Tx>(options: SyncConsumerOptions<Tx>): SyncConsumer<Tx>;
export function createConsumer<Tx>(options: ConsumerOptions<Tx>): Consumer<Tx>;
export function createConsumer<Tx>(
  options: ConsumerOptions<Tx> | SyncConsumerOptions<Tx>,
): Consumer<Tx> | SyncConsumer<Tx> {
  checkConsumerOptions(options);
  return new InboxConsumer(options);
}

/** The assignment at hand; a new one replaces it whole. */
interface Assignment {
  readonly number: number;
  readonly workers: ReadonlyMap<string, PartitionWorker>;
  /** What Kafka's group held when it began. */
  readonly groupOffsets: Promise<readonly GroupOffset[]>;
}

/** What is the same for all topics. */
type SharedContext = Omit<PartitionContext, "runChunk" | "policy" | "atOnceMax" | "keepOrder">;

class InboxConsumer<Tx> implements Consumer<Tx> {
  readonly start: Service["start"];
  readonly stop: Service["stop"];
  readonly [Symbol.asyncDispose] = () => this.stop();

  readonly #options: CompleteOptions<Tx>;
  readonly #groupId: string;
  readonly #clock: Clock;
  readonly #observe: Observer;
  readonly #handlers = new Map<string, Handled>();
  readonly #context: SharedContext;
  readonly #offsets: OffsetRelay;
  readonly #client: SteadyClient;
  readonly #cut = new AbortController();
  readonly #stopping = new AbortController();
  /** Workers of earlier assignments whose last chunk still runs. */
  readonly #finishing = new Set<Promise<void>>();
  readonly #pausedTopics = new Set<string>();
  #allPaused = false;
  #assignment: Assignment | null = null;
  #databaseTrouble: unknown = null;
  #offsetsDone: Promise<void> = Promise.resolve();
  #watching: Promise<void> = Promise.resolve();
  #redriving: Promise<void> = Promise.resolve();
  #pruning: Promise<void> = Promise.resolve();
  #started = false;

  constructor(options: ConsumerOptions<Tx> | SyncConsumerOptions<Tx>) {
    this.#options = withDefaults(options);
    this.#groupId = options.groupId ?? options.name;
    this.#clock = options.clock ?? systemClock;
    this.#observe = guarded(options.observer);
    this.#client = new SteadyClient(this.#clientContext());
    this.#offsets = offsetRelay({
      consumer: options.name,
      intervalMs: this.#options.offsetCommitIntervalMs,
      clock: this.#clock,
      observe: this.#observe,
      // What the group held at the start is looked at before anything of ours stands there.
      commit: async (positions) => {
        const assignment = this.#assignment;
        await assignment?.groupOffsets;
        // Positions of an assignment that ended meanwhile are another member's to tell.
        return this.#assignment === assignment && this.#client.commit(positions);
      },
    });
    this.#context = this.#makeContext();
    const steps = {
      start: (stopping: AbortSignal) => this.#start(stopping),
      stop: (deadlineMs: number) => this.#stop(deadlineMs),
    };
    const { start, stop } = service(steps, this.#clock);
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
    return this.#takeOn(handledOf(this.#options, what, runOrOptions, optionsOfRun));
  }

  handleBatch<In, Out>(
    topic: Topic<In, Out>,
    run: BatchRun<Out, Tx>,
    options?: BatchHandlerOptions,
  ): this {
    return this.#takeOn(batchHandledOf(this.#options, topic, run, options));
  }

  #takeOn({ topic, handled }: { readonly topic: string; readonly handled: Handled }): this {
    const { name } = this.#options;
    const refused = (why: string) => {
      throw new ConfigurationError("invalid-options", `consumer ${name} ${why}`);
    };
    if (this.#started) refused(`has started: handle ${topic} before`);
    if (this.#handlers.has(topic)) refused(`handles ${topic} already: one handler per topic`);
    this.#handlers.set(topic, handled);
    return this;
  }

  readonly status = (): readonly PartitionStatus[] =>
    this.#workers().map((worker) => worker.status());

  readonly health = (): Health =>
    healthOf({
      started: this.#started,
      stopping: this.#stopping.signal.aborted,
      connected: this.#client.connected,
      joined: this.#assignment !== null,
      databaseTrouble: this.#databaseTrouble !== null,
      live: this.#client.live,
    });

  readonly pause = (topic?: string | Topic<never, unknown>): void => {
    const name = this.#handled(topic);
    if (name === undefined) this.#allPaused = true;
    else this.#pausedTopics.add(name);
  };

  readonly resume = (topic?: string | Topic<never, unknown>): void => {
    const name = this.#handled(topic);
    if (name === undefined) {
      this.#allPaused = false;
      this.#pausedTopics.clear();
    } else this.#pausedTopics.delete(name);
    for (const worker of this.#workers()) worker.nudge();
  };

  #handled(topic?: string | Topic<never, unknown>): string | undefined {
    const name = typeof topic === "object" ? topic.name : topic;
    if (name === undefined || this.#handlers.has(name)) return name;
    throw new ConfigurationError(
      "invalid-options",
      `consumer ${this.#options.name} does not handle ${name}`,
    );
  }

  #workers(): readonly PartitionWorker[] {
    return [...(this.#assignment?.workers.values() ?? [])];
  }

  #clientContext(): ClientContext {
    const { broker, name } = this.#options;
    const worker = ({ topic, partition }: TopicPartition) =>
      this.#assignment?.workers.get(`${topic}/${partition}`);
    return {
      ...{ broker, name, groupId: this.#groupId, clock: this.#clock, observe: this.#observe },
      topics: () => [...this.#handlers.keys()],
      stopping: this.#stopping.signal,
      gone: () => this.#voidAssignment(),
      callbacks: {
        assigned: (assignment, partitions) => this.#assigned(assignment, partitions),
        position: (partition) => worker(partition)?.position() ?? null,
        fetched: (partition, log) => worker(partition)?.reader?.fetched(log),
        deliver: (batch) => this.#deliver(batch, worker(batch)),
        displaced: (partition, asked, why) => worker(partition)?.reader?.displaced(asked, why),
        unreadable: (partition, asked, error) =>
          worker(partition)?.reader?.unreadable(asked, error),
        troubled: (partition, error) => worker(partition)?.reader?.troubled(error),
      },
    };
  }

  #deliver(batch: RecordBatch, worker: PartitionWorker | undefined): void {
    const { topic, partition } = batch;
    const consumer = this.#options.name;
    const stale = batch.assignment !== this.#assignment?.number;
    if (!stale && worker?.reader) {
      worker.reader.deliver(batch);
      return;
    }
    const owned = worker === undefined ? "not-assigned" : "wrong-position";
    const reason = stale ? "stale-assignment" : owned;
    this.#observe({ type: "inbox.batch-dropped", consumer, topic, partition, reason });
  }

  #makeContext(): SharedContext {
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
      handlerTimeoutMs: options.handlerTimeoutMs,
      heartbeatIntervalMs: options.broker.timing.heartbeatIntervalMs,
      sessionTimeoutMs: options.broker.timing.sessionTimeoutMs,
      onLostPosition: options.onLostPosition,
      hangingTransactionAfterMs: options.hangingTransactionAfterMs,
      register: (topic) => this.#register(topic),
      resolve: async ({ topic, partition }, { to, topicId }) => {
        if (to !== "earliest") return { to, topicId };
        const found = await options.broker.offsets(topic, "earliest");
        return { to: found.offsets.get(partition) ?? 0n, topicId: found.topicId ?? topicId };
      },
      paused: (topic) => this.#allPaused || this.#pausedTopics.has(topic),
      claimed: (claim) => void this.#compareGroup(claim),
      committed: (claim, nextOffset) => this.#offsets.note(claim, nextOffset),
      database: (error) => {
        this.#databaseTrouble = error;
      },
      cut: this.#cut.signal,
    };
  }

  async #start(stopping: AbortSignal): Promise<void> {
    this.#started = true;
    checkHandled(this.#options, this.#handlers.size);
    const facts = await this.#options.storage.check();
    checkFacts(this.#options, facts, claimsAtOnceMax + redrivesAtOnceMax);
    if (!facts.pipelined)
      for (const topic of this.#handlers.keys()) this.#keepOrder(topic, "not-pipelined");
    for (const topic of this.#handlers.keys()) await this.#register(topic);
    if (stopping.aborted) return;
    stopping.addEventListener("abort", () => this.#stopping.abort(), { once: true });
    await this.#client.connect();
    const { signal } = this.#stopping;
    this.#offsetsDone = this.#offsets.run(signal);
    this.#watching = watch(this.#watchContext(), signal);
    this.#redriving = redriveWorker(this.#redriveContext()).run(signal);
    this.#pruning = this.#prune(signal);
  }

  #register(topic: string): Promise<void> {
    const subscriber = { ...this.#options, groupId: this.#groupId, observe: this.#context.observe };
    return registerTopic(subscriber, topic, this.#handlers.get(topic));
  }

  /** Rule 4: nothing in memory outlives an assignment, even where the same partition comes back. */
  #assigned(number: number, partitions: readonly TopicPartition[]): void {
    this.#voidAssignment();
    const consumer = this.#options.name;
    this.#observe({ type: "inbox.assigned", consumer, assignment: number, partitions });
    const workers = new Map<string, PartitionWorker>();
    const topics = [...new Set(partitions.map(({ topic }) => topic))];
    const groupOffsets = groupOffsetsOf(this.#options.broker, this.#groupId, topics);
    this.#assignment = { number, workers, groupOffsets };
    // Without a partition nothing would ask the database again, and an old trouble would stay.
    if (partitions.length === 0) this.#databaseTrouble = null;
    for (const { topic, partition } of partitions) {
      const handler = this.#handlers.get(topic);
      if (handler === undefined) continue;
      const { runChunk, policy } = handler;
      const context = {
        ...{ ...this.#context, runChunk, policy },
        atOnceMax: () => (handler.byKey ? this.#options.handlersAtOnceMax : 1),
        keepOrder: () => this.#keepOrder(topic, "refused"),
      };
      workers.set(
        `${topic}/${partition}`,
        new PartitionWorker(context, { consumer, topic, partition }),
      );
    }
  }

  #voidAssignment(): void {
    this.#offsets.clear();
    for (const worker of this.#workers()) {
      worker.void();
      const done = worker.done.finally(() => this.#finishing.delete(done));
      this.#finishing.add(done);
    }
    this.#assignment = null;
  }

  async #compareGroup(claim: PartitionClaim): Promise<void> {
    const ahead = groupAhead(claim, (await this.#assignment?.groupOffsets) ?? []);
    if (ahead !== null) this.#observe(ahead);
  }

  /** For the life of this process, and said once. */
  #keepOrder(topic: string, why: "not-pipelined" | "refused"): void {
    const handler = this.#handlers.get(topic);
    if (handler?.byKey !== true) return;
    handler.byKey = false;
    const consumer = this.#options.name;
    this.#observe({ type: "inbox.ordering-kept", consumer, topic, why });
  }

  #redriveContext(): RedriveContext {
    const { name: consumer, storage, handlerTimeoutMs, redriveIntervalMs } = this.#options;
    const { paused, chunks: permits } = this.#context;
    return {
      ...{ consumer, storage, permits, handlerTimeoutMs, pollIntervalMs: redriveIntervalMs },
      ...{ clock: this.#clock, observe: this.#observe, cut: this.#cut.signal },
      topics: () => [...this.#handlers.keys()].filter((topic) => !paused(topic)),
      handlerOf: (topic) => this.#handlers.get(topic) as Handled,
    };
  }

  /** Takes turns with claims, so the pool needs no connection more for it. */
  #prune(signal: AbortSignal): Promise<void> {
    const { clock, observe, claims: permits } = this.#context;
    const recordsIds = [...this.#handlers.values()].some(({ byId }) => byId);
    const context = { ...this.#options, clock, observe, permits };
    return recordsIds ? pruneIds(context, signal) : Promise.resolve();
  }

  #watchContext(): WatchContext {
    const { name, storage, broker, stallAfterMs } = this.#options;
    return {
      ...{ name, clock: this.#clock, stallAfterMs },
      intervalMs: broker.timing.heartbeatIntervalMs,
      workers: () => this.#workers(),
      lostClaims: (claims) => storage.lostClaims(claims),
      database: (error) => {
        this.#databaseTrouble = error;
      },
      joiningMs: () => (this.#assignment === null ? this.#client.connectedMs : 0),
      silent: (error) => this.#client.silent(error),
    };
  }

  /** No new chunk; running ones finish or are cut; the group's offsets; leave; in this order. */
  async #stop(deadlineMs: number): Promise<void> {
    const began = this.#clock.now();
    const left = () => Math.max(0, deadlineMs - (this.#clock.now() - began));
    // What is cut needs a moment to end, and the group a moment to be left.
    const reserveMs = Math.min(stopReserveMs, deadlineMs / 4);
    this.#stopping.abort();
    const workers = this.#workers();
    for (const worker of workers) worker.end();
    const done = [...workers.map((worker) => worker.done), ...this.#finishing, this.#redriving];
    const finished = Promise.all(done);
    await this.#atMost(left() - reserveMs, finished);
    this.#cut.abort();
    await this.#atMost(reserveMs / 2, Promise.all([finished, this.#client.settled]));
    await this.#atMost(left(), this.#offsetsDone);
    await this.#atMost(left(), this.#offsets.flush());
    await this.#client.stop(left());
    await this.#atMost(left(), Promise.all([this.#watching, this.#pruning]));
  }

  async #atMost(ms: number, work: Promise<unknown>): Promise<void> {
    await within(this.#clock, ms, work, null);
  }
}
