// Owns what each step of a broker script does, by the port or behind its back, and its outcome in words.

import type {
  Displacement,
  GroupOffset,
  LogBounds,
  OutgoingRecord,
  TopicPartition,
} from "@oncebox/core";
import type { Group } from "./broker-group.ts";
import type { Scene } from "./broker-scene.ts";
import type { BrokerStep, ScriptMessage } from "./broker-script.ts";

type Verb = BrokerStep["do"];
type StepOf<V extends Verb> = Extract<BrokerStep, { readonly do: V }>;

/** Does it; the outcome in words. Rejects with what the port rejects with. */
export function actOnBroker(scene: Scene, step: BrokerStep): Promise<string> {
  const verb = verbs[step.do] as (scene: Scene, step: BrokerStep) => Promise<string>;
  return verb(scene, step);
}

function made<T>(thing: T | undefined): T {
  if (thing === undefined) throw new Error("nothing is called so");
  return thing;
}

const plain = (values: readonly string[], time?: number) =>
  values.map((value, place) => {
    return {
      key: value,
      value,
      ...(time === undefined ? {} : { timestamp: BigInt(time + place) }),
    };
  });

type Verbs = { readonly [V in Verb]: (scene: Scene, step: StepOf<V>) => Promise<string> };

const topicVerbs = {
  create: async (scene, { topic, partitions = 1, recordBytesMax }) => {
    const limit = recordBytesMax === undefined ? {} : { recordBytesMax };
    await scene.created(
      topic,
      await scene.context.createTopic({ partitions, ...limit }),
      partitions,
    );
    return "done";
  },
  delete: async (scene, { topic }) => {
    await scene.context.deleteTopic(scene.nameOf(topic));
    return "done";
  },
  recreate: async (scene, { topic }) => {
    await scene.context.recreateTopic(scene.nameOf(topic));
    await scene.knowId(topic);
    return scene.idInWords(scene.ids.get(topic)?.at(-1) ?? null);
  },
  partitions: async (scene, { topic }) =>
    String(await scene.broker.partitions(scene.nameOf(topic))),
  stored: async (scene, { topic }) => {
    const all = await scene.context.stored(scene.nameOf(topic));
    const words = all.map(({ partition, offset, key }) => `${partition}/${offset}=${key}`);
    return words.join(" ") || "nothing";
  },
  "delete records": async (scene, { at: [topic, partition], below }) => {
    await scene.context.deleteRecords(scene.nameOf(topic), partition, BigInt(below));
    return "done";
  },
  produce: async (scene, { at: [topic, partition], values, time }) => {
    await scene.context.produce(
      scene.nameOf(topic),
      partition,
      plain(values, time === undefined ? undefined : scene.begin + time),
    );
    return "done";
  },
  begin: async (scene, { as, at: [topic, partition], values }) => {
    const begun = await scene.context.transaction(scene.nameOf(topic), partition, ...values);
    scene.transactions.set(as, begun);
    return "done";
  },
  write: async (scene, { to, values }) => {
    await made(scene.transactions.get(to)).write(...values);
    return "done";
  },
  end: async (scene, { of, how }) => {
    await made(scene.transactions.get(of))[how]();
    return "done";
  },
  offsets: async (scene, { topic, from }) => {
    const when = typeof from === "number" ? { timestamp: BigInt(scene.begin + from) } : from;
    const { topicId, offsets } = await scene.broker.offsets(scene.nameOf(topic), when);
    const words = [...offsets].sort(([a], [b]) => a - b).map(([p, offset]) => `${p}: ${offset}`);
    return `${scene.idInWords(topicId)}, ${words.join(", ")}`;
  },
} satisfies Partial<Verbs>;

