/**
 * The coordinator of one group: who is a member, who reads what, and the group's offsets. Members are
 * told through their callbacks; it never waits for one longer than the times allow.
 *
 *   empty ─ join ─▶ preparing ── all have joined, or time is over ──▶ stable (generation + 1)
 *                      ▲ ▲                                              │
 *                      └─┴────── join, leave, session over, storm ──────┘
 */
import type { Clock, GroupOffset, TopicPartition } from "@oncebox/core";

export interface Membership {
  readonly id: string;
  readonly topics: readonly string[];
  readonly sessionTimeoutMs: number;
  readonly rebalanceTimeoutMs: number;
  /** Told once for each generation that it is a part of. */
  readonly assigned: (generation: number, partitions: readonly TopicPartition[]) => void;
}

interface Member extends Membership {
  seenAt: number;
  /** Has joined the generation that is being prepared. */
  joined: boolean;
  partitions: readonly TopicPartition[];
  readonly gone: AbortController;
}

/** How long an answer to a join takes. */
const joinMs = 1;

export class Group {
  readonly #clock: Clock;
  readonly #partitionsOf: (topic: string) => number;
  readonly #down: () => boolean;
  /** In the order of joining. */
  readonly #members = new Map<string, Member>();
  readonly #offsets = new Map<string, GroupOffset>();
  #generation = 0;
  #preparing: AbortController | null = null;

  constructor(clock: Clock, partitionsOf: (topic: string) => number, down: () => boolean) {
    this.#clock = clock;
    this.#down = down;
    this.#partitionsOf = partitionsOf;
  }

  get members(): readonly string[] {
    return [...this.#members.keys()];
  }

  get generation(): number {
    return this.#generation;
  }

  subscribes(topic: string): boolean {
    return [...this.#members.values()].some(({ topics }) => topics.includes(topic));
  }

  partitionsOf(member: string): readonly TopicPartition[] {
    return this.#members.get(member)?.partitions ?? [];
  }

  join(membership: Membership): void {
    const seenAt = this.#clock.now();
    const gone = new AbortController();
    const member = { ...membership, seenAt, joined: true, partitions: [], gone };
    this.#members.set(membership.id, member);
    this.#prepare(member);
    this.#watch(member).catch(() => undefined);
  }

  /** `rejoin`: a new generation is being prepared. `unknown`: it is a member no more. */
  heartbeat(id: string): "ok" | "rejoin" | "unknown" {
    const member = this.#members.get(id);
    if (member === undefined) return "unknown";
    member.seenAt = this.#clock.now();
    return this.#preparing !== null && !member.joined ? "rejoin" : "ok";
  }

  rejoin(id: string): void {
    const member = this.#members.get(id);
    if (member === undefined || this.#preparing === null) return;
    member.joined = true;
    this.#completeSoon();
  }

  leave(id: string): void {
    if (!this.#remove(id)) return;
    if (this.#members.size > 0) this.#prepare(null);
    else this.#endPreparing();
  }

  /** After an outage every session begins anew. */
  recovered(): void {
    const now = this.#clock.now();
    for (const member of this.#members.values()) member.seenAt = now;
  }

  /** Everyone has to join again. */
  rebalance(): void {
    if (this.#members.size > 0) this.#prepare(null);
  }

  /** Whether the member may commit these, as Kafka judges it: all of them or none. */
  mayCommit(id: string, generation: number, positions: readonly GroupOffset[]): boolean {
    const member = this.#members.get(id);
    if (member === undefined || generation !== this.#generation) return false;
    const own = new Set(member.partitions.map(nameOf));
    return positions.every((position) => own.has(nameOf(position)));
  }

  store(positions: readonly GroupOffset[]): void {
    for (const position of positions) this.#offsets.set(nameOf(position), { ...position });
  }

  offsets(topics: readonly string[]): readonly GroupOffset[] {
    const found = [...this.#offsets.values()].filter(({ topic }) => topics.includes(topic));
    return found.sort((a, b) => {
      if (a.topic === b.topic) return a.partition - b.partition;
      return a.topic < b.topic ? -1 : 1;
    });
  }

  /** As Kafka does when a topic is deleted. */
  forget(topic: string): void {
    for (const [name, offset] of this.#offsets) {
      if (offset.topic === topic) this.#offsets.delete(name);
    }
  }

  #prepare(joining: Member | null): void {
    if (this.#preparing === null) {
      this.#preparing = new AbortController();
      for (const member of this.#members.values()) member.joined = member === joining;
      this.#completeLate(this.#preparing).catch(() => undefined);
    }
    this.#completeSoon();
  }

  /** At the latest when the slowest member's time is over: without those who have not come. */
  async #completeLate(preparing: AbortController): Promise<void> {
    const times = [...this.#members.values()].map((member) => member.rebalanceTimeoutMs);
    await this.#clock.sleep(Math.max(...times, 0), preparing.signal);
    if (this.#preparing !== preparing) return;
    for (const [id, member] of this.#members) if (!member.joined) this.#remove(id);
    this.#complete();
  }

  #completeSoon(): void {
    const preparing = this.#preparing;
    const ready = () => [...this.#members.values()].every(({ joined }) => joined);
    if (preparing === null || !ready()) return;
    const answering = this.#clock.sleep(joinMs, preparing.signal).then(() => {
      if (this.#preparing === preparing && ready()) this.#complete();
    });
    answering.catch(() => undefined);
  }

  #complete(): void {
    this.#endPreparing();
    if (this.#members.size === 0) return;
    this.#generation += 1;
    const shares = this.#shares();
    const now = this.#clock.now();
    for (const member of [...this.#members.values()]) {
      member.seenAt = now;
      member.partitions = shares.get(member.id) ?? [];
    }
    for (const member of [...this.#members.values()]) {
      member.assigned(this.#generation, member.partitions);
    }
  }

  #endPreparing(): void {
    const preparing = this.#preparing;
    this.#preparing = null;
    preparing?.abort("over");
  }

  /** Round robin: all partitions of all topics, in order, to the members in the order of joining. */
  #shares(): ReadonlyMap<string, TopicPartition[]> {
    const members = [...this.#members.values()];
    const shares = new Map(members.map(({ id }) => [id, [] as TopicPartition[]]));
    const topics = [...new Set(members.flatMap((member) => member.topics))].sort();
    let turn = 0;
    for (const topic of topics) {
      const readers = members.filter((member) => member.topics.includes(topic));
      for (let partition = 0; partition < this.#partitionsOf(topic); partition += 1) {
        const reader = readers[turn % readers.length];
        turn += 1;
        if (reader !== undefined) shares.get(reader.id)?.push({ topic, partition });
      }
    }
    return shares;
  }

  /** Until its session runs out, or it is a member no more. */
  async #watch(member: Member): Promise<void> {
    while (this.#members.get(member.id) === member) {
      const restMs = member.seenAt + member.sessionTimeoutMs - this.#clock.now();
      const waiting = (this.#preparing !== null && member.joined) || this.#down();
      if (restMs <= 0 && !waiting) return this.leave(member.id);
      // One that waits for the others, or for the coordinator, owes no heartbeat.
      const lookMs = waiting ? member.sessionTimeoutMs / 4 : restMs;
      await this.#clock.sleep(Math.max(lookMs, joinMs), member.gone.signal);
    }
  }

  #remove(id: string): boolean {
    this.#members.get(id)?.gone.abort("gone");
    return this.#members.delete(id);
  }
}

export function nameOf({ topic, partition }: TopicPartition): string {
  return `${topic}/${partition}`;
}
