/** What the outbox relay does on real PostgreSQL and Kafka: order, exactness, and every failure. */
import {
  type Broker,
  BrokerError,
  createOutbox,
  createOutboxRelay,
  type OnceboxEvent,
  type OutgoingRecord,
  type PublishResult,
  type Storage,
  systemClock,
} from "@oncebox/core";
import { postgresStorage } from "@oncebox/postgres";
import { ConfigResourceTypes } from "kafkajs";
import type { ClientBase, Pool } from "pg";
import { describe, expect, inject, it } from "vitest";
import { spawnWorker } from "../fixtures/child.ts";
import {
  firstOccurrences,
  message,
  type OutboxScene,
  outboxScene,
  valuesByKey,
} from "../fixtures/outbox-scene.ts";
import { ear } from "../fixtures/scene.ts";
import { uniqueName } from "../fixtures/servers.ts";

type Publish = () => Promise<PublishResult>;

/** A broker whose publishes go through `around`. */
function publishing(
  broker: Broker,
  around: (records: readonly OutgoingRecord[], publish: Publish) => Promise<PublishResult>,
): Broker {
  return {
    ...broker,
    producer: async () => {
      const producer = await broker.producer();
      return {
        ...producer,
        publish: (records) => around(records, () => producer.publish(records)),
      };
    },
  };
}

/** A door that is shut until it is opened, and tells when somebody stands before it. */
function door() {
  let open = () => {};
  let reach = () => {};
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  const reached = new Promise<void>((resolve) => {
    reach = resolve;
  });
  return {
    open: () => open(),
    reached,
    pass: () => {
      reach();
      return opened;
    },
  };
}

/**
 * Transactions that take the row lock of their key, then write its next number to the outbox, some
 * of them slowly, some rolled back. Order of locks is order of numbers.
 */
async function writers(s: OutboxScene, topic: string, each: number, count: number): Promise<void> {
  const one = async (writer: number, pool: Pool) => {
    for (let i = 0; i < each; i += 1) {
      const client = await pool.connect();
      const keys = [`k${(writer + i) % 7}`, `k${(writer * 3 + i * 5) % 7}`];
      try {
        await client.query("BEGIN");
        for (const key of [...new Set(keys)].sort()) {
          const { rows } = await client.query<{ n: number }>(
            `INSERT INTO counters VALUES ($1, 1)
             ON CONFLICT (key) DO UPDATE SET n = counters.n + 1 RETURNING n`,
            [key],
          );
          await s.outbox.enqueue(client, message(topic, key, String(rows[0]?.n)));
          await s.outbox.enqueue(client, message(topic, null, "no key"));
        }
        if ((writer + i) % 5 === 0) await client.query("SELECT pg_sleep(0.02)");
        await client.query((writer + i) % 11 === 0 ? "ROLLBACK" : "COMMIT");
      } finally {
        client.release();
      }
    }
  };
  const pool = s.morePool({ max: count });
  await Promise.all(Array.from({ length: count }, (_, writer) => one(writer, pool)));
}

/** Every key's numbers from 1 to its counter, each in order, and nothing left behind. */
async function expectComplete(s: OutboxScene, topic: string): Promise<{ repeats: number }> {
  const log = await s.log(topic);
  const values = valuesByKey(log.filter(({ key }) => key !== null));
  const { rows } = await s.pool.query<{ key: string; n: number }>("SELECT key, n FROM counters");
  for (const { key, n } of rows) {
    expect(values[key]).toEqual(Array.from({ length: n }, (_, i) => String(i + 1)));
  }
  const first = firstOccurrences(log);
  const keyless = first.filter(({ key }) => key === null).length;
  expect(keyless).toBe(rows.reduce((sum, { n }) => sum + n, 0));
  expect(await s.left()).toEqual([]);
  return { repeats: log.length - first.length };
}

const eventsOf = <T extends OnceboxEvent["type"]>(heard: readonly OnceboxEvent[], type: T) =>
  heard.filter((event): event is OnceboxEvent & { type: T } => event.type === type);