const groupVerbs = {
  join: async (scene, { as, group: name, topics, requireTopics = true }) => {
    const group = scene.group(name);
    const ear = group.ear((why) => displacementInWords(scene, why));
    const before = assignmentsOf(group);
    const consumer = await scene.context.broker().consumer(
      {
        groupId: scene.nameOf(name),
        topics: topics.map((topic) => scene.nameOf(topic)),
        requireTopics,
      },
      ear.callbacks,
    );
    group.members.set(as, { consumer, ear });
    scene.groupOf.set(as, name);
    scene.subscribed.set(as, new Set(topics));
    await group.shared(before, scene.sharable(name));
    return sharesInWords(group);
  },
  leave: async (scene, { member }) => {
    const group = scene.groupOfMember(member);
    const { consumer } = made(group.members.get(member));
    const before = assignmentsOf(group);
    await consumer.stop(10_000);
    group.members.delete(member);
    scene.gone.set(member, consumer);
    await group.shared(before, scene.sharable(made(scene.groupOf.get(member))));
    return sharesInWords(group);
  },
  point: async (scene, { group: name, at, to, id, epoch }) => {
    const reading = scene.group(name).reading(scene.at(at));
    const topicId = id === undefined ? null : made(scene.ids.get(at[0])?.[id - 1]);
    const leaderEpoch = epoch ?? null;
    reading.position = to === null ? null : { offset: BigInt(to), topicId, leaderEpoch };
    return "done";
  },
  read: async (scene, { group: name }) => {
    const group = scene.group(name);
    await group.caughtUp();
    const owned = group
      .shares()
      .map((at) => [`${scene.shortOf(at.topic)}/${at.partition}`, at] as const);
    const words = [...owned]
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([short, at]) => `${short} ${readingInWords(scene, group, at)}`);
    return words.join("; ") || "nothing to read";
  },
  commit: async (scene, { member, to, at }) => {
    const group = scene.groupOfMember(member);
    const consumer = group.members.get(member)?.consumer ?? made(scene.gone.get(member));
    const owned =
      "ownedBy" in at ? made(group.members.get(at.ownedBy)).ear.owned : at.map(scene.at, scene);
    const offset = BigInt(to);
    const positions = owned.map((each): GroupOffset => ({ ...each, offset, metadata: `at ${to}` }));
    return (await consumer.commit(positions)) ? "true" : "false";
  },
  group: async (scene, { group, topics }) => {
    const names = topics.map((topic) => scene.nameOf(topic));
    const { members, offsets } = await scene.broker.group(scene.nameOf(group), names);
    const words = offsets.map(({ topic, partition, offset, metadata }) => {
      return `${scene.shortOf(topic)}/${partition} ${offset} ${JSON.stringify(metadata)}`;
    });
    return `${members} members, ${words.sort().join(", ") || "no offsets"}`;
  },
  "set offsets": async (scene, { group, offsets }) => {
    await scene.broker.setGroupOffsets(
      scene.nameOf(group),
      offsets.map(([topic, partition, offset]) => {
        return { ...scene.at([topic, partition]), offset: BigInt(offset), metadata: "by hand" };
      }),
    );
    return "done";
  },
} satisfies Partial<Verbs>;

function assignmentsOf({ members }: Group): ReadonlyMap<string, number> {
  return new Map([...members].map(([name, { ear }]) => [name, ear.assignments]));
}

/** Who gets how much is the assigner's choice; that nobody goes without who could have some is not. */
function sharesInWords(group: Group): string {
  const shares = [...group.members.values()].map(({ ear }) => ear.owned.length);
  const idle = shares.filter((count) => count === 0).length;
  return `${group.shares().length} partitions among ${shares.length}, ${idle} of them idle`;
}

function readingInWords(scene: Scene, group: Group, at: TopicPartition): string {
  const { position, accepted, events, log } = group.reading(at);
  const records = accepted.splice(0).join(" ") || "nothing";
  const told = events.splice(0).map((event) => `, ${event()}`);
  if (position === null) return `${records}${told.join("")}`;
  const { offset, topicId, leaderEpoch } = position;
  const bounds = log === null ? "?" : `${boundsInWords(log)}, stable to ${log.lastStable}`;
  const of = `${scene.idInWords(topicId)}, epoch ${leaderEpoch ?? "?"}`;
  return `${records}${told.join("")}, then at ${offset} of ${bounds} (${of})`;
}

function boundsInWords({ start, end }: LogBounds): string {
  return `${start} to ${end}`;
}

function displacementInWords(scene: Scene, why: Displacement): string {
  switch (why.kind) {
    case "out-of-range":
      return `out of range ${why.log === null ? "unknown" : boundsInWords(why.log)}`;
    case "topic-recreated":
      return `it is ${scene.idInWords(why.topicId)} now`;
    case "log-diverged":
      return `diverged from ${why.endOffset ?? "nowhere"}`;
    default:
      return why.kind;
  }
}

const publishVerbs = {
  publish: async (scene, { by, messages }) => {
    const producer = await scene.producer(by);
    const result = await producer.publish(messages.map((each) => recordOf(scene, each)));
    const names = (indexes: readonly number[]) =>
      [...indexes].sort((a, b) => a - b).map((index) => made(messages[index])[2]);
    const taken = names(result.acknowledged).join(" ") || "none";
    const unknown = names(result.unknown.map(({ index }) => index)).join(" ") || "none";
    const refused = result.refused
      .map(({ index, scope }) => `${made(messages[index])[2]} (${scope})`)
      .sort();
    return `acknowledged ${taken}, unknown ${unknown}, refused ${refused.join(" ") || "none"}`;
  },
} satisfies Partial<Verbs>;

function recordOf(
  scene: Scene,
  [topic, partition, name, bytes = 0]: ScriptMessage,
): OutgoingRecord {
  const encoder = new TextEncoder();
  const value = encoder.encode(name.padEnd(bytes, "."));
  return { ...scene.at([topic, partition]), key: encoder.encode(name), value, headers: [] };
}

const verbs: Verbs = { ...topicVerbs, ...groupVerbs, ...publishVerbs };
