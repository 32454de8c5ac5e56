/**
 * A log that is no longer the one that was read: the partition pauses with the exact range, the
 * others go on, and a person or a policy decides. Guards the topic id and the leader epoch that each
 * fetch carries (fetch-request.ts), and the comparison with the last record (reader.ts).
 */
import { createOperator, type OnceboxEvent } from "@oncebox/core";
import { expect, it } from "vitest";
import { openTransaction } from "../fixtures/kafka-transactions.ts";
import { type Scene, scene, textTopic } from "../fixtures/scene.ts";
import { hasKafka, testTopic } from "../fixtures/servers.ts";
import { createTopic } from "../fixtures/topics.ts";

const numbers = (from: number, to: number, name = "m") =>
  Array.from({ length: to - from }, (_, i) => `${name} ${from + i}`);

/** A consumer of several topics, each value into `effects`. */
function consumerOf(s: Scene, topics: readonly string[], options: object = {}) {
  const consumer = s.bareConsumer(options);
  for (const topic of topics) {
    consumer.handle(textTopic(topic), async ({ value }, tx) => {
      await tx.query("INSERT INTO effects (value) VALUES ($1)", [value]);
    });
  }
  return consumer;
}

async function withAdmin<R>(s: Scene, act: (admin: ReturnType<Scene["kafka"]["admin"]>) => R) {
  const admin = s.kafka.admin();
  await admin.connect();
  try {
    return await act(admin);
  } finally {
    await admin.disconnect();
  }
}

/** Deletes the topics and makes them anew, empty. */
const madeAnew = (s: Scene, topics: readonly string[]) =>
  withAdmin(s, async (admin) => {
    await admin.deleteTopics({ topics: [...topics] });
    for (const topic of topics) {
      // The name is free once every trace of the old topic is gone.
      for (;;) {
        try {
          await createTopic(admin, { topic, numPartitions: 1 });
          break;
        } catch (error) {
          if ((error as { type?: string }).type !== "TOPIC_ALREADY_EXISTS") throw error;
          await pause(100);
        }
      }
    }
  });

const deletedBelow = (s: Scene, topic: string, offset: number) =>
  withAdmin(s, async (admin) => {
    // kafkajs deletes only where it knows the leader already.
    await admin.fetchTopicOffsets(topic);
    const partitions = [{ partition: 0, offset: String(offset) }];
    await admin.deleteTopicRecords({ topic, partitions });
  });

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

const displacedWith = (s: Scene, topic: string, code: string, since = 0) =>
  s.ear.waitFor(
    "inbox.displaced",
    (event: OnceboxEvent & { type: "inbox.displaced" }) =>
      event.topic === topic && event.error.code === code,
    since,
  );

/** The issue counts a change from 2 s after the last fetch; nothing here depends on it. */
const afterTheLastFetchMs = 2_000;

it.skipIf(!hasKafka()).each(["running", "paused", "stopped"] as const)(
  "D4: a topic made anew while the consumer was %s, filled below, to and past the position",
  async (state) => {
    await using s = await scene();
    const other = s.topic;
    const anew = await Promise.all([5, 10, 15].map(() => testTopic(s.kafka)));
    const topics = [other, ...anew];
    for (const topic of topics) await s.send(topic, ...numbers(0, 10, topic));
    const first = consumerOf(s, topics);
    await first.start();
    await s.effectsReach(40);
    if (state === "paused") first.pause();
    if (state === "stopped") await first.stop();
    if (state !== "running") await pause(afterTheLastFetchMs);
    const since = s.ear.heard.length;
    await madeAnew(s, anew);
    for (const [i, count] of [5, 10, 15].entries()) {
      await s.send(anew[i] as string, ...numbers(0, count, "new"));
    }
    if (state === "paused") first.resume();
    const consumer = state === "stopped" ? consumerOf(s, topics) : first;
    if (state === "stopped") await consumer.start();
    for (const topic of anew) {
      const { error, paused } = await displacedWith(s, topic, "topic-recreated", since);
      expect(paused).toBe(true);
      expect(error.details).toMatchObject({ topic, partition: 0, position: 10n });
      expect(error.details.newTopicId).not.toBe(error.details.topicId);
    }
    await s.send(other, "goes on");
    await s.effectsReach(41);
    expect((await s.effects()).filter((value) => value.startsWith("new"))).toEqual([]);
    const states = consumer.status().map(({ topic, state: now }) => [topic === other, now]);
    expect(states.sort()).toEqual([
      [false, "displaced"],
      [false, "displaced"],
      [false, "displaced"],
      [true, "reading"],
    ]);
    const operator = createOperator({ storage: s.storage, broker: s.broker, actor: "ann" });
    const reason = "the new topic is the right one";
    const past = anew[2] as string;
    await operator.seek({ consumer: s.name, topic: past, to: "earliest", reason });
    expect((await s.effectsReach(56)).slice(41)).toEqual(numbers(0, 15, "new"));
  },
);

