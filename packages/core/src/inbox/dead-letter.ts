/**
 * Dead letters: the copy of a message that is given up for good, for people and tools that read a
 * topic. Key, value and headers are the message's own bytes; behind its headers stand those that say
 * where it lay and why it died, in the names of Kafka Connect or of Spring. Pure.
 */
import type { OnceboxError } from "../errors.ts";
import { derivedId } from "../ids.ts";
import { type Headers, idOf, reservedHeaderPrefix, utf8 } from "../message.ts";
import { copiedEntry } from "../outbox/outbox.ts";
import type { OutboxEntry } from "../ports/outbox.ts";
import type { ParkedRecord } from "../ports/parking.ts";
import type { PartitionRef } from "../ports/storage.ts";
import { type DeadLetter, parkedErrorOf } from "./failure-policy.ts";
import { identityOf } from "./handler-run.ts";

/** One end of a message: it may die again when a person has it tried again. */
export interface Death {
  readonly attempts: number;
  readonly error: OnceboxError;
  /** Of the turn in which it died; null: in its chunk. */
  readonly token: string | null;
}

/**
 * The row of a letter. Its id derives from the message and from the turn: a chunk that runs again
 * writes the same one, another death another one. Throws InvalidMessageError where the outbox cannot
 * take the message.
 */
export function letterOf(
  deadLetter: DeadLetter,
  at: PartitionRef,
  record: ParkedRecord,
  death: Death,
): OutboxEntry {
  const { topic } = deadLetter;
  const { key, value, headers: original } = record;
  const identity = identityOf(at, record);
  // No identity ends so: what the handler itself enqueues for this topic has other ids.
  const id = derivedId(`${identity}/dead:${death.token ?? ""}`, topic, key, 0);
  const headers: Headers = [
    ...original,
    ...(deadLetter.headers === "spring" ? springHeaders : connectHeaders)(
      deadLetter,
      at,
      record,
      death,
    ),
    ...ownHeaders(record, death, id),
  ];
  return copiedEntry({ topic, key, value, headers }, id);
}

type ErrorHeaders = (
  deadLetter: DeadLetter,
  at: PartitionRef,
  record: ParkedRecord,
  death: Death,
) => Headers;

/** As DeadLetterQueueReporter writes them: everything is text. */
const connectHeaders: ErrorHeaders = (_, { consumer, topic, partition }, { offset }, { error }) => {
  const named = (name: string, value: string) => [`__connect.errors.${name}`, utf8(value)] as const;
  return [
    named("topic", topic),
    named("partition", String(partition)),
    named("offset", String(offset)),
    named("connector.name", consumer),
    named("exception.class.name", error.name),
    named("exception.message", parkedErrorOf(error).text),
  ];
};

/** As DeadLetterPublishingRecoverer writes them: numbers are big-endian bytes. */
const springHeaders: ErrorHeaders = ({ groupId }, { topic, partition }, record, { error }) => {
  const named = (name: string, value: Uint8Array) => [`kafka_dlt-${name}`, value] as const;
  const { cause } = error;
  return [
    named("original-topic", utf8(topic)),
    named("original-partition", int32(partition)),
    named("original-offset", int64(record.offset)),
    named("original-timestamp", int64(record.timestamp)),
    named("original-consumer-group", utf8(groupId)),
    named("exception-fqcn", utf8(error.name)),
    ...(cause instanceof Error ? [named("exception-cause-fqcn", utf8(cause.name))] : []),
    named("exception-message", utf8(parkedErrorOf(error).text)),
  ];
};

/**
 * What neither has a name for. `id` only where the message has no id of its own, which stays its
 * letter's: headers are looked up from their end.
 */
function ownHeaders(record: ParkedRecord, { attempts, error }: Death, id: string): Headers {
  const named = (name: string, value: string) =>
    [`${reservedHeaderPrefix}${name}`, utf8(value)] as const;
  return [
    named("dead-letter-id", id),
    named("dead-code", error.code),
    named("dead-attempts", String(attempts)),
    named("dead-timestamp", String(record.timestamp)),
    ...(idOf(record.headers) === null ? [["id", utf8(id)] as const] : []),
  ];
}

function int32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setInt32(0, value);
  return bytes;
}

function int64(value: bigint): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigInt64(0, value);
  return bytes;
}