describe("what the relay publishes", () => {
  it("keeps the order of each key, with writers at once and two relays", async () => {
    await using s = await outboxScene();
    const topic = await s.topic({ partitions: 3 });
    const relays = [s.relay({ sweepIntervalMs: 100 }), s.relay({ batchRowsMax: 7 })];
    await Promise.all(relays.map((relay) => relay.start()));
    await writers(s, topic, 40, 8);
    await s.drained();
    await Promise.all(relays.map((relay) => relay.stop()));
    const { repeats } = await expectComplete(s, topic);
    expect(repeats).toBe(0);
    expect(eventsOf(s.ear.heard, "outbox.floor-anomaly")).toEqual([]);
    expect(eventsOf(s.ear.heard, "outbox.trouble")).toEqual([]);
  });

  it("drains 20,000 rows, deletes exactly them, and repeats none", async () => {
    await using s = await outboxScene();
    const topic = await s.topic({ partitions: 6 });
    const ids: string[] = [];
    for (let batch = 0; batch < 20; batch += 1) {
      const messages = Array.from({ length: 1_000 }, (_, i) =>
        message(topic, `k${i % 97}`, `${batch * 1_000 + i}`.padEnd(200, ".")),
      );
      const written = await s.storage.transaction((tx) => s.outbox.enqueue(tx, messages));
      ids.push(...written);
    }
    // Rows that are never committed lie between the others.
    const open = await s.pool.connect();
    await open.query("BEGIN");
    await s.outbox.enqueue(open, message(topic, "open", "open"));
    const relay = s.relay();
    const began = performance.now();
    await relay.start();
    await s.published(20_000);
    const ms = performance.now() - began;
    await relay.stop();
    await open.query("COMMIT");
    open.release();
    console.log(
      `outbox relay: 20,000 rows in ${ms.toFixed(0)} ms, ${(2e7 / ms).toFixed(0)} a second`,
    );
    const log = await s.log(topic);
    expect(log.map(({ id }) => id).sort()).toEqual(ids.sort());
    const left = await s.left();
    expect(left).toHaveLength(1);
    expect(left[0]).not.toBe(ids[0]);
  }, 120_000);

  it("sends keys, values and headers byte for byte, to the partition Kafka's clients choose", async () => {
    await using s = await outboxScene();
    const topic = await s.topic({ partitions: 5 });
    const outbox = createOutbox({ storage: s.storage, source: "/shop" });
    const bytes = Uint8Array.of(0, 255, 128, 10);
    await s.storage.transaction(async (tx) => {
      await outbox.enqueue(tx, [
        message(topic, "21", "a", { id: "x" }),
        { topic, key: bytes, value: bytes, headers: [["h", bytes]], id: "y" },
        { topic, key: "", value: null, headers: [["h", null]], id: "z" },
        { topic, key: null, value: new Uint8Array(0), headers: [], id: "w" },
      ]);
    });
    const relay = s.relay();
    await relay.start();
    await s.published(4);
    const log = new Map((await s.log(topic)).map((record) => [record.id, record]));
    expect(log.get("x")).toMatchObject({ partition: (-973932308 & 0x7fffffff) % 5, key: "21" });
    expect(String(log.get("x")?.headers.ce_source)).toBe("/shop");
    expect(String(log.get("x")?.headers.ce_type)).toBe(topic);
    expect(log.get("y")?.headers.h).toEqual(Buffer.from(bytes));
    expect(log.get("z")).toMatchObject({ key: "", value: null });
    expect(log.get("w")).toMatchObject({ key: null, value: "" });
  });
});

