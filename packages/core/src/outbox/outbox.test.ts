import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ConfigurationError, InvalidMessageError } from "../errors.ts";
import { laneOf } from "../hashes.ts";
import { derivedId } from "../ids.ts";
import { checkOutgoing, messageBytesMax, type OutgoingMessage, textOf, utf8 } from "../message.ts";
import type { Clock } from "../ports/clock.ts";
import type { OutboxEntry } from "../ports/outbox.ts";
import type { Storage } from "../ports/storage.ts";
import { defineTopic, json } from "../topic.ts";
import { createOutbox, handlerOutbox } from "./outbox.ts";

const clock: Clock = {
  now: () => 0,
  epochMs: () => Date.UTC(2026, 0, 2, 3, 4, 5, 6),
  sleep: async () => {},
  random: () => 0.5,
};

/** Writes down what it is given; the SQL is proved against real databases. */
function notingStorage() {
  const calls: { tx: string; rows: readonly OutboxEntry[] }[] = [];
  const rung: string[] = [];
  const storage = {
    enqueue: async (tx: string, rows: readonly OutboxEntry[]) => {
      calls.push({ tx, rows });
    },
    wake: { expect: () => rung.push("expect"), send: () => rung.push("send") },
  } as unknown as Storage<string>;
  return { storage, calls, rung };
}

const message: OutgoingMessage = {
  topic: "orders",
  key: "k",
  value: utf8("v"),
  headers: [["a", null]],
};
const texts = (headers: OutboxEntry["headers"] | undefined) =>
  headers?.map(([name, value]) => [name, value === null ? null : textOf(value)]);

describe("enqueue", () => {
  it("writes one row in the caller's transaction, and answers with its id", async () => {
    const { storage, calls, rung } = notingStorage();
    const [id] = await createOutbox({ storage, clock }).enqueue("tx", message);
    expect(id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-7/);
    expect(calls).toHaveLength(1);
    expect(calls[0]?.tx).toBe("tx");
    const [row] = calls[0]?.rows ?? [];
    expect(row).toMatchObject({ id, topic: "orders", key: utf8("k"), value: utf8("v") });
    expect(row?.lane).toBe(laneOf(utf8("orders"), utf8("k")));
    expect(texts(row?.headers)).toEqual([
      ["id", id],
      ["a", null],
    ]);
    expect(rung).toEqual(["expect"]);
  });

  it("writes many in one call, ids in the order of the messages", async () => {
    const { storage, calls } = notingStorage();
    const many = Array.from({ length: 1_000 }, (_, i) => ({ ...message, id: `m${i}` }));
    const ids = await createOutbox({ storage }).enqueue("tx", many);
    expect(ids).toEqual(many.map(({ id }) => id));
    expect(calls).toHaveLength(1);
    expect(calls[0]?.rows.map(({ id }) => id)).toEqual(ids);
  });

  it("sends nothing and wakes nobody for an empty list", async () => {
    const { storage, calls, rung } = notingStorage();
    expect(await createOutbox({ storage }).enqueue("tx", [])).toEqual([]);
    expect([calls, rung]).toEqual([[], []]);
  });

  it("writes none where one is wrong", async () => {
    const { storage, calls, rung } = notingStorage();
    const wrong = [message, { ...message, topic: "" }];
    await expect(createOutbox({ storage }).enqueue("tx", wrong)).rejects.toThrow(
      InvalidMessageError,
    );
    expect([calls, rung]).toEqual([[], []]);
  });

  it("passes on what the storage throws, and wakes nobody", async () => {
    const { storage, rung } = notingStorage();
    const failing = { ...storage, enqueue: () => Promise.reject(new Error("aborted")) };
    await expect(createOutbox({ storage: failing }).enqueue("tx", message)).rejects.toThrow(
      "aborted",
    );
    expect(rung).toEqual([]);
  });

  it("chooses the lane of a message without a key by its id", async () => {
    const { storage, calls } = notingStorage();
    await createOutbox({ storage }).enqueue("tx", { ...message, key: null, id: "x" });
    expect(calls[0]?.rows[0]).toMatchObject({
      key: null,
      lane: laneOf(utf8("orders"), utf8("x")),
    });
  });

  it("sends CloudEvents' headers instead of the id where a source is given", async () => {
    const { storage, calls } = notingStorage();
    const orders = defineTopic({ name: "orders", value: json<number>() });
    const outbox = createOutbox({ storage, source: "/shop", clock });
    await outbox.enqueue("tx", orders.message({ key: "k", value: 1, id: "x" }));
    expect(texts(calls[0]?.rows[0]?.headers)).toEqual([
      ["ce_specversion", "1.0"],
      ["ce_id", "x"],
      ["ce_source", "/shop"],
      ["ce_type", "orders"],
      ["ce_time", "2026-01-02T03:04:05.006Z"],
      ["content-type", "application/json"],
    ]);
  });
});

