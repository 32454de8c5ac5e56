/** What a consumer does when handlers, the database or another owner get in its way. */
import { setTimeout as delay } from "node:timers/promises";
import { HandlerError } from "@oncebox/core";
import { describe, expect, it } from "vitest";
import { startPostgres } from "../fixtures/postgres.ts";
import { scene, textTopic } from "../fixtures/scene.ts";
import { hasKafka } from "../fixtures/servers.ts";

describe.skipIf(!hasKafka())("a failing handler (onFailure: block)", () => {
  it("commits the good messages before it, waits for it visibly, and holds no other partition", async () => {
    await using s = await scene({ partitions: 2 });
    let broken = true;
    const consumer = s.bareConsumer().handle(
      textTopic(s.topic),
      async ({ value }, tx, { attempt }) => {
        await tx.query("INSERT INTO effects (value, attempt) VALUES ($1, $2)", [value, attempt]);
        if (value === "bad" && broken) throw new TypeError("out of paper");
      },
      { onFailure: "block" },
    );
    await s.produce(0, "good 1", "good 2", "bad", "behind");
    await consumer.start();
    const third = await s.ear.waitFor("inbox.blocked", ({ attempt }) => attempt === 3);
    expect(third).toMatchObject({ offset: 2n, error: { code: "handler-failed" } });
    expect(third.error).toBeInstanceOf(HandlerError);
    expect(third.error.cause).toBeInstanceOf(TypeError);
    expect(await s.effects()).toEqual(["good 1", "good 2"]);
    expect(consumer.status().find(({ partition }) => partition === 0)).toMatchObject({
      nextOffset: 2n,
      blockedBy: { code: "handler-failed" },
    });
    await s.produce(1, "elsewhere");
    await s.effectsReach(3);
    broken = false;
    expect(await s.effectsReach(5)).toEqual(["good 1", "good 2", "elsewhere", "bad", "behind"]);
    const passed = await s.ear.waitFor("inbox.unblocked");
    expect(passed.offset).toBe(2n);
    const { rows } = await s.pool.query("SELECT attempt FROM effects WHERE value = 'bad'");
    expect(rows[0].attempt).toBe(passed.attempts + 1);
    expect(consumer.status().every(({ blockedBy }) => blockedBy === null)).toBe(true);
  });

  it("B2: a swallowed SQL error does not pass for success", async () => {
    await using s = await scene();
    let broken = true;
    const consumer = s.bareConsumer().handle(
      textTopic(s.topic),
      async ({ value }, tx) => {
        await tx.query("INSERT INTO effects (value) VALUES ($1)", [value]);
        if (value === "bad" && broken) await tx.query("SELECT 1/0").catch(() => undefined);
      },
      { onFailure: "block" },
    );
    await s.produce(0, "a", "bad", "b");
    await consumer.start();
    const { error, offset } = await s.ear.waitFor("inbox.blocked", ({ attempt }) => attempt === 2);
    expect({ offset, code: error.code }).toEqual({ offset: 1n, code: "transaction-aborted" });
    expect(await s.effects()).toEqual(["a"]);
    broken = false;
    expect(await s.effectsReach(3)).toEqual(["a", "bad", "b"]);
  });

  it("B8: a handler that ends the transaction loses nothing", async () => {
    await using s = await scene();
    let tricks = 1;
    const consumer = s.bareConsumer().handle(
      textTopic(s.topic),
      async ({ value }, tx) => {
        await tx.query("INSERT INTO effects (value) VALUES ($1)", [value]);
        tricks -= 1;
        // Two statements in one text: the handle sees no COMMIT at its start.
        if (tricks >= 0) await tx.query("SELECT 1; COMMIT");
      },
      { onFailure: "block" },
    );
    await s.produce(0, { value: "a", headers: { id: "1" } });
    await consumer.start();
    const { error } = await s.ear.waitFor("inbox.blocked");
    expect(error.code).toBe("transaction-ended-early");
    // Its own early commit stands, and the redo is not taken for a duplicate.
    expect(await s.effectsReach(2)).toEqual(["a", "a"]);
    expect(await s.nextOffset(0)).toBe(1n);
  });

  it("E6: bytes that do not decode block like a failing handler", async () => {
    await using s = await scene();
    await s.produce(0, "fine", { value: Buffer.from([0xff, 0xfe]) });
    await s.consumer({}, { onFailure: "block" }).start();
    const { error, offset } = await s.ear.waitFor("inbox.blocked", ({ attempt }) => attempt === 2);
    expect({ offset, code: error.code }).toEqual({ offset: 1n, code: "value-not-decodable" });
    expect(await s.effectsReach(1)).toEqual(["fine"]);
  });

  it("E3: an id used again for another value is never dropped silently", async () => {
    await using s = await scene();
    await s.produce(0, { value: "a", headers: { id: "1" } }, { value: "b", headers: { id: "1" } });
    await s.consumer({}, { onFailure: "block" }).start();
    const { error, offset } = await s.ear.waitFor("inbox.blocked", ({ attempt }) => attempt === 2);
    expect({ offset, code: error.code }).toEqual({ offset: 1n, code: "message-id-conflict" });
    expect(await s.effects()).toEqual(["a"]);
  });

  it("a finished handle is refused: what a handler left behind cannot write into a later one", async () => {
    await using s = await scene();
    const late: Promise<string>[] = [];
    const consumer = s.bareConsumer().handle(textTopic(s.topic), async ({ value }, tx) => {
      await tx.query("INSERT INTO effects (value) VALUES ($1)", [value]);
      const next = new Promise((resolve) => setImmediate(resolve));
      const write = next.then(() => tx.query("INSERT INTO effects (value) VALUES ('late')"));
      late.push(
        write.then(
          () => "written",
          (error) => error.name,
        ),
      );
    });
    await s.produce(0, "a", "b");
    await consumer.start();
    await s.effectsReach(2);
    const names = await Promise.all(late);
    expect(names).toEqual(["TransactionFinishedError", "TransactionFinishedError"]);
    expect(await s.effects()).toEqual(["a", "b"]);
  });
});

