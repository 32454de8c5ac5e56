/** Who holds a partition's row that somebody waited for in vain. Looks only; ends nobody. */
import { type PartitionRef, StorageError } from "@oncebox/core";
import type { BlockerRow, ClaimQueries } from "./claim-queries.ts";
import type { Connection } from "./connections.ts";

/** The first of these rows that is still held. The connection is outside a transaction here. */
export async function blockerOf(
  connection: Connection,
  claims: ClaimQueries,
  { consumer, topic }: Pick<PartitionRef, "consumer" | "topic">,
  partitions: readonly number[],
): Promise<BlockerRow | null> {
  try {
    const { rows } = await connection.run<BlockerRow & Record<string, unknown>>(
      claims.blocker(consumer, topic, partitions),
    );
    return rows[0] ?? null;
  } catch {
    // Only words are missing then.
    return null;
  }
}

/** `doing` is what could not be done, in words: "topic/0 could not be claimed". */
export function lockTimeout(
  doing: string,
  waitMs: number,
  blocker: BlockerRow | null,
  options: { readonly cause: unknown; readonly details: Readonly<Record<string, unknown>> },
): StorageError {
  const who =
    blocker === null
      ? "by a transaction that has ended meanwhile"
      : `by backend ${blocker.pid} (${blocker.state ?? "state unknown"}, transaction open for ${blocker.transaction_age_ms ?? "?"} ms)`;
  return new StorageError(
    "claim-timeout",
    `${doing} within ${waitMs} ms: its row is locked ${who}`,
    {
      cause: options.cause,
      retryable: true,
      details: {
        ...options.details,
        waitMs,
        ...(blocker === null
          ? {}
          : {
              blockingPid: blocker.pid,
              blockingState: blocker.state,
              blockingApplication: blocker.application,
              blockingTransactionAgeMs: numberOf(blocker.transaction_age_ms),
              blockingStateAgeMs: numberOf(blocker.state_age_ms),
            }),
      },
    },
  );
}

function numberOf(value: bigint | null): number | null {
  return value === null ? null : Number(value);
}