describe("a batch on its way", () => {
  it("does not hold up reading the next and deleting the last, and is alone on its way", async () => {
    await using s = await outboxScene();
    const topic = await s.topic();
    const [second, third, aheadRead] = [door(), door(), door()];
    let [underWay, most, publishes, read] = [0, 0, 0, 0];
    const broker = publishing(s.broker, async (_, publish) => {
      publishes += 1;
      underWay += 1;
      most = Math.max(most, underWay);
      if (publishes === 2) await second.pass();
      if (publishes === 3) await third.pass();
      const result = await publish();
      underWay -= 1;
      return result;
    });
    const storage: Storage<ClientBase> = {
      ...s.storage,
      readLanes: async (...request) => {
        const answer = await s.storage.readLanes(...request);
        read += answer.rows.length;
        if (read === 21) void aheadRead.pass();
        return answer;
      },
    };
    // Nothing else that comes now and then may set the relay going.
    const rare = { leaseDurationMs: 300_000, pollIdleMs: 300_000, sweepIntervalMs: 300_000 };
    const relay = s.relay({ broker, storage, batchRowsMax: 10, ...rare });
    await relay.start();
    await s.enqueue(message(topic, "k", "first"));
    await s.drained();
    const messages = Array.from({ length: 50 }, (_, i) => message(topic, `k${i}`, String(i)));
    await s.storage.transaction((tx) => s.outbox.enqueue(tx, messages));
    await second.reached;
    await aheadRead.reached;
    second.open();
    await third.reached;
    await expect.poll(async () => (await s.left()).length, { timeout: 20_000 }).toBe(40);
    third.open();
    await s.drained();
    expect(most).toBe(1);
  });
});

describe("waking", () => {
  // With a poll once a minute and a wait of 30 s at most, only a wake-up can be what publishes.
  const pollIdleMs = 60_000;

  it("comes with the commit, in the same process", async () => {
    await using s = await outboxScene();
    const topic = await s.topic();
    const relay = s.relay({ pollIdleMs });
    await relay.start();
    const latencies: number[] = [];
    for (let i = 1; i <= 50; i += 1) {
      const began = performance.now();
      await s.enqueue(message(topic, "k", String(i)));
      await s.published(i);
      latencies.push(performance.now() - began);
    }
    latencies.sort((a, b) => a - b);
    const [p50, p99] = [latencies[25], latencies[49]].map((ms) => ms?.toFixed(1));
    console.log(`outbox relay: enqueue to acknowledged, p50 ${p50} ms, worst of 50 ${p99} ms`);
  });

  it("comes from another process's transactions", async () => {
    await using s = await outboxScene();
    const topic = await s.topic();
    const relay = s.relay({ pollIdleMs });
    await relay.start();
    const other = postgresStorage({ pool: s.morePool() });
    for (let i = 1; i <= 5; i += 1) {
      await other.transaction(async (tx) => {
        await s.outbox.enqueue(tx, message(topic, "k", String(i)));
      });
      await s.published(i);
    }
    await other.close();
  });

  it("is not needed for a commit that nobody sees: rows are expected for a while", async () => {
    await using s = await outboxScene();
    const topic = await s.topic();
    const relay = s.relay({ pollIdleMs });
    await relay.start();
    for (let i = 1; i <= 5; i += 1) {
      const client = await s.pool.connect();
      await client.query("BEGIN");
      await s.outbox.enqueue(client, message(topic, "k", String(i)));
      await client.query("COMMIT");
      client.release();
      await s.published(i);
    }
  });

  it("can be done by hand", async () => {
    await using s = await outboxScene();
    const topic = await s.topic();
    const deaf = { ...s.storage, wake: { ...s.storage.wake, listen: async () => async () => {} } };
    const relay = s.relay({ storage: deaf, pollIdleMs, pollBusyMs: pollIdleMs });
    await relay.start();
    await s.enqueue(message(topic, "k", "1"));
    relay.wake();
    await s.published(1);
  });
});

