/**
 * The statements of claims, as pure functions; see queries.ts for what a statement is.
 *
 *   oncebox_claim, oncebox_blocker        claim of a partition; who holds it up
 *   oncebox_left, oncebox_trying          what is noted about a claim
 */
import type { PartitionClaim, PartitionRef } from "@oncebox/core";
import { define, quoted, type Statement } from "./queries.ts";
import { plainArray } from "./wire.ts";

/** The columns of a partition's row that say which log its position belongs to. */
export interface LogColumns {
  readonly topic_id: string | null;
  readonly leader_epoch: number | null;
  readonly last_offset: bigint | null;
  readonly last_time: bigint | null;
  readonly last_checksum: number | null;
}

export interface ClaimedRow extends LogColumns {
  readonly consumer: number;
  readonly token: string;
  readonly epoch: bigint;
  readonly next_offset: bigint;
  /** Which replay the range below `applied_until` is in; 0: none. */
  readonly replay: number;
  readonly applied_until: bigint;
  readonly sought_epoch: bigint;
  readonly stalled_claims: number;
  readonly trying_offset: bigint | null;
  readonly trying_claims: number;
  readonly incarnation: string;
}

export interface BlockerRow {
  readonly partition: number;
  readonly pid: number;
  readonly state: string | null;
  readonly application: string | null;
  readonly transaction_age_ms: bigint | null;
  readonly state_age_ms: bigint | null;
}

export interface ClaimQueries {
  readonly claim: (ref: PartitionRef & { readonly owner: string }) => Statement;
  readonly blocker: (consumer: string, topic: string, partitions: readonly number[]) => Statement;
  readonly left: (claim: PartitionClaim) => Statement;
  readonly trying: (claim: PartitionClaim, offset: bigint) => Statement;
}

/** Columns of a partition's row, called p: see LogColumns. */
export const logColumns = "p.topic_id, p.leader_epoch, p.last_offset, p.last_time, p.last_checksum";

// Index: consumers_name_key, inbox_partitions_pkey. Locks the partition's row; waits, as long as
// lock_timeout allows, for the open transaction of the previous holder, then counts on from the
// row as that one left it. The token is made here: no process can guess or repeat one. What a seek
// and the last chunk left is told and stays, but that this claim counts until something moves.
const claimText = (own: string) => `
  UPDATE ${own}inbox_partitions p
  SET token = gen_random_uuid(), epoch = p.epoch + 1, owner = $4, claimed_at = clock_timestamp(),
    stalled_claims = p.stalled_claims + 1
  FROM ${own}consumers c
  WHERE c.name = $1 AND p.consumer = c.id AND p.topic = $2 AND p.partition = $3
  RETURNING c.id AS consumer, p.token, p.epoch, p.next_offset, ${logColumns},
    CASE WHEN p.replaying THEN p.replay ELSE 0 END AS replay, p.applied_until, p.sought_epoch,
    p.stalled_claims, p.trying_offset, p.trying_claims,
    (SELECT incarnation FROM ${own}meta) AS incarnation`;

// Index: as above. Locks nothing. The transaction that holds a row stands in its xmax, and holds
// its own id as a lock: so the backend is found after the wait is over.
const blockerText = (own: string) => `
  SELECT p.partition, a.pid, a.state, a.application_name AS application,
    round(extract(epoch FROM clock_timestamp() - a.xact_start) * 1000)::bigint
      AS transaction_age_ms,
    round(extract(epoch FROM clock_timestamp() - a.state_change) * 1000)::bigint AS state_age_ms
  FROM ${own}consumers c
  JOIN ${own}inbox_partitions p
    ON p.consumer = c.id AND p.topic = $2 AND p.partition = ANY ($3::integer[])
  JOIN pg_locks l ON l.locktype = 'transactionid' AND l.transactionid = p.xmax AND l.granted
  JOIN pg_stat_activity a ON a.pid = l.pid
  WHERE c.name = $1
  LIMIT 1`;

// Index: consumers_name_key, inbox_partitions_pkey; the update is HOT. Locks the partition's row,
// waits for an open chunk as long as lock_timeout allows, and counts on from the row as that one left
// it. No token is asked for: whoever holds the partition by now has counted this claim as stalled. A
// lower epoch is that of a database that was set back, which knows nothing of this claim.
const leftText = (own: string) => `
  UPDATE ${own}inbox_partitions p
  SET stalled_claims = greatest(p.stalled_claims - 1, 0),
    trying_claims = p.trying_claims - (p.trying_epoch IS NOT DISTINCT FROM $4)::integer,
    trying_offset = CASE
      WHEN p.trying_epoch = $4 AND p.trying_claims <= 1 THEN NULL ELSE p.trying_offset
    END,
    trying_epoch = CASE
      WHEN p.trying_epoch = $4 AND p.trying_claims <= 1 THEN NULL ELSE p.trying_epoch
    END
  FROM ${own}consumers c
  WHERE c.name = $1 AND p.consumer = c.id AND p.topic = $2 AND p.partition = $3 AND p.epoch >= $4`;

// Index: as above. Locks and waits as above. By token, like all that a claim writes. A claim counts
// once for one record, however often it tries that.
const tryingText = (own: string) => `
  UPDATE ${own}inbox_partitions p
  SET trying_claims = CASE
      WHEN p.trying_offset IS DISTINCT FROM $6 THEN 1
      ELSE p.trying_claims + (p.trying_epoch IS DISTINCT FROM $5)::integer
    END,
    trying_offset = $6, trying_epoch = $5
  FROM ${own}consumers c
  WHERE c.name = $1 AND p.consumer = c.id AND p.topic = $2 AND p.partition = $3 AND p.token = $4`;

export function claimQueries(schema: string): ClaimQueries {
  const own = `${quoted(schema)}.`;
  const claim = define("claim", claimText(own));
  const blocker = define("blocker", blockerText(own), { prepare: false });
  const left = define("left", leftText(own), { prepare: false });
  const trying = define("trying", tryingText(own), { prepare: false });
  return {
    claim: (ref) => claim(ref.consumer, ref.topic, ref.partition, ref.owner),
    blocker: (consumer, topic, partitions) => blocker(consumer, topic, plainArray(partitions)),
    left: ({ consumer, topic, partition, epoch }) => left(consumer, topic, partition, epoch),
    trying: ({ consumer, topic, partition, token, epoch }, offset) =>
      trying(consumer, topic, partition, token, epoch, offset),
  };
}
