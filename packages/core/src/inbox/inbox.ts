/**
 * The inbox without a consumer: remembers message ids in the caller's own transaction, for messages
 * that come by another way than Kafka (a webhook, a queue, a file), and forgets them when it is asked.
 */
import { ConfigurationError, InvalidMessageError } from "../errors.ts";
import { checksumOf } from "../hashes.ts";
import { idBytesOf } from "../ids.ts";
import { utf8 } from "../message.ts";
import { aName, checkOptions, having, optional, type Rule } from "../options.ts";
import { type Clock, systemClock } from "../ports/clock.ts";
import type { MessageRef, Storage, StorageVerbs, SyncStorage } from "../ports/storage.ts";
import { aWindowMs, walkOverIds } from "./id-walk.ts";

export interface InboxOptions<Tx> {
  /** Stable name under which ids are kept. Another name has seen nothing yet. */
  readonly name: string;
  /** The database that holds the ids and the business tables. */
  readonly storage: Storage<Tx>;
  /**
   * Time of the pauses of `prune`; for tests.
   * @defaultValue the machine's
   */
  readonly clock?: Clock;
}

export interface PruneOptions {
  /**
   * For how long ids are kept, in milliseconds, from a minute on: longer than a sender repeats itself.
   * Counted by the database's clock, from when the id was recorded; a quarter of an hour is added.
   */
  readonly windowMs: number;
  /**
   * Ends the walk between two steps. What was deleted stays deleted.
   * @defaultValue it goes to its end
   */
  readonly signal?: AbortSignal;
}

/** A message as `once` tells it apart. */
export interface InboxMessage {
  /** The scope of the id, 1 to 1,024 bytes: who sends it, or which of its events it is. */
  readonly source: string;
  /** What the sender calls the message, 1 to 1,024 bytes. */
  readonly id: string | Uint8Array;
  /** The message's content, to notice an id that comes again with another one. */
  readonly value?: Uint8Array | string;
}

/**
 * `new`: recorded now, so do the work. `duplicate`: seen before, do nothing. `conflict`: the id was
 * seen before with another value, so the sender is wrong: do not drop it silently.
 */
export type OnceResult = "new" | "duplicate" | "conflict";

export interface Inbox<in Tx> {
  /**
   * Records the id in `tx`; it is remembered if, and only if, `tx` commits. Waits for another open
   * transaction that records the same id. Throws InvalidMessageError before any SQL. Two
   * transactions that record several ids in opposite order can deadlock: that StorageError
   * (`storage-conflict`) is the caller's to retry.
   */
  readonly once: (tx: Tx, message: InboxMessage) => Promise<OnceResult>;
  /**
   * Deletes the ids of this name that are older than the window, in short transactions of its own with
   * pauses between them: for a timer or a job. Safe from several processes at once. Throws
   * ConfigurationError for wrong options and for the name of a consumer, which prunes its ids itself;
   * StorageError where the database is in trouble: the next call begins anew.
   */
  readonly prune: (options: PruneOptions) => Promise<{ readonly ids: number }>;
}

export interface SyncInboxOptions<Tx> extends Omit<InboxOptions<never>, "storage"> {
  /** The database that holds the ids and the business tables. */
  readonly storage: SyncStorage<Tx>;
}

/** As Inbox, for a storage whose driver answers at once. */
export interface SyncInbox<in Tx> extends Pick<Inbox<Tx>, "prune"> {
  /** As `once` of Inbox; returns the result, not a promise of it. */
  readonly once: (tx: Tx, message: InboxMessage) => OnceResult;
}

/** Longest source or id in bytes, as for messages that come from Kafka. */
const bytesMax = 1_024;

/** Throws ConfigurationError that lists every wrong option. */
export function createInbox<Tx>(options: SyncInboxOptions<Tx>): SyncInbox<Tx>;
export function createInbox<Tx>(options: InboxOptions<Tx>): Inbox<Tx>;
export function createInbox<Tx>(
  options: InboxOptions<Tx> | SyncInboxOptions<Tx>,
): Inbox<Tx> | SyncInbox<Tx> {
  checkOptions("createInbox", options, {
    name: aName,
    storage: aStorage,
    clock: optional(having("a clock", "now", "epochMs", "sleep", "random")),
  });
  const { name, storage, clock = systemClock } = options;
  const prune: Inbox<Tx>["prune"] = (of) => pruned(name, storage, clock, of);
  if (storage.synchronous) {
    return {
      prune,
      once: (tx, message) => first(storage.recordIdsSync(tx, name, [refOf(message)])),
    };
  }
  return {
    prune,
    once: async (tx, message) => first(await storage.recordIds(tx, name, [refOf(message)])),
  };
}

const aStorage: Rule = {
  is: "a storage, for example postgresStorage({ pool })",
  fits: (value) => having("", "recordIds").fits(value) || having("", "recordIdsSync").fits(value),
};

async function pruned(
  consumer: string,
  storage: Pick<StorageVerbs, "positions" | "pruneIds">,
  clock: Clock,
  options: PruneOptions,
): Promise<{ readonly ids: number }> {
  checkOptions("inbox.prune", options, {
    windowMs: { ...aWindowMs, optional: false },
    signal: optional(having("an AbortSignal", "addEventListener")),
  });
  const { windowMs, signal: stopping } = options;
  const { groupId, at: askedAt } = await storage.positions(consumer);
  if (groupId !== null) {
    throw new ConfigurationError(
      "invalid-options",
      `inbox.prune: ${consumer} is the name of a consumer, which prunes its ids itself, by its deduplicationWindowMs`,
    );
  }
  let ids = 0;
  if (stopping?.aborted) return { ids };
  // Without partitions there is no log: what counts is the database's clock.
  const over = { consumer, windowMs, ends: [], askedAt };
  const step = storage.pruneIds;
  for await (const { deleted } of walkOverIds(over, { clock, stopping, step })) ids += deleted;
  return { ids };
}

function first([recorded]: readonly OnceResult[]): OnceResult {
  if (recorded === undefined) throw new TypeError("recordIds answered nothing");
  return recorded;
}

function refOf(message: InboxMessage): MessageRef {
  const { source, id, value } = checked(message);
  return { source, id: idBytesOf(id), checksum: value === null ? null : checksumOf(value) };
}

function checked(message: InboxMessage) {
  const { source, id, value } = message;
  if (typeof source !== "string" || !fits(utf8(source)) || source.includes("\0")) {
    throw invalid("source must be text of 1 to 1,024 bytes without U+0000");
  }
  const idBytes = bytesOf(id);
  if (idBytes === null || !fits(idBytes)) {
    throw invalid("id must be text or a Uint8Array of 1 to 1,024 bytes");
  }
  const valueBytes = value === undefined ? null : bytesOf(value);
  if (value !== undefined && valueBytes === null) {
    throw invalid("value must be text or a Uint8Array where it is given");
  }
  return { source, id: idBytes, value: valueBytes };
}

function bytesOf(value: unknown): Uint8Array | null {
  if (typeof value === "string") return utf8(value);
  return value instanceof Uint8Array ? value : null;
}

function fits(bytes: Uint8Array): boolean {
  return bytes.length > 0 && bytes.length <= bytesMax;
}

function invalid(what: string): InvalidMessageError {
  return new InvalidMessageError("invalid-message", `inbox.once: ${what}`);
}
