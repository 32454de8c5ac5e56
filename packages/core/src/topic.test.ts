import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ConfigurationError, HandlerError, InvalidMessageError } from "./errors.ts";
import { type Message, textOf, utf8 } from "./message.ts";
import { bytes, defineTopic, json, type StandardSchema, text } from "./topic.ts";

interface Order {
  readonly id: string;
  readonly total: number;
}

/** Takes a total as text, and makes a number of it. */
const orderSchema: StandardSchema<{ id: string; total: string }, Order> = {
  "~standard": {
    version: 1,
    vendor: "test",
    validate: (value) => {
      const { id, total } = (value ?? {}) as { id?: unknown; total?: unknown };
      if (typeof id !== "string") return { issues: [{ message: "must be text", path: ["id"] }] };
      if (typeof total !== "string") {
        return { issues: [{ message: "must be text", path: [{ key: "total" }] }] };
      }
      return { value: { id, total: Number(total) } };
    },
  },
};

const orders = defineTopic({ name: "orders", value: json(orderSchema) });

describe("json", () => {
  it("carries every JSON value there and back", () => {
    fc.assert(
      fc.property(fc.jsonValue(), (value) => {
        const text = JSON.stringify(value); // JSON has no -0
        fc.pre(!text.includes("__proto__")); // dropped on purpose, see below
        const codec = json();
        expect(codec.decode(codec.encode(value))).toEqual(JSON.parse(text));
      }),
    );
  });

  it.each([undefined, () => {}, Symbol("x")])("has no form for %s", (value) => {
    expect(() => json().encode(value)).toThrow("has no JSON form");
  });

  it.each([["not json"], [""], ["{"]])("does not decode %j", (wrong) => {
    expect(() => json().decode(utf8(wrong))).toThrow();
  });

  it("does not decode bytes that are not UTF-8", () => {
    expect(() => json().decode(Uint8Array.of(0x22, 0xff, 0x22))).toThrow();
  });

  it.each([
    '{"__proto__":{"admin":true}}',
    '{"a":[{"__proto__":{"admin":true}}]}',
    '{"\\u005f_proto__":{"admin":true}}',
  ])("pollutes no prototype with %s", (wire) => {
    const copy = Object.assign({}, json<{ a?: object[] }>().decode(utf8(wire)));
    const inner = Object.assign({}, copy.a?.[0]);
    expect((copy as { admin?: boolean }).admin).toBeUndefined();
    expect((inner as { admin?: boolean }).admin).toBeUndefined();
  });

  it("keeps the text __proto__ in a value", () => {
    expect(json().decode(utf8('{"a":"__proto__"}'))).toEqual({ a: "__proto__" });
  });
});

describe("a byte order mark", () => {
  const marked = utf8("\ufeff1");

  it("is part of a text", () => {
    // Guards: ignoreBOM, without which the decoder drops it.
    expect(text().decode(text().encode("\ufeff1"))).toBe("\ufeff1");
  });

  it("is no part of JSON, whoever put it there", () => {
    expect(json().decode(marked)).toBe(1);
  });
});

describe("text and bytes", () => {
  it("carry their values", () => {
    expect(text().decode(text().encode("é\0"))).toBe("é\0");
    expect(() => text().decode(Uint8Array.of(0xff))).toThrow();
    const value = Uint8Array.of(0, 255);
    expect(bytes().decode(bytes().encode(value))).toBe(value);
  });
});

describe("a topic", () => {
  it.each(["", "..", "a b", "x".repeat(250)])("is not named %j", (name) => {
    expect(() => defineTopic({ name, value: text() })).toThrow(ConfigurationError);
  });

  it("makes messages: encoded, with the codec's content type", () => {
    const message = orders.message({ key: "1", value: { id: "1", total: "3" } });
    expect(message).toMatchObject({ topic: "orders", key: "1" });
    expect("id" in message).toBe(false);
    expect(textOf(message.value as Uint8Array)).toBe('{"id":"1","total":"3"}');
    expect(message.headers).toEqual([["content-type", utf8("application/json")]]);
  });

  it("leaves the message's own headers, content type and id to it", () => {
    const own = [
      ["content-type", utf8("application/vnd.shop+json")],
      ["a", null],
    ] as const;
    const value = { id: "1", total: "3" };
    const message = orders.message({ key: null, value, headers: own, id: "x" });
    expect(message).toMatchObject({ headers: own, id: "x", key: null });
    const added = orders.message({ key: null, value, headers: [["a", null]] });
    expect(added.headers).toEqual([
      ["a", null],
      ["content-type", utf8("application/json")],
    ]);
  });

  it("refuses a value that does not fit the schema, on both sides, and says where", () => {
    const wrong = { id: "1", total: 3 } as never;
    expect(() => orders.message({ key: "1", value: wrong })).toThrow(
      expect.objectContaining({ code: "value-not-encodable" }),
    );
    expect(() => orders.message({ key: "1", value: wrong })).toThrow("total: must be text");
    expect(() => orders.decode(utf8('{"total":"3"}'))).toThrow(HandlerError);
  });

  it("decodes what the schema makes of a value", () => {
    expect(orders.decode(utf8('{"id":"1","total":"3"}'))).toEqual({ id: "1", total: 3 });
  });

  it("shows no value in a decode error", () => {
    try {
      orders.decode(utf8("hunter2"));
      expect.unreachable();
    } catch (error) {
      expect((error as HandlerError).code).toBe("value-not-decodable");
      expect((error as Error).message).not.toContain("hunter2");
      expect(JSON.stringify((error as HandlerError).details)).not.toContain("hunter2");
    }
  });

  it("refuses an asynchronous schema: its author acts, not the sender", () => {
    const slow: StandardSchema<string, string> = {
      "~standard": { version: 1, vendor: "test", validate: async () => ({ value: "x" }) },
    };
    const topic = defineTopic({ name: "slow", value: json(slow) });
    expect(() => topic.message({ key: null, value: "x" })).toThrow(ConfigurationError);
  });

  it("has tombstones only where it says so", () => {
    expect(() => orders.decode(null)).toThrow("tombstone");
    const table = defineTopic({ name: "table", value: json<string>(), tombstones: true });
    expect(table.decode(null)).toBeNull();
    expect(table.message({ key: "1", value: null }).value).toBeNull();
    // Without tombstones, null is a JSON value like any other.
    const values = defineTopic({ name: "values", value: json<string | null>() });
    expect(values.message({ key: "1", value: null }).value).toEqual(utf8("null"));
  });

  it("binds a handler, which gets the decoded value", async () => {
    const seen: unknown[] = [];
    const handler = orders.handler<string>(async ({ value, id }, tx) => {
      seen.push(value.total, id, tx);
    });
    expect(handler.topic).toBe("orders");
    const message: Message<Uint8Array> = {
      id: "m",
      topic: "orders",
      partition: 0,
      offset: 0n,
      timestamp: 0n,
      key: null,
      keyBytes: null,
      value: utf8('{"id":"1","total":"3"}'),
      headers: [],
    };
    await handler.run(message, "tx", {} as never);
    expect(seen).toEqual([3, "m", "tx"]);
  });

  it("tells a failing codec of its own as a message that cannot be sent", () => {
    const failing = defineTopic<string, string>({
      name: "failing",
      value: {
        contentType: "x/y",
        encode: () => {
          throw "no";
        },
        decode: (wire) => textOf(wire),
      },
    });
    expect(() => failing.message({ key: null, value: "x" })).toThrow(InvalidMessageError);
  });
});