it.skipIf(!hasKafka()).each(["running", "stopped"] as const)(
  "D3: records deleted below the position of a consumer that was %s",
  async (state) => {
    await using s = await scene();
    const other = await testTopic(s.kafka);
    const topics = [s.topic, other];
    await s.send(s.topic, ...numbers(0, 10));
    const consumer = consumerOf(s, topics);
    await consumer.start();
    await s.effectsReach(10);
    if (state === "running") consumer.pause(s.topic);
    else await consumer.stop();
    // A fetch that is under way would still bring what comes now.
    await pause(afterTheLastFetchMs);
    await s.send(s.topic, ...numbers(10, 30));
    await deletedBelow(s, s.topic, 25);
    const since = s.ear.heard.length;
    const next = state === "running" ? consumer : consumerOf(s, topics);
    if (state === "running") next.resume(s.topic);
    else await next.start();
    const { error } = await displacedWith(s, s.topic, "position-out-of-range", since);
    expect(error.details).toMatchObject({ position: 10n, logStart: 25n, from: 10n, to: 24n });
    await s.send(other, "goes on");
    await s.effectsReach(11);
    const operator = createOperator({ storage: s.storage, broker: s.broker, actor: "ann" });
    const reason = "10 to 24 are lost";
    await operator.seek({ consumer: s.name, topic: s.topic, to: "earliest", reason });
    expect((await s.effectsReach(16)).slice(11)).toEqual(numbers(25, 30));
  },
);

it.skipIf(!hasKafka())(
  "D3: records deleted up to the position lose nothing: the consumer goes on",
  async () => {
    await using s = await scene();
    await s.send(s.topic, ...numbers(0, 10));
    const first = consumerOf(s, [s.topic]);
    await first.start();
    await s.effectsReach(10);
    await first.stop();
    await s.send(s.topic, "next");
    await deletedBelow(s, s.topic, 10);
    await consumerOf(s, [s.topic]).start();
    const unknown = await s.ear.waitFor("inbox.continuity-unknown");
    expect(unknown.offset).toBe(9n);
    expect((await s.effectsReach(11)).at(-1)).toBe("next");
  },
);

it.skipIf(!hasKafka())(
  "D2: another record where the last one was: found also where nobody tells the topic's id",
  async () => {
    await using s = await scene();
    await s.send(s.topic, ...numbers(0, 10));
    const first = consumerOf(s, [s.topic]);
    await first.start();
    await s.effectsReach(10);
    await first.stop();
    await madeAnew(s, [s.topic]);
    await s.send(s.topic, ...numbers(0, 15, "new"));
    // As a row written before there were ids, or a log restored under the same id.
    await s.pool.query("UPDATE oncebox.inbox_partitions SET topic_id = NULL, leader_epoch = NULL");
    await consumerOf(s, [s.topic]).start();
    const { error } = await displacedWith(s, s.topic, "record-changed");
    expect(error.details).toMatchObject({ position: 10n, offset: 9n });
    expect(await s.effects()).toHaveLength(10);
  },
);