describe("lanes", () => {
  it("are shared by two relays, and taken over when one stops", async () => {
    await using s = await outboxScene();
    const topic = await s.topic({ partitions: 3 });
    const [one, two] = [ear(), ear()];
    const first = s.relay({ observer: one.observer });
    await first.start();
    expect((await one.waitFor("outbox.lanes-held")).lanes).toHaveLength(64);
    const second = s.relay({ observer: two.observer });
    await second.start();
    const writing = writers(s, topic, 60, 4);
    await two.waitFor(
      "outbox.lanes-held",
      ({ lanes, relays }) => lanes.length === 32 && relays === 2,
    );
    await one.waitFor("outbox.lanes-held", ({ lanes }) => lanes.length === 32);
    const since = two.heard.length;
    await first.stop();
    await two.waitFor("outbox.lanes-held", ({ lanes }) => lanes.length === 64, since);
    await writing;
    await s.drained();
    await second.stop();
    // A drained hand-over repeats nothing.
    expect(await expectComplete(s, topic)).toEqual({ repeats: 0 });
    expect([...one.heard, ...two.heard].map(({ type }) => type)).not.toContain("outbox.lanes-lost");
  });

  it("of a relay that was killed are taken over when their lease is over", async () => {
    await using s = await outboxScene();
    const topic = await s.topic({ partitions: 3 });
    const brokers = (inject("kafkaBrokers") ?? []).join();
    const file = new URL("../fixtures/workers/relay.ts", import.meta.url);
    const workers = [1, 2].map(() => spawnWorker(file, { args: [s.databaseUrl, brokers] }));
    const [victim] = workers;
    await Promise.all(workers.map((worker) => worker.waitFor("started")));
    const writing = writers(s, topic, 100, 4);
    await victim?.waitFor("outbox.published");
    victim?.kill();
    const survivor = s.relay();
    await survivor.start();
    await writing;
    await s.drained();
    for (const worker of workers) worker.kill();
    await Promise.all(workers.map((worker) => worker.exited));
    await survivor.stop();
    const { repeats } = await expectComplete(s, topic);
    console.log(`outbox relay: ${repeats} repeats after a kill`);
  });

  it("that were taken away in the middle of a batch are not sent any more", async () => {
    await using s = await outboxScene();
    const topic = await s.topic();
    const gate = door();
    let held = true;
    const sent: string[] = [];
    const broker = publishing(s.broker, async (records, publish) => {
      sent.push(...records.map(({ value }) => String(Buffer.from(value ?? []))));
      const result = await publish();
      if (held) await gate.pass();
      return result;
    });
    const one = ear();
    await s.enqueue(...["1", "2"].map((value) => message(topic, "k", value)));
    const first = s.relay({ broker, observer: one.observer });
    await first.start();
    await gate.reached;
    // What a database does when the lease is over and another relay asks.
    await s.pool.query(
      "UPDATE oncebox.outbox_lanes SET leased_until = now() - interval '1 second'",
    );
    const second = s.relay();
    await second.start();
    await s.published(2);
    held = false;
    const before = sent.length;
    gate.open();
    await one.waitFor("outbox.lanes-lost");
    await s.enqueue(...["3", "4"].map((value) => message(topic, "k", value)));
    await s.published(4);
    expect(sent.slice(before)).toEqual([]);
    await Promise.all([first.stop(), second.stop()]);
    expect(await s.left()).toEqual([]);
    const log = await s.log(topic);
    expect(log.map(({ value }) => value)).toEqual(["1", "2", "1", "2", "3", "4"]);
    expect(new Set(log.map(({ id }) => id)).size).toBe(4);
  });

  it("are not sent when their lease is too short for a publish", async () => {
    await using s = await outboxScene();
    const topic = await s.topic();
    let ahead = 0;
    const clock = { ...systemClock, now: () => systemClock.now() + ahead };
    const renewal = door();
    const readAgain = door();
    let reads = 0;
    const storage: Storage<ClientBase> = {
      ...s.storage,
      leaseLanes: async (request) => {
        if (ahead > 0) await renewal.pass();
        return s.storage.leaseLanes(request);
      },
      readLanes: async (...request) => {
        const answer = await s.storage.readLanes(...request);
        // Looks again several times after the row was read: whoever would send it, has.
        if (ahead > 0 && (reads > 0 || answer.rows.length > 0)) reads += 1;
        if (reads === 5) void readAgain.pass();
        return answer;
      },
    };
    let publishes = 0;
    const broker = publishing(s.broker, (_, publish) => {
      publishes += 1;
      return publish();
    });
    const relay = s.relay({ storage, broker, clock, leaseDurationMs: 4_000 });
    await relay.start();
    await s.enqueue(message(topic, "k", "1"));
    await s.published(1);
    // Less than 2,000 ms are left: a publish may take as long, and a margin belongs to it.
    ahead = 2_000;
    await s.enqueue(message(topic, "k", "2"));
    await Promise.all([renewal.reached, readAgain.reached]);
    expect(publishes).toBe(1);
    ahead = 1;
    renewal.open();
    await s.published(2);
  });
});

