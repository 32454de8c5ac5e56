/** Dead letters on real servers: what a dead or dropped message leaves in the outbox and in its topic. */
import {
  createOperator,
  createOutboxRelay,
  defineTopic,
  type HandlerOptions,
  type OutboxEntry,
  PermanentError,
  type Storage,
  text,
} from "@oncebox/core";
import type { KafkaMessage, Message } from "kafkajs";
import type { ClientBase } from "pg";
import { describe, expect, it } from "vitest";
import { type Scene, scene } from "../fixtures/scene.ts";
import { hasKafka, testTopic, uniqueName } from "../fixtures/servers.ts";

/** A consumer whose values starting with "bad" fail, while `broken`, and whose letters go to `dead`. */
async function dying(
  s: Scene,
  options: HandlerOptions = {},
  storage: Storage<ClientBase> = s.storage,
) {
  const dead = await testTopic(s.kafka);
  const state = { broken: true, error: () => new Error("no") as Error };
  const consumer = s.bareConsumer({ storage, redriveIntervalMs: 20 }).handle(
    defineTopic({ name: s.topic, value: text() }),
    async ({ value }, tx) => {
      await tx.query("INSERT INTO effects (value) VALUES ($1)", [value]);
      if (value.startsWith("bad") && state.broken) throw state.error();
    },
    { deadLetter: { topic: dead }, ...options },
  );
  const operator = createOperator({ storage: s.storage, broker: s.broker, actor: "a test" });
  const states = async () =>
    (await operator.parked({ consumer: s.name })).map((each) => each.state);
  return { dead, state, consumer, operator, states };
}

/** Ids of the rows that wait for a relay. */
async function outboxIds(s: Scene): Promise<string[]> {
  const { rows } = await s.pool.query<{ id: string }>(
    "SELECT message_id AS id FROM oncebox.outbox_messages ORDER BY position",
  );
  return rows.map(({ id }) => id);
}

/** Publishes what is in the outbox, and reads so many records with a plain kafkajs consumer. */
async function published(s: Scene, topic: string, count: number): Promise<readonly KafkaMessage[]> {
  const { storage, broker } = s;
  const relay = createOutboxRelay({ storage, broker, observer: s.ear.observer, pollIdleMs: 50 });
  await relay.start();
  const reader = s.kafka.consumer({ groupId: uniqueName("reader") });
  const found: KafkaMessage[] = [];
  await reader.connect();
  await reader.subscribe({ topic, fromBeginning: true });
  await new Promise<void>((resolve) => {
    const eachMessage = async ({ message }: { message: KafkaMessage }) => {
      found.push(message);
      if (found.length === count) resolve();
    };
    void reader.run({ eachMessage });
  });
  await reader.disconnect();
  await relay.stop({ deadlineMs: 5_000 });
  expect(await outboxIds(s)).toEqual([]);
  return found;
}

const textsOf = ({ headers = {} }: KafkaMessage) =>
  Object.fromEntries(Object.entries(headers).map(([name, value]) => [name, String(value)]));

