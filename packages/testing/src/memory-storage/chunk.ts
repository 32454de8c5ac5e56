/** The transaction of one chunk: fenced and recorded by `open`, advanced and committed by `commit`. */
import {
  type ChunkTransaction,
  type HandlerHandle,
  type LogMark,
  type PartitionClaim,
  type Recorded,
  type RecordRef,
  type ToPark,
  TransactionFinishedError,
} from "@oncebox/core";
import type { Connection } from "./connection.ts";
import { translated } from "./database-error.ts";
import { handlerHandle, type MemoryTx } from "./memory-tx.ts";
import { aborted, commitOf, endedEarly } from "./own-transaction.ts";
import { nothingParked, park, probe, withParked } from "./parked-rows.ts";
import { claimLost } from "./partitions.ts";
import { type PartitionRow, partitionKey, type StorageParts } from "./parts.ts";
import { lostBefore } from "./pool.ts";
import { recordChunk } from "./record-ids.ts";
import type { Transaction } from "./tables.ts";

/** I2, I3. Throws ClaimLostError. */
export async function openChunk(
  parts: StorageParts,
  claim: PartitionClaim,
  records: readonly RecordRef[],
): Promise<ChunkTransaction<MemoryTx>> {
  const { pool, database } = parts;
  const { tables } = database;
  const connection = await pool.acquire();
  const key = partitionKey(claim);
  try {
    const begun = connection.begin();
    const opened = await connection.run("open", async (transaction) => {
      const find = () => tables.get(transaction, "partitions", key) as PartitionRow | undefined;
      // Who is fenced already locks nothing, and waits for nobody.
      if (find()?.token !== claim.token) throw claimLost(claim);
      await tables.lock(transaction, `partitions/${key}`, parts.lockTimeoutMs);
      const row = find();
      if (row?.token !== claim.token) throw claimLost(claim);
      const { nextOffset } = row;
      const recorded = await recordChunk(parts, transaction, claim, row, records);
      return { nextOffset, recorded, mayBeParked: row.parked };
    });
    // Behind the lock: what chunks before this one have parked is there to be seen.
    const probed = opened.mayBeParked
      ? await connection.run("probe", (own) => probe(parts, own, claim), { writes: false })
      : nothingParked;
    const recorded = withParked(opened.recorded, records, probed);
    const { nextOffset } = opened;
    const found = { nextOffset, recorded, parkedLeft: probed.left };
    return new Chunk(parts, connection, begun, claim, found);
  } catch (error) {
    await connection.rollback();
    pool.release(connection);
    throw translated(`chunk of ${nameOf(claim)}`, error);
  }
}

interface Opened {
  readonly nextOffset: bigint;
  readonly recorded: readonly Recorded[];
  /** Whether anything of the partition is parked. */
  readonly parkedLeft: boolean;
}

class Chunk implements ChunkTransaction<MemoryTx> {
  readonly nextOffset: bigint;
  readonly recorded: readonly Recorded[];
  readonly #parts: StorageParts;
  readonly #connection: Connection;
  readonly #begun: Transaction;
  readonly #claim: PartitionClaim;
  #parked: boolean;
  #over = false;
  #destroyed = false;
  #firstFailure: unknown = null;

  constructor(
    parts: StorageParts,
    connection: Connection,
    begun: Transaction,
    claim: PartitionClaim,
    opened: Opened,
  ) {
    this.#parts = parts;
    this.#connection = connection;
    this.#begun = begun;
    this.#claim = claim;
    this.nextOffset = opened.nextOffset;
    this.recorded = opened.recorded;
    this.#parked = opened.parkedLeft;
  }

  readonly handle = (use?: { readonly shared: boolean }): HandlerHandle<MemoryTx> =>
    handlerHandle(this.#parts, use?.shared === true, {
      connection: this.#connection,
      ended: () => this.#over,
      failed: (error) => {
        this.#firstFailure ??= error;
      },
    });

  readonly commit = async (
    nextOffset: bigint,
    mark: LogMark,
    toPark: readonly ToPark[] = [],
  ): Promise<void> => {
    if (this.#over) throw new TransactionFinishedError("this chunk has ended already");
    this.#over = true;
    const doing = `commit of ${nameOf(this.#claim)}`;
    try {
      if (this.#connection.lost) throw lostBefore(doing, this.#firstFailure);
      if (toPark.length > 0) await this.#park(doing, toPark);
      await this.#advance(doing, nextOffset, mark);
      await commitOf(doing, this.#connection, this.#begun, this.#firstFailure);
    } catch (error) {
      if (!(await this.#connection.rollback())) this.#destroyed = true;
      throw translated(doing, error);
    } finally {
      this.#parts.pool.release(this.#connection);
    }
  };

  readonly rollback = async (): Promise<boolean> => {
    if (this.#over) return !this.#destroyed;
    this.#over = true;
    const clean = await this.#connection.rollback();
    this.#parts.pool.release(this.#connection);
    if (!clean) this.#destroyed = true;
    return clean;
  };

  readonly destroy = (): void => {
    if (this.#destroyed) return;
    const release = !this.#over;
    this.#over = true;
    this.#destroyed = true;
    this.#connection.cut();
    if (release) this.#parts.pool.release(this.#connection);
  };

  async #advance(doing: string, nextOffset: bigint, mark: LogMark): Promise<void> {
    const { tables } = this.#parts.database;
    const key = partitionKey(this.#claim);
    if (this.#begun.aborted !== null && this.#connection.transaction === this.#begun) {
      throw aborted(doing, this.#firstFailure ?? this.#begun.aborted);
    }
    await this.#connection.run("advance", (transaction) => {
      if (transaction !== this.#begun) throw endedEarly(doing);
      const row = tables.get(transaction, "partitions", key) as PartitionRow | undefined;
      if (row?.token !== this.#claim.token || row.nextOffset !== this.nextOffset) {
        throw claimLost(this.#claim);
      }
      const log = { ...mark, last: mark.last ?? row.log.last };
      const moved = { nextOffset, log, stalledClaims: 0, trying: null, parked: this.#parked };
      tables.write(transaction, "partitions", key, { ...row, ...moved });
    });
  }

  async #park(doing: string, records: readonly ToPark[]): Promise<void> {
    // The advance says so.
    if (this.#begun.aborted !== null) return;
    await this.#connection.run("park", (transaction) => {
      if (transaction === this.#begun) return park(this.#parts, transaction, this.#claim, records);
      // Else it might be committed at once, on its own.
      throw endedEarly(doing);
    });
    this.#parked = true;
  }
}

export function nameOf({ consumer, topic, partition }: PartitionClaim): string {
  return `${topic}/${partition} for ${consumer}`;
}
