// What an application sees of a handler that fails, hangs or kills: the three stories that the documents
// tell, on the memory broker and the memory storage, and each option by itself.
import {
  createConsumer,
  defineTopic,
  type Handler,
  type HandlerContext,
  type HandlerOptions,
  PermanentError,
  text,
} from "@oncebox/core";
import { describe, expect, it } from "vitest";
import {
  type EventLog,
  eventLog,
  expectAppliedOnce,
  expectParked,
  expectRolledBack,
} from "./assertions.ts";
import { manualClock } from "./manual-clock.ts";
import { memoryCluster } from "./memory-broker/cluster.ts";
import { clusterAdmin } from "./memory-broker/cluster-admin.ts";
import { type MemoryProcess, memoryProcess } from "./memory-broker/memory-process.ts";
import { memoryDatabase } from "./memory-storage/database.ts";
import type { MemoryTx } from "./memory-storage/memory-tx.ts";
import { failing, hanging, killing } from "./misbehaving.ts";
import { probedMessage } from "./rollback-probe.ts";

const orders = defineTopic({ name: "orders", value: text() });
const billing = { name: "billing" };
const at = (offset: bigint) => ({ topic: "orders", partition: 0, offset });

/** Keys are the first letters of values. */
function scene(...values: readonly string[]) {
  const clock = manualClock();
  const cluster = memoryCluster({ clock });
  const database = memoryDatabase({ clock });
  const admin = clusterAdmin(cluster);
  admin.createTopic("orders");
  for (const value of values) admin.send(orders.message({ key: value.slice(0, 1), value }));
  const log = eventLog();
  const calls: string[] = [];
  const plain = orders.handler<MemoryTx>(async ({ value }, tx) => {
    calls.push(value);
    await tx.append("effects", value);
  });
  let processes = 0;
  const start = (make: (process: MemoryProcess) => Handler<MemoryTx>, options: HandlerOptions) => {
    processes += 1;
    const process = memoryProcess({ clock, cluster, database, name: `process-${processes}` });
    const { storage, broker } = process;
    createConsumer({
      ...{ ...billing, storage, broker, clock: process.clock, observer: log.observer },
      ...{ handlerTimeoutMs: 1_000 },
    })
      .handle(make(process), options)
      .start()
      .catch(() => undefined);
    return process;
  };
  const committed = (offset: bigint) => () =>
    log.ofType("inbox.chunk-committed").some(({ nextOffset }) => nextOffset >= offset);
  const effects = () => database.rows<string>("effects");
  return { clock, database, log, calls, plain, start, committed, effects };
}

const valueIs = (wanted: string) => (message: { readonly value: Uint8Array | null }) =>
  orders.decode(message.value) === wanted;

const failures = (log: EventLog) =>
  log.ofType("inbox.blocked").map(({ offset, attempt, error }) => [offset, attempt, error.code]);

describe("a message that fails", () => {
  it("is tried again and applied once, also where it had done its work before", async () => {
    // Guards `attempts` and `after`: nothing of a failed attempt is there, and then all of it, once.
    const { clock, log, calls, plain, start, committed, effects } = scene("a1", "b1", "c1");
    const flaky = failing(plain, { when: valueIs("b1"), attempts: 2, after: true });
    start(() => flaky, {});
    await clock.runUntil(() => failures(log).length > 0);
    expectRolledBack(
      log,
      at(1n),
      effects().filter((value) => value === "b1"),
    );
    await clock.runUntil(committed(3n));
    expectAppliedOnce(effects(), ["a1", "b1", "c1"]);
    expect(failures(log)).toEqual([
      [1n, 1, "handler-failed"],
      [1n, 2, "handler-failed"],
    ]);
    expect(calls.filter((value) => value === "b1")).toHaveLength(3);
  });

  it("is parked, its key waits, the others go on; once it works, its key follows in order", async () => {
    // Guards `when`, which may change its mind: the application was corrected.
    const { clock, log, plain, start, committed, effects } = scene("a1", "b1", "a2", "b2");
    let broken = true;
    const failed = failing(plain, { when: ({ key }) => key === "a" && broken });
    const { storage } = start(() => failed, { retry: { localAttemptsMax: 1 } });
    await clock.runUntil(committed(4n));
    await expectParked(storage, "billing", [at(0n), at(2n)]);
    expectAppliedOnce(effects(), ["b1", "b2"]);
    broken = false;
    await clock.runUntil(() => log.ofType("inbox.redriven").length === 2);
    await expectParked(storage, "billing", []);
    expect(effects()).toEqual(["b1", "b2", "a1", "a2"]);
  });

  it("is dead at once by a permanent error", async () => {
    // Guards `error`: what is thrown is the very error.
    const { clock, log, plain, start, effects } = scene("a1", "b1");
    const error = new PermanentError("the account is closed");
    start(() => failing(plain, { when: valueIs("a1"), error }), {});
    await clock.runUntil(() => effects().length === 1);
    expect(log.ofType("inbox.parked")).toMatchObject([{ offset: 0n, state: "dead", attempts: 1 }]);
    expect(log.ofType("inbox.parked")[0]?.error).toBe(error);
  });
});