describe.skipIf(!hasKafka())("a dead letter", () => {
  it("of a poison message has its bytes and says why it died; the message stays parked", async () => {
    // Guards writeLetter of chunk.ts, and copiedEntry, which keeps headers that are the outbox's own.
    await using s = await scene();
    const { dead, consumer, states } = await dying(s);
    const key = Buffer.from([0, 0xff, 1]);
    const poison: Message = {
      key,
      value: Buffer.from([0xff, 0xfe]),
      timestamp: "1700000000000",
      headers: { id: "1", again: ["x", "y"], odd: Buffer.from([0xff, 0]) },
    };
    await s.produce(0, poison, { key, value: "behind" }, "beside");
    await consumer.start();
    expect(await s.effectsReach(1)).toEqual(["beside"]);
    expect(await states()).toEqual(["dead", "waiting"]);
    const [id, ...others] = await outboxIds(s);
    expect(others).toEqual([]);
    const [letter] = await published(s, dead, 1);
    expect([letter?.key, letter?.value]).toEqual([key, poison.value]);
    const { headers = {} } = letter as KafkaMessage;
    const { id: original, again, odd } = headers;
    expect([original, again, odd]).toEqual([
      Buffer.from("1"),
      [Buffer.from("x"), Buffer.from("y")],
      Buffer.from([0xff, 0]),
    ]);
    expect(textsOf(letter as KafkaMessage)).toMatchObject({
      "__connect.errors.topic": s.topic,
      "__connect.errors.partition": "0",
      "__connect.errors.offset": "0",
      "__connect.errors.connector.name": s.name,
      "__connect.errors.exception.class.name": "HandlerError",
      "__connect.errors.exception.message": expect.stringContaining("decode"),
      "oncebox-dead-letter-id": id,
      "oncebox-dead-code": "value-not-decodable",
      "oncebox-dead-attempts": "1",
      "oncebox-dead-timestamp": "1700000000000",
    });
    // A copy, not a move.
    expect(await states()).toEqual(["dead", "waiting"]);
  });

  it("is left once by each death of a redriven message, and by no failure before", async () => {
    // Guards settleParked with letters in postgres/parking.ts, and the token in the id of letterOf.
    await using s = await scene();
    const retry = { localAttemptsMax: 1, attemptsMax: 2, redriveBackoffMs: 1 };
    const dead = await testTopic(s.kafka);
    const deadLetter = { topic: dead, headers: "spring" } as const;
    const { state, consumer, operator } = await dying(s, { retry, deadLetter });
    state.error = () => new TypeError("no");
    await s.produce(0, { key: "k", value: "bad" });
    await consumer.start();
    const isDead = ({ state }: { state: string }) => state === "dead";
    await s.ear.waitFor("inbox.redrive-failed", isDead);
    expect(await outboxIds(s)).toHaveLength(1);
    const since = s.ear.heard.length;
    const again = { consumer: s.name, state: "dead", reason: "looks mended" } as const;
    await operator.redrive(again);
    await s.ear.waitFor("inbox.redrive-failed", isDead, since);
    const failures = s.ear.heard.filter(({ type }) => type === "inbox.redrive-failed");
    expect(failures.map((event) => (event as { state?: string }).state)).toEqual([
      ...["dead", "waiting", "dead"],
    ]);
    const ids = await outboxIds(s);
    state.broken = false;
    await operator.redrive(again);
    expect(await s.effectsReach(1)).toEqual(["bad"]);
    expect(await outboxIds(s)).toEqual(ids);
    expect(new Set(ids).size).toBe(2);
    const letters = await published(s, dead, 2);
    expect(letters.map((each) => textsOf(each)["oncebox-dead-letter-id"])).toEqual(ids);
    for (const { key, value, headers } of letters) {
      expect([String(key), String(value)]).toEqual(["k", "bad"]);
      const cause = headers?.["kafka_dlt-exception-cause-fqcn"];
      const offset = headers?.["kafka_dlt-original-offset"];
      const group = headers?.["kafka_dlt-original-consumer-group"];
      expect([String(cause), String(group)]).toEqual(["TypeError", s.name]);
      expect(offset).toEqual(Buffer.alloc(8));
    }
  });

  it("is not left by a chunk that fails at its last statement, and once by its redo", async () => {
    // Guards that writeLetter goes through the chunk's own handle, and the id that a redo repeats.
    await using s = await scene();
    const enqueued: OutboxEntry[] = [];
    const leftByFailures: string[] = [];
    let cuts = 2;
    const storage: Storage<ClientBase> = {
      ...s.storage,
      enqueue: async (tx, rows) => {
        await s.storage.enqueue(tx, rows);
        enqueued.push(...rows);
      },
      open: async (claim, records) => {
        const chunk = await s.storage.open(claim, records);
        const commit: typeof chunk.commit = async (nextOffset, mark, park) => {
          if (!park?.length || cuts === 0) return chunk.commit(nextOffset, mark, park);
          cuts -= 1;
          await s.pool.query(
            `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND state = 'idle in transaction'`,
          );
          const failed = await chunk
            .commit(nextOffset, mark, park)
            .catch((error: unknown) => error);
          leftByFailures.push(...(await outboxIds(s)), ...(await states()));
          throw failed;
        };
        return { ...chunk, commit };
      },
    };
    const { state, consumer, states } = await dying(s, {}, storage);
    state.error = () => new PermanentError("never");
    await s.produce(0, "bad", "good");
    await consumer.start();
    expect(await s.effectsReach(1)).toEqual(["good"]);
    expect([cuts, leftByFailures]).toEqual([0, []]);
    expect(await states()).toEqual(["dead"]);
    expect(enqueued).toHaveLength(3);
    expect(await outboxIds(s)).toEqual([...new Set(enqueued.map(({ id }) => id))]);
  });

  it("is all that is left of a dropped message", async () => {
    await using s = await scene();
    const retry = { localAttemptsMax: 2, localBackoffMs: 1 };
    const { dead, consumer, states } = await dying(s, { onFailure: "drop", retry });
    await s.produce(0, "bad", "good");
    await consumer.start();
    expect(await s.effectsReach(1)).toEqual(["good"]);
    expect(await states()).toEqual([]);
    const [letter, ...others] = await published(s, dead, 1);
    expect([String(letter?.value), others]).toEqual(["bad", []]);
    expect(textsOf(letter as KafkaMessage)).toMatchObject({
      "oncebox-dead-code": "handler-failed",
      "oncebox-dead-attempts": "2",
    });
  });

  it("that is too large holds nothing up: its message is dead without it, and that is told", async () => {
    // Guards unwrittenLetter of plan.ts.
    await using s = await scene();
    const { dead, state, consumer, states } = await dying(s);
    state.error = () => new PermanentError("never");
    await s.produce(0, `bad${"x".repeat(999_990)}`, "good");
    await consumer.start();
    expect(await s.effectsReach(1)).toEqual(["good"]);
    const told = await s.ear.waitFor("inbox.letter-failed");
    expect(told).toMatchObject({
      ...{ topic: s.topic, partition: 0, offset: 0n, deadLetterTopic: dead },
      error: { code: "message-too-large" },
    });
    expect([await states(), await outboxIds(s)]).toEqual([["dead"], []]);
    const parked = await s.ear.waitFor("inbox.parked");
    expect(parked).toMatchObject({ attempts: 1, error: { code: "permanent" } });
  });

  it("that the database refuses holds nothing up either, in the log or parked", async () => {
    // Guards the same, and the redrive worker's going on without a letter.
    await using s = await scene();
    const retry = { localAttemptsMax: 1, attemptsMax: 2, redriveBackoffMs: 1 };
    const { state, consumer, states } = await dying(s, { retry });
    await s.pool.query(
      "ALTER TABLE oncebox.outbox_messages ADD CONSTRAINT none CHECK (topic IS NULL)",
    );
    await s.produce(0, { key: "a", value: "bad" });
    await consumer.start();
    await s.ear.waitFor("inbox.redrive-failed");
    state.error = () => new PermanentError("never");
    await s.produce(0, { key: "b", value: "bad" }, "good");
    expect(await s.effectsReach(1)).toEqual(["good"]);
    expect(await states()).toEqual(["dead", "dead"]);
    const told = s.ear.heard.filter(({ type }) => type === "inbox.letter-failed");
    expect(told.map((event) => (event as { offset?: bigint }).offset)).toEqual([0n, 1n]);
  });
});
