/** I6. The transaction of one parked message that is tried again: its row is gone when it commits. */
import {
  ClaimLostError,
  type HandlerHandle,
  type ParkedTransaction,
  type ParkedTurn,
  TransactionFinishedError,
} from "@oncebox/core";
import type { Connection } from "./connection.ts";
import { translated } from "./database-error.ts";
import { handlerHandle, type MemoryTx } from "./memory-tx.ts";
import { aborted, commitOf, endedEarly } from "./own-transaction.ts";
import { heldRow, lockTurn } from "./parked.ts";
import { isHead, parkedKey } from "./parked-rows.ts";
import type { StorageParts } from "./parts.ts";
import { lostBefore } from "./pool.ts";
import type { Transaction } from "./tables.ts";

/** Throws ClaimLostError. Knows nothing of the partition's row. */
export async function openParked(
  parts: StorageParts,
  turn: ParkedTurn,
): Promise<ParkedTransaction<MemoryTx>> {
  const { pool, database } = parts;
  const connection = await pool.acquire();
  try {
    const begun = connection.begin();
    await connection.run("open-parked", async (transaction) => {
      const row = await lockTurn(parts, transaction, turn);
      if (row === null || !isHead(database, transaction, row)) throw turnLost(turn);
    });
    return new Turn(parts, connection, begun, turn);
  } catch (error) {
    await connection.rollback();
    pool.release(connection);
    throw translated(nameOf(turn), error);
  }
}

class Turn implements ParkedTransaction<MemoryTx> {
  readonly #parts: StorageParts;
  readonly #connection: Connection;
  readonly #begun: Transaction;
  readonly #turn: ParkedTurn;
  #over = false;
  #destroyed = false;
  #firstFailure: unknown = null;

  constructor(parts: StorageParts, connection: Connection, begun: Transaction, turn: ParkedTurn) {
    this.#parts = parts;
    this.#connection = connection;
    this.#begun = begun;
    this.#turn = turn;
  }

  readonly handle = (use?: { readonly shared: boolean }): HandlerHandle<MemoryTx> =>
    handlerHandle(this.#parts, use?.shared === true, {
      connection: this.#connection,
      ended: () => this.#over,
      failed: (error) => {
        this.#firstFailure ??= error;
      },
    });

  readonly commit = async (): Promise<void> => {
    if (this.#over) throw new TransactionFinishedError("this turn has ended already");
    this.#over = true;
    const doing = `commit of ${nameOf(this.#turn)}`;
    try {
      if (this.#connection.lost) throw lostBefore(doing, this.#firstFailure);
      if (this.#begun.aborted !== null && this.#connection.transaction === this.#begun) {
        throw aborted(doing, this.#firstFailure ?? this.#begun.aborted);
      }
      await this.#remove(doing);
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

  /** Last, so that a handler that ends the transaction early does not end its message. */
  async #remove(doing: string): Promise<void> {
    const turn = this.#turn;
    const key = parkedKey(turn, turn.record);
    await this.#connection.run("remove-parked", (transaction) => {
      if (transaction !== this.#begun) throw endedEarly(doing);
      if (heldRow(this.#parts, transaction, turn) === null) throw turnLost(turn);
      this.#parts.database.tables.write(transaction, "parked", key, undefined);
    });
  }
}

function nameOf({ consumer, topic, partition, record }: ParkedTurn): string {
  return `the parked message ${topic}/${partition}, offset ${record.offset}, of ${consumer}`;
}

function turnLost(turn: ParkedTurn): ClaimLostError {
  const { id, consumer, topic, partition } = turn;
  return new ClaimLostError(`${nameOf(turn)} is this turn's no more`, {
    details: { id, consumer, topic, partition },
  });
}