describe("failures", () => {
  it("of acknowledgements repeat messages, with the same ids and never out of order", async () => {
    await using s = await outboxScene();
    const topic = await s.topic({ partitions: 3 });
    let count = 0;
    const broker = publishing(s.broker, async (records, publish) => {
      count += 1;
      // Lost on the way there; or stored, but the answer is lost: for all, or for one partition.
      if (count % 4 === 0) return unknown(records, () => true);
      const result = await publish();
      if (count % 5 === 0) return unknown(records, () => true);
      if (count % 3 === 0) return unknown(records, (record) => record.partition === count % 3);
      return result;
    });
    const relays = [s.relay({ broker, batchRowsMax: 20 }), s.relay({ broker, batchRowsMax: 5 })];
    await Promise.all(relays.map((relay) => relay.start()));
    await writers(s, topic, 25, 4);
    await s.drained();
    await Promise.all(relays.map((relay) => relay.stop()));
    const { repeats } = await expectComplete(s, topic);
    expect(repeats).toBeGreaterThan(0);
    expect(eventsOf(s.ear.heard, "outbox.publish-unknown").length).toBeGreaterThan(0);
  });

  it("of every port call only delay: nothing is lost, no order changes", async () => {
    await using s = await outboxScene();
    const topic = await s.topic({ partitions: 3 });
    let calls = 0;
    /** Fails before the call, after it, or not at all. */
    const shaky = <A extends unknown[], R>(call: (...args: A) => Promise<R>) => {
      return async (...args: A): Promise<R> => {
        calls += 1;
        const turn = calls % 9;
        if (turn === 3) throw new Error("lost on the way there");
        const result = await call(...args);
        if (turn === 6) throw new Error("lost on the way back");
        return result;
      };
    };
    const storage: Storage<ClientBase> = {
      ...s.storage,
      leaseLanes: shaky(s.storage.leaseLanes),
      releaseLanes: shaky(s.storage.releaseLanes),
      readLanes: shaky(s.storage.readLanes),
      settleBatch: shaky(s.storage.settleBatch),
      wake: { ...s.storage.wake, listen: shaky(s.storage.wake.listen) },
    };
    const broker: Broker = {
      ...publishing(s.broker, (_, publish) => shaky(publish)()),
      partitions: shaky(s.broker.partitions),
    };
    const relays = [1, 2].map(() => s.relay({ storage, broker, batchRowsMax: 10 }));
    await Promise.all(relays.map((relay) => relay.start()));
    await writers(s, topic, 25, 4);
    await s.drained();
    await Promise.all(relays.map((relay) => relay.stop()));
    await expectComplete(s, topic);
    const steps = new Set(eventsOf(s.ear.heard, "outbox.trouble").map(({ step }) => step));
    expect([...steps].sort()).toEqual(expect.arrayContaining(["read", "settle"]));
  });

  it("of one message hold up its key until it passes, and nothing else", async () => {
    await using s = await outboxScene();
    const topic = await s.topic({ partitions: 2, config: { "max.message.bytes": "2000" } });
    const large = "x".repeat(5_000);
    await s.enqueue(
      message(topic, "a", "1"),
      message(topic, "a", large),
      message(topic, "a", "3"),
      message(topic, "b", "1"),
      message(topic, null, large, { id: "keyless" }),
    );
    const relay = s.relay();
    await relay.start();
    const tooLarge = await s.ear.waitFor("outbox.blocked", ({ id }) => id !== "keyless");
    expect(tooLarge).toMatchObject({ scope: "message", topic, attempt: 1 });
    await s.ear.waitFor("outbox.blocked", ({ id, attempt }) => id === "keyless" && attempt === 3);
    await s.enqueue(message(topic, "a", "4"), message(topic, "b", "2"), message(topic, null, "n"));
    await s.published(4);
    expect(valuesByKey(await s.log(topic))).toEqual({ a: ["1"], b: ["1", "2"], null: ["n"] });
    const admin = s.kafka.admin();
    await admin.connect();
    await admin.alterConfigs({
      validateOnly: false,
      resources: [
        {
          type: ConfigResourceTypes.TOPIC,
          name: topic,
          configEntries: [{ name: "max.message.bytes", value: "1000000" }],
        },
      ],
    });
    await admin.disconnect();
    await s.published(8);
    await relay.stop();
    expect(await s.left()).toEqual([]);
    const log = await s.log(topic);
    expect(valuesByKey(log)).toMatchObject({ a: ["1", large, "3", "4"], b: ["1", "2"] });
    expect(log).toHaveLength(8);
  });

  it("of one message end when a person deletes its row", async () => {
    await using s = await outboxScene();
    const topic = await s.topic({ config: { "max.message.bytes": "2000" } });
    await s.enqueue(
      message(topic, "a", "x".repeat(5_000), { id: "too-large" }),
      message(topic, "a", "2"),
      message(topic, "a", "3"),
    );
    const relay = s.relay({ sweepIntervalMs: 300 });
    await relay.start();
    await s.ear.waitFor("outbox.blocked", ({ attempt }) => attempt === 2);
    await s.pool.query("DELETE FROM oncebox.outbox_messages WHERE message_id = 'too-large'");
    await s.published(2);
    await s.drained();
    expect(valuesByKey(await s.log(topic))).toEqual({ a: ["2", "3"] });
  });

  it("of a topic that is missing hold up that topic until it is there", async () => {
    await using s = await outboxScene();
    const topic = await s.topic();
    const missing = uniqueName("missing");
    await s.enqueue(
      ...["1", "2", "3"].map((value) => message(missing, "k", value)),
      message(topic, "k", "1"),
    );
    const relay = s.relay();
    await relay.start();
    await s.published(1);
    const blocked = await s.ear.waitFor("outbox.blocked", ({ attempt }) => attempt === 3);
    expect(blocked).toMatchObject({ scope: "topic", topic: missing });
    expect((blocked.error as BrokerError).code).toBe("topic-missing");
    await s.enqueue(message(missing, "l", "1"), message(topic, "k", "2"));
    await s.published(2);
    const admin = s.kafka.admin();
    await admin.connect();
    await admin.createTopics({ topics: [{ topic: missing, numPartitions: 2 }] });
    await admin.disconnect();
    await s.published(6);
    expect(valuesByKey(await s.log(missing))).toEqual({ k: ["1", "2", "3"], l: ["1"] });
  });

  it("of a topic that is deleted while it is written to hold up that topic only", async () => {
    await using s = await outboxScene();
    const [gone, topic] = [await s.topic(), await s.topic()];
    const relay = s.relay();
    await relay.start();
    await s.enqueue(message(gone, "k", "1"), message(topic, "k", "1"));
    await s.published(2);
    const admin = s.kafka.admin();
    await admin.connect();
    await admin.deleteTopics({ topics: [gone] });
    await admin.disconnect();
    await s.enqueue(message(gone, "k", "2"), message(topic, "k", "2"));
    await s.ear.waitFor("outbox.blocked", ({ scope }) => scope === "topic");
    await s.enqueue(message(topic, "k", "3"));
    await s.published(4);
    expect(valuesByKey(await s.log(topic))).toEqual({ k: ["1", "2", "3"] });
    expect(await s.left()).toHaveLength(1);
  });

  it("that pile up stop the reading of their lanes, loudly, and only until they pass", async () => {
    await using s = await outboxScene();
    const missing = uniqueName("missing");
    const limits = { batchRowsMax: 10, blockedRowsMax: 20 };
    const keys = Array.from({ length: 200 }, (_, i) => `k${i % 5}`);
    const messages = keys.map((key, i) => message(missing, key, String(i)));
    await s.storage.transaction((tx) => s.outbox.enqueue(tx, messages));
    const relay = s.relay(limits);
    await relay.start();
    const paused = await s.ear.waitFor("outbox.reading-paused");
    expect(paused.blockedRows).toBeGreaterThanOrEqual(20);
    expect(paused.blockedRows).toBeLessThan(60);
    const admin = s.kafka.admin();
    await admin.connect();
    await admin.createTopics({ topics: [{ topic: missing, numPartitions: 2 }] });
    await admin.disconnect();
    await s.published(200);
    const values = valuesByKey(await s.log(missing));
    for (const list of Object.values(values)) {
      expect(list).toEqual([...list].sort((a, b) => Number(a) - Number(b)));
    }
  });
});

