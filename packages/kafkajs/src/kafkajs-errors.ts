/**
 * The one place where kafkajs' errors become ours. Never puts configuration into an error: it may
 * hold a password.
 */
import { BrokerError, ConfigurationError, type ErrorCode, OnceboxError } from "@oncebox/core";
import kafkajs from "kafkajs";
import { CodecMissingError } from "./record-batch.ts";

/** Kafka's protocol error codes that we act on. */
export const kafkaCode = {
  none: 0,
  offsetOutOfRange: 1,
  corruptMessage: 2,
  unknownTopicOrPartition: 3,
  leaderNotAvailable: 5,
  notLeader: 6,
  messageTooLarge: 10,
  replicaNotAvailable: 9,
  invalidTopic: 17,
  recordListTooLarge: 18,
  topicAuthorizationFailed: 29,
  fencedLeaderEpoch: 74,
  unknownLeaderEpoch: 75,
  offsetNotAvailable: 78,
  invalidRecord: 87,
  unknownTopicId: 100,
  inconsistentTopicId: 103,
} as const;

/** What a code means for the records it was given for. */
type ProduceVerdict = "stored" | "message" | "topic" | "missing-topic" | "unknown";

const messageCodes: ReadonlySet<number> = new Set([
  kafkaCode.corruptMessage,
  kafkaCode.messageTooLarge,
  kafkaCode.recordListTooLarge,
  kafkaCode.invalidRecord,
]);
const topicCodes: ReadonlySet<number> = new Set([
  kafkaCode.invalidTopic,
  kafkaCode.topicAuthorizationFailed,
]);

/** Anything that is not plainly a refusal may have been stored: unknown. */
export function produceVerdict(code: number): ProduceVerdict {
  if (code === kafkaCode.none) return "stored";
  if (messageCodes.has(code)) return "message";
  if (topicCodes.has(code)) return "topic";
  // Brokers say this of a topic they have not heard of yet, too: the metadata decides.
  if (code === kafkaCode.unknownTopicOrPartition) return "missing-topic";
  return "unknown";
}

/** What a code means for the partition that was fetched. */
type FetchVerdict = "fetched" | "outside" | "other-topic" | "moving" | "trouble";

const otherTopicCodes: ReadonlySet<number> = new Set([
  kafkaCode.unknownTopicOrPartition,
  kafkaCode.unknownTopicId,
  kafkaCode.inconsistentTopicId,
]);
const movingCodes: ReadonlySet<number> = new Set([
  kafkaCode.leaderNotAvailable,
  kafkaCode.notLeader,
  kafkaCode.replicaNotAvailable,
  kafkaCode.fencedLeaderEpoch,
  kafkaCode.unknownLeaderEpoch,
  kafkaCode.offsetNotAvailable,
]);

/** Whatever is not known to pass by itself is trouble, of this partition alone. */
export function fetchVerdict(code: number): FetchVerdict {
  if (code === kafkaCode.none) return "fetched";
  if (code === kafkaCode.offsetOutOfRange) return "outside";
  if (otherTopicCodes.has(code)) return "other-topic";
  return movingCodes.has(code) ? "moving" : "trouble";
}

/** Names of the codes that turn up in messages; the rest is shown by number. */
const codeNames = new Map<number, string>([
  [-1, "UNKNOWN_SERVER_ERROR"],
  [1, "OFFSET_OUT_OF_RANGE"],
  [2, "CORRUPT_MESSAGE"],
  [3, "UNKNOWN_TOPIC_OR_PARTITION"],
  [5, "LEADER_NOT_AVAILABLE"],
  [6, "NOT_LEADER_OR_FOLLOWER"],
  [7, "REQUEST_TIMED_OUT"],
  [9, "REPLICA_NOT_AVAILABLE"],
  [10, "MESSAGE_TOO_LARGE"],
  [17, "INVALID_TOPIC_EXCEPTION"],
  [18, "RECORD_LIST_TOO_LARGE"],
  [19, "NOT_ENOUGH_REPLICAS"],
  [20, "NOT_ENOUGH_REPLICAS_AFTER_APPEND"],
  [29, "TOPIC_AUTHORIZATION_FAILED"],
  [56, "KAFKA_STORAGE_ERROR"],
  [74, "FENCED_LEADER_EPOCH"],
  [75, "UNKNOWN_LEADER_EPOCH"],
  [76, "UNSUPPORTED_COMPRESSION_TYPE"],
  [78, "OFFSET_NOT_AVAILABLE"],
  [87, "INVALID_RECORD"],
  [100, "UNKNOWN_TOPIC_ID"],
  [103, "INCONSISTENT_TOPIC_ID"],
]);

export function codeName(code: number): string {
  return codeNames.get(code) ?? `error code ${code}`;
}

