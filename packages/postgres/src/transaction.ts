/** T1: a transaction of the caller's, confirmed by the answer to COMMIT of itself. */
import { randomUUID } from "node:crypto";
import { CommitUnknownError, StorageError } from "@oncebox/core";
import type { Connection, Connections } from "./connections.ts";
import { rollBack } from "./handler-transaction.ts";
import type { Handles } from "./handles/handles.ts";
import { provesRollback, type StorageErrors, sqlState } from "./postgres-errors.ts";

export interface TransactionParts<Tx> {
  readonly connections: Connections;
  readonly handles: Handles<Tx>;
  readonly errors: StorageErrors;
}

export async function runTransaction<Tx, R>(
  { connections, handles, errors }: TransactionParts<Tx>,
  work: (tx: Tx) => Promise<R>,
): Promise<R> {
  const connection = await connections.acquire();
  const own = await ownOf(handles, connection);
  let over = false;
  let firstFailure: unknown;
  let several = false;
  const tx = own.handle({
    ended: () => over,
    failed: (error) => {
      firstFailure ??= error;
      connection.saw(error);
    },
    several: () => {
      several = true;
    },
  });
  // Marks this transaction: `…; commit; begin` in one text would pass for it else. The mark is only
  // asked for where such a text was sent, since asking takes as long as a small statement.
  const mark = randomUUID();
  let result: R;
  try {
    await connection
      .script(`BEGIN; SET LOCAL oncebox.transaction = '${mark}'`)
      .catch((error: unknown) => {
        throw errors.translated("transaction", error);
      });
    result = await work(tx);
  } catch (error) {
    over = true;
    await rollBack(connection);
    own.over(false);
    throw error;
  }
  over = true;
  // Known already to be outside of any transaction: then it asks, and is told.
  const outside = connection.client.getTransactionStatus?.() === "I";
  let committed = false;
  try {
    await commit(connection, errors, several || outside ? mark : null, () => firstFailure);
    committed = true;
  } finally {
    own.over(committed);
  }
  return result;
}

/** The handles of this connection, which is given back where there are none. */
async function ownOf<Tx>(handles: Handles<Tx>, connection: Connection) {
  try {
    return await handles.own(connection.client);
  } catch (error) {
    connection.release();
    throw error;
  }
}

async function commit(
  connection: Connection,
  errors: StorageErrors,
  mark: string | null,
  firstFailure: () => unknown,
): Promise<void> {
  let command: string;
  if (connection.lost()) {
    connection.destroy();
    throw new StorageError("storage-unavailable", "the connection was lost before the commit", {
      cause: firstFailure(),
      retryable: true,
    });
  }
  try {
    // One message: where the first statement raises, the server does not run the second.
    const check =
      mark === null
        ? ""
        : `SELECT 1 / (current_setting('oncebox.transaction', true) IS NOT DISTINCT FROM '${mark}')::int; `;
    ({ command } = await connection.script(`${check}COMMIT`));
  } catch (error) {
    if (!provesRollback(error)) {
      connection.destroy();
      throw new CommitUnknownError("transaction: the connection was lost before the reply", {
        cause: error,
      });
    }
    await rollBack(connection);
    const state = sqlState(error);
    // Where nothing was asked it is a constraint's that was deferred to this moment.
    if (state === "22012" && mark !== null) {
      throw new StorageError(
        "transaction-ended-early",
        "the work ended the transaction it was given: what it committed may stay",
        { cause: error },
      );
    }
    if (state === "25P02") throw aborted(firstFailure() ?? error);
    throw errors.translated("transaction", error);
  }
  connection.release();
  if (command !== "COMMIT") throw aborted(firstFailure());
}

function aborted(cause: unknown): StorageError {
  return new StorageError(
    "transaction-aborted",
    "a statement in the transaction failed and its error was swallowed: nothing was committed. Use a SAVEPOINT around what may fail",
    { cause },
  );
}
