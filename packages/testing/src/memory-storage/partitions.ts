/** Rows of partitions: claimed by one process at a time, and looked at. */
import {
  ClaimLostError,
  CommitUnknownError,
  type LogMark,
  type PartitionClaim,
  type PartitionRef,
  type Storage,
  StorageError,
} from "@oncebox/core";
import { MemoryDatabaseError, translated } from "./database-error.ts";
import { ownTransaction } from "./own-transaction.ts";
import {
  type PartitionRow,
  partitionKey,
  registerLockTimeoutMs,
  type StorageParts,
} from "./parts.ts";
import { Transaction } from "./tables.ts";

type PartitionVerbs = Pick<
  Storage<never>,
  "claim" | "noteClaim" | "lostClaims" | "positions" | "isRegistered"
>;
type Note = Parameters<Storage<never>["noteClaim"]>[1];

export function partitionVerbs(parts: StorageParts): PartitionVerbs {
  const { database, pool } = parts;
  const look = <R>(doing: string, work: (tx: Transaction) => R) =>
    pool.with(doing, (connection) => connection.run("look", work, { writes: false }));
  return {
    claim: (ref, waitMs) => claim(parts, ref, waitMs),
    noteClaim: (held, note) => noteClaim(parts, held, note),
    lostClaims: async (claims) => {
      if (claims.length === 0) return [];
      return look("look at claims", (transaction) =>
        claims.filter((held) => {
          const row = database.tables.get(transaction, "partitions", partitionKey(held));
          const { token, nextOffset } = (row as PartitionRow | undefined) ?? {};
          return token !== held.token || nextOffset !== held.nextOffset;
        }),
      );
    },
    positions: (consumer) =>
      look("look at positions", (transaction) => {
        const bound = database.tables.get(transaction, "consumers", consumer);
        const positions = rowsOf(parts, transaction, consumer).map(
          ({ topic, partition, nextOffset, epoch, owner, log }) => {
            return { topic, partition, nextOffset, epoch, owner, log };
          },
        );
        return {
          groupId: typeof bound === "string" ? bound : null,
          incarnation: database.incarnation,
          at: Math.floor(database.clock.epochMs()),
          positions,
        };
      }),
    isRegistered: (consumer, topic) =>
      look("look-up of a topic", (transaction) =>
        rowsOf(parts, transaction, consumer).some((row) => row.topic === topic),
      ),
  };
}

/** By topic, then partition. */
export function rowsOf(
  { database }: StorageParts,
  transaction: Transaction,
  consumer: string,
): readonly PartitionRow[] {
  const rows = database.tables.entries(transaction, "partitions") as [string, PartitionRow][];
  return rows
    .map(([, row]) => row)
    .filter((row) => row.consumer === consumer)
    .sort((a, b) => {
      if (a.topic === b.topic) return a.partition - b.partition;
      return a.topic < b.topic ? -1 : 1;
    });
}

async function claim(
  parts: StorageParts,
  ref: PartitionRef & { readonly owner: string },
  waitMs: number,
): Promise<PartitionClaim | null> {
  const { database } = parts;
  const { tables } = database;
  const key = partitionKey(ref);
  const doing = `claim of ${ref.topic}/${ref.partition} for ${ref.consumer}`;
  const claiming = ownTransaction(parts, doing, (connection) =>
    connection.run("claim", async (transaction): Promise<PartitionClaim | null> => {
      // A row that is not there has no lock to wait for.
      if (tables.get(transaction, "partitions", key) === undefined) return null;
      await lockPartition(parts, transaction, ref, waitMs, "could not be claimed");
      const row = tables.get(transaction, "partitions", key) as PartitionRow | undefined;
      if (row === undefined) return null;
      const token = database.token();
      const epoch = row.epoch + 1n;
      const stalledClaims = row.stalledClaims + 1;
      const claimed: PartitionRow = { ...row, token, epoch, owner: ref.owner, stalledClaims };
      tables.write(transaction, "partitions", key, claimed);
      const { consumer, topic, partition, nextOffset, log, appliedUntil, soughtEpoch } = row;
      const replay = { number: row.replaying ? row.replay : 0, until: appliedUntil };
      const { incarnation } = database;
      const position = { consumer, topic, partition, nextOffset, log };
      const trying =
        row.trying === null ? null : { offset: row.trying.offset, claims: row.trying.claims };
      const stalled = { stalledClaims, trying };
      return { ...position, ...stalled, token, epoch, replay, soughtEpoch, incarnation };
    }),
  );
  return claiming.catch((error: unknown) => {
    if (!(error instanceof CommitUnknownError)) throw error;
    // Whether it owns is of no use to anyone without the token: it claims again in either case.
    throw translated(doing, error.cause);
  });
}

