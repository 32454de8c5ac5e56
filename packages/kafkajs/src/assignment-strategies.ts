/**
 * How partitions are shared out among the members of a group: pure functions from subscriptions to
 * assignments. Each gives every partition of a subscribed topic to exactly one subscriber of it. Knows
 * names and numbers only, never positions.
 */

/** A member as the group's leader sees it. */
export interface Subscriber {
  readonly memberId: string;
  readonly topics: readonly string[];
  /** What it owned before; read by the sticky strategy only. */
  readonly owned?: Ownership;
}

/** What a member says that it owns. Of two that claim a partition the later generation is right. */
export interface Ownership {
  readonly generation: number;
  readonly partitions: readonly (readonly [topic: string, partitions: readonly number[]])[];
}

/** Partitions by topic, by member. Every member is listed; a topic without partitions is left out. */
export type Shares = Map<string, Record<string, number[]>>;

export type PartitionsOf = (topic: string) => readonly number[];

export type Strategy = (subscribers: readonly Subscriber[], partitionsOf: PartitionsOf) => Shares;

/** In turn over all topics. Even loads; a join or leave moves many partitions. */
export const roundRobin: Strategy = (subscribers, partitionsOf) => {
  const sharing = new Sharing(subscribers);
  const { members } = sharing;
  // How many partitions a member could get at all.
  const choices = new Map(
    members.map(({ memberId, topics }) => [
      memberId,
      topics.reduce((sum, topic) => sum + partitionsOf(topic).length, 0),
    ]),
  );
  for (const topic of sharing.topics) {
    for (const partition of inOrder(partitionsOf(topic))) {
      sharing.give(sharing.leastLoaded(topic, choices), topic, partition);
    }
  }
  return sharing.shares();
};

/** Neighbours together, topic by topic: equal numbers of equally divided topics meet in one member. */
export const range: Strategy = (subscribers, partitionsOf) => {
  const sharing = new Sharing(subscribers);
  for (const topic of sharing.topics) {
    const members = sharing.subscribersOf(topic);
    const partitions = inOrder(partitionsOf(topic));
    const least = Math.floor(partitions.length / members.length);
    const longer = partitions.length % members.length;
    let next = 0;
    for (const [i, { memberId }] of members.entries()) {
      const end = next + least + (i < longer ? 1 : 0);
      for (; next < end; next += 1) sharing.give(memberId, topic, partitions[next] as number);
    }
  }
  return sharing.shares();
};

/** What a member had it keeps, as far as the loads stay even: a join or leave moves the fewest. */
export const sticky: Strategy = (subscribers, partitionsOf) => {
  const sharing = new Sharing(subscribers);
  const owners = ownersOf(sharing.members);
  const free: [topic: string, partition: number][] = [];
  for (const topic of sharing.topics) {
    const subscribed = new Set(sharing.subscribersOf(topic).map(({ memberId }) => memberId));
    for (const partition of inOrder(partitionsOf(topic))) {
      const owner = owners.get(`${topic}/${partition}`)?.memberId;
      if (owner !== undefined && subscribed.has(owner)) sharing.give(owner, topic, partition);
      else free.push([topic, partition]);
    }
  }
  for (const [topic, partition] of free) {
    sharing.give(sharing.leastLoaded(topic), topic, partition);
  }
  // Each move makes the loads more even, so this ends; a move per partition is far more than it takes.
  while (sharing.moveOne());
  return sharing.shares();
};

/** Who owned each partition: of several the one of the latest generation, then the first by name. */
function ownersOf(members: readonly Subscriber[]) {
  const owners = new Map<string, { memberId: string; generation: number }>();
  for (const { memberId, owned } of members) {
    if (owned === undefined) continue;
    const { generation } = owned;
    for (const [topic, partitions] of owned.partitions) {
      for (const partition of partitions) {
        const key = `${topic}/${partition}`;
        const other = owners.get(key);
        if (other === undefined || generation > other.generation) {
          owners.set(key, { memberId, generation });
        }
      }
    }
  }
  return owners;
}

function inOrder(partitions: readonly number[]): readonly number[] {
  return [...partitions].sort((a, b) => a - b);
}

/** An assignment in the making. Members and topics come in the order of their names. */
class Sharing {
  readonly members: readonly Subscriber[];
  readonly topics: readonly string[];
  readonly #subscribers = new Map<string, Subscriber[]>();
  readonly #owned = new Map<string, Map<string, number[]>>();
  readonly #loads = new Map<string, number>();

  constructor(subscribers: readonly Subscriber[]) {
    this.members = [...subscribers].sort((a, b) => (a.memberId < b.memberId ? -1 : 1));
    for (const member of this.members) {
      this.#owned.set(member.memberId, new Map());
      this.#loads.set(member.memberId, 0);
      for (const topic of new Set(member.topics)) {
        this.#subscribers.set(topic, [...(this.#subscribers.get(topic) ?? []), member]);
      }
    }
    this.topics = [...this.#subscribers.keys()].sort();
  }

  subscribersOf(topic: string): readonly Subscriber[] {
    return this.#subscribers.get(topic) ?? [];
  }

  load(memberId: string): number {
    return this.#loads.get(memberId) ?? 0;
  }

  /** Among equals the one that fewer partitions suit, then the first by name. */
  leastLoaded(topic: string, choices?: ReadonlyMap<string, number>): string {
    const of = (memberId: string) => choices?.get(memberId) ?? 0;
    const ids = this.subscribersOf(topic).map(({ memberId }) => memberId);
    return ids.reduce((least, id) => {
      const difference = this.load(id) - this.load(least) || of(id) - of(least);
      return difference < 0 ? id : least;
    });
  }

  give(memberId: string, topic: string, partition: number): void {
    const owned = this.#owned.get(memberId);
    owned?.set(topic, [...(owned.get(topic) ?? []), partition]);
    this.#loads.set(memberId, this.load(memberId) + 1);
  }

  /** Moves a partition from the most loaded member that can give one to a lighter one; false: none. */
  moveOne(): boolean {
    const heaviest = [...this.members].sort(
      (a, b) => this.load(b.memberId) - this.load(a.memberId),
    );
    for (const { memberId } of heaviest) {
      for (const [topic, partitions] of this.#owned.get(memberId) ?? []) {
        if (partitions.length === 0) continue;
        const lightest = this.leastLoaded(topic);
        if (this.load(memberId) - this.load(lightest) < 2) continue;
        this.give(lightest, topic, partitions.pop() as number);
        this.#loads.set(memberId, this.load(memberId) - 1);
        return true;
      }
    }
    return false;
  }

  shares(): Shares {
    const shares: Shares = new Map();
    for (const [memberId, topics] of this.#owned) {
      // Without a prototype: a topic may have any name.
      const owned: Record<string, number[]> = Object.create(null);
      for (const [topic, partitions] of topics) {
        if (partitions.length > 0) owned[topic] = partitions.sort((a, b) => a - b);
      }
      shares.set(memberId, owned);
    }
    return shares;
  }
}
