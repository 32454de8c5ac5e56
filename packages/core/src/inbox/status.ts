/** What a consumer says of itself: for people, for probes, for an operator's page. */
import type { OnceboxError } from "../errors.ts";
import type { PartitionClaim, PartitionRef } from "../ports/storage.ts";
import type { Reader } from "./reader.ts";

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
  /** Messages in the log behind the position, as of the last fetch: parked ones are not among them. */
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

/** Where a partition's worker is. */
interface Whereabouts {
  readonly claim: PartitionClaim | null;
  readonly reader: Reader | null;
  readonly paused: boolean;
  readonly nextOffset: bigint | null;
  readonly blockedBy: OnceboxError | null;
  readonly lastError: unknown;
  readonly sinceProgressMs: number | null;
}

export function statusOf({ topic, partition }: PartitionRef, at: Whereabouts): PartitionStatus {
  const { claim, reader, nextOffset, lastError, sinceProgressMs } = at;
  const logEnd = reader?.logEnd ?? null;
  const blockedBy = reader?.lost?.error ?? at.blockedBy;
  return {
    topic,
    partition,
    state: stateOf(at),
    epoch: claim?.epoch ?? null,
    nextOffset,
    logEnd,
    lag: nextOffset === null || logEnd === null ? null : logEnd - nextOffset,
    blockedBy,
    lastError: blockedBy ?? lastError ?? reader?.trouble ?? null,
    sinceProgressMs,
  };
}

function stateOf({ claim, reader, paused, blockedBy }: Whereabouts): PartitionState {
  if (claim === null || reader === null) return "claiming";
  if (reader.lost !== null) return "displaced";
  if (paused) return "paused";
  return blockedBy === null ? "reading" : "blocked";
}

export function healthOf(now: {
  readonly started: boolean;
  readonly stopping: boolean;
  readonly connected: boolean;
  readonly joined: boolean;
  readonly databaseTrouble: boolean;
  readonly live: boolean;
}): Health {
  const reasons: string[] = [];
  if (!now.started) reasons.push("not started");
  else if (now.stopping) reasons.push("stopping");
  else if (!now.connected) reasons.push("no Kafka client: one is being made");
  else if (!now.joined) reasons.push("has not joined its group yet");
  if (now.databaseTrouble) reasons.push("the database cannot be reached");
  const ready = reasons.length === 0;
  if (!now.live) reasons.push("the Kafka client keeps falling silent");
  return { ready, live: now.live, reasons };
}
