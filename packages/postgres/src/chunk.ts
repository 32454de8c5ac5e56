/**
 * The transaction of one chunk: begun, fenced and recorded by `open`, advanced and committed by
 * `commit`. Decides nothing; it says what happened.
 *
 *   BEGIN ─ open ──▶ handles ──▶ advance ─ COMMIT ──▶ (released)
 *              │         │            │
 *              └─────────┴── ROLLBACK ┴──▶ (released), or destroyed where in doubt
 */
import {
  type ChunkTransaction,
  ClaimLostError,
  CommitUnknownError,
  type LogMark,
  type PartitionClaim,
  type Recorded,
  type RecordRef,
  StorageError,
  TransactionFinishedError,
} from "@oncebox/core";
import type { QueryResult } from "pg";
import { beginChunkScript, type Limits } from "./begin.ts";
import type { Connection, Connections } from "./connections.ts";
import type { Handles, OwnTransaction } from "./handles/handles.ts";
import type { Names } from "./names.ts";
import { neverSent, provesRollback, type StorageErrors, sqlState } from "./postgres-errors.ts";
import type { ClaimKey, Identified, InboxQueries, OpenedRow, TakerRow } from "./queries.ts";
import { numbersOf } from "./wire.ts";

export interface ChunkParts<Tx> {
  readonly connections: Connections;
  readonly handles: Handles<Tx>;
  readonly queries: InboxQueries;
  readonly errors: StorageErrors;
  readonly names: Names;
  readonly limits: Limits;
  /** Ends, if it still runs, the backend whose transaction this is. Never rejects. */
  readonly terminate: (xid: bigint) => void;
}

/** I2, I3. Throws ClaimLostError. */
export async function openChunk<Tx>(
  parts: ChunkParts<Tx>,
  claim: PartitionClaim,
  consumer: number,
  records: readonly RecordRef[],
): Promise<ChunkTransaction<Tx>> {
  const { connections, handles, errors, names } = parts;
  const connection = await connections.acquire();
  try {
    const withId = records.filter((record): record is Identified => record.id !== null);
    const sources = new Set([claim.topic, ...withId.map((record) => record.source)]);
    const ids = await names.idsOf(connection, sources);
    const key = { claim, consumer, topicId: ids.get(claim.topic) ?? 0 };
    const sourceIds = withId.map((record) => ids.get(record.source) ?? 0);
    const opened = await beginAndOpen(parts, connection, key, withId, sourceIds);
    if (opened.next_offset === null) throw claimLost(claim);
    const read = { ...opened, next_offset: opened.next_offset };
    const recorded = await recordedOf(parts, connection, key, records, sourceIds, read);
    const own = await handles.own(connection.client);
    return new Chunk(parts, connection, own, key, read, recorded);
  } catch (error) {
    await rollBack(connection);
    throw errors.translated(`chunk of ${nameOf(claim)}`, error);
  }
}

async function beginAndOpen(
  { queries, limits }: Omit<ChunkParts<unknown>, "handles">,
  connection: Connection,
  key: ClaimKey,
  withId: readonly Identified[],
  sourceIds: number[],
): Promise<OpenedRow> {
  const begun = connection.script(beginChunkScript(limits));
  if (!connection.pipelined) await begun;
  const opening = connection.run<OpenedRow>(queries.open(key, withId, sourceIds));
  const [first, second] = await Promise.allSettled([begun, opening]);
  if (first.status === "rejected") throw first.reason;
  if (second.status === "rejected") throw second.reason;
  const [row] = second.value.rows;
  if (row === undefined) throw new TypeError("oncebox_open answered nothing");
  return row;
}

