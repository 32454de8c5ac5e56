/** Transactions of the storage itself, beside the chunks: no handler runs in them. */
import { CommitUnknownError } from "@oncebox/core";
import { beginScript } from "./begin.ts";
import type { Connection, Connections } from "./connections.ts";
import { rollBack } from "./handler-transaction.ts";
import { provesRollback, type StorageErrors } from "./postgres-errors.ts";

interface OwnParts {
  readonly connections: Connections;
  readonly errors: StorageErrors;
  readonly idleInTransactionTimeoutMs: number | null;
}

/**
 * Begins, works and commits. No lock is waited for longer than `lockTimeoutMs`. Errors are
 * translated; CommitUnknownError where the reply to COMMIT was lost.
 */
export async function ownTransaction<R>(
  { connections, errors, idleInTransactionTimeoutMs }: OwnParts,
  { doing, lockTimeoutMs }: { readonly doing: string; readonly lockTimeoutMs: number },
  work: (connection: Connection) => Promise<R>,
): Promise<R> {
  const connection = await connections.acquire();
  connection.mayWait(lockTimeoutMs);
  let result: R;
  try {
    await connection.script(beginScript({ lockTimeoutMs, idleInTransactionTimeoutMs }));
    result = await work(connection);
  } catch (error) {
    await rollBack(connection);
    throw errors.translated(doing, error);
  }
  try {
    await connection.script("COMMIT");
  } catch (error) {
    if (provesRollback(error)) {
      await rollBack(connection);
      throw errors.translated(doing, error);
    }
    connection.destroy();
    throw new CommitUnknownError(`${doing}: the connection was lost before the reply`, {
      cause: errors.ours(error),
    });
  }
  connection.release();
  return result;
}