describe("stopping", () => {
  it("in the middle of a batch lets it end and settles it, and starts no other", async () => {
    await using s = await outboxScene();
    const topic = await s.topic();
    const gate = door();
    let publishes = 0;
    const broker = publishing(s.broker, async (_, publish) => {
      publishes += 1;
      await gate.pass();
      return publish();
    });
    const messages = Array.from({ length: 30 }, (_, i) => message(topic, "k", String(i)));
    const ids = await s.storage.transaction((tx) => s.outbox.enqueue(tx, messages));
    const relay = s.relay({ broker, batchRowsMax: 10 });
    await relay.start();
    await gate.reached;
    const stopped = relay.stop({ deadlineMs: 20_000 });
    gate.open();
    await stopped;
    expect(publishes).toBe(1);
    expect(await s.left()).toEqual(ids.slice(10));
    const { rows } = await s.pool.query(
      "SELECT 1 FROM oncebox.outbox_lanes WHERE token IS NOT NULL",
    );
    expect(rows).toEqual([]);
    expect((await s.log(topic)).map(({ id }) => id)).toEqual(ids.slice(0, 10));
  });

  it("returns by its deadline whatever hangs, says what was cut, and the lease fences", async () => {
    await using s = await outboxScene();
    const topic = await s.topic();
    const gate = door();
    const broker = publishing(s.broker, async (_, publish) => {
      await gate.pass();
      return publish();
    });
    await s.enqueue(message(topic, "k", "1"), message(topic, "l", "1"));
    const hanging = s.relay({ broker });
    await hanging.start();
    await gate.reached;
    const began = performance.now();
    await hanging.stop({ deadlineMs: 400 });
    expect(performance.now() - began).toBeLessThan(5_000);
    expect(await s.ear.waitFor("outbox.batch-cut")).toMatchObject({ messages: 2 });
    // Only lanes with messages on their way stay leased.
    const { rows } = await s.pool.query(
      "SELECT 1 FROM oncebox.outbox_lanes WHERE token IS NOT NULL",
    );
    expect(rows).toHaveLength(2);
    const next = s.relay();
    await next.start();
    await s.published(2);
    gate.open();
    await s.drained();
  });

  it("without a start does nothing, and a failed start leaves nothing behind", async () => {
    await using s = await outboxScene();
    await s.relay().stop();
    const small = postgresStorage({ pool: s.morePool({ max: 2 }) });
    const relay = createOutboxRelay({ storage: small, broker: s.broker });
    await expect(relay.start()).rejects.toMatchObject({ code: "pool-too-small" });
    await relay.stop();
    await small.close();
    const nowhere = postgresStorage({ pool: s.morePool(), schema: "nowhere" });
    const lost = createOutboxRelay({ storage: nowhere, broker: s.broker });
    await expect(lost.start()).rejects.toMatchObject({ code: "schema-missing" });
    await lost.stop();
    await nowhere.close();
  });

  it("while the first lanes are still asked for ends the start", async () => {
    await using s = await outboxScene();
    const storage = { ...s.storage, leaseLanes: () => Promise.reject(new Error("down")) };
    const relay = s.relay({ storage });
    const started = relay.start();
    await s.ear.waitFor("outbox.trouble", ({ step }) => step === "lease");
    await relay.stop({ deadlineMs: 1_000 });
    await started;
  });
});

function unknown(
  records: readonly OutgoingRecord[],
  lost: (record: OutgoingRecord) => boolean,
): PublishResult {
  const error = new BrokerError("broker-unavailable", "no answer", { retryable: true });
  const indexes = [...records.keys()];
  const isLost = (index: number) => lost(records[index] as OutgoingRecord);
  return {
    acknowledged: indexes.filter((index) => !isLost(index)),
    unknown: indexes.filter(isLost).map((index) => ({ index, error })),
    refused: [],
  };
}
