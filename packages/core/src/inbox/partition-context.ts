/** What a partition's worker is given: everything it shares with the others of its consumer. */
import type { PartitionClaim, PartitionRef, StorageVerbs } from "../ports/storage.ts";
import type { RunChunk } from "./chunk.ts";
import type { FailurePolicy } from "./failure-policy.ts";
import type { GoOn } from "./lost-position.ts";
import type { Permits } from "./permits.ts";
import type { ReaderContext } from "./reader.ts";

export interface PartitionContext extends ReaderContext {
  readonly storage: StorageVerbs;
  readonly runChunk: RunChunk;
  /** Who claims, for a person who reads the table. */
  readonly owner: string;
  /** Transactions of chunks, and claims, that may be open at once in this consumer. */
  readonly chunks: Permits;
  readonly claims: Permits;
  readonly chunkSizeMax: number;
  readonly chunkBytesMax: number;
  readonly claimWaitMs: number;
  readonly heartbeatIntervalMs: number;
  readonly sessionTimeoutMs: number;
  readonly handlerTimeoutMs: number;
  /** Of this topic's handler. */
  readonly policy: FailurePolicy;
  /** Handlers of different keys that may run at the same time, now; 1: one after another. */
  readonly atOnceMax: () => number;
  /** A handler did what cannot be done beside others: from now on they run one after another. */
  readonly keepOrder: () => void;
  /** Gives a partition without a row its start. */
  readonly register: (topic: string) => Promise<void>;
  /** Where a policy's way on leads to, as numbers. */
  readonly resolve: (
    ref: PartitionRef,
    goOn: GoOn,
  ) => Promise<{ readonly to: bigint; readonly topicId: string | null }>;
  readonly paused: (topic: string) => boolean;
  readonly claimed: (claim: PartitionClaim) => void;
  /** Whether the database as a whole answered; the error where it did not. */
  readonly database: (error: unknown) => void;
  /** The database holds this position under this claim. */
  readonly committed: (claim: PartitionClaim, nextOffset: bigint) => void;
  readonly cut: AbortSignal;
}