describe("a handler that hangs", () => {
  it("is cut off after its time, and its message is tried again", async () => {
    // Guards the waiting: it ends by its signal, and never by itself.
    const { clock, log, plain, start, committed, effects } = scene("a1", "b1");
    start(() => hanging(plain, { when: valueIs("b1"), attempts: 1 }), {});
    await clock.runUntil(() => failures(log).length > 0);
    expect(failures(log)).toEqual([[1n, 1, "handler-timed-out"]]);
    expect(clock.now()).toBeGreaterThanOrEqual(1_000);
    await clock.runUntil(committed(2n));
    expectAppliedOnce(effects(), ["a1", "b1"]);
  });

  it("does not hang where its signal was aborted before", async () => {
    const { plain } = scene();
    const context = { attempt: 1, signal: AbortSignal.abort() } as HandlerContext;
    const run = hanging(plain).run(probedMessage(plain, {}), {} as MemoryTx, context);
    await expect(run).rejects.toThrow("hung until it was cut off");
  });
});

describe("a message that kills its process", () => {
  it("is found and parked as dead, and those beside it are applied once", async () => {
    // Guards `kill` of a memory process, open transactions and all, and that the handler is silent then.
    const { clock, log, plain, start, committed, effects } = scene("a1", "b1", "c1");
    let deaths = 0;
    let lives = 0;
    const parked = () => log.ofType("inbox.parked").length > 0 && committed(3n)();
    let storage: MemoryProcess["storage"] | undefined;
    while (!parked() && lives < 10) {
      lives += 1;
      ({ storage } = start((process) => {
        const kill = () => {
          deaths += 1;
          process.kill();
        };
        return killing(plain, { kill, when: valueIs("b1"), after: true });
      }, {}));
      await clock.runUntil(() => deaths === lives || parked());
    }
    expect(log.ofType("inbox.parked")).toMatchObject([
      { offset: 1n, state: "dead", error: { code: "message-kills-process" } },
    ]);
    if (storage === undefined) throw new Error("no process was started");
    await expectParked(storage, "billing", [at(1n)]);
    expectAppliedOnce(effects(), ["a1", "c1"]);
    expect(deaths).toBe(lives - 1);
  });

  it("is handled by the next process, once the killed one is gone for good", async () => {
    // Guards against a dead process that holds a transaction, comes back, or goes on in its handler.
    const { clock, database, calls, plain, start, committed, effects } = scene("a1");
    let killed = false;
    const first = start((process) => {
      const kill = () => {
        killed = true;
        process.kill();
      };
      return killing(plain, { kill });
    }, {});
    await clock.runUntil(() => killed);
    expect(database.openTransactions()).toBe(0);
    first.thaw();
    expect(first.clock.frozen()).toBe(true);
    start(() => plain, {});
    await clock.runUntil(committed(1n));
    expect([calls, effects()]).toEqual([["a1"], ["a1"]]);
  });
});

it("a process that was killed hears of nothing any more, and runs no more", async () => {
  // Guards: what its connections were doing is not told to it, and it is no member that runs.
  const clock = manualClock();
  const cluster = memoryCluster({ clock });
  const database = memoryDatabase({ clock, statementMs: () => 5 });
  const admin = clusterAdmin(cluster);
  admin.createTopic("orders", { partitions: 2 });
  for (const partition of [0, 1]) {
    admin.produce("orders", partition, [{ value: `${partition}` }]);
  }
  const process = memoryProcess({ clock, cluster, database, name: "one" });
  const log = eventLog();
  const after: string[] = [];
  let killed = false;
  let waiting = 0;
  createConsumer({
    ...{ ...billing, storage: process.storage, broker: process.broker, clock: process.clock },
    observer: (event) => {
      if (killed) after.push(event.type);
      log.observer(event);
    },
  })
    .handle(orders, async ({ value }, tx) => {
      waiting += 1;
      if (value === "0") {
        while (waiting < 2) await process.clock.sleep(1);
        killed = true;
        process.kill();
        return new Promise(() => undefined);
      }
      for (;;) {
        await tx.append("effects", value).catch(() => after.push("the handler goes on"));
      }
    })
    .start()
    .catch(() => undefined);
  await clock.runUntil(() => killed);
  await clock.advance(300_000);
  expect(after).toEqual([]);
  expect(admin.members("billing")).toEqual([]);
});

it("a handler that is not told to misbehave is the handler that it was", async () => {
  // Guards the rest of the messages, and defaults: without options every attempt of each fails.
  const { plain, calls } = scene();
  const message = (key: string) =>
    probedMessage(plain, { key, value: new TextEncoder().encode(key) });
  const context = { attempt: 2, signal: new AbortController().signal } as HandlerContext;
  const tx = { append: async () => undefined } as unknown as MemoryTx;
  const kill = () => {
    throw new Error("killed");
  };
  for (const handler of [
    failing(plain, { when: ({ key }) => key === "x" }),
    failing(plain, { attempts: 1 }),
    hanging(plain, { when: (_, { attempt }) => attempt === 1 }),
    killing(plain, { when: ({ key }) => key === "x", kill }),
  ]) {
    expect(handler.topic).toBe("orders");
    await handler.run(message("a"), tx, context);
  }
  expect(calls).toEqual(["a", "a", "a", "a"]);
  await expect(failing(plain).run(message("a"), tx, context)).rejects.toThrow("fails attempt 2");
  const undefinedThrown = failing(plain, { error: undefined }).run(message("a"), tx, context);
  await expect(undefinedThrown).rejects.toBe(undefined);
  expect(calls).toHaveLength(4);
});