/** For an answer that carries a code per partition, where kafkajs throws no error of its own. */
export function errorOfCode(code: number, topic: string, partition: number): BrokerError {
  const refused = messageCodes.has(code) || topicCodes.has(code);
  return new BrokerError(
    refused ? "broker-refused" : "broker-unavailable",
    `Kafka answered ${codeName(code)} for ${topic}/${partition}`,
    { retryable: !refused, details: { topic, partition, kafkaCode: code } },
  );
}

/** An answer that is an error as a whole, in the form in which kafkajs recovers from it. */
export function requestFailed(apiName: string, code: number): Error {
  const type = codeName(code);
  const message = `Kafka answered ${type} to ${apiName}`;
  return new kafkajs.KafkaJSProtocolError(
    Object.assign(new Error(message), { type, code, retriable: true }),
  );
}

export function topicMissing(topics: readonly string[]): BrokerError {
  const list = topics.join(", ");
  return new BrokerError(
    "topic-missing",
    `no such topic: ${list}. Create it first; Oncebox never creates topics`,
    { details: { topics: [...topics] } },
  );
}

export function clientUnsupported(what: string, cause?: unknown): ConfigurationError {
  return new ConfigurationError(
    "client-unsupported",
    `${what}. Oncebox works on kafkajs 2.2.4 only, whose fetches it checks; install exactly that version`,
    cause === undefined ? {} : { cause },
  );
}

/** The fields of kafkajs' errors that we read. */
interface KafkajsError {
  readonly name: string;
  readonly message: string;
  readonly type?: unknown;
  readonly code?: unknown;
  readonly broker?: unknown;
  readonly retriable?: unknown;
  readonly cause?: unknown;
}

function isErrorLike(error: unknown): error is KafkajsError {
  return typeof error === "object" && error !== null && "name" in error && "message" in error;
}

/** Down to what happened: kafkajs wraps an error once for each retry loop it went through. */
function innermost(error: KafkajsError): KafkajsError {
  let found = error;
  for (let depth = 0; depth < 10 && isErrorLike(found.cause); depth += 1) found = found.cause;
  return found;
}

/** Bugs of ours or of the core, which must never be taken for trouble with Kafka. */
export function isBug(error: unknown): boolean {
  if (!isErrorLike(error)) return true;
  const bugs = ["TypeError", "RangeError", "ReferenceError", "SyntaxError", "AssertionError"];
  return bugs.includes(error.name) && typeof error.code !== "string";
}

const missing = new Set(["UNKNOWN_TOPIC_OR_PARTITION"]);
const refused =
  /_AUTHORIZATION_FAILED$|^SASL_|_SASL_|^INVALID_|^UNSUPPORTED_|INCONSISTENT_GROUP_PROTOCOL|GROUP_MAX_SIZE|MESSAGE_TOO_LARGE|RECORD_LIST_TOO_LARGE|SECURITY_DISABLED|POLICY_VIOLATION/;
const refusedNames = new Set([
  "KafkaJSSASLAuthenticationError",
  "KafkaJSNotImplemented",
  "KafkaJSServerDoesNotSupportApiKey",
]);

/** Translates whatever kafkajs, a socket or the wire format threw while doing `what`. */
export function toOnceboxError(error: unknown, what: string): OnceboxError {
  if (error instanceof OnceboxError) return error;
  if (error instanceof CodecMissingError) {
    return new ConfigurationError("client-unsupported", `${what}: ${error.message}`, {
      cause: error,
    });
  }
  if (!isErrorLike(error)) {
    return new BrokerError("broker-unavailable", `${what} failed`, {
      cause: error,
      retryable: true,
    });
  }
  const origin = innermost(error);
  const type = typeof origin.type === "string" ? origin.type : null;
  const details: Record<string, unknown> = { name: origin.name };
  if (type !== null) details.type = type;
  if (typeof origin.code === "string" || typeof origin.code === "number")
    details.code = origin.code;
  if (typeof origin.broker === "string") details.broker = origin.broker;
  let code: ErrorCode = "broker-unavailable";
  if (type !== null && missing.has(type)) code = "topic-missing";
  else if ((type !== null && refused.test(type)) || refusedNames.has(origin.name)) {
    code = "broker-refused";
  }
  const retryable = code === "broker-unavailable" && !isBug(origin);
  return new BrokerError(code, `${what} failed: ${origin.message}${advice(type)}`, {
    cause: error,
    details,
    retryable,
  });
}

function advice(type: string | null): string {
  if (type !== "INCONSISTENT_GROUP_PROTOCOL") return "";
  return " (the group has members that are not Oncebox consumers, or that have another partitionAssigner; give this consumer a group of its own, or stop all members before changing the assigner)";
}
