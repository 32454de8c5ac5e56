/**
 * Messages to publish, written in the caller's transaction. What commits is published by a relay;
 * what rolls back never existed. Nothing here talks to Kafka, and nothing but one INSERT goes
 * through the transaction.
 */
import { laneOf } from "../hashes.ts";
import { derivedId, uuidv7 } from "../ids.ts";
import { checkOutgoing, keyBytesOf, type OutgoingMessage, utf8 } from "../message.ts";
import { checkOptions, having, optional, type Rule } from "../options.ts";
import { type Clock, systemClock } from "../ports/clock.ts";
import type { OutboxEntry } from "../ports/outbox.ts";
import type { Storage, SyncStorage } from "../ports/storage.ts";

export interface OutboxOptions<Tx> {
  /** The database whose transactions carry the messages. */
  readonly storage: Storage<Tx>;
  /**
   * The CloudEvents source of the messages, a URI reference such as `/shop/orders` (1 to 1,024
   * bytes). With it messages carry the CloudEvents headers (`ce_id`, `ce_source`, …) instead of
   * `id`, and readers' inboxes tell ids apart per source; without it, per topic. Set it before the
   * first message: the same id under another source is another message.
   * @defaultValue none: the header `id` only
   */
  readonly source?: string;
  /**
   * Time and chance for ids; for tests.
   * @defaultValue the machine's
   */
  readonly clock?: Clock;
}

/** Publishes with the caller's transaction. */
export interface Outbox<in Tx> {
  /**
   * Writes one message or many in `tx`, in one statement, and returns their ids in the same order.
   * Every message is checked before any SQL: throws InvalidMessageError and writes none. Messages
   * of one key are published in the order of these calls, so call after taking the lock on the
   * business row, not before.
   */
  readonly enqueue: (
    tx: Tx,
    messages: OutgoingMessage | readonly OutgoingMessage[],
  ) => Promise<readonly string[]>;
}

export interface SyncOutboxOptions<Tx> extends Omit<OutboxOptions<never>, "storage"> {
  /** The database whose transactions carry the messages. */
  readonly storage: SyncStorage<Tx>;
}

/** As Outbox, for a storage whose driver answers at once. */
export interface SyncOutbox<in Tx> {
  /** As `enqueue` of Outbox; returns the ids, not a promise of them. */
  readonly enqueue: (
    tx: Tx,
    messages: OutgoingMessage | readonly OutgoingMessage[],
  ) => readonly string[];
}

/** Longest source in bytes: a reader takes no longer one as the scope of an id. */
const sourceBytesMax = 1_024;

export const aSource: Rule = {
  is: `text of 1 to ${sourceBytesMax} bytes without control characters`,
  fits: (value) =>
    typeof value === "string" &&
    value.length > 0 &&
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
    !/[\u0000-\u001f\u007f]/.test(value) &&
    utf8(value).length <= sourceBytesMax,
  optional: true,
};

/** Throws ConfigurationError that lists every wrong option. */
export function createOutbox<Tx>(options: SyncOutboxOptions<Tx>): SyncOutbox<Tx>;
export function createOutbox<Tx>(options: OutboxOptions<Tx>): Outbox<Tx>;
export function createOutbox<Tx>(
  options: OutboxOptions<Tx> | SyncOutboxOptions<Tx>,
): Outbox<Tx> | SyncOutbox<Tx> {
  checkOptions("createOutbox", options, {
    storage: aStorage,
    source: aSource,
    clock: optional(having("a clock", "now", "epochMs", "sleep", "random")),
  });
  const { storage, source, clock = systemClock } = options;
  const idFor = () => uuidv7(clock);
  // The commit is the caller's and will not be seen from here.
  const written = (ids: readonly string[]) => {
    if (ids.length > 0) storage.wake.expect();
    return ids;
  };
  if (storage.synchronous) {
    return {
      enqueue: (tx, messages) => written(writeSync(storage, tx, messages, clock, source, idFor)),
    };
  }
  return {
    enqueue: async (tx, messages) =>
      written(await write(storage, tx, messages, clock, source, idFor)),
  };
}

const aStorage: Rule = {
  is: "a storage, for example postgresStorage({ pool })",
  // `expect` is called after the INSERT: a storage without it must fail before, not then.
  fits: (value) =>
    (having("", "enqueue").fits(value) || having("", "enqueueSync").fits(value)) &&
    having("", "expect").fits((value as { readonly wake?: unknown }).wake),
};

interface HandlerOutboxOptions {
  readonly source: string | undefined;
  readonly clock: Clock;
}

