/** I3: ids recorded in one order everywhere, each waiting for whoever records it at the same time. */
import {
  type MessageRef,
  type PartitionClaim,
  type Recorded,
  type RecordRef,
  StorageError,
} from "@oncebox/core";
import type { MemoryDatabase } from "./database.ts";
import { translated } from "./database-error.ts";
import { type MemoryTx, openHoldOf } from "./memory-tx.ts";
import { type IdRow, idKey, type PartitionRow, type StorageParts } from "./parts.ts";
import type { Transaction } from "./tables.ts";

interface Wanted {
  readonly key: string;
  /** Ties of one key: the first of them is recorded. */
  readonly place: number;
  readonly row: IdRow;
}

/** Which of them are recorded now, by their places. */
async function insertIds(
  { tables }: MemoryDatabase,
  transaction: Transaction,
  wanted: readonly Wanted[],
  lockTimeoutMs: number | null,
): Promise<ReadonlySet<number>> {
  const inserted = new Set<number>();
  const sorted = [...wanted].sort((a, b) => {
    if (a.key === b.key) return a.place - b.place;
    return a.key < b.key ? -1 : 1;
  });
  for (const { key, place, row } of sorted) {
    const name = `ids/${key}`;
    const taken = await tables.lock(transaction, name, lockTimeoutMs);
    if (tables.get(transaction, "ids", key) === undefined) {
      tables.write(transaction, "ids", key, row);
      inserted.add(place);
    } else if (taken) {
      // It is there for good: nobody has to wait for this transaction because of it.
      tables.unlock(transaction, name);
    }
  }
  return inserted;
}

/** What a chunk's transaction records of the records at or above the position. */
export async function recordChunk(
  { database, lockTimeoutMs }: StorageParts,
  transaction: Transaction,
  claim: PartitionClaim,
  { nextOffset, log }: Pick<PartitionRow, "nextOffset" | "log">,
  records: readonly RecordRef[],
): Promise<readonly Recorded[]> {
  const { consumer, topic, partition } = claim;
  const now = BigInt(Math.floor(database.clock.epochMs()));
  const wanted = records.flatMap(({ id, offset, timestamp, source, checksum }, place): Wanted[] => {
    if (id === null || offset < nextOffset) return [];
    const time = timeBeside(timestamp, log.last?.timestamp ?? timestamp, now);
    const row = { consumer, time, checksum, taker: { topic, partition, offset } };
    return [{ key: idKey(consumer, source, id), place, row }];
  });
  const inserted = await insertIds(database, transaction, wanted, lockTimeoutMs);
  return records.map((record, place) => {
    if (record.offset < nextOffset) return "done";
    if (record.id === null || inserted.has(place)) return "new";
    const key = idKey(consumer, record.source, record.id);
    return outcomeOf(claim, record, takenBy(database, transaction, key));
  });
}

/** What pruning goes by: one that a clock of nobody's made is brought to where the partition is. */
function timeBeside(time: bigint, last: bigint, now: bigint): bigint {
  const notBefore = time > last ? time : last;
  return notBefore < now ? notBefore : now;
}

/** Throws StorageError `storage-conflict` where the row was pruned while other ids were waited for. */
function takenBy({ tables }: MemoryDatabase, transaction: Transaction, key: string): IdRow {
  const row = tables.get(transaction, "ids", key) as IdRow | undefined;
  if (row !== undefined) return row;
  throw new StorageError("storage-conflict", "an id's row was deleted while it was looked up", {
    retryable: true,
  });
}

/** Of a record whose id was there before, or came twice in this chunk. */
function outcomeOf(claim: PartitionClaim, record: RecordRef, { taker, checksum }: IdRow): Recorded {
  const own =
    taker !== null &&
    taker.topic === claim.topic &&
    taker.partition === claim.partition &&
    taker.offset === record.offset;
  const { number, until } = claim.replay;
  // Left behind by a handler that committed early. Not so below a position that a seek left: there
  // the id may stem from the time before.
  if (own && (number > 0 || record.offset >= until)) return "new";
  return checksum === null || checksum === record.checksum ? "duplicate" : "conflict";
}

/** I3 for `inbox.once`. */
export async function recordIds(
  { database, lockTimeoutMs }: StorageParts,
  tx: MemoryTx,
  consumer: string,
  ids: readonly MessageRef[],
): Promise<readonly Exclude<Recorded, "done" | "held">[]> {
  const { connection, failed } = openHoldOf(tx);
  if (ids.length === 0) return [];
  const time = BigInt(Math.floor(database.clock.epochMs()));
  const wanted = ids.map(({ source, id, checksum }, place): Wanted => {
    const row = { consumer, time, checksum, taker: null };
    return { key: idKey(consumer, source, id), place, row };
  });
  try {
    return await connection.run("record", async (transaction) => {
      const inserted = await insertIds(database, transaction, wanted, lockTimeoutMs);
      return wanted.map(({ key, place, row: { checksum } }) => {
        if (inserted.has(place)) return "new";
        const taken = takenBy(database, transaction, key);
        const same = checksum === null || taken.checksum === null || checksum === taken.checksum;
        return same ? "duplicate" : "conflict";
      });
    });
  } catch (error) {
    failed(error);
    throw translated("recording of message ids", error);
  }
}
