// Owns one place where a process runs, and the processes that run there one after another: each a
// consumer and a relay of the core, with a handler that leaves traces. Started, killed, frozen, asked
// to leave; decides nothing about when.

import {
  type Broker,
  type BrokerProducer,
  type Consumer,
  createConsumer,
  createOutboxRelay,
  type OnceboxEvent,
  type OutboxRelay,
  type OutgoingRecord,
  type ParkedTransaction,
  type ParkedTurn,
} from "@oncebox/core";
import {
  type MemoryProcess,
  type MemoryStorage,
  type MemoryTx,
  memoryProcess,
} from "@oncebox/testing";
import { type HandlerListener, handlerOf } from "./handler.ts";
import type { Standing } from "./long-stop.ts";
import { producerOfClients } from "./producer-clients.ts";
import { consumerName, leaseDurationMs, lettersTopic, orders, type World } from "./world.ts";

export const sessionTimeoutMs = 3_000;
const stopDeadlineMs = 6_000;
const startAgainMs = 1_000;
/** Of messages that fail: shorter than by default, as is all that is simulated. */
const backoffs = { localBackoffMs: 40, redriveBackoffMs: 200, redriveBackoffMaxMs: 2_000 };
const noticedWithinMs = 2_500;
const skippingMs = 3_000;
const killedForMs = 300;

export interface Listener extends HandlerListener {
  readonly event: (worker: string, event: OnceboxEvent) => void;
  /** Something failed that must not fail. */
  readonly broke: (error: unknown) => void;
  /** The records are about to be sent by the process of this place. */
  readonly publishing: (records: readonly OutgoingRecord[], place: number) => void;
  /** The process is asked to stop. */
  readonly leaving: (worker: string) => void;
  /** The process is killed, or stands still from now on. */
  readonly ending: (worker: string) => void;
  /** The process goes on, with the answers that came while it stood still. */
  readonly thawing: (worker: string) => void;
  /** A parked message is tried. */
  readonly opening: (worker: string, turn: ParkedTurn) => void;
  readonly opened: (
    worker: string,
    turn: ParkedTurn,
    transaction: ParkedTransaction<MemoryTx>,
  ) => ParkedTransaction<MemoryTx>;
  readonly watched: (worker: string, producer: BrokerProducer) => BrokerProducer;
}

type State = "running" | "frozen" | "down";

export class Worker {
  readonly place: number;
  readonly #world: World;
  readonly #listener: Listener;
  #number = 0;
  #process: MemoryProcess | null = null;
  #consumer: Consumer<MemoryTx> | null = null;
  #relay: OutboxRelay | null = null;
  #state: State = "down";
  #leaving = false;
  #over = false;
  #held = false;
  readonly #skips = new Map<number, { readonly offset: bigint; readonly until: number }>();

  constructor(place: number, world: World, listener: Listener) {
    this.place = place;
    this.#world = world;
    this.#listener = listener;
  }

  get name(): string {
    return `w${this.place}.${this.#number}`;
  }

  get running(): boolean {
    return this.#state === "running" && !this.#leaving;
  }

  /** The member by which its group knows it now. */
  get member(): string | null {
    const members = this.#world.outside.admin.members(consumerName);
    return members.find((each) => each.startsWith(`${this.name}-`)) ?? null;
  }

  get network() {
    return this.#process?.broker.network ?? null;
  }

