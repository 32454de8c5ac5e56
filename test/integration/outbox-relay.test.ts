/** What the outbox relay does where nothing fails, on real PostgreSQL and Kafka. */
import { createOutbox, createOutboxRelay, type Storage } from "@oncebox/core";
import { postgresStorage } from "@oncebox/postgres";
import type { ClientBase } from "pg";
import { describe, expect, it } from "vitest";
import {
  door,
  expectComplete,
  message,
  outboxScene,
  publishing,
  writers,
} from "../fixtures/outbox-scene.ts";
import { hasKafka } from "../fixtures/servers.ts";

describe.skipIf(!hasKafka())("what the relay publishes", () => {
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
    expect(s.ear.heard.filter(({ type }) => type === "outbox.floor-anomaly")).toEqual([]);
    expect(s.ear.heard.filter(({ type }) => type === "outbox.trouble")).toEqual([]);
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

describe.skipIf(!hasKafka())("a batch on its way", () => {
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

describe.skipIf(!hasKafka())("waking", () => {
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

describe.skipIf(!hasKafka())("stopping", () => {
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
      "SELECT lane FROM oncebox.outbox_lanes WHERE token IS NOT NULL ORDER BY lane",
    );
    // The two keys may share a lane: the topic has another name in each run.
    const sent = await s.pool.query(
      "SELECT DISTINCT lane FROM oncebox.outbox_messages ORDER BY lane",
    );
    expect(rows).toEqual(sent.rows);
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
