import { describe, expect, it } from "vitest";
import { HandlerError, PermanentError } from "../errors.ts";
import { derivedId } from "../ids.ts";
import { messageBytesMax, textOf, utf8 } from "../message.ts";
import { type Death, letterOf } from "./dead-letter.ts";
import type { DeadLetter } from "./failure-policy.ts";
import { identityOf } from "./handler-run.ts";

const at = { consumer: "billing", topic: "orders", partition: 258 };
const record = {
  ...{ offset: 0x1_0000_0002n, timestamp: 1_700_000_000_000n, key: utf8("k"), value: utf8("v") },
  headers: [
    ["ce_id", utf8("one")],
    ["a", null],
    ["oncebox-x", new Uint8Array([0xff, 0])],
    ["a", utf8("")],
  ] as [string, Uint8Array | null][],
};
const connect: DeadLetter = { topic: "orders.dead", headers: "connect", groupId: "billing-group" };
const spring: DeadLetter = { ...connect, headers: "spring" };
const error = new HandlerError("handler-failed", "it failed: no\0", { cause: new TypeError("no") });
const death: Death = { attempts: 20, error, token: null };
const anonymous = { ...record, headers: [] };

const shown = (headers: readonly (readonly [string, Uint8Array | null])[]) =>
  headers.map(([name, value]) => [name, value === null ? null : textOf(value)]);

describe("a dead letter", () => {
  it("has the message's key, value and headers, byte for byte, and its own headers behind them", () => {
    // Guards: a copy that people and tools cannot put back as it was; copiedEntry adds nothing.
    const { topic, key, value, headers } = letterOf(connect, at, record, death);
    expect([topic, key, value]).toEqual(["orders.dead", record.key, record.value]);
    expect(headers.slice(0, 4)).toEqual(record.headers);
    expect(new Set(headers.slice(4).map(([name]) => name)).has("id")).toBe(false);
    expect(letterOf(connect, at, { ...record, key: null, value: null }, death)).toMatchObject({
      ...{ key: null, value: null },
    });
  });

  it("says what happened in the names and forms of Kafka Connect", () => {
    const { id, headers } = letterOf(connect, at, record, death);
    expect(shown(headers.slice(4))).toEqual([
      ["__connect.errors.topic", "orders"],
      ["__connect.errors.partition", "258"],
      ["__connect.errors.offset", "4294967298"],
      ["__connect.errors.connector.name", "billing"],
      ["__connect.errors.exception.class.name", "HandlerError"],
      ["__connect.errors.exception.message", "it failed: no\uFFFD"],
      ["oncebox-dead-letter-id", id],
      ["oncebox-dead-code", "handler-failed"],
      ["oncebox-dead-attempts", "20"],
      ["oncebox-dead-timestamp", "1700000000000"],
    ]);
  });

  it("says it in the names and forms of Spring, whose numbers are big-endian", () => {
    const { headers } = letterOf(spring, at, record, death);
    const bytes = new Map(headers);
    expect(bytes.get("kafka_dlt-original-partition")).toEqual(new Uint8Array([0, 0, 1, 2]));
    expect(bytes.get("kafka_dlt-original-offset")).toEqual(
      new Uint8Array([0, 0, 0, 1, 0, 0, 0, 2]),
    );
    const time = bytes.get("kafka_dlt-original-timestamp") as Uint8Array;
    expect(new DataView(time.buffer).getBigInt64(0)).toBe(record.timestamp);
    const texts = shown(headers).filter(([name]) => /group|topic|exception/.test(String(name)));
    expect(texts).toEqual([
      ["kafka_dlt-original-topic", "orders"],
      ["kafka_dlt-original-consumer-group", "billing-group"],
      ["kafka_dlt-exception-fqcn", "HandlerError"],
      ["kafka_dlt-exception-cause-fqcn", "TypeError"],
      ["kafka_dlt-exception-message", "it failed: no\uFFFD"],
    ]);
    const alone = letterOf(spring, at, record, { ...death, error: new PermanentError("never") });
    expect(new Map(alone.headers).has("kafka_dlt-exception-cause-fqcn")).toBe(false);
  });

  it("has one id for one death, whoever writes it again, and another for the next", () => {
    // Guards: a chunk that runs again after a lost answer writes another letter for the same death.
    const idOf = (token: string | null, group = "billing-group") =>
      letterOf({ ...connect, groupId: group }, at, record, { ...death, token }).id;
    expect(idOf(null)).toBe(idOf(null, "other"));
    expect(new Set([idOf(null), idOf("t1"), idOf("t2")]).size).toBe(3);
    // Guards "/dead:": the handler's own first message for that topic and key.
    const identity = identityOf(at, record);
    expect(idOf(null)).not.toBe(derivedId(identity, "orders.dead", record.key, 0));
  });

  it("carries its id as `id` where the message has none of its own", () => {
    // Guards: what the relay sends twice is recognised by a reader that goes by ids.
    const { id, headers } = letterOf(connect, at, anonymous, death);
    expect(headers.at(-1)).toEqual(["id", utf8(id)]);
  });

  it("is refused where the outbox cannot take it", () => {
    const large = { ...record, value: new Uint8Array(messageBytesMax - 100) };
    expect(() => letterOf(connect, at, large, death)).toThrow(
      expect.objectContaining({ code: "message-too-large" }),
    );
    const odd = { ...record, headers: [["a\0", null] as const] };
    expect(() => letterOf(connect, at, odd, death)).toThrow(
      expect.objectContaining({ code: "invalid-message" }),
    );
  });
});
