// Owns what the steps of one broker script have made so far, and the names by which it is told of.

import type { Broker, BrokerConsumer, BrokerProducer, TopicPartition } from "@oncebox/core";
import type { BrokerUnderTest, ForeignTransaction } from "@oncebox/testing";
import { Group } from "./broker-group.ts";
import type { At } from "./broker-script.ts";

export class Scene {
  readonly context: BrokerUnderTest;
  /** Asks, and sets offsets; never a member. */
  readonly broker: Broker;
  /** Times of records are counted from here: Kafka deletes what is old, and refuses what is new. */
  readonly begin = Date.now() - 3_600_000;
  readonly #names = new Map<string, string>();
  readonly ids = new Map<string, string[]>();
  readonly counts = new Map<string, number>();
  readonly groups = new Map<string, Group>();
  readonly groupOf = new Map<string, string>();
  readonly subscribed = new Map<string, Set<string>>();
  readonly transactions = new Map<string, ForeignTransaction>();
  /** Consumers that have left: a commit by one of them is an outcome as well. */
  readonly gone = new Map<string, BrokerConsumer>();
  readonly #producers = new Map<string, Promise<BrokerProducer>>();

  constructor(context: BrokerUnderTest) {
    this.context = context;
    this.broker = context.broker();
  }

  /** The real name of a topic or group; a new one where nothing was made under that name. */
  nameOf(short: string): string {
    const name = this.#names.get(short) ?? this.context.newName();
    this.#names.set(short, name);
    return name;
  }

  shortOf(name: string): string {
    return [...this.#names].find(([, each]) => each === name)?.[0] ?? name;
  }

  at([topic, partition]: At): TopicPartition {
    return { topic: this.nameOf(topic), partition };
  }

  async created(topic: string, name: string, partitions: number): Promise<void> {
    this.#names.set(topic, name);
    this.counts.set(topic, partitions);
    await this.knowId(topic);
  }

  async knowId(topic: string): Promise<void> {
    const { topicId } = await this.broker.offsets(this.nameOf(topic), "latest");
    this.ids.set(topic, [...(this.ids.get(topic) ?? []), topicId ?? "unknown"]);
  }

  /** Ids by when they were made. */
  idInWords(topicId: string | null): string {
    if (topicId === null) return "no id";
    for (const [topic, ids] of this.ids) {
      const place = ids.indexOf(topicId);
      if (place >= 0) return `${topic} the ${place + 1}.`;
    }
    return "an id that was never seen";
  }

  group(name: string): Group {
    const group = this.groups.get(name) ?? new Group();
    this.groups.set(name, group);
    return group;
  }

  producer(by: string): Promise<BrokerProducer> {
    const producer = this.#producers.get(by) ?? this.context.broker().producer();
    this.#producers.set(by, producer);
    return producer;
  }

  groupOfMember(member: string): Group {
    return this.group(this.groupOf.get(member) ?? "");
  }

  /** How many partitions the members of a group share. */
  sharable(group: string): number {
    const { members } = this.group(group);
    const topics = new Set([...members.keys()].flatMap((m) => [...(this.subscribed.get(m) ?? [])]));
    return [...topics].reduce((sum, topic) => sum + (this.counts.get(topic) ?? 0), 0);
  }
}
