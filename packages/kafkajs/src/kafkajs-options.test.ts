import { ConfigurationError } from "@oncebox/core";
import fc from "fast-check";
import { expect, it } from "vitest";
import { type KafkajsBrokerConfig, kafkajsSettings } from "./kafkajs-options.ts";

const brokers = ["localhost:9092"];

function problems(config: unknown): string {
  try {
    kafkajsSettings(config as KafkajsBrokerConfig);
  } catch (error) {
    if (error instanceof ConfigurationError && error.code === "invalid-options") {
      return error.message;
    }
    throw error;
  }
  return "";
}

it("fills in the defaults and passes kafkajs' own settings on", () => {
  const settings = kafkajsSettings({ brokers, clientId: "shop", ssl: true });
  expect(settings.kafka).toEqual({ brokers, clientId: "shop", ssl: true });
  expect(settings).toMatchObject({
    sessionTimeoutMs: 30_000,
    heartbeatIntervalMs: 3_000,
    maxWaitMs: 250,
    metadataMaxAgeMs: 15_000,
    partitionAssigner: "round-robin",
  });
});

it("lists everything wrong at once", () => {
  const message = problems({ brokers: [], retry: {}, sessionTimeoutMs: Number.NaN, maxWaitMs: -1 });
  for (const name of ["brokers", "retry is unknown", "sessionTimeoutMs", "maxWaitMs"]) {
    expect(message).toContain(name);
  }
  expect(problems({})).toContain("brokers is missing");
  expect(problems({ brokers: ["localhost"] })).toContain("host:port");
});

it("refuses contradictions", () => {
  const message = problems({
    brokers,
    sessionTimeoutMs: 6_000,
    heartbeatIntervalMs: 3_000,
    maxWaitMs: 5_000,
    rebalanceTimeoutMs: 23_999,
    metadataMaxAgeMs: 4_999,
    fetchBytesMax: 10,
    fetchBytesPerPartitionMax: 11,
  });
  expect(message).toMatch(
    /heartbeatIntervalMs.*; maxWaitMs.*; rebalanceTimeoutMs.*\(24000\).*; metadataMaxAgeMs.*; fetchBytesPerPartitionMax/,
  );
  expect(problems({ brokers, partitionAssigner: "random" })).toContain("partitionAssigner");
});

it("takes what just fits", () => {
  const fitting = {
    brokers,
    sessionTimeoutMs: 3_000,
    heartbeatIntervalMs: 1_000,
    maxWaitMs: 999,
    rebalanceTimeoutMs: 5_997,
    metadataMaxAgeMs: 999,
    fetchBytesMax: 10,
    fetchBytesPerPartitionMax: 10,
    partitionAssigner: "sticky",
  };
  expect(problems(fitting)).toBe("");
});

it("never shows what may be secret", () => {
  const sasl = { mechanism: "plain", username: "u", password: "hunter2" };
  expect(problems({ brokers, sasl, sessionTimeoutMs: "x" })).not.toContain("hunter2");
  expect(problems({ brokers, ssl: "hunter2 hunter2" })).not.toContain("undefined");
});

it("answers anything with settings or one ConfigurationError", () => {
  const keys = ["brokers", "clientId", "sessionTimeoutMs", "maxWaitMs", "ssl", "sasl", "logLevel"];
  const anyConfig = fc.oneof(
    fc.anything(),
    fc.dictionary(fc.oneof(fc.constantFrom(...keys), fc.string()), fc.anything()),
  );
  fc.assert(
    fc.property(anyConfig, (config) => {
      problems(config);
    }),
    { numRuns: 2_000 },
  );
});