/** What became of each record; asks whose an id is only where not all were new. */
async function recordedOf(
  { queries }: Pick<ChunkParts<unknown>, "queries">,
  connection: Connection,
  key: ClaimKey,
  records: readonly RecordRef[],
  sourceIds: readonly number[],
  opened: { readonly next_offset: bigint; readonly recorded: string },
): Promise<Recorded[]> {
  const inserted = new Set(numbersOf(opened.recorded));
  const taken: { readonly id: Uint8Array; readonly source: number; readonly offset: bigint }[] = [];
  let place = -1;
  for (const { id, offset } of records) {
    if (id === null) continue;
    place += 1;
    if (offset < opened.next_offset || inserted.has(String(offset))) continue;
    taken.push({ id, source: sourceIds[place] ?? 0, offset });
  }
  const takers = new Map<bigint, TakerRow>();
  if (taken.length > 0) {
    const sources = taken.map((row) => row.source);
    const ids = taken.map((row) => row.id);
    const statement = queries.takers(key.consumer, sources, ids);
    const { rows } = await connection.run<TakerRow>(statement);
    for (const [index, row] of taken.entries()) {
      const taker = rows[index];
      if (taker?.taken !== true) throw takerGone();
      takers.set(row.offset, taker);
    }
  }
  return records.map((record) => {
    if (record.offset < opened.next_offset) return "done";
    const taker = takers.get(record.offset);
    return taker === undefined ? "new" : outcomeOf(key, record, taker);
  });
}

/** Of a record whose id was there before, or came twice in this chunk. */
function outcomeOf({ claim, topicId }: ClaimKey, record: RecordRef, taker: TakerRow): Recorded {
  const own =
    taker.topic === topicId &&
    taker.partition === claim.partition &&
    taker.record_offset === record.offset;
  const { number, until } = claim.replay;
  // Left behind by a handler that committed early: the record itself has not been done. Not so below
  // a position that was left by a seek: there the id may stem from the time before, and from a topic
  // that was made anew since and filled with the same. In a replay the core gives ids of that replay.
  if (own && (number > 0 || record.offset >= until)) return "new";
  return taker.checksum === null || taker.checksum === record.checksum ? "duplicate" : "conflict";
}

function takerGone(): StorageError {
  return new StorageError(
    "storage-conflict",
    "an id was taken when it was recorded and free when it was looked up: its row was deleted in between",
    { retryable: true },
  );
}

class Chunk<Tx> implements ChunkTransaction<Tx> {
  readonly nextOffset: bigint;
  readonly recorded: readonly Recorded[];
  readonly #parts: ChunkParts<Tx>;
  readonly #connection: Connection;
  readonly #own: OwnTransaction<Tx>;
  readonly #key: ClaimKey;
  readonly #xid: bigint;
  #over = false;
  #destroyed = false;
  /** The first statement of a handler that failed: the reason why the transaction is aborted. */
  #firstFailure: unknown;

  constructor(
    parts: ChunkParts<Tx>,
    connection: Connection,
    own: OwnTransaction<Tx>,
    key: ClaimKey,
    opened: { readonly next_offset: bigint; readonly xid: bigint },
    recorded: readonly Recorded[],
  ) {
    this.#parts = parts;
    this.#connection = connection;
    this.#own = own;
    this.#key = key;
    this.nextOffset = opened.next_offset;
    this.#xid = opened.xid;
    this.recorded = recorded;
  }

