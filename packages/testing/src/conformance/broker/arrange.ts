/** What the broker cases stand on: members with ears, records, and what a publish came to. */
import {
  type Broker,
  type BrokerConsumer,
  type OutgoingRecord,
  type PublishResult,
  systemClock,
  type TopicPartition,
} from "@oncebox/core";
import type { ConformanceCase } from "../case.ts";
import { eventually, holds, same } from "../check.ts";
import type {
  BreakableNetwork,
  BrokerCapability,
  BrokerSettings,
  BrokerUnderTest,
  PlainRecord,
} from "./broker-under-test.ts";
import { type Listener, listener, nameOf } from "./listener.ts";

export interface BrokerCase extends ConformanceCase<BrokerUnderTest> {
  /** What the environment must be able to do. */
  readonly needs?: readonly BrokerCapability[];
}

/** Long enough for what must not happen to show. */
export const shortWaitMs = 400;

const encoder = new TextEncoder();

export function bytes(text: string): Uint8Array {
  return encoder.encode(text);
}

/** Key and value follow from the name, by which it is found again. */
export function record(
  topic: string,
  name: string,
  changes: Partial<OutgoingRecord> = {},
): OutgoingRecord {
  return { topic, partition: 0, key: bytes(name), value: bytes(name), headers: [], ...changes };
}

export function plain(...values: readonly string[]): readonly PlainRecord[] {
  return values.map((value) => ({ value }));
}

/** `count` names that sort in their order. */
export function names(prefix: string, count: number): readonly string[] {
  return Array.from({ length: count }, (_, i) => `${prefix}-${String(i).padStart(4, "0")}`);
}

/** Checks that each of `count` records has exactly one outcome; the outcomes without their errors. */
export function outcomes(result: PublishResult, count: number) {
  const acknowledged = [...result.acknowledged].sort((a, b) => a - b);
  const unknown = result.unknown.map(({ index }) => index).sort((a, b) => a - b);
  const refused = result.refused
    .map(({ index, scope }) => [index, scope] as const)
    .sort(([a], [b]) => a - b);
  const all = [...acknowledged, ...unknown, ...refused.map(([index]) => index)];
  const expected = Array.from({ length: count }, (_, index) => index);
  all.sort((a, b) => a - b);
  same(all, expected, "the indexes that have an outcome, each once");
  const errors = [...result.unknown, ...result.refused].map(({ error }) => error);
  holds(
    errors.every((error) => error instanceof Error),
    "each record that is not acknowledged must come with an Error",
  );
  return { acknowledged, unknown, refused };
}

/** Publishes on a producer of its own and closes it. */
export async function publish(
  broker: Broker,
  records: readonly OutgoingRecord[],
): Promise<PublishResult> {
  const producer = await broker.producer();
  const result = await producer.publish(records);
  await producer.close();
  return result;
}

/** Keys in a partition's log, in their order. */
export async function keysIn(
  { stored }: BrokerUnderTest,
  topic: string,
  partition = 0,
): Promise<readonly (string | null)[]> {
  const all = await stored(topic);
  const own = all.filter((each) => each.partition === partition);
  own.sort((a, b) => Number(a.offset - b.offset));
  return own.map(({ key }) => key);
}

export interface Member extends Listener {
  readonly broker: Broker;
  readonly consumer: BrokerConsumer;
}

export interface JoinOptions {
  readonly groupId?: string;
  readonly broker?: Broker;
  readonly settings?: BrokerSettings;
  readonly ear?: Listener;
  readonly requireTopics?: boolean;
}

/** A member of a group, of a new one unless told otherwise. */
export async function join(
  context: BrokerUnderTest,
  topics: readonly string[],
  options: JoinOptions = {},
): Promise<Member> {
  const { groupId = context.newName(), ear = listener(context.patienceMs), settings } = options;
  const broker = options.broker ?? context.broker(settings);
  const { requireTopics = true } = options;
  const consumer = await broker.consumer({ groupId, topics, requireTopics }, ear.callbacks);
  return { ...ear, broker, consumer };
}

/** What the latest assignment holds. */
export function owned({ assignments }: Listener): readonly TopicPartition[] {
  return assignments().at(-1)?.partitions ?? [];
}

export function owns(member: Listener, count: number): Promise<void> {
  return member.until(() => owned(member).length === count, `an assignment of ${count} partitions`);
}

/** Resolves when so many values were accepted, or more. */
export function received(member: Listener, count: number, at?: TopicPartition): Promise<void> {
  return member.until(() => member.values(at).length >= count, `${count} records`);
}

/** Checks that each batch goes on where the one before ended, from `start` on, in offset order. */
export function sameChain(member: Listener, at: TopicPartition, start = 0n): void {
  let next = start;
  for (const { fetchedOffset, endOffset, records } of member.batches(at)) {
    same(fetchedOffset, next, `the offset at which a batch of ${nameOf(at)} begins`);
    let from = fetchedOffset;
    for (const { offset } of records) {
      holds(
        offset >= from,
        `offset ${offset} must not come after ${from - 1n}, nor before ${from}`,
      );
      from = offset + 1n;
    }
    holds(endOffset >= from, `a batch must end behind its records, but ends at ${endOffset}`);
    next = endOffset;
  }
}

/** The network of a case that declares its need of one. */
export async function networkOf(
  { network }: BrokerUnderTest,
  settings: BrokerSettings = {},
): Promise<BreakableNetwork> {
  holds(network !== undefined, "a case that needs a network to break must be given one");
  return network(settings);
}

/** Asks until the group has so many members; at most `ms`. */
export async function membersReach(
  ms: number,
  broker: Broker,
  groupId: string,
  count: number,
): Promise<void> {
  const probe = async () => {
    const { members } = await broker.group(groupId, []);
    if (members === count) return true;
    await systemClock.sleep(50);
    return undefined;
  };
  await eventually(ms, probe, `a group of ${count} members`);
}
