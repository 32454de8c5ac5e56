/** What the outbox relay does when lanes, answers, messages or topics are lost or refused. */
import {
  type Broker,
  BrokerError,
  type OnceboxEvent,
  type OutgoingRecord,
  type PublishResult,
  type Storage,
  systemClock,
} from "@oncebox/core";
import { ConfigResourceTypes } from "kafkajs";
import type { ClientBase } from "pg";
import { describe, expect, inject, it } from "vitest";
import { spawnWorker } from "../fixtures/child.ts";
import {
  door,
  expectComplete,
  message,
  outboxScene,
  publishing,
  valuesByKey,
  writers,
} from "../fixtures/outbox-scene.ts";
import { ear } from "../fixtures/scene.ts";
import { hasKafka, uniqueName } from "../fixtures/servers.ts";

const eventsOf = <T extends OnceboxEvent["type"]>(heard: readonly OnceboxEvent[], type: T) =>
  heard.filter((event): event is OnceboxEvent & { type: T } => event.type === type);

describe.skipIf(!hasKafka())("lanes", () => {
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

  it("that were taken away in the middle of a batch are not sent any more (A5)", async () => {
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
    // A renewal that comes in between would keep the lanes: the first one's does not come.
    const renewal = door();
    let renewing = true;
    const storage: typeof s.storage = {
      ...s.storage,
      leaseLanes: async (request) => {
        if (!renewing) await renewal.pass();
        return s.storage.leaseLanes(request);
      },
    };
    const one = ear();
    await s.enqueue(...["1", "2"].map((value) => message(topic, "k", value)));
    const first = s.relay({ storage, broker, observer: one.observer });
    await first.start();
    await gate.reached;
    renewing = false;
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
    renewal.open();
    await s.enqueue(...["3", "4"].map((value) => message(topic, "k", value)));
    await s.published(4);
    expect(sent.slice(before)).toEqual([]);
    await Promise.all([first.stop(), second.stop()]);
    expect(await s.left()).toEqual([]);
    const log = await s.log(topic);
    expect(log.map(({ value }) => value)).toEqual(["1", "2", "1", "2", "3", "4"]);
    expect(new Set(log.map(({ id }) => id)).size).toBe(4);
  });

  it("are not sent when their lease is too short for a publish (A5)", async () => {
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
    const relay = s.relay({ storage, broker, clock, leaseDurationMs: 6_000 });
    await relay.start();
    await s.enqueue(message(topic, "k", "1"));
    await s.published(1);
    // Less than 3,000 ms are left: a publish may take as long, and a margin belongs to it.
    ahead = 3_000;
    await s.enqueue(message(topic, "k", "2"));
    await Promise.all([renewal.reached, readAgain.reached]);
    expect(publishes).toBe(1);
    ahead = 1;
    renewal.open();
    await s.published(2);
  });
});

describe.skipIf(!hasKafka())("failures", () => {
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
    await expect.poll(async () => (await s.left()).length, { timeout: 20_000 }).toBe(1);
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
