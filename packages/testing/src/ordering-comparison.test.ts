import { createInbox, createOutbox, defineTopic, type Handler, json } from "@oncebox/core";
import { describe, expect, it } from "vitest";
import { type MemoryStorage, memoryStorage } from "./memory-storage/memory-storage.ts";
import type { MemoryTx } from "./memory-storage/memory-tx.ts";
import { compareOrderings, type OrderingComparison } from "./ordering-comparison.ts";

interface Payment {
  readonly account: string;
  readonly cents: number;
}
const payments = defineTopic({ name: "payments", value: json<Payment>() });
const paid = (account: string, cents: number) =>
  payments.message({ key: account, value: { account, cents } });
const two = [paid("a", 10), paid("b", 20)];

type Run = Parameters<typeof payments.handler<MemoryTx>>[0];

function scene(storage: MemoryStorage = memoryStorage()) {
  const backup = storage.database.snapshot();
  const reset = () => storage.database.restore(backup);
  const snapshot = () => ({ balances: storage.rows("balances"), lines: storage.rows("lines") });
  const compare = (run: Run, changes: Partial<OrderingComparison<MemoryTx>> = {}) =>
    compareOrderings({
      ...{ storage, reset, snapshot, messages: two, runs: 3, seed: 7 },
      handler: payments.handler(run),
      ...changes,
    });
  return { storage, reset, snapshot, compare };
}

const add = (balance: number | undefined, cents: number) => (balance ?? 100) + cents;

/** Reads, computes, writes: of two at once, one is lost. */
const readAndWrite: Run = async ({ value }, tx) => {
  const balance = await tx.get<number>("balances", "all");
  await tx.put("balances", "all", add(balance, value.cents));
};

/** One statement. */
const relative: Run = async ({ value }, tx) => {
  await tx.update<number>("balances", "all", (balance) => add(balance, value.cents));
};

describe("compareOrderings", () => {
  it("finds a row that handlers of different keys read, then write", async () => {
    // Guards the comparison itself: 100 + 10 + 20 is 120 by key, and nobody else notices.
    const { compare } = scene();
    await expect(compare(readAndWrite)).rejects.toThrow(
      'effects with ordering "key" are not those in order (run 1 of 3; without pauses): missing: balances: 130; extra: balances: 120. Handlers of different keys touch the same rows',
    );
  });

  it("finds a row that is there once in order, and twice by key", async () => {
    // Guards the counting of equal entries.
    const { compare } = scene();
    const ifNone: Run = async (_, tx) => {
      if ((await tx.rows("lines")).length === 0) await tx.append("lines", "the first");
    };
    await expect(compare(ifNone)).rejects.toThrow('without pauses): extra: lines: "the first".');
  });

  it("passes one relative statement, and an order within each key", async () => {
    // Guards against a comparison that says no to everything, and a broken order within a key.
    const { compare } = scene();
    const messages = [1, 2, 3].flatMap((cents) => [paid("a", cents), paid("b", cents)]);
    const run: Run = async (message, tx, context) => {
      await relative(message, tx, context);
      const { account, cents } = message.value;
      const line = (await tx.get<string>("lines", account)) ?? account;
      await tx.put("lines", account, `${line} ${cents}`);
    };
    await compare(run, { messages, runs: 5 });
  });

  it("compares lists without their order, which different keys do not have", async () => {
    const { compare } = scene();
    const messages = [paid("slow", 1), paid("quick", 2)];
    const run: Run = async ({ value }, tx) => {
      // By key the second one writes first.
      if (value.account === "slow") await tx.get("lines", "none");
      await tx.append("lines", value.account);
    };
    await compare(run, { messages });
  });

  it("finds by its pauses what the fastest run hides", async () => {
    // Guards the pauses: without them the one that reads late is always late.
    const { compare } = scene();
    const late: Run = async (message, tx, context) => {
      if (message.key === "b") await tx.get("lines", "none");
      await readAndWrite(message, tx, context);
    };
    await compare(late, { runs: 1 });
    const found = await compare(late, { runs: 50 }).catch((error: Error) => error.message);
    expect(found).toMatch(/\(run \d+ of 50; seed 7 draws the same pauses again\): missing: /);
  });

  it("lets nobody tell that a handle is slowed down", async () => {
    // Guards the stand-in for a handle: an outbox and an inbox of the application take it as well.
    const { storage, compare } = scene();
    const outbox = createOutbox({ storage });
    const inbox = createInbox({ name: "hooks", storage });
    const run: Run = async ({ value }, tx, context) => {
      const seen = await inbox.once(tx, { source: "hooks", id: value.account });
      await outbox.enqueue(tx, paid(value.account, 1));
      await context.outbox.enqueue(paid(value.account, 2));
      await tx.append("lines", `${seen} ${context.idempotencyKey}`);
    };
    await compare(run);
  });

  it("is content with a reset that leaves the tables of Oncebox alone", async () => {
    // Guards the rewinding: messages of an earlier run are below the position, and not handled again.
    const { storage, compare } = scene();
    const reset = () =>
      storage.transaction(async (tx) => {
        await tx.delete("balances", "all");
      });
    await compare(relative, { reset });
    await expect(compare(readAndWrite, { reset })).rejects.toThrow("extra: balances: 120");
  });
});