describe.skipIf(!hasKafka())("trouble of the database spends no attempt", () => {
  it("B4: a deadlock victim's chunk runs again", async () => {
    await using s = await scene();
    await s.pool.query("CREATE TABLE shared (id int PRIMARY KEY, n int)");
    await s.pool.query("INSERT INTO shared VALUES (1, 0), (2, 0)");
    const other = await s.morePool({ max: 1 }).connect();
    let clashes = 1;
    const consumer = s
      .bareConsumer()
      .handle(textTopic(s.topic), async ({ value }, tx, { attempt }) => {
        await tx.query("UPDATE shared SET n = n + 1 WHERE id = 1");
        clashes -= 1;
        if (clashes >= 0) {
          await other.query("BEGIN; SET LOCAL deadlock_timeout = '10s'");
          await other.query("UPDATE shared SET n = n + 1 WHERE id = 2");
          const blocked = other.query("UPDATE shared SET n = n + 1 WHERE id = 1");
          blocked.then(() => other.query("COMMIT")).catch(() => undefined);
        }
        await tx.query("UPDATE shared SET n = n + 1 WHERE id = 2");
        await tx.query("INSERT INTO effects (value, attempt) VALUES ($1, $2)", [value, attempt]);
      });
    await s.produce(0, "a");
    await consumer.start();
    const rerun = await s.ear.waitFor("inbox.chunk-rerun");
    expect(rerun.trouble).toBe("local");
    await s.effectsReach(1);
    other.release();
    const { rows } = await s.pool.query("SELECT value, attempt FROM effects");
    expect(rows).toEqual([{ value: "a", attempt: 1 }]);
    expect(s.ear.heard.filter(({ type }) => type === "inbox.blocked")).toEqual([]);
  });

  it("B19: chunks of two partitions that lock the same rows get smaller, and all is applied", async () => {
    // Guards the halving (plan.ts): chunks of full size would meet in the same deadlock again.
    await using s = await scene({ partitions: 2 });
    await s.pool.query("CREATE TABLE shared (id int PRIMARY KEY, n int)");
    await s.pool.query("INSERT INTO shared VALUES (0, 0), (1, 0)");
    const half = 4;
    // Each has locked one row, and now wants the other's: the first time, both at once.
    const waiting: (() => void)[] = [];
    const met = new Promise<void>((resolve) => {
      waiting.push(resolve);
    });
    let arrived = 0;
    const consumer = s
      .bareConsumer({ chunkSizeMax: 2 * half })
      .handle(textTopic(s.topic), async ({ value, partition, offset }, tx, { attempt }) => {
        if (offset === BigInt(half)) {
          arrived += 1;
          if (arrived === 2) for (const go of waiting) go();
          await met;
        }
        const row = offset < BigInt(half) ? partition : 1 - partition;
        await tx.query("UPDATE shared SET n = n + 1 WHERE id = $1", [row]);
        await tx.query("INSERT INTO effects (value, attempt) VALUES ($1, $2)", [value, attempt]);
      });
    const values = (of: string) => Array.from({ length: 2 * half }, (_, i) => `${of}${i}`);
    await s.produce(0, ...values("a"));
    await s.produce(1, ...values("b"));
    await consumer.start();
    const { partition } = await s.ear.waitFor("inbox.chunk-rerun");
    const applied = await s.effectsReach(4 * half);
    for (const of of ["a", "b"]) {
      expect(applied.filter((value) => value.startsWith(of))).toEqual(values(of));
    }
    const sizes = s.ear.heard.flatMap((event) =>
      event.type === "inbox.chunk-opening" && event.partition === partition ? event.messages : [],
    );
    expect(sizes).toEqual([2 * half, half, expect.any(Number), ...sizes.slice(3)]);
    const { rows } = await s.pool.query("SELECT DISTINCT attempt FROM effects");
    expect(rows).toEqual([{ attempt: 1 }]);
    expect(s.ear.heard.filter(({ type }) => type === "inbox.blocked")).toEqual([]);
  });

  it("B5: the database is gone for a while: the consumer waits and goes on unaided", async () => {
    const server = await startPostgres();
    try {
      await using s = await scene({ server: server.url });
      await s.produce(0, "a");
      await s.consumer().start();
      await s.effectsReach(1);
      await server.stopAbruptly();
      await s.produce(0, "b");
      const rerun = await s.ear.waitFor("inbox.chunk-rerun", ({ rerun: n }) => n >= 3);
      expect(rerun.trouble).toBe("global");
      await server.restart();
      await s.ear.waitFor("inbox.chunk-committed", ({ nextOffset }) => nextOffset === 2n);
      const { rows } = await s.pool.query("SELECT value, attempt FROM effects ORDER BY n");
      expect(rows).toEqual([
        { value: "a", attempt: 1 },
        { value: "b", attempt: 1 },
      ]);
    } finally {
      await server.stop();
    }
  });

  it("a connection that dies under a handler ends neither the process nor the message", async () => {
    await using s = await scene();
    let cuts = 1;
    const consumer = s
      .bareConsumer()
      .handle(textTopic(s.topic), async ({ value }, tx, { attempt }) => {
        await tx.query("INSERT INTO effects (value, attempt) VALUES ($1, $2)", [value, attempt]);
        cuts -= 1;
        if (cuts < 0) return;
        const { rows } = await tx.query("SELECT pg_backend_pid() AS pid");
        await s.pool.query("SELECT pg_terminate_backend($1)", [rows[0].pid]);
        throw new Error("the handler makes something else of it");
      });
    await s.produce(0, "a");
    await consumer.start();
    await s.effectsReach(1);
    const { rows } = await s.pool.query("SELECT value, attempt FROM effects");
    expect(rows).toEqual([{ value: "a", attempt: 1 }]);
  });
});