it.skipIf(!hasKafka())(
  "a policy goes on by itself: lost messages are skipped, a new topic is read, ids stay seen",
  async () => {
    await using s = await scene();
    const anew = await testTopic(s.kafka);
    const topics = [s.topic, anew];
    const withIds = (from: number, to: number) =>
      numbers(from, to, "id").map((value) => ({ value, headers: { id: value } }));
    await s.send(s.topic, ...numbers(0, 10));
    await s.send(anew, ...withIds(0, 5));
    const first = consumerOf(s, topics);
    await first.start();
    await s.effectsReach(15);
    await first.stop();
    await s.send(s.topic, ...numbers(10, 20));
    await deletedBelow(s, s.topic, 15);
    await madeAnew(s, [anew]);
    // The same messages at the same offsets, and two more: only these are new.
    await s.send(anew, ...withIds(0, 7));
    const onLostPosition = { deleted: "go-on", recreated: "go-on" };
    await consumerOf(s, topics, { onLostPosition }).start();
    const effects = (await s.effectsReach(22)).slice(15);
    expect(effects.filter((value) => value.startsWith("m"))).toEqual(numbers(15, 20));
    expect(effects.filter((value) => value.startsWith("id"))).toEqual(numbers(5, 7, "id"));
    const operator = createOperator({ storage: s.storage, broker: s.broker, actor: "ann" });
    const history = await operator.history({ consumer: s.name });
    expect(history.map(({ action, actor }) => [action, actor.startsWith("policy of ")])).toEqual([
      ["seek", true],
      ["seek", true],
    ]);
  },
);

// Guards the report of a missing topic (fetch-answer.ts) and `requireTopics: false`.
it.skipIf(!hasKafka())(
  "D7: one of two topics is deleted: reported, and the other goes on",
  async () => {
    await using s = await scene();
    const gone = await testTopic(s.kafka);
    const consumer = consumerOf(s, [s.topic, gone]);
    await s.send(s.topic, "a");
    await s.send(gone, "b");
    await consumer.start();
    await s.effectsReach(2);
    await withAdmin(s, (admin) => admin.deleteTopics({ topics: [gone] }));
    const { error } = await displacedWith(s, gone, "topic-deleted");
    expect(error.details).toMatchObject({ topic: gone, position: 1n });
    await s.send(s.topic, "c", "d");
    expect((await s.effectsReach(4)).slice(2)).toEqual(["c", "d"]);
    expect(s.ear.heard.map(({ type }) => type)).not.toContain("inbox.client-rebuilt");
  },
);

// Guards #watchTransactions (reader.ts): the log grows and nothing can be read.
it.skipIf(!hasKafka())(
  "D9: a hanging transaction is reported; what stands behind it comes when it has ended",
  async () => {
    await using s = await scene();
    await s.produce(0, "before");
    const hanging = await openTransaction(s.kafka, s.topic, [{ partition: 0, value: "hanging" }]);
    await s.produce(0, "behind");
    await s.consumer({ hangingTransactionAfterMs: 1_000 }).start();
    const told = await s.ear.waitFor("inbox.transaction-hanging");
    expect(told).toMatchObject({ partition: 0, lastStable: 1n, logEnd: 3n });
    expect(told.ms).toBeGreaterThanOrEqual(1_000);
    expect(await s.effects()).toEqual(["before"]);
    await hanging.abort();
    expect(await s.effectsReach(2)).toEqual(["before", "behind"]);
  },
);

// Guards the ids of a replay (ids.ts): those of the first time stand at other offsets here, so that
// the rule of own positions does not help.
it.skipIf(!hasKafka()).each([
  [true, ["new", "a", "b"]],
  [false, ["new"]],
])(
  "a new topic with the old messages at other offsets, sought with replay %s",
  async (replay, after) => {
    await using s = await scene();
    const identified = (...values: string[]) =>
      values.map((value) => ({ value, headers: { id: value } }));
    // A replay reaches up to the highest position there ever was.
    await s.send(s.topic, ...identified("a", "b", "c"));
    const first = consumerOf(s, [s.topic]);
    await first.start();
    await s.effectsReach(3);
    await first.stop();
    await madeAnew(s, [s.topic]);
    await s.send(s.topic, ...identified("new", "a", "b"), "end");
    const operator = createOperator({ storage: s.storage, broker: s.broker, actor: "ann" });
    const reason = "the topic was filled again";
    await operator.seek({ consumer: s.name, topic: s.topic, to: "earliest", replay, reason });
    await consumerOf(s, [s.topic]).start();
    expect((await s.effectsReach(4 + after.length)).slice(3)).toEqual([...after, "end"]);
  },
);