describe("options of the outbox", () => {
  const { storage } = notingStorage();
  it.each(["", "x".repeat(1_025), "é".repeat(513), "a\0b", "a\nb", 1])(
    "refuse the source %j",
    (source) => {
      expect(() => createOutbox({ storage, source: source as string })).toThrow(ConfigurationError);
    },
  );

  it("refuse what is no storage", () => {
    for (const wrong of [undefined, null, {}, { enqueue: () => {} }, { query: () => {} }]) {
      expect(() => createOutbox({ storage: wrong as never })).toThrow(ConfigurationError);
    }
  });
});

describe("the outbox of a handler", () => {
  const incoming = "billing/o:orders:0:7";
  const options = { source: undefined, clock };

  it("derives ids, counted per topic and key", async () => {
    const { storage, calls, rung } = notingStorage();
    const outbox = handlerOutbox(storage, "tx", incoming, options);
    const paid = { ...message, topic: "paid" };
    const first = await outbox.enqueue([message, paid, { ...message, key: null }]);
    const second = await outbox.enqueue([{ ...message, key: utf8("k") }, message]);
    expect([...first, ...second]).toEqual([
      derivedId(incoming, "orders", utf8("k"), 0),
      derivedId(incoming, "paid", utf8("k"), 0),
      derivedId(incoming, "orders", null, 0),
      derivedId(incoming, "orders", utf8("k"), 1),
      derivedId(incoming, "orders", utf8("k"), 2),
    ]);
    expect(calls).toHaveLength(2);
    // Whoever commits wakes.
    expect(rung).toEqual([]);
  });

  it("yields the same ids again, also where calls overlap and one was refused", async () => {
    const run = async () => {
      const outbox = handlerOutbox(notingStorage().storage, "tx", incoming, options);
      const refused = outbox.enqueue([message, { ...message, id: "" }]);
      await expect(refused).rejects.toThrow(InvalidMessageError);
      return Promise.all([outbox.enqueue(message), outbox.enqueue([message, message])]);
    };
    const ids = (await run()).flat();
    expect(ids).toEqual([0, 1, 2].map((nth) => derivedId(incoming, "orders", utf8("k"), nth)));
    expect((await run()).flat()).toEqual(ids);
  });

  it("keeps an id that the caller chose", async () => {
    const outbox = handlerOutbox(notingStorage().storage, "tx", incoming, options);
    expect(await outbox.enqueue([{ ...message, id: "x" }, message])).toEqual([
      "x",
      derivedId(incoming, "orders", utf8("k"), 0),
    ]);
  });
});

describe("what is added to a legal message", () => {
  const kafkaLimit = 1_048_588;
  const varint = (value: number) => {
    let bytes = 1;
    for (let zigzag = value * 2; zigzag >= 128; zigzag /= 128) bytes += 1;
    return bytes;
  };
  /** Size of a record batch with this one record, as Kafka's format is written down. */
  const wireBytes = ({ key, value, headers }: OutboxEntry) => {
    let body = 1 + 1 + 1 + varint(headers.length);
    for (const part of [key, value]) body += varint(part?.length ?? 1) + (part?.length ?? 0);
    for (const [name, part] of headers) {
      const bytes = utf8(name).length;
      body += varint(bytes) + bytes + varint(part?.length ?? 1) + (part?.length ?? 0);
    }
    return 61 + varint(body) + body;
  };

  const sizeOf = (message: OutgoingMessage): number => {
    try {
      checkOutgoing(message);
    } catch (error) {
      return Number((error as InvalidMessageError).details.size);
    }
    throw new Error("accepted");
  };

  it("never brings it to Kafka's limit", async () => {
    const longest = { topic: "t".repeat(249), id: "x".repeat(1_024) };
    const sizes = fc.record({
      key: fc.option(fc.integer({ min: 0, max: 400_000 })),
      headers: fc.array(
        fc.tuple(fc.integer({ min: 0, max: 200 }), fc.integer({ min: 0, max: 5_000 })),
        { maxLength: 100 },
      ),
      tiny: fc.integer({ min: 0, max: 2_000 }),
    });
    const assertion = fc.asyncProperty(sizes, async ({ key, headers, tiny }) => {
      const message = (value: number): OutgoingMessage => ({
        ...longest,
        key: key === null ? null : new Uint8Array(key),
        value: new Uint8Array(value),
        headers: [
          ...headers.map(([n, v]) => ["h".repeat(n), new Uint8Array(v)] as const),
          ...Array.from({ length: tiny }, () => ["", null] as const),
        ],
      });
      const { storage, calls } = notingStorage();
      const outbox = createOutbox({ storage, source: "s".repeat(1_024), clock });
      const over = sizeOf(message(messageBytesMax + 1)) - messageBytesMax;
      const largest = message(Math.max(0, messageBytesMax + 1 - over));
      if (over > messageBytesMax + 1) return;
      await outbox.enqueue("tx", largest);
      for (const row of calls[0]?.rows ?? []) expect(wireBytes(row)).toBeLessThan(kafkaLimit);
    });
    await fc.assert(assertion, { numRuns: 100 });
  });
});
