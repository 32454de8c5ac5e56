/** The settings of `kafkajsBroker`: their names, defaults and limits. Never talks to Kafka. */
import {
  aFunction,
  ConfigurationError,
  checkOptions,
  integer,
  oneOf,
  optional,
  type Rule,
} from "@oncebox/core";
import type { KafkaConfig } from "kafkajs";

export type PartitionAssigner = "round-robin" | "range" | "sticky";

/**
 * kafkajs' own connection settings (`retry` excepted: when to try again is decided by the core) and
 * Oncebox's. kafkajs' logger is silent unless `logLevel` is given: what matters is reported as events.
 */
export interface KafkajsBrokerConfig extends Omit<KafkaConfig, "retry"> {
  /**
   * A consumer that sends no heartbeat for so long loses its partitions, in milliseconds. Shorter:
   * partitions of a dead process move sooner; longer: pauses of the process cost no rebalance.
   * @defaultValue 30000
   */
  readonly sessionTimeoutMs?: number;
  /**
   * Time between heartbeats in milliseconds, which is also how soon a rebalance is noticed. Shorter:
   * faster rebalances; longer: fewer requests. At most a third of `sessionTimeoutMs`.
   * @defaultValue 3000
   */
  readonly heartbeatIntervalMs?: number;
  /**
   * How long the group waits for its members to come back in a rebalance, in milliseconds. Shorter:
   * a stuck member holds up the others less; longer: a slow one keeps its place. At least three times
   * `heartbeatIntervalMs` and `maxWaitMs` together, or live members lose their places; below
   * `sessionTimeoutMs` a pause of the process costs more during a rebalance than at other times.
   * @defaultValue 60000
   */
  readonly rebalanceTimeoutMs?: number;
  /**
   * How the group's leader shares out partitions, always honouring each member's own topics.
   * `"round-robin"`: even over all topics, but a join or leave moves many partitions. `"range"`:
   * neighbouring partitions of each topic together, so that partitions of equal number, of topics
   * with equally many, meet in one member; less even over many topics. `"sticky"`: even, and moves as
   * few partitions as possible; members send what they own with each join. All members of a group need
   * the same: to change it, stop them all first.
   * @defaultValue "round-robin"
   */
  readonly partitionAssigner?: PartitionAssigner;
  /**
   * How long the broker may hold a fetch while there is nothing new, in milliseconds. Shorter: more
   * requests when idle; longer: stopping takes longer, and heartbeats are sent between fetches: less
   * than `heartbeatIntervalMs`. Messages never wait for it.
   * @defaultValue 250
   */
  readonly maxWaitMs?: number;
  /**
   * Most bytes one fetch returns over all partitions of a broker. Larger: fewer requests on a
   * backlog; smaller: less memory, as each broker's answer is held at once.
   * @defaultValue 10485760
   */
  readonly fetchBytesMax?: number;
  /**
   * Most bytes one fetch returns of one partition; a larger record is still returned, alone. Larger:
   * fewer requests; smaller: partitions share a fetch more evenly. At most `fetchBytesMax`.
   * @defaultValue 1048576
   */
  readonly fetchBytesPerPartitionMax?: number;
  /**
   * Age at which the list of topics, partitions and leaders is read again, in milliseconds: how late
   * new partitions are noticed. Shorter: sooner; longer: fewer requests. At least `maxWaitMs`, or it
   * would be read before every fetch. A leader that moves is noticed at once, whatever the age.
   * @defaultValue 15000
   */
  readonly metadataMaxAgeMs?: number;
  /**
   * Longest time of one `publish` in milliseconds, connecting included; then what is not confirmed is
   * reported as unknown. Keep it below the lease of the outbox relay. Shorter: sooner back after a
   * hanging broker; longer: fewer repeats when brokers are slow.
   * @defaultValue 5000
   */
  readonly publishTimeoutMs?: number;
}

/** All of them, checked and filled in. */
export interface KafkajsSettings {
  readonly kafka: Omit<KafkaConfig, "retry">;
  readonly sessionTimeoutMs: number;
  readonly heartbeatIntervalMs: number;
  readonly rebalanceTimeoutMs: number;
  readonly partitionAssigner: PartitionAssigner;
  readonly maxWaitMs: number;
  readonly fetchBytesMax: number;
  readonly fetchBytesPerPartitionMax: number;
  readonly metadataMaxAgeMs: number;
  readonly publishTimeoutMs: number;
}

const defaults = {
  sessionTimeoutMs: 30_000,
  heartbeatIntervalMs: 3_000,
  rebalanceTimeoutMs: 60_000,
  partitionAssigner: "round-robin",
  maxWaitMs: 250,
  fetchBytesMax: 10 * 1024 * 1024,
  fetchBytesPerPartitionMax: 1024 * 1024,
  metadataMaxAgeMs: 15_000,
  publishTimeoutMs: 5_000,
} as const;

const day = 86_400_000;