describe("compareOrderings says that nothing was compared", () => {
  it("where a handler is refused a savepoint, whatever it makes of that", async () => {
    // Guards the notice of the consumer: by key it handled everything in order.
    const { compare } = scene();
    const run: Run = async (message, tx, context) => {
      await tx.savepoint(async () => undefined).catch(() => undefined);
      await readAndWrite(message, tx, context);
    };
    await expect(compare(run)).rejects.toThrow(
      "nothing was compared: the handler used a savepoint",
    );
  });

  it("where a handler fails, in order or only beside others", async () => {
    const { compare } = scene();
    const broken = new Error("no");
    const failing = compare(async () => {
      throw broken;
    });
    await expect(failing).rejects.toMatchObject({
      message: "nothing was compared: the handler failed in order at offset 0",
      cause: broken,
    });
    let now = 0;
    const alone: Run = async (message, tx, context) => {
      now += 1;
      try {
        await relative(message, tx, context);
        if (now > 1) throw broken;
      } finally {
        now -= 1;
      }
    };
    await expect(compare(alone)).rejects.toMatchObject({
      message: expect.stringContaining("a handler failed while others ran beside it"),
      cause: broken,
    });
  });

  it("where the commit fails, with its reason", async () => {
    // Guards against an answer about chunks where a handler has swallowed what failed.
    const { compare } = scene();
    const swallowing: Run = async (message, tx, context) => {
      await relative(message, tx, context);
      const wrong = () => {
        throw new Error("division by zero");
      };
      // The last one: whatever is behind it would fail in its place.
      if (message.key === "b") await tx.update("lines", "none", wrong).catch(() => undefined);
    };
    await expect(compare(swallowing)).rejects.toMatchObject({
      message: "nothing was compared: the handler failed in order at offset 1",
      cause: expect.any(Error),
    });
  });

  it("where all messages have one key, in whatever form", async () => {
    const { compare } = scene();
    const bytes = new TextEncoder().encode("a");
    const messages = [paid("a", 1), { ...paid("a", 2), key: bytes }];
    await expect(compare(relative, { messages })).rejects.toThrow("of two keys at least");
  });

  it("where the snapshot holds what cannot be compared", async () => {
    // Guards `bare`: two objects that show nothing would be equal, whatever they hold.
    class Hidden {
      readonly #cents: number;
      constructor(cents: number) {
        this.#cents = cents;
      }
      worth(): number {
        return this.#cents;
      }
    }
    class Told extends Hidden {
      override toString(): string {
        return `${this.worth()} cents`;
      }
    }
    const { storage, compare } = scene();
    const cents = () => Number(storage.rows("balances")[0] ?? 0);
    const hidden = () => ({ lines: storage.rows("balances"), balance: new Hidden(cents()) });
    await expect(compare(readAndWrite, { snapshot: hidden })).rejects.toThrow(
      "a Hidden cannot be compared",
    );
    const told = () => ({ balance: new Told(cents()) });
    await expect(compare(readAndWrite, { snapshot: told })).rejects.toThrow("120 cents");
  });

  it("where nothing is left, nothing is brought back, or two runs in order differ", async () => {
    // Guards against an answer that says nothing: two empty snapshots are equal as well.
    const { compare } = scene();
    await expect(compare(async () => undefined)).rejects.toThrow("changed nothing");
    await expect(compare(relative, { reset: () => undefined })).rejects.toThrow(
      "reset does not bring everything back: extra: balances: 130",
    );
    let number = 0;
    const counting: Run = (_, tx) => {
      number += 1;
      return tx.append("lines", number);
    };
    await expect(compare(counting)).rejects.toThrow("two runs in order differ (missing: lines: 1");
  });

  it("where a handler does not end", async () => {
    const { compare } = scene();
    const hanging: Run = (_, __, { signal }) =>
      new Promise((resolve) => signal.addEventListener("abort", () => resolve()));
    await expect(compare(hanging, { runMs: 100 })).rejects.toThrow("not handled within 100 ms");
  });
});

describe("compareOrderings refuses", () => {
  const refused = async (
    changes: Partial<OrderingComparison<MemoryTx>>,
    why: string,
    given = scene(),
  ) => {
    const error = expect.objectContaining({
      name: "ConfigurationError",
      message: expect.stringContaining(why),
    });
    await expect(given.compare(relative, changes)).rejects.toEqual(error);
  };

  it("a storage that cannot run handlers at once", async () => {
    await refused({}, "not pipelined", scene(memoryStorage({ pipelined: false })));
    await refused({ storage: { synchronous: true } as never }, "storage must be");
  });

  it("messages of another topic, of one key, and none", async () => {
    const other = defineTopic({ name: "others", value: json<Payment>() });
    const foreign = other.message({ key: "a", value: { account: "a", cents: 1 } });
    await refused({ messages: [...two, foreign] }, "one is of others");
    await refused({ messages: [paid("a", 1), paid("a", 2)] }, "two keys at least");
    await refused({ messages: [] }, "two keys at least");
    await refused({ handler: {} as Handler<MemoryTx> }, "a handler: topic.handler(run)");
  });
});
