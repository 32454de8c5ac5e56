/**
 * One consumer: a member of its group, with a heartbeat and a fetch loop on the clock. It asks for
 * positions, hands over what it fetched, and keeps nothing. What goes wrong is done to it from
 * outside.
 *
 *   join ─▶ waiting ─ assigned ─▶ fetching ─ rejoin, unknown (by heartbeat) ─▶ waiting …
 *                                    └─ stop: leaves   crash: dead, its session runs out
 */
import {
  type BrokerConsumer,
  BrokerError,
  type Clock,
  type ConsumerCallbacks,
  type FetchPosition,
  type GroupOffset,
  type RecordBatch,
  type TopicPartition,
} from "@oncebox/core";
import type { Found, MemoryCluster } from "./cluster.ts";
import { type Group, nameOf } from "./group.ts";
import { Link } from "./link.ts";

export interface MemberSettings {
  readonly cluster: MemoryCluster;
  readonly clock: Clock;
  readonly link: Link;
  readonly groupId: string;
  readonly topics: readonly string[];
  readonly callbacks: ConsumerCallbacks;
  readonly name: string;
  readonly times: {
    readonly sessionTimeoutMs: number;
    readonly heartbeatIntervalMs: number;
    readonly rebalanceTimeoutMs: number;
    readonly maxWaitMs: number;
    readonly fetchMs: number;
  };
  readonly batches: { readonly recordsMax: number; readonly bytesMax: number };
}

/** Given to `abort`: making one up costs more than a whole fetch. */
const noReason = "over";

interface Assignment {
  readonly number: number;
  readonly partitions: readonly TopicPartition[];
}

interface Asked {
  readonly at: TopicPartition;
  readonly position: FetchPosition;
}

export class MemberClient implements BrokerConsumer {
  readonly #settings: MemberSettings;
  readonly #group: Group;
  readonly #ended = new AbortController();
  /** Stops the process, while the link stops the network. */
  readonly #process = new Link();
  /** The number under which the group knows it: another one each time it joins as a stranger. */
  #id = "";
  #current: Assignment | null = null;
  #muted = false;
  /** The answer to its join was lost: it asks anew. */
  #missed = false;
  #nap = new AbortController();
  readonly #stale: RecordBatch[] = [];

  constructor(settings: MemberSettings) {
    this.#settings = settings;
    this.#group = settings.cluster.group(settings.groupId);
  }

  start(): void {
    const { cluster, name, groupId } = this.#settings;
    cluster.members.set(name, {
      groupId,
      expelled: () => this.#group.leave(this.#id),
      freeze: () => this.#process.silence(),
      thaw: () => this.#process.resume(),
      mute: () => {
        this.#muted = true;
      },
      crash: (error) => this.#crash(error),
      poke: (at) => this.#poke(at),
    });
    this.#join();
    for (const loop of [this.#beat(), this.#fetch()]) {
      loop.catch((error: unknown) => this.#crash(error));
    }
  }

  readonly commit = async (positions: readonly GroupOffset[]): Promise<boolean> => {
    const { cluster, name, clock, times } = this.#settings;
    const generation = this.#current?.number;
    const fault = cluster.hooks.onCommit?.(name, positions) ?? null;
    try {
      await this.#pass();
      await clock.sleep(times.fetchMs);
      await this.#pass();
    } catch {
      return false;
    }
    if (fault === "lost") return false;
    const may =
      generation !== undefined &&
      !this.#ended.signal.aborted &&
      this.#group.mayCommit(this.#id, generation, positions);
    if (!may && fault !== "accepted") return false;
    this.#group.store(positions);
    return fault !== "reply-lost";
  };

  readonly stop = async (deadlineMs: number): Promise<void> => {
    const { clock, cluster, name } = this.#settings;
    this.#ended.abort(noReason);
    this.#nap.abort(noReason);
    const enough = new AbortController();
    const leaving = this.#pass().then(
      () => this.#group.leave(this.#id),
      () => undefined,
    );
    await Promise.race([leaving, clock.sleep(deadlineMs, enough.signal)]);
    enough.abort(noReason);
    this.#current = null;
    cluster.members.delete(name);
  };

  /** A request or an answer: through the process first, then through the network. */
  async #pass(): Promise<void> {
    const { cluster, link } = this.#settings;
    while (this.#process.silent || link.silent) {
      await this.#process.pass();
      await link.pass();
    }
    await link.pass();
    if (cluster.down) {
      throw new BrokerError("broker-unavailable", "no broker can be reached", { retryable: true });
    }
  }

