/**
 * The Kafka client of a consumer: joined to the group, and built anew as often as it dies or falls
 * silent. Owns which client is the current one; callbacks of one that was thrown away change nothing.
 *
 *   connect ──▶ connected ── died, silent ──▶ back-off ──▶ connect …      (until stop)
 */
import type { Observer } from "../events.ts";
import type { Broker, BrokerConsumer, ConsumerCallbacks, GroupOffset } from "../ports/broker.ts";
import type { Clock } from "../ports/clock.ts";
import { backoffMs } from "../retry.ts";

export interface ClientContext {
  readonly name: string;
  readonly groupId: string;
  readonly broker: Broker;
  readonly clock: Clock;
  readonly observe: Observer;
  readonly topics: () => readonly string[];
  readonly callbacks: Omit<ConsumerCallbacks, "failed">;
  /** The current client is gone: whatever was assigned to it is void. */
  readonly gone: () => void;
  readonly stopping: AbortSignal;
}

/** A client that lived as long had recovered: its end starts a new count of rebuilds. */
const stableAfterMs = 30_000;

const rebuildBackoff = { initialMs: 200, maxMs: 10_000 };

/** Clients that fell silent in a row, each after it had connected: a new process may help. */
const silentMax = 3;

export class SteadyClient {
  readonly #context: ClientContext;
  #client: BrokerConsumer | null = null;
  #number = 0;
  #connectedAt = 0;
  #rebuilds = 0;
  #silences = 0;
  #rebuilding: Promise<void> = Promise.resolve();

  constructor(context: ClientContext) {
    this.#context = context;
  }

  get connected(): boolean {
    return this.#client !== null;
  }

  /** Since when the current client is connected, in milliseconds; 0 where there is none. */
  get connectedMs(): number {
    return this.#client === null ? 0 : this.#context.clock.now() - this.#connectedAt;
  }

  /** False where clients keep falling silent although Kafka lets them connect. */
  get live(): boolean {
    return this.#silences < silentMax;
  }

  /** Resolves when no rebuild is under way. */
  get settled(): Promise<void> {
    return this.#rebuilding;
  }

  /** Rejects where the first client cannot be made: the start fails, nothing is left behind. */
  connect(): Promise<void> {
    return this.#connect(true);
  }

  async commit(positions: readonly GroupOffset[]): Promise<boolean> {
    return (await this.#client?.commit(positions)) ?? false;
  }

  /** Throws the current client away: it owes answers and gives none. */
  silent(error: Error): void {
    this.#silences += 1;
    this.#rebuilding = this.#rebuild(error);
  }

  async stop(deadlineMs: number): Promise<void> {
    await this.#client?.stop(deadlineMs);
  }

  async #connect(requireTopics: boolean): Promise<void> {
    this.#number += 1;
    const number = this.#number;
    const { broker, groupId, clock, stopping, topics } = this.#context;
    const client = await broker.consumer(
      { groupId, topics: topics(), requireTopics },
      this.#callbacks(number),
    );
    // Neither a stop that did not wait for this, nor a client that died before it was ready and is
    // being replaced, may leave a member of the group behind.
    if (stopping.aborted || number !== this.#number) {
      await client.stop(broker.timing.heartbeatIntervalMs).catch(() => undefined);
      return;
    }
    this.#client = client;
    this.#connectedAt = clock.now();
  }

  #callbacks(number: number): ConsumerCallbacks {
    const { callbacks, stopping } = this.#context;
    const current = () => number === this.#number && !stopping.aborted;
    return {
      assigned: (assignment, partitions) => {
        if (current()) callbacks.assigned(assignment, partitions);
      },
      position: (partition) => (current() ? callbacks.position(partition) : null),
      fetched: (partition, log) => {
        if (!current()) return;
        this.#silences = 0;
        callbacks.fetched(partition, log);
      },
      deliver: (batch) => {
        if (current()) callbacks.deliver(batch);
      },
      displaced: (partition, asked, why) => {
        if (current()) callbacks.displaced(partition, asked, why);
      },
      unreadable: (partition, asked, error) => {
        if (current()) callbacks.unreadable(partition, asked, error);
      },
      troubled: (partition, error) => {
        if (current()) callbacks.troubled(partition, error);
      },
      failed: (error) => {
        if (current()) this.#rebuilding = this.#rebuild(error);
      },
    };
  }

  async #rebuild(cause: unknown): Promise<void> {
    this.#number += 1;
    const { broker, clock, observe, stopping, name: consumer, gone } = this.#context;
    gone();
    const dead = this.#client;
    this.#client = null;
    // What a dead client says of its own end helps nobody.
    await dead?.stop(broker.timing.heartbeatIntervalMs).catch(() => undefined);
    let error = cause;
    // A client that connects and dies again at once has not recovered.
    if (clock.now() - this.#connectedAt > stableAfterMs) this.#rebuilds = 0;
    while (!stopping.aborted) {
      this.#rebuilds += 1;
      const rebuild = this.#rebuilds;
      const waitMs = backoffMs(rebuildBackoff, rebuild, clock.random());
      observe({ type: "inbox.client-rebuilt", consumer, rebuild, waitMs, error });
      await clock.sleep(waitMs, stopping);
      if (stopping.aborted) return;
      try {
        // A topic deleted meanwhile must not keep the others from going on.
        return await this.#connect(false);
      } catch (failed) {
        error = failed;
      }
    }
  }
}
