/** What makes a message one that was seen before. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, inject, it } from "vitest";
import { spawnWorker } from "../fixtures/child.ts";
import { scene } from "../fixtures/scene.ts";
import { hasKafka } from "../fixtures/servers.ts";
import type { DyingSettings } from "../fixtures/workers/dying.ts";

const twice = [
  { value: "a", headers: { id: "1" } },
  { value: "a", headers: { id: "1" } },
];

describe.skipIf(!hasKafka())("deduplicate", () => {
  it("by offset applies what a producer sent twice, and a redelivery once, without a row for each", async () => {
    // Guards: the position alone as protection, and the promise of no row on that way.
    await using s = await scene();
    const first = s.consumer({}, { deduplicate: "offset" });
    await s.produce(0, ...twice);
    await first.start();
    expect(await s.effectsReach(2)).toEqual(["a", "a"]);
    await first.stop();
    const { rows } = await s.pool.query("SELECT count(*)::int AS n FROM oncebox.inbox_messages");
    expect(rows[0].n).toBe(0);
    // The group's offset is gone: only the database knows where to go on.
    const admin = s.kafka.admin();
    await admin.connect();
    await admin.deleteGroups([s.name]);
    await admin.disconnect();
    await s.consumer({}, { deduplicate: "offset" }).start();
    await s.produce(0, "b");
    expect(await s.effectsReach(3)).toEqual(["a", "a", "b"]);
  });

  it("E1: by id applies what a producer sent twice once, also in two chunks", async () => {
    await using s = await scene();
    await s.produce(0, ...twice);
    await s.consumer().start();
    await s.effectsReach(1);
    await s.produce(0, ...twice, "b");
    expect(await s.effectsReach(2)).toEqual(["a", "b"]);
  });

  it("E2: by id keeps equal ids of different sources apart, in one chunk and in two", async () => {
    // Guards the source in the identity: one sender's numbers would swallow another's.
    await using s = await scene();
    const from = (source: string, value: string) => ({
      value,
      headers: { ce_id: "1", ce_source: source },
    });
    await s.produce(0, from("shop", "a"), from("stock", "b"));
    await s.consumer().start();
    expect(await s.effectsReach(2)).toEqual(["a", "b"]);
    await s.produce(0, from("shop", "a"), from("billing", "c"), from("stock", "b"), "d");
    expect(await s.effectsReach(4)).toEqual(["a", "b", "c", "d"]);
  });

  it("E4: an id that is missing, empty or huge is none, and one that is no text is one", async () => {
    // Guards: all that have no id taken for one message; a crash over an id.
    await using s = await scene();
    const withId = (value: string, id: string | Buffer) => ({ value, headers: { ce_id: id } });
    const notText = [
      withId("byte ff", Buffer.from([0xff])),
      withId("byte fe", Buffer.from([0xfe])),
      withId("with null", Buffer.from([0x61, 0x00])),
      withId("without", Buffer.from([0x61])),
    ];
    const none = ["missing", withId("empty", ""), withId("huge", "x".repeat(100_000))];
    await s.produce(0, ...notText, ...none);
    await s.produce(0, ...notText, ...none, "end");
    await s.consumer().start();
    const texts = (list: readonly (string | { readonly value: string })[]) =>
      list.map((each) => (typeof each === "string" ? each : each.value));
    expect(await s.effectsReach(11)).toEqual([
      ...[...texts(notText), ...texts(none)],
      ...[...texts(none), "end"],
    ]);
  });
});

const file = new URL("../fixtures/workers/dying.ts", import.meta.url);

it.skipIf(!hasKafka())(
  "E10: a call outside the transaction has one idempotency key, before and after its process died",
  { timeout: 90_000 },
  async () => {
    // Guards: a key by process, attempt or time, under which the other side does its work twice.
    await using s = await scene();
    const folder = mkdtempSync(join(tmpdir(), "oncebox-outside-"));
    const outside = join(folder, "calls");
    const settings: DyingSettings = {
      ...{ consumer: s.name, topic: s.topic, databaseUrl: s.databaseUrl, attemptsMax: 20, outside },
      brokers: inject("kafkaBrokers") ?? [],
    };
    try {
      await s.produce(0, { value: "calls, then kills", headers: { id: "1" } }, "calls");
      const first = spawnWorker(file, { args: [JSON.stringify(settings)] });
      expect((await first.exited).signal, first.output()).toBe("SIGKILL");
      const second = spawnWorker(file, { args: [JSON.stringify(settings)] });
      await second.waitFor("inbox.chunk-committed");
      second.kill("SIGTERM");
      await second.exited;
      const [once, again, ...others] = readFileSync(outside, "utf8").trim().split("\n");
      expect(again).toBe(once);
      expect(others).toHaveLength(1);
      expect(others).not.toContain(once);
      expect(await s.effects()).toEqual(["calls, then kills", "calls"]);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
);
