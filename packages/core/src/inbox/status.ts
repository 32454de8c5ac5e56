/** What a consumer says of itself: for people, for probes, for an operator's page. */
import type { OnceboxError } from "../errors.ts";

/**
 * `claiming`: waits for its claim. `reading`: up to date, or at work. `blocked`: a message fails and
 * is tried again. `displaced`: the position does not fit the log. `paused`: somebody asked for it.
 */
export type PartitionState = "claiming" | "reading" | "blocked" | "displaced" | "paused";

/** One assigned partition. */
export interface PartitionStatus {
  readonly topic: string;
  readonly partition: number;
  readonly state: PartitionState;
  readonly epoch: bigint | null;
  readonly nextOffset: bigint | null;
  /** First offset not yet written, as of the last fetch; null before the first. */
  readonly logEnd: bigint | null;
  /** Messages in the log that are not applied yet, as of the last fetch; null before the first. */
  readonly lag: bigint | null;
  /** Why the partition waits: a failing message, or a position outside the log. */
  readonly blockedBy: OnceboxError | null;
  /** What went wrong last, also where it has passed; null: nothing in this assignment. */
  readonly lastError: unknown;
  /** Milliseconds since the last commit under this assignment; null before the first. */
  readonly sinceProgressMs: number | null;
}

/** For probes. */
export interface Health {
  /**
   * Whether the consumer can do its work now: it has joined its group, and its last contact with the
   * database was good. False while starting, stopping, and during an outage; it turns by itself.
   */
  readonly ready: boolean;
  /**
   * False where a new process may help: the Kafka client fell silent and was built anew several times
   * in a row, although Kafka could be reached. An outage of Kafka or of the database leaves it true.
   */
  readonly live: boolean;
  /** Why not ready, or not live; empty where all is well. */
  readonly reasons: readonly string[];
}