  readonly handle = () => {
    let over = false;
    const tx = this.#own.handle({
      ended: () => over || this.#over,
      failed: (error) => {
        this.#firstFailure ??= error;
        this.#connection.saw(error);
      },
    });
    return {
      tx,
      end: () => {
        over = true;
      },
    };
  };

  readonly commit = async (nextOffset: bigint, mark: LogMark): Promise<void> => {
    if (this.#over) throw new TransactionFinishedError("this chunk has ended already");
    // Dead before the first byte is sent: no handler may slip in between the advance and COMMIT.
    this.#over = true;
    let committed = false;
    try {
      await this.#commit(nextOffset, mark);
      committed = true;
    } finally {
      this.#own.over(committed);
    }
  };

  readonly #commit = async (nextOffset: bigint, mark: LogMark): Promise<void> => {
    const connection = this.#connection;
    const { queries } = this.#parts;
    if (connection.lost()) {
      this.#destroy();
      throw new StorageError(
        "storage-unavailable",
        `the connection of ${nameOf(this.#key.claim)} was lost before its commit`,
        { cause: this.#firstFailure, retryable: true },
      );
    }
    const advance = queries.advance(this.#key, this.#xid, this.nextOffset, nextOffset, mark);
    const advancing = settled(connection.run(advance));
    if (!connection.pipelined) {
      const advanced = await advancing;
      if (advanced.status === "rejected") return this.#notAdvanced(advanced.reason, null);
    }
    const committing = settled(connection.script("COMMIT"));
    const advanced = await advancing;
    const committed = await committing;
    if (advanced.status === "rejected") return this.#notAdvanced(advanced.reason, committed);
    if (committed.status === "rejected") return this.#notCommitted(committed.reason);
    connection.release();
    if (committed.value.command !== "COMMIT") throw this.#aborted(undefined);
  };

  readonly rollback = async (): Promise<boolean> => {
    if (this.#over) return !this.#destroyed;
    this.#over = true;
    const clean = await rollBack(this.#connection);
    this.#own.over(false);
    if (!clean) this.#destroyed = true;
    return clean;
  };

  readonly destroy = (): void => {
    if (this.#destroyed) return;
    // A commit that is on its way says itself how it ended.
    if (!this.#over) this.#own.over(false);
    this.#over = true;
    this.#destroyed = true;
    this.#connection.destroy();
    // The server does not notice a closed socket while a statement runs or waits for a lock, and
    // would hold the partition until that ends.
    this.#parts.terminate(this.#xid);
  };

  /** The advance failed. `committed`: what became of the COMMIT behind it; null where none was sent. */
  async #notAdvanced(
    error: unknown,
    committed: PromiseSettledResult<QueryResult> | null,
  ): Promise<never> {
    // A refusal by the server aborts the transaction: a COMMIT behind it rolls back.
    const refused = provesRollback(error);
    if (!refused && committed !== null) return this.#notCommitted(error);
    if (committed?.status === "fulfilled") this.#connection.release();
    else if (committed === null && refused) await rollBack(this.#connection);
    else this.#destroy();
    switch (sqlState(error)) {
      case "22012":
        throw claimLost(this.#key.claim, error);
      case "2201F":
        throw this.#endedEarly(error);
      case "25P02":
        throw this.#aborted(error);
      default:
        throw this.#parts.errors.translated(`commit of ${nameOf(this.#key.claim)}`, error);
    }
  }

  /** COMMIT was answered with an error, or not at all. */
  #notCommitted(error: unknown): never {
    const what = `commit of ${nameOf(this.#key.claim)}`;
    if (provesRollback(error)) {
      if (neverSent(error)) this.#destroy();
      else this.#connection.release();
      throw this.#parts.errors.translated(what, error);
    }
    this.#destroy();
    throw new CommitUnknownError(`${what}: the connection was lost before the reply`, {
      cause: this.#parts.errors.ours(error),
    });
  }

  #destroy(): void {
    this.#destroyed = true;
    this.#connection.destroy();
  }

  #endedEarly(cause: unknown): StorageError {
    return new StorageError(
      "transaction-ended-early",
      `a handler of ${nameOf(this.#key.claim)} ended the transaction it was given: what it committed may stay, the position does not move`,
      { cause },
    );
  }

  #aborted(error: unknown): StorageError {
    return new StorageError(
      "transaction-aborted",
      `a statement in the transaction of ${nameOf(this.#key.claim)} failed and its error was swallowed: nothing was committed. Use a SAVEPOINT around what may fail`,
      { cause: this.#firstFailure ?? error },
    );
  }
}

/** Ends the transaction, whatever state it is in. True where the connection is clean and released. */
export async function rollBack(connection: Connection): Promise<boolean> {
  try {
    if (!connection.lost()) {
      await connection.script("ROLLBACK");
      if (!connection.lost()) {
        connection.release();
        return true;
      }
    }
  } catch {
    // In doubt: a connection that cannot roll back is not given to anyone.
  }
  connection.destroy();
  return false;
}

export async function settled<T>(promise: Promise<T>): Promise<PromiseSettledResult<T>> {
  const [result] = await Promise.allSettled([promise]);
  return result;
}

function claimLost(claim: PartitionClaim, cause?: unknown): ClaimLostError {
  const { consumer, topic, partition, epoch } = claim;
  return new ClaimLostError(`the claim on ${nameOf(claim)} was taken over`, {
    cause,
    details: { consumer, topic, partition, epoch },
  });
}

function nameOf({ consumer, topic, partition }: PartitionClaim): string {
  return `${topic}/${partition} for ${consumer}`;
}
