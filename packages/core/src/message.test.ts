import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { InvalidMessageError, type OnceboxError } from "./errors.ts";
import {
  checkOutgoing,
  header,
  idOf,
  isTopicName,
  keyBytesOf,
  messageBytesMax,
  type OutgoingMessage,
  sourceOf,
  textOf,
  utf8,
} from "./message.ts";

const message: OutgoingMessage = {
  topic: "orders",
  key: "k",
  value: utf8("v"),
  headers: [["content-type", utf8("text/plain")]],
};

function codeOf(change: object): string {
  try {
    checkOutgoing({ ...message, ...change });
  } catch (error) {
    expect(error).toBeInstanceOf(InvalidMessageError);
    return (error as OnceboxError).code;
  }
  return "accepted";
}

describe("an outgoing message", () => {
  it.each([
    { key: null },
    { key: "" },
    { key: "\0" },
    { key: Uint8Array.of(0, 255) },
    { value: null },
    { value: new Uint8Array(0) },
    { value: Buffer.from("v") },
    { headers: [] },
    { headers: [["", null]] },
    {
      headers: [
        ["a", utf8("1")],
        ["a", utf8("2")],
      ],
    },
    { headers: [["ID", utf8("1")]] },
    { headers: [["message-id", utf8("1")]] },
    { id: "x" },
    { id: "é".repeat(512) },
    { id: undefined },
  ])("is accepted with %j", (change) => {
    expect(codeOf(change)).toBe("accepted");
  });

  it.each([
    [{ topic: "" }, "invalid-message"],
    [{ topic: "a b" }, "invalid-message"],
    [{ topic: ".." }, "invalid-message"],
    [{ topic: "x".repeat(250) }, "invalid-message"],
    [{ topic: undefined }, "invalid-message"],
    [{ key: undefined }, "invalid-message"],
    [{ key: 1 }, "invalid-message"],
    [{ value: "text" }, "invalid-message"],
    [{ value: undefined }, "invalid-message"],
    [{ value: new ArrayBuffer(1) }, "invalid-message"],
    [{ id: "" }, "invalid-message"],
    [{ id: null }, "invalid-message"],
    [{ id: "é".repeat(513) }, "invalid-message"],
    [{ id: "a\0b" }, "invalid-message"],
    [{ id: "a\ud800" }, "invalid-message"],
    [{ headers: undefined }, "invalid-message"],
    [{ headers: { a: "b" } }, "invalid-message"],
    [{ headers: [["a"]] }, "invalid-message"],
    [{ headers: [["a", "text"]] }, "invalid-message"],
    [{ headers: [[1, null]] }, "invalid-message"],
    [{ headers: [["a\0b", null]] }, "invalid-message"],
    [{ headers: [["a\udfff", null]] }, "invalid-message"],
    [{ headers: [["id", utf8("1")]] }, "reserved-header"],
    [{ headers: [["ce_source", utf8("1")]] }, "reserved-header"],
    [{ headers: [["Oncebox-Attempt", null]] }, "reserved-header"],
  ])("is refused with %j: %s", (change, code) => {
    expect(codeOf(change)).toBe(code);
  });

  it("may be as large as the limit, key and headers included, and not a byte larger", () => {
    const value = (bytes: number) => ({ key: null, headers: [], value: new Uint8Array(bytes) });
    expect(codeOf(value(messageBytesMax))).toBe("accepted");
    expect(codeOf(value(messageBytesMax + 1))).toBe("message-too-large");
    expect(codeOf({ ...value(messageBytesMax), key: "k" })).toBe("message-too-large");
    expect(codeOf({ ...value(messageBytesMax), headers: [["", null]] })).toBe("message-too-large");
  });

  it("with very many tiny headers is too large as well: Kafka frames each of them", () => {
    const headers = Array.from({ length: 100_000 }, () => ["a", null]);
    expect(codeOf({ headers })).toBe("message-too-large");
  });

  it("shows no values in an error", () => {
    const value = "hunter2";
    for (const change of [{ value }, { headers: [["a", value]] }, { key: { value } }]) {
      try {
        checkOutgoing({ ...message, ...change } as never);
        expect.unreachable();
      } catch (error) {
        expect((error as Error).message).not.toContain(value);
      }
    }
  });
});

describe("a topic name", () => {
  it.each(["a", "a.b_c-D9", "x".repeat(249), "..."])("may be %j", (name) => {
    expect(isTopicName(name)).toBe(true);
  });

  it.each(["", ".", "..", "a/b", "a b", "ä", "a\n", "x".repeat(250), 1, null])(
    "may not be %j",
    (name) => {
      expect(isTopicName(name)).toBe(false);
    },
  );
});

describe("headers", () => {
  const headers = [
    ["id", utf8("first")],
    ["id", utf8("last")],
    ["gone", utf8("x")],
    ["gone", null],
  ] as const;

  it("answer with the last of their repeats, as Kafka's clients do", () => {
    expect(header(headers, "id")).toEqual(utf8("last"));
    expect(header(headers, "gone")).toBeNull();
    expect(header(headers, "ID")).toBeNull();
  });

  it("name the id: ce_id before id before message-id", () => {
    const all = [
      ["message-id", utf8("m")],
      ["id", utf8("i")],
      ["ce_id", utf8("c")],
    ] as const;
    expect(idOf(all)).toEqual(utf8("c"));
    expect(idOf(all.slice(0, 2))).toEqual(utf8("i"));
    expect(idOf(all.slice(0, 1))).toEqual(utf8("m"));
    expect(idOf([])).toBeNull();
  });

  it("name no id where it is empty, null or too long, unless the next one has it", () => {
    expect(
      idOf([
        ["ce_id", utf8("")],
        ["id", utf8("i")],
      ]),
    ).toEqual(utf8("i"));
    expect(
      idOf([
        ["ce_id", null],
        ["id", utf8("i")],
      ]),
    ).toEqual(utf8("i"));
    expect(idOf([["id", new Uint8Array(1_024)]])).toHaveLength(1_024);
    expect(idOf([["id", new Uint8Array(1_025)]])).toBeNull();
  });

  it("name the source, else the topic is it", () => {
    expect(sourceOf([["ce_source", utf8("/shop")]], "orders")).toBe("/shop");
    expect(sourceOf([["ce_source", utf8("")]], "orders")).toBe("orders");
    expect(sourceOf([["ce_source", new Uint8Array(1_025)]], "orders")).toBe("orders");
    expect(sourceOf([], "orders")).toBe("orders");
  });

  it("carry every id that may be sent", () => {
    fc.assert(
      fc.property(fc.string({ minLength: 1, unit: "grapheme", maxLength: 300 }), (id) => {
        if (codeOf({ id }) !== "accepted") return;
        const carried = idOf([["id", utf8(id)]]);
        expect(carried === null ? null : textOf(carried)).toBe(id);
      }),
    );
  });
});

it("keys are bytes: text in UTF-8, bytes as they are, null stays null", () => {
  expect(keyBytesOf("é")).toEqual(Uint8Array.of(0xc3, 0xa9));
  expect(keyBytesOf(Uint8Array.of(255))).toEqual(Uint8Array.of(255));
  expect(keyBytesOf(null)).toBeNull();
});

it("text of bytes never fails, and keeps a byte order mark", () => {
  expect(textOf(Uint8Array.of(0x61, 0xff))).toBe("a\ufffd");
  expect(textOf(Uint8Array.of(0xef, 0xbb, 0xbf, 0x61))).toBe("\ufeffa");
});