  #join(): void {
    const { name, cluster, topics, times } = this.#settings;
    this.#id = `${name}/${cluster.number()}`;
    const id = this.#id;
    this.#group.join({
      ...{ id, topics },
      sessionTimeoutMs: times.sessionTimeoutMs,
      rebalanceTimeoutMs: times.rebalanceTimeoutMs,
      assigned: (number, partitions) => this.#hear(id, { number, partitions }),
    });
  }

  /** At once, or when it can hear again: if that is still how things are. */
  #hear(id: string, assignment: Assignment): void {
    const tell = () => {
      const late = this.#id !== id || this.#group.generation !== assignment.number;
      if (late || this.#ended.signal.aborted || !this.#group.members.includes(id)) return;
      this.#current = assignment;
      this.#settings.callbacks.assigned(assignment.number, assignment.partitions);
      for (const batch of this.#stale.splice(0)) this.#settings.callbacks.deliver(batch);
      this.#nap.abort(noReason);
    };
    const { link } = this.#settings;
    if (!this.#process.silent && !link.silent && !link.down) {
      tell();
      return;
    }
    this.#pass().then(tell, () => {
      this.#missed = true;
    });
  }

  async #beat(): Promise<void> {
    const { clock, times } = this.#settings;
    const { signal } = this.#ended;
    while (!signal.aborted) {
      await clock.sleep(times.heartbeatIntervalMs, signal);
      const passed = await this.#pass().then(
        () => true,
        () => false,
      );
      if (!passed || signal.aborted) continue;
      const verdict = this.#group.heartbeat(this.#id);
      if (verdict === "ok" && !this.#missed) continue;
      // Nothing is fetched from here to the next assignment.
      this.#current = null;
      this.#missed = false;
      if (verdict === "rejoin") this.#group.rejoin(this.#id);
      else {
        this.#group.leave(this.#id);
        this.#join();
      }
    }
  }

  async #fetch(): Promise<void> {
    const { times } = this.#settings;
    while (!this.#ended.signal.aborted) {
      const current = this.#current;
      const asked = current === null || this.#muted ? [] : this.#ask(current);
      if (current === null || asked.length === 0) await this.#rest(times.maxWaitMs);
      else {
        await this.#request(current, asked).catch((error: unknown) => {
          // Anything else was thrown by a callback: a bug that must not be slept over.
          if (!(error instanceof BrokerError)) throw error;
          return this.#rest(times.maxWaitMs);
        });
      }
    }
  }

  #ask({ partitions }: Assignment): readonly Asked[] {
    return partitions.flatMap((at) => {
      const position = this.#settings.callbacks.position(at);
      return position === null ? [] : [{ at, position }];
    });
  }

  async #request(current: Assignment, asked: readonly Asked[]): Promise<void> {
    const { clock, cluster, times, batches, link } = this.#settings;
    const { cuts } = link;
    await clock.sleep(times.fetchMs, this.#ended.signal);
    await this.#pass();
    const limits = { ...batches, uncommitted: cluster.hooks.readUncommitted };
    const look = () => asked.map(({ at, position }) => cluster.fetch(at, position, limits));
    let answers = look();
    // Kafka answers at once where something is wrong; a client waits before it asks that again.
    if (
      answers.every(
        (found) => found.kind === "troubled" || (found.kind === "log" && found.read === null),
      )
    ) {
      await this.#rest(times.maxWaitMs);
      answers = look();
    }
    await this.#pass();
    // Lost on the way: fetched again.
    if (link.cuts !== cuts) return;
    for (const [place, found] of answers.entries()) {
      if (this.#ended.signal.aborted || this.#current !== current || this.#muted) return;
      const { at, position } = asked[place] as Asked;
      this.#tell(current, at, position, found);
    }
  }

  #tell(current: Assignment, at: TopicPartition, position: FetchPosition, found: Found): void {
    const { callbacks } = this.#settings;
    const { offset } = position;
    if (found.kind === "troubled") {
      callbacks.troubled(at, found.error);
      return;
    }
    if (found.kind === "displaced") {
      callbacks.displaced(at, offset, found.why);
      return;
    }
    callbacks.fetched(at, found.log);
    if (found.read === null) return;
    const { records, endOffset, endEpoch, corrupt } = found.read;
    if (corrupt) {
      const text = `the bytes at offset ${offset} of ${nameOf(at)} cannot be read`;
      callbacks.unreadable(at, offset, new Error(text));
      return;
    }
    const batch: RecordBatch = {
      ...at,
      assignment: current.number,
      fetchedOffset: offset,
      ...{ endOffset, records, topicId: found.topicId, endEpoch },
    };
    this.#deliver(batch);
  }

  #deliver(batch: RecordBatch): void {
    const { cluster, name, callbacks, clock } = this.#settings;
    const fault = cluster.hooks.onBatch?.(name, batch) ?? null;
    if (fault?.kind === "lost") return;
    if (fault?.kind === "stale") {
      this.#stale.push(batch);
      return;
    }
    if (fault?.kind === "late") {
      clock.sleep(fault.ms).then(
        async () => {
          await this.#process.pass();
          if (!this.#ended.signal.aborted) callbacks.deliver(batch);
        },
        () => undefined,
      );
      return;
    }
    callbacks.deliver(batch);
    if (fault?.kind === "twice") callbacks.deliver(batch);
  }

  /** Until something changes, at most so long. */
  async #rest(ms: number): Promise<void> {
    if (this.#ended.signal.aborted) return;
    // Whoever ends it ends its rest as well.
    this.#nap = new AbortController();
    await this.#settings.clock.sleep(ms, this.#nap.signal);
  }

  #poke(at: TopicPartition): void {
    const own = this.#current?.partitions.some((each) => nameOf(each) === nameOf(at)) ?? false;
    if (own) this.#nap.abort(noReason);
  }

  /** Dies without a word to its group. */
  #crash(cause: unknown): void {
    if (this.#ended.signal.aborted) return;
    const { cluster, name, callbacks } = this.#settings;
    this.#ended.abort(noReason);
    this.#nap.abort(noReason);
    this.#current = null;
    cluster.members.delete(name);
    callbacks.failed(
      cause instanceof BrokerError
        ? cause
        : new BrokerError("consumer-crashed", "the client died", { cause, retryable: true }),
    );
  }
}
