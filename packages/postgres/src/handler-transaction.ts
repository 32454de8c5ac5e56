/**
 * One transaction that handlers work in: begun and proved by one statement, ended by a last one that
 * proves that it is still the same, and COMMIT. What those two statements are, is said by who extends
 * it. Decides nothing; it says what happened.
 *
 *   BEGIN ─ first ──▶ handles ──▶ kept rows ─ last ─ COMMIT ──▶ (released)
 *              │         │                      │
 *              └─────────┴─────── ROLLBACK ─────┴──▶ (released), or destroyed where in doubt
 *
 * What handlers enqueue waits for the commit where the connection is pipelined: one statement for all of
 * them, and no handler waits for its answer. Not behind a savepoint, which may take rows back.
 */
import {
  type ClaimLostError,
  CommitUnknownError,
  type HandlerTransaction,
  type OutboxEntry,
  StorageError,
  TransactionFinishedError,
} from "@oncebox/core";
import type { QueryResult, QueryResultRow } from "pg";
import { beginChunkScript, type Limits } from "./begin.ts";
import type { Connection, Connections } from "./connections.ts";
import type { Handles, Hold, OwnTransaction } from "./handles/handles.ts";
import type { OutboxQueries } from "./outbox-queries.ts";
import { neverSent, provesRollback, type StorageErrors, sqlState } from "./postgres-errors.ts";
import type { Statement } from "./queries.ts";

export interface HandlerParts<Tx> {
  readonly connections: Connections;
  readonly handles: Handles<Tx>;
  readonly errors: StorageErrors;
  readonly outbox: OutboxQueries;
  readonly limits: Limits;
  /** Ends, if it still runs, the backend whose transaction this is. Never rejects. */
  readonly terminate: (xid: bigint) => void;
}

/** What is being done in the transaction, in words. */
export interface Undertaking {
  /** What it belongs to: "topic/0 for consumer". */
  readonly name: string;
  /** What a handler that ends the transaction early does not bring about. */
  readonly undone: string;
  /** Where the right to do it is held no more. */
  readonly fenced: (cause?: unknown) => ClaimLostError;
}

/** Takes a connection for a transaction. Where the work fails it is rolled back and given back. */
export async function opening<T>(
  { connections, errors }: Pick<HandlerParts<unknown>, "connections" | "errors">,
  doing: string,
  work: (connection: Connection) => Promise<T>,
): Promise<T> {
  const connection = await connections.acquire();
  try {
    return await work(connection);
  } catch (error) {
    await rollBack(connection);
    throw errors.translated(doing, error);
  }
}

/** BEGIN and the first statement, which answers one row and gives lock_timeout back. */
export async function begun<R extends QueryResultRow>(
  limits: Limits,
  connection: Connection,
  first: Statement,
): Promise<R> {
  const beginning = connection.script(beginChunkScript(limits));
  if (!connection.pipelined) await beginning;
  const running = connection.run<R>(first);
  const [begin, answer] = await Promise.allSettled([beginning, running]);
  if (begin.status === "rejected") throw begin.reason;
  if (answer.status === "rejected") throw answer.reason;
  const [row] = answer.value.rows;
  if (row === undefined) throw new TypeError(`${first.name} answered nothing`);
  return row;
}

/** Of what is kept for the commit. From so much on it is sent, and whoever enqueues waits. */
const keptRowsMax = 1_000;
const keptBytesMax = 1_048_576;

/** What was given may be used again by whoever gave it. Not by `slice`: that of a Buffer is no copy. */
function copied({ key, value, headers, ...row }: OutboxEntry): OutboxEntry {
  const copy = (bytes: Uint8Array | null) => (bytes === null ? null : new Uint8Array(bytes));
  return {
    ...row,
    key: copy(key),
    value: copy(value),
    headers: headers.map(([name, bytes]) => [name, copy(bytes)]),
  };
}

function bytesOf({ key, value, headers }: OutboxEntry): number {
  const ofHeaders = headers.reduce((sum, [name, bytes]) => sum + name.length + length(bytes), 0);
  return length(key) + length(value) + ofHeaders;
}

function length(bytes: Uint8Array | null): number {
  return bytes?.length ?? 0;
}

/** Extended by what knows the last statement. */
export class OpenTransaction<Tx> implements HandlerTransaction<Tx> {
  readonly #parts: HandlerParts<Tx>;
  readonly #connection: Connection;
  readonly #own: OwnTransaction<Tx>;
  readonly #undertaking: Undertaking;
  readonly #xid: bigint;
  #over = false;
  #destroyed = false;
  /** The first statement of a handler that failed: the reason why the transaction is aborted. */
  #firstFailure: unknown;
  /** Rows that are sent with the commit, and their bytes. */
  #kept: OutboxEntry[] = [];
  #keptBytes = 0;
  #keeps: boolean;

  constructor(
    parts: HandlerParts<Tx>,
    connection: Connection,
    own: OwnTransaction<Tx>,
    undertaking: Undertaking,
    xid: bigint,
  ) {
    this.#parts = parts;
    this.#connection = connection;
    this.#own = own;
    this.#undertaking = undertaking;
    this.#xid = xid;
    this.#keeps = connection.pipelined;
  }

