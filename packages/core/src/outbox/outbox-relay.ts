/**
 * Carries committed outbox rows to Kafka, in order per key. Any number of relays share the lanes. It
 * owns when to lease, read, send and settle; it never keeps a transaction open while it sends, never
 * sends two batches at once, and never counts trouble against a message.
 */
import { BrokerError, ConfigurationError } from "../errors.ts";
import { guarded, type Observer } from "../events.ts";
import { uuidv7 } from "../ids.ts";
import type { BrokerProducer, OutgoingRecord, PublishResult } from "../ports/broker.ts";
import { type Clock, systemClock } from "../ports/clock.ts";
import type { LaneLease, Storage } from "../ports/storage.ts";
import { backoffMs } from "../retry.ts";
import { type Service, service } from "../service.ts";
import { Backlog, type Blocked } from "./backlog.ts";
import { createLanes, type HeldLane, isShort, lanesToTake, surplusOf } from "./lanes.ts";
import type { Entry } from "./queue.ts";
import { type OutboxRelayOptions, type RelaySettings, relaySettings } from "./relay-options.ts";

/** Publishes what the outbox holds, until it is stopped. */
export interface OutboxRelay extends Service {
  /** Looks into the outbox at once: for a commit that the storage cannot see. */
  readonly wake: () => void;
}

/**
 * Makes a relay. Throws ConfigurationError that lists every wrong option. `start` resolves when the
 * first lanes were asked for, and rejects with what `storage.check` finds or with ConfigurationError
 * `pool-too-small`. Trouble with Kafka or the database never ends it: it backs off, says so
 * (`outbox.trouble`), and goes on by itself.
 */
export function createOutboxRelay<Tx>(options: OutboxRelayOptions<Tx>): OutboxRelay {
  const relay = new LaneRelay(options, relaySettings(options));
  return {
    ...service({
      start: (stopping) => relay.start(stopping),
      stop: (deadlineMs) => relay.stop(deadlineMs),
    }),
    wake: () => relay.wake(),
  };
}

/** Lease, read and settle may run at the same time, each on a connection. */
const connectionsNeeded = 3;

const troubleBackoff = { initialMs: 50, maxMs: 5_000 };

/** How long the busy interval lasts after rows were written whose commit will not be seen. */
const expectedForMs = 1_000;

/** How long the number of partitions of a topic is believed. */
const partitionsForMs = 15_000;

/** How long it is believed when it could not be read again: leaders move, the number stays. */
const partitionsAgainMs = 1_000;

/** Batches in memory that are not blocked: one on its way, one read ahead, the rest to be settled. */
const unblockedBatchesMax = 4;

/** How much sooner lanes are asked for while others still drain them. */
const shortRenewals = 4;

/** Part of a stop's deadline that is kept for giving lanes back. */
const stopReserveMs = 1_000;

/** A turn now and then, whatever the times above say. */
const restMaxMs = 60_000;

const atOnce = Number.NEGATIVE_INFINITY;
const never = Number.POSITIVE_INFINITY;

type StepName = "lease" | "read" | "publish" | "settle" | "listen";

/** One kind of call: never twice at once, and with a pause behind each failure. */
interface Step {
  running: boolean;
  failures: number;
  notBefore: number;
}

/** The pause before the next look into the outbox. */
export function nextPollMs(
  read: { readonly rows: number; readonly more: boolean },
  previousMs: number,
  expecting: boolean,
  { pollBusyMs, pollIdleMs }: Pick<RelaySettings, "pollBusyMs" | "pollIdleMs">,
): number {
  if (read.rows > 0) return read.more ? 0 : pollBusyMs;
  if (read.more || expecting) return pollBusyMs;
  return Math.min(pollIdleMs, Math.max(pollBusyMs, previousMs * 2));
}

