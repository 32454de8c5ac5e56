/** Messages that end the process which handles them, in the log and parked. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createOperator } from "@oncebox/core";
import { describe, expect, inject, it } from "vitest";
import { spawnWorker, type Worker } from "../fixtures/child.ts";
import { type Scene, scene } from "../fixtures/scene.ts";
import { hasKafka } from "../fixtures/servers.ts";
import type { Step } from "../fixtures/step-log.ts";
import type { DyingSettings } from "../fixtures/workers/dying.ts";

const file = new URL("../fixtures/workers/dying.ts", import.meta.url);

/** Starts the next process when one has died, until one says that `done` has come; tells how many died. */
async function untilOneLives(
  s: Scene,
  done: (step: Step) => boolean,
  attemptsMax = 20,
): Promise<{ readonly deaths: number }> {
  const { name: consumer, topic, databaseUrl } = s;
  const brokers = inject("kafkaBrokers") ?? [];
  const argument = JSON.stringify({
    ...{ consumer, topic, databaseUrl, brokers, attemptsMax },
  } satisfies DyingSettings);
  const workers: Worker[] = [];
  for (;;) {
    const worker = spawnWorker(file, { args: [argument] });
    workers.push(worker);
    const lives = worker.waitFor(done, 60_000).then(
      () => true,
      () => false,
    );
    const lived = await Promise.race([lives, worker.exited.then(() => false)]);
    if (lived || workers.length > 15) {
      worker.kill("SIGTERM");
      const exit = await worker.exited;
      if (!lived) throw new Error(`none lives; the last ended with ${exit.signal ?? exit.code}`);
      return { deaths: workers.length - 1 };
    }
    expect((await worker.exited).signal, worker.output()).toBe("SIGKILL");
  }
}

const parkedOf = async ({ storage, broker, name }: Scene) =>
  (await createOperator({ storage, broker, actor: "a test" }).parked({ consumer: name })).map(
    ({ record, state, error }) => [Number(record.offset), state, error?.code],
  );

describe.skipIf(!hasKafka())("a message that kills the process", () => {
  it("A15: is found, alone, and parked as dead; those beside it are applied once", {
    timeout: 150_000,
  }, async () => {
    // Guards: a crash loop; and an innocent message condemned with the killer.
    await using s = await scene();
    await s.produce(0, "a", "b", "kills", "c", "d");
    const { deaths } = await untilOneLives(
      s,
      ({ step, data }) => step === "inbox.chunk-committed" && data?.nextOffset === "5",
    );
    expect(await s.effectsReach(4)).toEqual(["a", "b", "c", "d"]);
    expect(await parkedOf(s)).toEqual([[2, "dead", "message-kills-process"]]);
    expect(await s.nextOffset(0)).toBe(5n);
    // Three with the whole chunk, one that tried it alone after those before it, one more to be sure.
    expect(deaths).toBeLessThanOrEqual(6);
  });

  it("A15: condemns nothing that another partition was at when the process died", {
    timeout: 150_000,
  }, async () => {
    // Guards: what may kill runs beside nothing; else the neighbour is tried alone at each death, too.
    await using s = await scene({ partitions: 2 });
    await s.produce(0, "kills");
    await s.produce(1, "slow", "slow");
    await untilOneLives(s, ({ step }) => step === "inbox.parked");
    expect(await parkedOf(s)).toEqual([[0, "dead", "message-kills-process"]]);
    await s.consumer().start();
    expect(await s.effectsReach(2)).toEqual(["slow", "slow"]);
  });

  it("A10: one whose handler blocks its process is done by another, and never by both", {
    timeout: 90_000,
  }, async () => {
    // Guards the fence and the database's own time-out: who blocks runs no timer, and comes back late.
    await using s = await scene();
    const folder = mkdtempSync(join(tmpdir(), "oncebox-outside-"));
    const { name: consumer, topic, databaseUrl } = s;
    const settings: DyingSettings = {
      ...{ consumer, topic, databaseUrl, attemptsMax: 20, outside: join(folder, "marker") },
      brokers: inject("kafkaBrokers") ?? [],
    };
    const start = () => spawnWorker(file, { args: [JSON.stringify(settings)] });
    const workers = [start()];
    try {
      await s.produce(0, "a", "blocks", "b");
      const [blocked] = workers as [Worker];
      await blocked.waitFor("blocking");
      const other = start();
      workers.push(other);
      await other.waitFor(
        ({ step, data }) => step === "inbox.chunk-committed" && data?.nextOffset === "3",
      );
      // What it had under way when it was blocked.
      const ends = ["inbox.chunk-rerun", "inbox.fenced", "inbox.blocked", "inbox.commit-unknown"];
      await blocked.waitFor(({ step }) => ends.includes(step));
      await s.produce(0, "c");
      const last = ({ step, data }: Step) =>
        step === "inbox.chunk-committed" && data?.nextOffset === "4";
      await Promise.race(workers.map((worker) => worker.waitFor(last)));
      expect(await s.effects()).toEqual(["a", "blocks", "b", "c"]);
    } finally {
      for (const worker of workers) worker.kill("SIGTERM");
      await Promise.all(workers.map((worker) => worker.exited));
      rmSync(folder, { recursive: true, force: true });
    }
  });

  it("E9: while it is parked is counted before each try, and ends dead", {
    timeout: 150_000,
  }, async () => {
    // Guards: an attempt that is written after the run dies with the process, and the loop never ends.
    await using s = await scene();
    await s.produce(
      0,
      { key: "k", value: "fails, then kills" },
      { key: "k", value: "behind" },
      "other",
    );
    const { deaths } = await untilOneLives(
      s,
      ({ step, data }) => step === "inbox.redrive-failed" && data?.state === "dead",
      4,
    );
    expect(await parkedOf(s)).toEqual([
      [0, "dead", "message-kills-process"],
      [1, "waiting", undefined],
    ]);
    expect(await s.effectsReach(1)).toEqual(["other"]);
    expect(deaths).toBe(3);
  });
});
