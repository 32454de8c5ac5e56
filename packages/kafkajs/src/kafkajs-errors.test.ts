import { BrokerError, ConfigurationError } from "@oncebox/core";
import kafkajs from "kafkajs";
import { describe, expect, it } from "vitest";
import { isBug, kafkaCode, produceVerdict, toOnceboxError } from "./kafkajs-errors.ts";
import { CodecMissingError } from "./record-batch.ts";

const { KafkaJSProtocolError, KafkaJSConnectionError, KafkaJSNumberOfRetriesExceeded } = kafkajs;

const protocolError = (type: string, retriable: boolean) =>
  new KafkaJSProtocolError(Object.assign(new Error(type.toLowerCase()), { type, retriable }));

describe("errors of kafkajs", () => {
  it.each([
    ["UNKNOWN_TOPIC_OR_PARTITION", "topic-missing", false],
    ["TOPIC_AUTHORIZATION_FAILED", "broker-refused", false],
    ["GROUP_AUTHORIZATION_FAILED", "broker-refused", false],
    ["INVALID_SESSION_TIMEOUT", "broker-refused", false],
    ["INCONSISTENT_GROUP_PROTOCOL", "broker-refused", false],
    ["NOT_ENOUGH_REPLICAS", "broker-unavailable", true],
    ["REQUEST_TIMED_OUT", "broker-unavailable", true],
    ["REBALANCE_IN_PROGRESS", "broker-unavailable", true],
  ])("%s is %s", (type, code, retryable) => {
    const error = toOnceboxError(protocolError(type, retryable), "asking");
    expect(error).toBeInstanceOf(BrokerError);
    expect(error).toMatchObject({ code, retryable, details: { type } });
    expect(error.message).toContain("asking failed");
  });

  it("are unwrapped down to what happened", () => {
    const inner = new KafkaJSConnectionError("Connection error: refused", {
      broker: "127.0.0.1:1",
      code: "ECONNREFUSED",
    });
    const outer = new KafkaJSNumberOfRetriesExceeded(inner, { retryCount: 5, retryTime: 1 });
    const error = toOnceboxError(outer, "connecting");
    expect(error).toMatchObject({ code: "broker-unavailable", retryable: true, cause: outer });
    expect(error.details).toEqual({
      name: "KafkaJSConnectionError",
      code: "ECONNREFUSED",
      broker: "127.0.0.1:1",
    });
  });

  it("say what to do about a group of another kind, and a missing codec", () => {
    const mixed = toOnceboxError(protocolError("INCONSISTENT_GROUP_PROTOCOL", false), "joining");
    expect(mixed.message).toContain("a group of its own");
    const codec = toOnceboxError(new CodecMissingError("no ZSTD"), "fetching");
    expect(codec).toBeInstanceOf(ConfigurationError);
    expect(codec.code).toBe("client-unsupported");
  });

  it("leave ours as they are and survive anything thrown", () => {
    const ours = new BrokerError("broker-refused", "no");
    expect(toOnceboxError(ours, "x")).toBe(ours);
    for (const odd of [undefined, null, 7, "text", {}]) {
      expect(toOnceboxError(odd, "x")).toMatchObject({ code: "broker-unavailable" });
    }
  });

  it("are told apart from bugs", () => {
    expect(isBug(new TypeError("x"))).toBe(true);
    expect(isBug(new RangeError("x"))).toBe(true);
    expect(isBug("thrown text")).toBe(true);
    expect(isBug(protocolError("REQUEST_TIMED_OUT", true))).toBe(false);
    // Node's own argument errors of sockets and streams carry a code.
    expect(isBug(Object.assign(new TypeError("x"), { code: "ERR_STREAM" }))).toBe(false);
  });
});

it("counts as refused only what Kafka will never take", () => {
  const verdicts = (codes: readonly number[]) => codes.map(produceVerdict);
  expect(produceVerdict(kafkaCode.none)).toBe("stored");
  expect(verdicts([2, 10, 18, 87])).toEqual(Array(4).fill("message"));
  expect(verdicts([17, 29])).toEqual(["topic", "topic"]);
  expect(produceVerdict(3)).toBe("missing-topic");
  expect(verdicts([-1, 5, 6, 7, 19, 20, 32, 56, 999])).toEqual(Array(9).fill("unknown"));
});
