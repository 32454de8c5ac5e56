/**
 * The inbox without a consumer: remembers message ids in the caller's own transaction, for messages
 * that come by another way than Kafka (a webhook, a queue, a file).
 */
import { InvalidMessageError } from "../errors.ts";
import { checksumOf } from "../hashes.ts";
import { idBytesOf } from "../ids.ts";
import { utf8 } from "../message.ts";
import { aName, checkOptions, having } from "../options.ts";
import type { Storage } from "../ports/storage.ts";

export interface InboxOptions<Tx> {
  /** Stable name under which ids are kept. Another name has seen nothing yet. */
  readonly name: string;
  /** The database that holds the ids and the business tables. */
  readonly storage: Storage<Tx>;
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
}

/** Longest source or id in bytes, as for messages that come from Kafka. */
const bytesMax = 1_024;

/** Throws ConfigurationError that lists every wrong option. */
export function createInbox<Tx>(options: InboxOptions<Tx>): Inbox<Tx> {
  checkOptions("createInbox", options, {
    name: aName,
    storage: having("a storage, for example postgresStorage({ pool })", "recordIds"),
  });
  const { name, storage } = options;
  return {
    once: async (tx, message) => {
      const { source, id, value } = checked(message);
      const [recorded] = await storage.recordIds(tx, name, [
        {
          source,
          id: idBytesOf(id),
          checksum: value === null ? null : checksumOf(value),
        },
      ]);
      if (recorded === undefined) throw new TypeError("recordIds answered nothing");
      return recorded;
    },
  };
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