  /** Starts a process, and others until one has started: as whoever runs processes does. */
  start(): void {
    if (this.#state !== "down" || this.#over || this.#held) return;
    this.#number += 1;
    this.#state = "running";
    const { name } = this;
    const { clock, cluster, database, plan } = this.#world;
    const process = memoryProcess({
      ...{ clock, cluster, database, name },
      broker: {
        ...{ sessionTimeoutMs, heartbeatIntervalMs: 700, rebalanceTimeoutMs: 4_000 },
        ...{ publishTimeoutMs: 2_000, maxWaitMs: 900, batchRecordsMax: plan.batchRecordsMax },
      },
      storage: { idleInTransactionTimeoutMs: 2_500, lockTimeoutMs: 4_000 },
    });
    this.#process = process;
    const observer = (event: OnceboxEvent) => this.#listener.event(name, event);
    const common = { storage: this.#watched(process), clock: process.clock, observer };
    const consumer = createConsumer({
      ...common,
      ...{ name: consumerName, broker: this.#skipping(process), chunkSizeMax: plan.chunkSizeMax },
      ...{ handlerTimeoutMs: 2_000, redriveIntervalMs: 1_000 },
      ...(plan.windowMs === null ? {} : { deduplicationWindowMs: plan.windowMs }),
    });
    const handler = handlerOf(name, this.#world, process, {
      ...this.#listener,
      killing: (worker, id) => {
        this.#listener.killing(worker, id);
        if (this.#process === process) this.kill(killedForMs);
      },
    });
    const { onFailure, ordering, localAttemptsMax, attemptsMax } = plan;
    const retry = { localAttemptsMax, attemptsMax, ...backoffs };
    const deadLetter = { topic: lettersTopic };
    const policy = onFailure === "park" ? { onFailure, retry, deadLetter } : { onFailure };
    consumer.handle(orders, handler, { ...policy, ordering });
    const relay = createOutboxRelay({
      ...common,
      broker: this.#noting(process),
      ...{ leaseDurationMs, pollBusyMs: 100, sweepIntervalMs: 10_000 },
    });
    this.#consumer = consumer;
    this.#relay = relay;
    Promise.all([consumer.start(), relay.start()])
      .catch(async (error: unknown) => {
        if (this.#process !== process) return;
        this.#world.trace.note(name, `start failed: ${(error as Error).message}`);
        await this.#stop();
        this.#startAfter(startAgainMs);
      })
      .catch((error: unknown) => this.#listener.broke(error));
  }

  /** SIGKILL, and another process after so long. The database notices a while later. */
  kill(againMs: number): void {
    const process = this.#process;
    if (process === null || this.#state === "down") return;
    const { name } = this;
    const { clock, database } = this.#world;
    this.#listener.ending(name);
    process.freeze();
    this.#forget();
    const noticed = clock.sleep(againMs % noticedWithinMs);
    noticed.then(() => database.faults.cutConnections(name)).catch(() => undefined);
    this.#startAfter(againMs);
  }

  freeze(): void {
    if (this.#state !== "running") return;
    this.#state = "frozen";
    this.#listener.ending(this.name);
    this.#process?.freeze();
  }

  thaw(): void {
    if (this.#state !== "frozen" || this.#held) return;
    this.#state = "running";
    this.#listener.thawing(this.name);
    this.#process?.thaw();
  }

  /** SIGTERM: an ordered stop, and another process after so long. */
  leave(againMs = 0): void {
    if (!this.running) return;
    this.#leaving = true;
    this.#listener.leaving(this.name);
    const stopping = this.#stop().then(() => this.#startAfter(againMs));
    stopping.catch((error: unknown) => this.#listener.broke(error));
  }

  /** Nothing goes on here until it is let go. */
  hold(how: Standing): void {
    if (how === "kill") this.kill(0);
    else if (how === "leave") this.leave();
    this.#held = true;
    // What stands still already stays like that; who leaves has its time for it.
    if (!this.#leaving) this.freeze();
  }

  letGo(): void {
    this.#held = false;
    this.thaw();
    this.start();
  }

  get down(): boolean {
    return this.#state === "down";
  }

  /** Nothing starts here any more; what runs stops. */
  end(): void {
    this.#over = true;
    this.leave();
  }

  /** Partitions that wait for a person. */
  get displaced(): readonly number[] {
    if (!this.running) return [];
    const status = this.#consumer?.status() ?? [];
    return status.filter(({ state }) => state === "displaced").map(({ partition }) => partition);
  }

  pause(): void {
    this.#consumer?.pause();
  }

  resume(): void {
    this.#consumer?.resume();
  }

  #startAfter(ms: number): void {
    const starting = this.#world.clock.sleep(ms).then(() => this.start());
    starting.catch((error: unknown) => this.#listener.broke(error));
  }

  async #stop(): Promise<void> {
    const process = this.#process;
    const deadline = { deadlineMs: stopDeadlineMs };
    await Promise.all([this.#consumer?.stop(deadline), this.#relay?.stop(deadline)]);
    if (this.#process === process) this.#forget();
  }

  #forget(): void {
    this.#state = "down";
    this.#leaving = false;
    this.#process = null;
    this.#consumer = null;
    this.#relay = null;
    this.#skips.clear();
  }

  /** Its client reads on from there for a while, wherever the core wants to read. */
  skipTo(partition: number, offset: bigint): void {
    const until = this.#world.clock.now() + skippingMs;
    this.#skips.set(partition, { offset, until });
  }

  #skipping({ broker }: MemoryProcess): Broker {
    return {
      ...broker,
      consumer: (subscription, callbacks) =>
        broker.consumer(subscription, {
          ...callbacks,
          position: (at) => {
            const wanted = callbacks.position(at);
            const { offset = 0n, until = 0 } = this.#skips.get(at.partition) ?? {};
            if (wanted === null || wanted.offset >= offset) return wanted;
            if (until < this.#world.clock.now()) return wanted;
            return { ...wanted, offset, leaderEpoch: null };
          },
        }),
    };
  }

  /** The storage of the process, which says what it tries of what is parked. */
  #watched({ storage }: MemoryProcess): MemoryStorage {
    const { name } = this;
    const { opening, opened } = this.#listener;
    return {
      ...storage,
      openParked: async (turn) => {
        opening(name, turn);
        return opened(name, turn, await storage.openParked(turn));
      },
    };
  }

  /** The broker of the process, which says whose records are on their way. */
  #noting({ broker }: MemoryProcess) {
    const { place, name } = this;
    const { publishing, watched } = this.#listener;
    return {
      ...broker,
      producer: async () => {
        const producer = watched(name, producerOfClients(await broker.producer()));
        return {
          ...producer,
          publish: (records: readonly OutgoingRecord[]) => {
            publishing(records, place);
            return producer.publish(records);
          },
        };
      },
    };
  }
}