const someBrokers: Rule = {
  is: 'a list of "host:port" that is not empty, or a function that returns one',
  fits: (value) =>
    typeof value === "function" ||
    (Array.isArray(value) &&
      value.length > 0 &&
      value.every((broker) => typeof broker === "string" && /^[^\s:]+:\d{1,5}$/.test(broker))),
};

const anObject: Rule = {
  is: "an object",
  fits: (value) => typeof value === "object" && value !== null,
};

const rules: Readonly<Record<string, Rule>> = {
  clientId: optional({
    is: "text that is not empty",
    fits: (value) => typeof value === "string" && value.length > 0,
  }),
  brokers: someBrokers,
  ssl: optional({
    is: "true, false or an object",
    fits: (value) => typeof value === "boolean" || anObject.fits(value),
  }),
  sasl: optional(anObject),
  connectionTimeout: integer(1, day),
  authenticationTimeout: integer(1, day),
  reauthenticationThreshold: integer(1, day),
  requestTimeout: integer(1, day),
  enforceRequestTimeout: optional({
    is: "true or false",
    fits: (value) => typeof value === "boolean",
  }),
  socketFactory: aFunction,
  logLevel: integer(0, 5),
  logCreator: aFunction,
  sessionTimeoutMs: integer(100, day),
  heartbeatIntervalMs: integer(10, day),
  rebalanceTimeoutMs: integer(100, day),
  partitionAssigner: oneOf("round-robin", "range", "sticky"),
  maxWaitMs: integer(1, 60_000),
  fetchBytesMax: integer(1, 2 ** 31 - 1),
  fetchBytesPerPartitionMax: integer(1, 2 ** 31 - 1),
  metadataMaxAgeMs: integer(100, day),
  publishTimeoutMs: integer(10, day),
};

const what = "kafkajsBroker";

/** Throws one ConfigurationError that lists everything wrong. */
export function kafkajsSettings(config: KafkajsBrokerConfig): KafkajsSettings {
  checkOptions(what, config, rules);
  const {
    sessionTimeoutMs = defaults.sessionTimeoutMs,
    heartbeatIntervalMs = defaults.heartbeatIntervalMs,
    rebalanceTimeoutMs = defaults.rebalanceTimeoutMs,
    partitionAssigner = defaults.partitionAssigner,
    maxWaitMs = defaults.maxWaitMs,
    fetchBytesMax = defaults.fetchBytesMax,
    fetchBytesPerPartitionMax = defaults.fetchBytesPerPartitionMax,
    metadataMaxAgeMs = defaults.metadataMaxAgeMs,
    publishTimeoutMs = defaults.publishTimeoutMs,
    ...kafka
  } = config;
  const settings: KafkajsSettings = {
    kafka,
    sessionTimeoutMs,
    heartbeatIntervalMs,
    rebalanceTimeoutMs,
    partitionAssigner,
    maxWaitMs,
    fetchBytesMax,
    fetchBytesPerPartitionMax,
    metadataMaxAgeMs,
    publishTimeoutMs,
  };
  refuseContradictions(settings);
  return settings;
}

function refuseContradictions(settings: KafkajsSettings): void {
  const problems: string[] = [];
  const { sessionTimeoutMs, heartbeatIntervalMs, maxWaitMs } = settings;
  const { rebalanceTimeoutMs, metadataMaxAgeMs } = settings;
  if (heartbeatIntervalMs * 3 > sessionTimeoutMs) {
    problems.push(
      `heartbeatIntervalMs (${heartbeatIntervalMs}) must be at most a third of sessionTimeoutMs (${sessionTimeoutMs}), or one lost heartbeat costs the partitions`,
    );
  }
  // kafkajs sends heartbeats between fetches only.
  if (maxWaitMs >= heartbeatIntervalMs) {
    problems.push(
      `maxWaitMs (${maxWaitMs}) must be less than heartbeatIntervalMs (${heartbeatIntervalMs}): heartbeats are sent between fetches`,
    );
  }
  // A heartbeat tells a member of the rebalance; the session holds for three, one may be lost.
  const noticedMs = 3 * (heartbeatIntervalMs + maxWaitMs);
  if (rebalanceTimeoutMs < noticedMs) {
    problems.push(
      `rebalanceTimeoutMs (${rebalanceTimeoutMs}) must be at least three times heartbeatIntervalMs and maxWaitMs together (${noticedMs}): members learn of a rebalance by their heartbeats`,
    );
  }
  if (metadataMaxAgeMs < maxWaitMs) {
    problems.push(
      `metadataMaxAgeMs (${metadataMaxAgeMs}) must be at least maxWaitMs (${maxWaitMs}), or each fetch reads the metadata first`,
    );
  }
  if (settings.fetchBytesPerPartitionMax > settings.fetchBytesMax) {
    problems.push(
      `fetchBytesPerPartitionMax (${settings.fetchBytesPerPartitionMax}) must not exceed fetchBytesMax (${settings.fetchBytesMax})`,
    );
  }
  if (problems.length > 0) {
    throw new ConfigurationError("invalid-options", `${what}: ${problems.join("; ")}`, {
      details: { problems },
    });
  }
}