describe.skipIf(!hasKafka())("fenced", () => {
  it("a claim taken over: nothing is written under the old one, then it is claimed again", async () => {
    await using s = await scene();
    const consumer = s.bareConsumer();
    const opened: bigint[] = [];
    let thefts = 1;
    consumer.handle(textTopic(s.topic), async ({ value, offset }, tx) => {
      opened.push(offset);
      await tx.query("INSERT INTO effects (value) VALUES ($1)", [value]);
    });
    await consumer.start();
    const { epoch } = await s.ear.waitFor("inbox.claimed");
    while (thefts > 0) {
      thefts -= 1;
      const ref = { consumer: s.name, topic: s.topic, partition: 0, owner: "thief" };
      const stolen = await s.storage.claim(ref, 1_000);
      expect(stolen?.epoch).toBe(epoch + 1n);
    }
    await s.produce(0, "a");
    expect(await s.ear.waitFor("inbox.fenced")).toMatchObject({ epoch });
    expect(opened).toEqual([]);
    // The thief is gone for good: nobody waits for a rebalance that will not come.
    expect(await s.effectsReach(1)).toEqual(["a"]);
    await s.ear.waitFor("inbox.claimed", (claimed) => claimed.epoch === epoch + 2n);
  });

  it("B9: a row set back is reported and followed", async () => {
    await using s = await scene();
    await s.produce(0, "a", "b", "c");
    await s.consumer().start();
    await s.effectsReach(3);
    await s.pool.query("UPDATE oncebox.inbox_partitions SET next_offset = 1");
    await s.produce(0, "d");
    const { error } = await s.ear.waitFor("inbox.displaced");
    expect(error).toMatchObject({ code: "position-rewound", details: { known: 3n, found: 1n } });
    expect((await s.effectsReach(6)).slice(3)).toEqual(["b", "c", "d"]);
  });

  // Guards the positions in the look at idle claims: the token is still the holder's.
  it("B9: a row set back is followed where no further message comes", async () => {
    await using s = await scene();
    await s.produce(0, "a", "b", "c");
    await s.consumer().start();
    await s.effectsReach(3);
    await s.pool.query("UPDATE oncebox.inbox_partitions SET next_offset = 1");
    expect((await s.effectsReach(5)).slice(3)).toEqual(["b", "c"]);
    const { error } = await s.ear.waitFor("inbox.displaced");
    expect(error).toMatchObject({ code: "position-rewound", details: { known: 3n, found: 1n } });
  });
});

