/**
 * What nobody else would notice: a claim that was taken while there was nothing to do, and a client
 * that is connected and silent. It only looks and tells; the worker and the client act.
 */
import { BrokerError, type OnceboxError } from "../errors.ts";
import type { Clock } from "../ports/clock.ts";
import type { PartitionClaim, PartitionRef } from "../ports/storage.ts";

interface Watched {
  readonly ref: PartitionRef;
  readonly idleClaim: () => PartitionClaim | null;
  readonly claimLost: (claim: PartitionClaim) => void;
  readonly silentMs: () => number;
}

export interface WatchContext {
  readonly name: string;
  readonly clock: Clock;
  readonly intervalMs: number;
  readonly stallAfterMs: number;
  readonly workers: () => readonly Watched[];
  readonly lostClaims: (claims: readonly PartitionClaim[]) => Promise<readonly PartitionClaim[]>;
  /** Whether the database answered; the error where it did not. */
  readonly database: (error: unknown) => void;
  /** For how long a connected client has been without any assignment, in milliseconds. */
  readonly joiningMs: () => number;
  readonly silent: (error: OnceboxError) => void;
}

/** Looks at every interval until the signal is aborted. Never rejects. */
export async function watch(context: WatchContext, signal: AbortSignal): Promise<void> {
  const { clock, intervalMs, name, stallAfterMs, workers, joiningMs } = context;
  while (!signal.aborted) {
    await clock.sleep(intervalMs, signal);
    if (signal.aborted) return;
    await checkClaims(context);
    if (signal.aborted) return;
    const owing = workers().find((worker) => worker.silentMs() > stallAfterMs);
    // Joining takes as long as the slowest member of the group.
    const joining = joiningMs() > 2 * stallAfterMs;
    if (owing === undefined && !joining) continue;
    const { topic, partition } = owing?.ref ?? {};
    const lacks =
      owing === undefined ? "has not joined its group" : `gave no answer for ${topic}/${partition}`;
    const text = `the Kafka client of consumer ${name} is connected but ${lacks} for more than ${stallAfterMs} ms`;
    context.silent(new BrokerError("consumer-silent", text, { retryable: true }));
  }
}

async function checkClaims({ workers, lostClaims, database }: WatchContext): Promise<void> {
  const idle = workers();
  const claims = idle.flatMap((worker) => worker.idleClaim() ?? []);
  if (claims.length === 0) return;
  try {
    const lost = await lostClaims(claims);
    database(null);
    for (const claim of lost) for (const worker of idle) worker.claimLost(claim);
  } catch (error) {
    database(error);
  }
}
