/** What can be done to a memory cluster from outside: the faults, as a test orders them. */
import type { GroupOffset, OutgoingRecord, RecordBatch, TopicPartition } from "@oncebox/core";

/**
 * What becomes of a batch. `stale`: handed over after the next assignment, with its old number.
 * `late`: handed over so much later, whatever happens meanwhile. `twice`, `lost`: as they say.
 */
export type BatchFault =
  | { readonly kind: "stale" | "twice" | "lost" }
  | { readonly kind: "late"; readonly ms: number };

/**
 * What becomes of a commit of group offsets. `lost`: it never arrives. `reply-lost`: stored, and said
 * to have failed. `accepted`: stored, whoever commits and whatever he owns.
 */
export type OffsetCommitFault = "lost" | "reply-lost" | "accepted";

/**
 * What becomes of the records of one call for one partition. `unknown-late`: stored after so long,
 * perhaps behind what was sent later.
 */
export type PublishFault =
  | { readonly kind: "unknown-stored" | "unknown-lost" | "refused-message" | "refused-topic" }
  | { readonly kind: "unknown-late"; readonly ms: number };

export interface BrokerFaults {
  /** Asked for each batch before it is handed over; null: nothing goes wrong. */
  onBatch: ((member: string, batch: RecordBatch) => BatchFault | null) | null;
  /** Asked for each commit of group offsets. */
  onCommit:
    | ((member: string, positions: readonly GroupOffset[]) => OffsetCommitFault | null)
    | null;
  /** Asked once for each partition of a call of `publish`. */
  onPublish:
    | ((at: TopicPartition, records: readonly OutgoingRecord[]) => PublishFault | null)
    | null;
  /** Hands over records of open and aborted transactions: a client that does not filter. */
  readUncommitted: boolean;
  /** While it lasts no broker can be reached. */
  readonly outage: (on: boolean) => void;
  /** The partition cannot be fetched, for this reason; null: it can again. */
  readonly trouble: (at: TopicPartition, error: Error | null) => void;
  /** Everyone in the group has to join again. */
  readonly rebalance: (groupId: string) => void;
  /** The group forgets the member as if its session had run out; it hears of it later. */
  readonly expel: (member: string) => void;
  /** The process stands still: no heartbeat, no callback, until it thaws and goes on where it was. */
  readonly freeze: (member: string) => void;
  readonly thaw: (member: string) => void;
  /** Keeps its membership and answers nothing more: a client that hangs. */
  readonly mute: (member: string) => void;
  /** The client dies: it says so by `failed`, and does not leave its group. */
  readonly crash: (member: string, error?: Error) => void;
}