describe.skipIf(!hasKafka())("another assignment", () => {
  // Guards #cutLater (partition.ts). One hung handler ends at its own time; many slow ones do not.
  it("A10: a slow chunk does not keep its connection and its permit beyond the session", async () => {
    await using s = await scene({ partitions: 2 });
    let slow = true;
    const signals: AbortSignal[] = [];
    const handle = textTopic(s.topic).handler<import("pg").ClientBase>(
      async ({ value }, tx, { signal }) => {
        await tx.query("INSERT INTO effects (value) VALUES ($1)", [value]);
        signals.push(signal);
        if (slow) await delay(2_000, undefined, { signal });
      },
    );
    // One permit for both partitions: while it is kept, nothing goes on.
    const values = ["a", "b", "c", "d", "e", "f", "g"];
    await s.produce(0, ...values);
    await s.bareConsumer({ partitionsAtOnceMax: 1 }).handle(handle).start();
    await s.ear.waitFor("inbox.chunk-opening", ({ messages }) => messages === values.length);
    // A second member takes a partition: both get a new assignment.
    const since = s.ear.heard.length;
    await s
      .bareConsumer({ observer: () => undefined })
      .handle(handle)
      .start();
    await s.ear.waitFor("inbox.assigned", ({ assignment }) => assignment === 2, since);
    await s.ear.waitFor("inbox.chunk-cut", () => true, since);
    slow = false;
    expect(signals.at(-1)?.aborted).toBe(true);
    await s.produce(1, "elsewhere");
    while ((await s.effects()).length < values.length + 1) await delay(50);
    expect((await s.effects()).sort()).toEqual([...values, "elsewhere"].sort());
  });
});

describe.skipIf(!hasKafka())("stopping", () => {
  it("A8: finishes the running chunk, commits the group's offset, starts nothing new", async () => {
    await using s = await scene();
    let release = () => {};
    const gate = new Promise<void>((resolve) => {
      release = resolve;
    });
    let handling = () => {};
    const begun = new Promise<void>((resolve) => {
      handling = resolve;
    });
    const consumer = s
      .bareConsumer({ chunkSizeMax: 1, offsetCommitIntervalMs: 3_600_000 })
      .handle(textTopic(s.topic), async ({ value }, tx) => {
        handling();
        await gate;
        await tx.query("INSERT INTO effects (value) VALUES ($1)", [value]);
      });
    await s.produce(0, "a", "b");
    await consumer.start();
    await begun;
    const stopped = consumer.stop();
    release();
    await stopped;
    expect(await s.effects()).toEqual(["a"]);
    expect(await s.nextOffset(0)).toBe(1n);
    const admin = s.kafka.admin();
    await admin.connect();
    const [group] = await admin.fetchOffsets({ groupId: s.name, topics: [s.topic] });
    const { groups } = await admin.describeGroups([s.name]);
    await admin.disconnect();
    expect(group?.partitions[0]?.offset).toBe("1");
    expect(groups[0]?.members).toEqual([]);
  });

  it("A10: a handler that never returns is cut at the deadline; its message is not lost", async () => {
    await using s = await scene();
    let hung = true;
    const aborted: boolean[] = [];
    const handle = textTopic(s.topic).handler<import("pg").ClientBase>(
      async ({ value }, tx, { signal }) => {
        await tx.query("INSERT INTO effects (value) VALUES ($1)", [value]);
        signal.addEventListener("abort", () => aborted.push(true));
        if (hung) await new Promise(() => {});
      },
    );
    const first = s.bareConsumer().handle(handle);
    await s.produce(0, "a");
    await first.start();
    await s.ear.waitFor("inbox.chunk-opening");
    await first.stop({ deadlineMs: 1_000 });
    await s.ear.waitFor("inbox.chunk-cut");
    expect(await s.effects()).toEqual([]);
    hung = false;
    await s.bareConsumer().handle(handle).start();
    expect(await s.effectsReach(1)).toEqual(["a"]);
  });

  it("is safe twice, before start has resolved, and without a start", async () => {
    await using s = await scene();
    await s.consumer().stop();
    const consumer = s.consumer();
    const started = consumer.start();
    await Promise.all([consumer.stop(), consumer.stop(), started]);
    await expect(s.consumer().stop()).resolves.toBeUndefined();
    await expect(consumer.start()).resolves.toBeUndefined();
  });
});