/**
 * The outbox of one call of one handler, bound to its transaction. Ids derive from `incoming` (see
 * `incomingIdentity`), the topic, the key and a count per topic and key, so that a redo of the
 * handler yields the same ids. Wakes nobody: whoever commits knows when.
 */
export function handlerOutbox<Tx>(
  storage: Storage<Tx>,
  tx: Tx,
  incoming: string,
  { source, clock }: HandlerOutboxOptions,
): {
  readonly enqueue: (
    messages: OutgoingMessage | readonly OutgoingMessage[],
  ) => Promise<readonly string[]>;
} {
  const idFor = derivedIds(incoming);
  return {
    // Ids are given out before the first wait, so their order is the order of the calls.
    enqueue: (messages) => write(storage, tx, messages, clock, source, idFor),
  };
}

/** As `handlerOutbox`, for a storage whose driver answers at once. */
export function syncHandlerOutbox<Tx>(
  storage: SyncStorage<Tx>,
  tx: Tx,
  incoming: string,
  { source, clock }: HandlerOutboxOptions,
): {
  readonly enqueue: (messages: OutgoingMessage | readonly OutgoingMessage[]) => readonly string[];
} {
  const idFor = derivedIds(incoming);
  return {
    enqueue: (messages) => writeSync(storage, tx, messages, clock, source, idFor),
  };
}

function derivedIds(incoming: string): (message: OutgoingMessage) => string {
  const counts = new Map<string, number>();
  return ({ topic, key }) => {
    const keyBytes = keyBytesOf(key);
    // The first derived id names topic and key without any ambiguity, whatever bytes the key has.
    const first = derivedId(incoming, topic, keyBytes, 0);
    const nth = counts.get(first) ?? 0;
    counts.set(first, nth + 1);
    return nth === 0 ? first : derivedId(incoming, topic, keyBytes, nth);
  };
}

type Messages = OutgoingMessage | readonly OutgoingMessage[];

async function write<Tx>(
  storage: Storage<Tx>,
  tx: Tx,
  messages: Messages,
  clock: Clock,
  source: string | undefined,
  idFor: (message: OutgoingMessage) => string,
): Promise<readonly string[]> {
  const entries = entriesOf(messages, clock, source, idFor);
  if (entries.length > 0) await storage.enqueue(tx, entries);
  return entries.map((entry) => entry.id);
}

function writeSync<Tx>(
  storage: SyncStorage<Tx>,
  tx: Tx,
  messages: Messages,
  clock: Clock,
  source: string | undefined,
  idFor: (message: OutgoingMessage) => string,
): readonly string[] {
  const entries = entriesOf(messages, clock, source, idFor);
  if (entries.length > 0) storage.enqueueSync(tx, entries);
  return entries.map((entry) => entry.id);
}

function entriesOf(
  given: Messages,
  clock: Clock,
  source: string | undefined,
  idFor: (message: OutgoingMessage) => string,
): readonly OutboxEntry[] {
  const messages = (Array.isArray(given) ? given : [given]) as readonly OutgoingMessage[];
  // All are checked before the first id is taken: a refused list must not shift derived ids.
  for (const message of messages) checkOutgoing(message);
  return messages.map((message) => entryOf(message, message.id ?? idFor(message), clock, source));
}

function entryOf(
  message: OutgoingMessage,
  id: string,
  clock: Clock,
  source: string | undefined,
): OutboxEntry {
  const headers = [...ownHeaders(id, message.topic, clock, source), ...message.headers];
  return rowOf({ ...message, headers }, id);
}

/**
 * The row of a message that is a copy of another: with its headers, also those that are reserved, and
 * no others. Throws InvalidMessageError.
 */
export function copiedEntry(message: OutgoingMessage, id: string): OutboxEntry {
  checkOutgoing(message, "kept");
  return rowOf(message, id);
}

function rowOf({ topic, value, headers, ...message }: OutgoingMessage, id: string): OutboxEntry {
  const key = keyBytesOf(message.key);
  return { lane: laneOf(utf8(topic), key ?? utf8(id)), id, topic, key, value, headers };
}

/** What the outbox adds to a message's headers: under 4 KiB, far inside Kafka's limit less ours. */
function ownHeaders(
  id: string,
  topic: string,
  clock: Clock,
  source: string | undefined,
): OutboxEntry["headers"] {
  if (source === undefined) return [["id", utf8(id)]];
  return [
    ["ce_specversion", utf8("1.0")],
    ["ce_id", utf8(id)],
    ["ce_source", utf8(source)],
    ["ce_type", utf8(topic)],
    ["ce_time", utf8(new Date(clock.epochMs()).toISOString())],
  ];
}