class LaneRelay<Tx> {
  readonly #options: OutboxRelayOptions<Tx>;
  readonly #settings: RelaySettings;
  readonly #storage: Storage<Tx>;
  readonly #clock: Clock;
  readonly #observe: Observer;
  readonly #relay: string;
  readonly #lanes = createLanes();
  readonly #backlog = new Backlog();
  readonly #steps: Readonly<Record<StepName, Step>> = {
    lease: { running: false, failures: 0, notBefore: atOnce },
    settle: { running: false, failures: 0, notBefore: atOnce },
    read: { running: false, failures: 0, notBefore: atOnce },
    publish: { running: false, failures: 0, notBefore: atOnce },
    listen: { running: false, failures: 0, notBefore: atOnce },
  };
  readonly #partitions = new Map<string, { readonly count: number; readonly until: number }>();
  #relays = 1;
  #leaseAt = atOnce;
  #leased = () => {};
  #readAt = atOnce;
  #pollMs = 0;
  #woken = false;
  #expectUntil = atOnce;
  #sweepAt = never;
  #readingPaused = false;
  #producer: BrokerProducer | null = null;
  #unlisten: (() => Promise<void>) | null = null;
  #loop: Promise<void> = Promise.resolve();
  #stopping = false;
  #cut = false;
  #rung = false;
  #nap = new AbortController();

  constructor(options: OutboxRelayOptions<Tx>, settings: RelaySettings) {
    this.#options = options;
    this.#settings = settings;
    this.#storage = options.storage;
    this.#clock = options.clock ?? systemClock;
    this.#observe = guarded(options.observer);
    this.#relay = uuidv7(this.#clock);
  }

  async start(stopping: AbortSignal): Promise<void> {
    const { poolSize } = await this.#storage.check();
    if (poolSize < connectionsNeeded) {
      throw new ConfigurationError(
        "pool-too-small",
        `an outbox relay needs ${connectionsNeeded} connections (lanes, reading, deleting), the pool has ${poolSize}: enlarge the pool`,
        { details: { needed: connectionsNeeded, poolSize } },
      );
    }
    if (stopping.aborted) return;
    this.#sweepAt = this.#clock.now() + this.#settings.sweepIntervalMs;
    const leased = new Promise<void>((resolve) => {
      this.#leased = resolve;
      stopping.addEventListener("abort", () => resolve(), { once: true });
    });
    this.#loop = this.#run();
    await leased;
  }

  async stop(deadlineMs: number): Promise<void> {
    const reserveMs = Math.min(stopReserveMs, deadlineMs / 4);
    this.#stopping = true;
    this.#ring();
    await this.#atMost(deadlineMs - reserveMs, this.#loop);
    this.#cut = true;
    this.#ring();
    await this.#loop;
    await this.#atMost(reserveMs, this.#close());
  }

  wake(): void {
    this.#woken = true;
    this.#readAt = atOnce;
    this.#ring();
  }

  #expect(): void {
    const now = this.#clock.now();
    this.#expectUntil = now + expectedForMs;
    this.#readAt = Math.min(this.#readAt, now + this.#settings.pollBusyMs);
    this.#ring();
  }

  /**
   * Each turn begins every step that is due and not running, then rests until one of them ends, a
   * bell rings or the next one is due. Steps overlap each other, never themselves.
   *
   *   lease    at a third of the lease, or when lanes have drained: give back, renew, take
   *   settle   when rows were acknowledged
   *   read     when woken or polled, while less than a batch is ready
   *   publish  when rows are ready, or a block's pause is over, in lanes whose lease outlasts it
   *   listen   once
   *
   *   (made) ──start──▶ running ──stop──▶ stopping ──all ended and settled, or no time left──▶ ended
   *                     all steps         what runs goes on; lease and settle only
   */
  async #run(): Promise<void> {
    while (!this.#hasEnded()) {
      const now = this.#clock.now();
      if (this.#isDue("lease", now)) this.#begin("lease", () => this.#lease());
      if (this.#isDue("settle", now)) this.#begin("settle", () => this.#settle());
      if (this.#isDue("read", now)) this.#begin("read", () => this.#read(now));
      if (this.#isDue("publish", now)) this.#begin("publish", () => this.#publish());
      if (this.#isDue("listen", now)) this.#begin("listen", () => this.#listen());
      await this.#rest();
    }
  }

  #hasEnded(): boolean {
    if (!this.#stopping || this.#cut) return this.#cut;
    const running = Object.values(this.#steps).some((step) => step.running);
    return !running && !this.#backlog.hasPublished;
  }

  #isDue(name: StepName, now: number): boolean {
    return !this.#steps[name].running && this.#dueAt(name, now) <= now;
  }

  #dueAt(name: StepName, now: number): number {
    return Math.max(this.#steps[name].notBefore, this.#wantedAt(name, now));
  }

  /** When there is something to do for a step, as far as is known now. */
  #wantedAt(name: StepName, now: number): number {
    if (name === "lease") return this.#drained().length > 0 ? atOnce : this.#leaseAt;
    if (name === "settle") return this.#backlog.hasPublished ? atOnce : never;
    if (this.#stopping) return never;
    if (name === "listen") return this.#unlisten === null ? atOnce : never;
    if (name === "publish") return this.#backlog.sendableAt((lane) => this.#mayUse(lane, now));
    if (this.#roomToRead() === null || this.#readable(now).length === 0) return never;
    return Math.min(this.#readAt, this.#sweepAt);
  }

  #begin(name: StepName, work: () => Promise<void>): void {
    const step = this.#steps[name];
    step.running = true;
    const succeeded = () => {
      step.failures = 0;
    };
    const failed = (error: unknown) => {
      step.failures += 1;
      const waitMs = this.#pauseMs(step.failures);
      step.notBefore = this.#clock.now() + waitMs;
      this.#trouble(name, waitMs, error);
    };
    void work()
      .then(succeeded, failed)
      .then(() => {
        step.running = false;
        this.#ring();
      });
  }

  async #rest(): Promise<void> {
    if (!this.#rung) {
      const now = this.#clock.now();
      let until = now + restMaxMs;
      for (const [name, { running }] of Object.entries(this.#steps)) {
        if (!running) until = Math.min(until, this.#dueAt(name as StepName, now));
      }
      this.#nap = new AbortController();
      await this.#clock.sleep(Math.max(0, until - now), this.#nap.signal);
    }
    this.#rung = false;
  }

  #ring(): void {
    this.#rung = true;
    this.#nap.abort();
  }

  /** Gives drained lanes back, then renews and takes: one after the other, as both write the lanes. */
  async #lease(): Promise<void> {
    await this.#giveBack(this.#drained());
    const sentAt = this.#clock.now();
    if (sentAt < this.#leaseAt) return;
    const { leaseDurationMs, renewIntervalMs } = this.#settings;
    const held = this.#lanes.held();
    const answer = await this.#storage.leaseLanes({
      relay: this.#relay,
      leaseMs: leaseDurationMs,
      renew: held.map(leaseOf),
      acquireMax: this.#stopping ? 0 : lanesToTake(held.length, this.#relays),
    });
    const { gained, lost, takenOver } = this.#lanes.answered(answer, sentAt, leaseDurationMs);
    for (const lane of lost) this.#backlog.drop(lane);
    const surplus = surplusOf(this.#lanes.held(), answer.relays, (l) => this.#backlog.rowsOf(l));
    for (const lane of surplus) {
      lane.state = "draining";
      this.#backlog.drain(lane);
    }
    if (gained.length > 0) this.wake();
    if (takenOver.length > 0) this.#lanesLost(takenOver);
    if (gained.length + lost.length > 0 || answer.relays !== this.#relays) {
      this.#lanesHeld(answer.relays);
    }
    this.#relays = answer.relays;
    this.#notePause();
    const short = isShort(this.#lanes.held().length, answer.relays);
    this.#leaseAt = sentAt + (short ? renewIntervalMs / shortRenewals : renewIntervalMs);
    this.#leased();
  }

  #drained(): HeldLane[] {
    return this.#lanes
      .held()
      .filter((lane) => lane.state === "draining" && !this.#backlog.isBusy(lane));
  }

  async #giveBack(lanes: readonly HeldLane[]): Promise<void> {
    if (lanes.length === 0) return;
    await this.#storage.releaseLanes(this.#relay, lanes.map(leaseOf));
    this.#lanes.drop(lanes);
    for (const lane of lanes) this.#backlog.drop(lane);
    this.#lanesHeld(this.#relays);
  }

  async #settle(): Promise<void> {
    const entries = this.#backlog.published;
    const lanes = [...new Set(entries.map((entry) => entry.lane))];
    const rows = entries.map((entry) => entry.row);
    const { lost } = await this.#storage.settleBatch(lanes.map(leaseOf), rows);
    this.#backlog.settled(entries);
    const gone = lanes.filter((lane) => lane.state !== "lost" && lost.includes(lane.lane));
    if (gone.length === 0) return;
    this.#lanesLost(gone);
    this.#lanes.drop(gone);
    for (const lane of gone) this.#backlog.drop(lane);
  }

  async #read(now: number): Promise<void> {
    const room = this.#roomToRead();
    const lanes = this.#readable(now);
    if (room === null || lanes.length === 0) return;
    const sweep = now >= this.#sweepAt;
    this.#woken = false;
    const { rows, more, belowFloor } = await this.#storage.readLanes(lanes.map(leaseOf), {
      ...room,
      pending: this.#backlog.pending(),
      sweep,
    });
    const read = this.#clock.now();
    if (sweep) this.#sweepAt = read + this.#settings.sweepIntervalMs;
    if (belowFloor > 0) {
      this.#observe({ type: "outbox.floor-anomaly", relay: this.#relay, rows: belowFloor });
    }
    const leases = new Map(lanes.map((lane) => [lane.lane, lane]));
    for (const row of rows) {
      const lane = leases.get(row.lane);
      if (lane?.state === "active") this.#backlog.add(row, lane);
    }
    const found = { rows: rows.length, more };
    this.#pollMs = nextPollMs(found, this.#pollMs, read < this.#expectUntil, this.#settings);
    // A bell that rang while the read was under way may be for a row it did not see.
    this.#readAt = this.#woken ? atOnce : read + this.#pollMs;
  }

  /** Room for one batch ahead of the one on its way; null where there is none. */
  #roomToRead(): { readonly rows: number; readonly bytes: number } | null {
    const { batchRowsMax, batchBytesMax } = this.#settings;
    const { ready, unblockedRows } = this.#backlog;
    const rows = batchRowsMax - ready.rows;
    const bytes = batchBytesMax - ready.bytes;
    const unsettled = unblockedRows >= unblockedBatchesMax * batchRowsMax;
    return rows <= 0 || bytes <= 0 || unsettled ? null : { rows, bytes };
  }

  #readable(now: number): HeldLane[] {
    const paused = this.#readingPaused ? this.#backlog.blockedLanes() : none;
    return this.#lanes
      .held()
      .filter((lane) => lane.state === "active" && lane.deadline > now && !paused.has(lane));
  }

  /** The only check that keeps a lane from being sent by two relays: right before sending. */
  #mayUse(lane: HeldLane, now: number): boolean {
    return lane.state === "active" && lane.deadline - now >= this.#settings.leaseNeededMs;
  }

  async #publish(): Promise<void> {
    const { broker } = this.#options;
    await this.#learnPartitions();
    this.#producer ??= await broker.producer();
    if (this.#stopping) return;
    const now = this.#clock.now();
    const batch = this.#backlog.nextBatch({
      now,
      rowsMax: this.#settings.batchRowsMax,
      bytesMax: this.#settings.batchBytesMax,
      mayUse: (lane) => this.#mayUse(lane, now),
      partitionOf: ({ topic, key, id }) => {
        const known = this.#partitions.get(topic);
        return known === undefined ? null : broker.partitionOf(key, id, known.count);
      },
    });
    if (batch.length > 0) await this.#send(this.#producer, batch, now);
    this.#notePause();
  }

  async #send(producer: BrokerProducer, batch: readonly Entry[], sentAt: number): Promise<void> {
    const result = await producer.publish(batch.map(recordOf)).catch((error): PublishResult => {
      return {
        acknowledged: [],
        refused: [],
        unknown: batch.map((_, index) => ({ index, error })),
      };
    });
    const now = this.#clock.now();
    const outcome = this.#backlog.outcome(result, now, (attempt) => this.#pauseMs(attempt));
    const relay = this.#relay;
    if (outcome.published > 0) {
      const ms = now - sentAt;
      this.#observe({ type: "outbox.published", relay, messages: outcome.published, ms });
    }
    if (outcome.unknown !== null) {
      this.#observe({ type: "outbox.publish-unknown", relay, ...outcome.unknown });
    }
    for (const blocked of outcome.blocked) {
      if (blocked.scope === "topic") this.#partitions.delete(blocked.topic);
      this.#blocked(blocked);
    }
  }

  /** Asks for the number of partitions of every topic that is due and not known well enough. */
  async #learnPartitions(): Promise<void> {
    const now = this.#clock.now();
    const topics = [...this.#backlog.topics(now)].filter(
      (topic) => (this.#partitions.get(topic)?.until ?? atOnce) <= now,
    );
    await Promise.all(topics.map((topic) => this.#learn(topic, now)));
  }

  async #learn(topic: string, now: number): Promise<void> {
    const known = this.#partitions.get(topic);
    try {
      const count = await this.#options.broker.partitions(topic);
      this.#partitions.set(topic, { count, until: now + partitionsForMs });
      if (known?.count !== count) this.#backlog.repartitioned(topic);
    } catch (error) {
      const refused = error instanceof BrokerError && isRefusal(error);
      if (known !== undefined && !refused) {
        this.#partitions.set(topic, { ...known, until: now + partitionsAgainMs });
        return this.#trouble("publish", partitionsAgainMs, error);
      }
      this.#partitions.delete(topic);
      const pause = (attempt: number) => this.#pauseMs(attempt);
      const blocked = this.#backlog.blockTopic(topic, error, now, pause);
      if (refused) for (const one of blocked) this.#blocked(one);
      else this.#trouble("publish", Math.max(...blocked.map((one) => one.waitMs), 0), error);
    }
  }

  async #listen(): Promise<void> {
    const unlisten = await this.#storage.wake.listen({
      woken: () => this.wake(),
      expected: () => this.#expect(),
    });
    if (this.#cut) await unlisten();
    else this.#unlisten = unlisten;
  }

  /** What is still on its way keeps its lanes: nobody may send them before its lease is over. */
  async #close(): Promise<void> {
    const lanes = this.#lanes.held().filter((lane) => !this.#backlog.isSending(lane));
    const told = (step: StepName) => (error: unknown) => this.#trouble(step, 0, error);
    const cut = this.#backlog.unsettledRows;
    if (cut > 0) this.#observe({ type: "outbox.batch-cut", relay: this.#relay, messages: cut });
    await Promise.all([
      this.#giveBack(lanes).catch(told("lease")),
      this.#producer?.close().catch(told("publish")),
      this.#unlisten?.().catch(told("listen")),
    ]);
  }

  #notePause(): void {
    const { rows, bytes } = this.#backlog.blocked;
    const { blockedRowsMax, blockedBytesMax } = this.#settings;
    const paused = rows >= blockedRowsMax || bytes >= blockedBytesMax;
    if (paused && !this.#readingPaused) {
      this.#observe({
        type: "outbox.reading-paused",
        relay: this.#relay,
        lanes: Array.from(this.#backlog.blockedLanes(), ({ lane }) => lane),
        blockedRows: rows,
        blockedBytes: bytes,
      });
    }
    this.#readingPaused = paused;
  }

  #pauseMs(attempt: number): number {
    return backoffMs(troubleBackoff, attempt, this.#clock.random());
  }

  #trouble(step: StepName, waitMs: number, error: unknown): void {
    this.#observe({ type: "outbox.trouble", relay: this.#relay, step, waitMs, error });
  }

  #blocked({ scope, ...blocked }: Blocked): void {
    const told = scope === "message" ? scope : "topic";
    this.#observe({ type: "outbox.blocked", relay: this.#relay, scope: told, ...blocked });
  }

  #lanesHeld(relays: number): void {
    const lanes = this.#lanes.held().map(({ lane }) => lane);
    this.#observe({ type: "outbox.lanes-held", relay: this.#relay, lanes, relays });
  }

  #lanesLost(lost: readonly HeldLane[]): void {
    const lanes = lost.map(({ lane }) => lane);
    this.#observe({ type: "outbox.lanes-lost", relay: this.#relay, lanes });
  }

  async #atMost(ms: number, work: Promise<unknown>): Promise<void> {
    const enough = new AbortController();
    await Promise.race([work, this.#clock.sleep(ms, enough.signal)]);
    enough.abort();
  }
}

const none: ReadonlySet<HeldLane> = new Set();

function leaseOf({ lane, token }: HeldLane): LaneLease {
  return { lane, token };
}

function recordOf({ row, partition }: Entry): OutgoingRecord {
  return { topic: row.topic, partition, key: row.key, value: row.value, headers: row.headers };
}

/** Kafka has answered, and asking again changes nothing until somebody acts. */
function isRefusal(error: BrokerError): boolean {
  return error.code === "topic-missing" || !error.retryable;
}