/** I1. What a claim leaves for those after it. */
async function noteClaim(parts: StorageParts, claim: PartitionClaim, note: Note): Promise<void> {
  const { database, pool } = parts;
  const key = partitionKey(claim);
  const find = (transaction: Transaction) =>
    database.tables.get(transaction, "partitions", key) as PartitionRow | undefined;
  await pool.with(`note on the claim of ${claim.topic}/${claim.partition}`, (connection) =>
    connection.run("note-claim", async (transaction) => {
      if (find(transaction) !== undefined) {
        await lockPartition(parts, transaction, claim, registerLockTimeoutMs, "could not be noted");
      }
      const row = find(transaction);
      const noted = note.kind === "left" ? left(row, claim) : tried(row, claim, note.offset);
      if (noted !== null) database.tables.write(transaction, "partitions", key, noted);
    }),
  );
}

/** Its own part is taken out again, whoever holds the partition by now. */
function left(row: PartitionRow | undefined, { epoch }: PartitionClaim): PartitionRow | null {
  // A lower epoch: the database was set back to before this claim, which counts no more.
  if (row === undefined || row.epoch < epoch) return null;
  const stalledClaims = Math.max(0, row.stalledClaims - 1);
  if (row.trying === null || row.trying.epoch !== epoch) return { ...row, stalledClaims };
  const claims = row.trying.claims - 1;
  return { ...row, stalledClaims, trying: claims <= 0 ? null : { ...row.trying, claims } };
}

/** Each claim counts once for a record, however often it tries it. Throws ClaimLostError. */
function tried(row: PartitionRow | undefined, claim: PartitionClaim, offset: bigint): PartitionRow {
  if (row === undefined || row.token !== claim.token) throw claimLost(claim);
  const { epoch } = claim;
  const before = row.trying?.offset === offset ? row.trying : { claims: 0, epoch: null };
  const claims = before.epoch === epoch ? before.claims : before.claims + 1;
  return { ...row, trying: { offset, claims, epoch } };
}

export function claimLost(claim: PartitionClaim): ClaimLostError {
  const { consumer, topic, partition, epoch } = claim;
  return new ClaimLostError(`the claim on ${topic}/${partition} for ${consumer} was taken over`, {
    details: { consumer, topic, partition, epoch },
  });
}

/** Throws StorageError `claim-timeout` and names who blocks. */
export async function lockPartition(
  { database }: StorageParts,
  transaction: Transaction,
  at: PartitionRef,
  waitMs: number,
  what: string,
): Promise<void> {
  const name = `partitions/${partitionKey(at)}`;
  try {
    await database.tables.lock(transaction, name, waitMs);
  } catch (error) {
    if (!(error instanceof MemoryDatabaseError) || error.failure !== "lock-timeout") {
      throw translated("lock of a partition", error);
    }
    const holder = database.locks.holderOf(name);
    const blocker = holder instanceof Transaction ? `connection ${holder.connection}` : "nobody";
    const { consumer, topic, partition } = at;
    throw new StorageError(
      "claim-timeout",
      `${topic}/${partition} for ${consumer} ${what} within ${waitMs} ms: blocked by ${blocker}`,
      { cause: error, retryable: true, details: { consumer, topic, partition, blocker } },
    );
  }
}

/** A partition as it is registered. */
export function freshRow(
  at: PartitionRef,
  nextOffset: bigint,
  topicId: string | null,
): PartitionRow {
  const { consumer, topic, partition } = at;
  const log: LogMark = { topicId, leaderEpoch: null, last: null };
  return {
    ...{ consumer, topic, partition, nextOffset, log },
    ...{ token: null, epoch: 0n, owner: null },
    ...{ appliedUntil: 0n, replay: 0, replaying: false, soughtEpoch: 0n },
    ...{ stalledClaims: 0, trying: null, parked: false },
  };
}