  readonly handle: HandlerTransaction<Tx>["handle"] = (use) => {
    let over = false;
    let refused = false;
    if (use?.immediate === true) this.#keepNoMore();
    const shared = () => {
      refused = true;
    };
    const tx = this.#own.handle({
      ended: () => over || this.#over,
      failed: this.#failed,
      shared: use?.shared === true ? { refused: shared } : undefined,
      later: this.#keeps ? this.#later : undefined,
    });
    return {
      tx,
      end: () => {
        over = true;
      },
      refused: () => refused,
    };
  };

  readonly #failed = (error: unknown): void => {
    this.#firstFailure ??= error;
    this.#connection.saw(error);
  };

  readonly #later: Hold["later"] = {
    keep: (rows) => {
      // What is known to be over is told at once, by whoever sends.
      if (!this.#keeps || this.#isOver()) return null;
      for (const row of rows) {
        const copy = copied(row);
        this.#kept.push(copy);
        this.#keptBytes += bytesOf(copy);
      }
      const many = this.#kept.length >= keptRowsMax || this.#keptBytes >= keptBytesMax;
      return many ? this.#sendKept() : Promise.resolve();
    },
    savepoint: () => this.#keepNoMore(),
  };

  /** Whether the connection is lost, or a handler has ended the transaction, as far as answers tell. */
  #isOver(): boolean {
    const { client, lost } = this.#connection;
    return lost() || client.getTransactionStatus?.() === "I";
  }

  /** Sends what was kept, ahead of what comes next; what is enqueued from now on is sent at once. */
  #keepNoMore(): void {
    this.#keeps = false;
    // Where it fails, so does all that is sent behind it, and the commit says why.
    this.#sendKept().catch(() => {});
  }

  async #sendKept(): Promise<void> {
    const [statement] = this.#takeKept();
    if (statement === undefined) return;
    try {
      await this.#connection.runBehindHandlers(statement);
    } catch (error) {
      this.#failed(error);
      throw this.#parts.errors.translated("enqueue", error);
    }
  }

  #takeKept(): Statement[] {
    const rows = this.#kept;
    this.#kept = [];
    this.#keptBytes = 0;
    return rows.length === 0 ? [] : [this.#parts.outbox.enqueue(rows, this.#xid)];
  }

  /**
   * Sends what was kept, these and COMMIT. The last one must raise where it changes nothing, since
   * COMMIT may be on its way behind it: 22012 where the right to do it is gone, 2201F in any other
   * transaction.
   */
  protected async commitBehind(statements: readonly Statement[]): Promise<void> {
    if (this.#over) throw new TransactionFinishedError("this transaction has ended already");
    // Dead before the first byte is sent: no handler may slip in between the last two statements.
    this.#over = true;
    let committed = false;
    try {
      await this.#commit(this.#takeKept(), statements);
      committed = true;
    } finally {
      this.#own.over(committed);
    }
  }

  async #commit(kept: readonly Statement[], proving: readonly Statement[]): Promise<void> {
    const connection = this.#connection;
    if (connection.lost()) {
      this.#destroy();
      throw new StorageError(
        connection.limited() ? "storage-conflict" : "storage-unavailable",
        `the connection of ${this.#undertaking.name} was lost before its commit`,
        { cause: this.#firstFailure, retryable: true },
      );
    }
    const running: Promise<PromiseSettledResult<QueryResult>>[] = [];
    for (const statement of [...kept, ...proving]) {
      const answer = settled(connection.run(statement));
      running.push(answer);
      if (connection.pipelined) continue;
      const answered = await answer;
      if (answered.status === "rejected") return this.#notProved(answered.reason, null, true);
    }
    const committing = settled(connection.script("COMMIT"));
    const answers = await Promise.all(running);
    const committed = await committing;
    // The first that failed says why; those behind it only that the transaction is aborted.
    const at = answers.findIndex((answer) => answer.status === "rejected");
    const failed = answers[at];
    if (failed?.status === "rejected") {
      return this.#notProved(failed.reason, committed, at >= kept.length);
    }
    if (committed.status === "rejected") return this.#notCommitted(committed.reason);
    connection.release();
    if (committed.value.command !== "COMMIT") throw this.#aborted(undefined);
  }

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
    // would hold its locks until that ends.
    this.#parts.terminate(this.#xid);
  };

  /**
   * A last statement failed. `committed`: of the COMMIT behind it; null where none was sent. `proving`:
   * it was one that proves the transaction, and not that of the rows that were kept.
   */
  async #notProved(
    error: unknown,
    committed: PromiseSettledResult<QueryResult> | null,
    proving: boolean,
  ): Promise<never> {
    // A refusal by the server aborts the transaction: a COMMIT behind it rolls back.
    const refused = provesRollback(error);
    if (!refused && committed !== null) return this.#notCommitted(error);
    if (committed?.status === "fulfilled") this.#connection.release();
    else if (committed === null && refused) await rollBack(this.#connection);
    else this.#destroy();
    const state = sqlState(error);
    if (state === "25P02") throw this.#aborted(error);
    if (proving && state === "22012") throw this.#undertaking.fenced(error);
    if (proving && state === "2201F") throw this.#endedEarly(error);
    throw this.#parts.errors.translated(`commit of ${this.#undertaking.name}`, error);
  }

  /** COMMIT was answered with an error, or not at all. */
  #notCommitted(error: unknown): never {
    const what = `commit of ${this.#undertaking.name}`;
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
    const { name, undone } = this.#undertaking;
    return new StorageError(
      "transaction-ended-early",
      `a handler of ${name} ended the transaction it was given: what it committed may stay, ${undone}`,
      { cause },
    );
  }

  #aborted(error: unknown): StorageError {
    return new StorageError(
      "transaction-aborted",
      `a statement in the transaction of ${this.#undertaking.name} failed and its error was swallowed: nothing was committed. Use a SAVEPOINT around what may fail`,
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
