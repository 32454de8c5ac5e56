/**
 * The statements of what an operator asks for, and of what is asked beside the chunks, as pure
 * functions; see queries.ts for what a statement is.
 *
 *   oncebox_registered, oncebox_positions whether, and where, a consumer stands
 *   oncebox_lost_claims                   which of many claims were taken over
 *   oncebox_seek_lock, oncebox_seek       positions moved by hand or by a policy
 *   oncebox_adopt_taken                   topics that cannot be adopted any more
 *   oncebox_audit, oncebox_audit_log      who did what, and why
 */
import type { AuditEntry, Move, PartitionClaim } from "@oncebox/core";
import { type LogColumns, logColumns } from "./claim-queries.ts";
import { nowMs } from "./pruning-queries.ts";
import { define, quoted, type Statement } from "./queries.ts";
import { plainArray, textArray } from "./wire.ts";

/** Rows of `oncebox_positions`: at least one, with nulls from `topic` on where there is no row. */
export interface PositionRow extends LogColumns {
  readonly group_id: string | null;
  readonly incarnation: string;
  readonly now: bigint;
  readonly topic: string | null;
  readonly partition: number;
  readonly next_offset: bigint;
  readonly epoch: bigint;
  readonly owner: string | null;
}

/** A partition to move, as it is behind its lock. */
export interface LockedRow {
  readonly consumer: number;
  readonly partition: number;
  readonly next_offset: bigint;
  readonly token: string | null;
}

export interface AuditRow {
  readonly id: bigint;
  readonly at: bigint;
  readonly actor: string;
  readonly action: AuditEntry["action"];
  readonly reason: string;
  /** JSON. */
  readonly details: string;
}

export interface OperatorQueries {
  readonly registered: (consumer: string, topic: string) => Statement;
  readonly positions: (consumer: string) => Statement;
  readonly lostClaims: (claims: readonly PartitionClaim[]) => Statement;
  readonly seekLock: (consumer: string, topic: string, partitions: readonly number[]) => Statement;
  readonly seek: (
    consumer: number,
    seek: {
      readonly topic: string;
      readonly topicId: string | null;
      readonly moves: readonly Move[];
      readonly replay: boolean;
    },
  ) => Statement;
  readonly adoptTaken: (consumer: number, topics: readonly string[]) => Statement;
  readonly audit: (entry: Omit<AuditEntry, "id" | "at">) => Statement;
  readonly auditLog: (
    consumer: string,
    page: { readonly limit: number; readonly below: bigint | null },
  ) => Statement;
}

export function operatorQueries(schema: string): OperatorQueries {
  const own = `${quoted(schema)}.`;
  return { ...lookQueries(own), ...moveQueries(own), ...auditQueries(own) };
}

// Index: consumers_name_key, inbox_partitions_pkey (its first two columns). Locks nothing.
const registeredText = (own: string) => `
  SELECT EXISTS (
    SELECT FROM ${own}consumers c
    JOIN ${own}inbox_partitions p ON p.consumer = c.id AND p.topic = $2
    WHERE c.name = $1
  ) AS registered`;

// Index: as above, by its first column. Locks nothing: each row is whole, and as it was committed.
// COLLATE: the order must not depend on how a database was created.
const positionsText = (own: string) => `
  SELECT c.group_id, m.incarnation, ${nowMs} AS now, p.topic, p.partition, p.next_offset, p.epoch, p.owner,
    ${logColumns}
  FROM ${own}meta m
  LEFT JOIN ${own}consumers c ON c.name = $1
  LEFT JOIN ${own}inbox_partitions p ON p.consumer = c.id
  ORDER BY p.topic COLLATE "C", p.partition`;

// Index: consumers_name_key, inbox_partitions_pkey, once for each claim. Locks nothing, so an answer
// is old when it comes: it may end work early, and proves nothing. The fence is oncebox_open's.
const lostClaimsText = (own: string) => `
  SELECT g.place
  FROM unnest($1::text[], $2::text[], $3::integer[], $4::uuid[], $5::bigint[]) WITH ORDINALITY
    AS g (consumer, topic, partition, token, next_offset, place)
  LEFT JOIN ${own}consumers c ON c.name = g.consumer
  LEFT JOIN ${own}inbox_partitions p
    ON p.consumer = c.id AND p.topic = g.topic AND p.partition = g.partition
  WHERE (p.token, p.next_offset) IS DISTINCT FROM (g.token, g.next_offset)
  ORDER BY g.place`;

function lookQueries(own: string) {
  const registered = define("registered", registeredText(own), { prepare: false });
  const positions = define("positions", positionsText(own), { prepare: false });
  const lostClaims = define("lost_claims", lostClaimsText(own), { prepare: false });
  return {
    registered: (consumer, topic) => registered(consumer, topic),
    positions: (consumer) => positions(consumer),
    lostClaims: (claims) =>
      lostClaims(
        textArray(claims.map((claim) => claim.consumer)),
        textArray(claims.map((claim) => claim.topic)),
        plainArray(claims.map((claim) => claim.partition)),
        plainArray(claims.map((claim) => claim.token)),
        plainArray(claims.map((claim) => claim.nextOffset)),
      ),
  } satisfies Partial<OperatorQueries>;
}

// Index: consumers_name_key, inbox_partitions_pkey. Locks the partitions' rows as a chunk does, so it
// waits, as long as lock_timeout allows, for open chunks, and returns the rows as those left them.
// In order of the partition, so that two seeks never wait for each other in a circle; a chunk holds
// one of these rows at most, and one that waits for a row holds nothing that another chunk wants.
const seekLockText = (own: string) => `
  SELECT p.consumer, p.partition, p.next_offset, p.token
  FROM ${own}consumers c
  JOIN ${own}inbox_partitions p ON p.consumer = c.id
  WHERE c.name = $1 AND p.topic = $2 AND p.partition = ANY ($3::integer[])
  ORDER BY p.partition
  FOR NO KEY UPDATE OF p`;

// Index: inbox_partitions_pkey; the update is HOT. The rows are locked since oncebox_seek_lock. The
// new token is nobody's: whoever held a claim is fenced. The mark of the old position says nothing of
// the new one. What lay below the old position stays known as applied; only where that is to be
// applied again, and where there is something of it above the new position, a replay begins. Claims that
// ended with their processes say nothing of what is read from now on.
const seekText = (own: string) => `
  UPDATE ${own}inbox_partitions p
  SET next_offset = g.next_offset, token = gen_random_uuid(),
    epoch = p.epoch + 1, sought_epoch = p.epoch + 1,
    topic_id = $5, leader_epoch = NULL, last_offset = NULL, last_time = NULL, last_checksum = NULL,
    applied_until = greatest(p.applied_until, p.next_offset),
    replaying = $6 AND g.next_offset < greatest(p.applied_until, p.next_offset),
    replay = p.replay
      + ($6 AND g.next_offset < greatest(p.applied_until, p.next_offset))::integer,
    stalled_claims = 0, trying_offset = NULL, trying_claims = 0, trying_epoch = NULL
  FROM unnest($3::integer[], $4::bigint[]) AS g (partition, next_offset)
  WHERE p.consumer = $1 AND p.topic = $2 AND p.partition = g.partition`;

// Index: inbox_partitions_pkey, by its first two columns. Locks nothing: the lock of the registration
// is held for each of these topics, so nobody inserts meanwhile.
const adoptTakenText = (own: string) => `
  SELECT DISTINCT topic COLLATE "C" AS topic FROM ${own}inbox_partitions
  WHERE consumer = $1 AND topic = ANY ($2::text[]) ORDER BY 1`;

function moveQueries(own: string) {
  const seekLock = define("seek_lock", seekLockText(own), { prepare: false });
  const seek = define("seek", seekText(own), { prepare: false });
  const adoptTaken = define("adopt_taken", adoptTakenText(own), { prepare: false });
  return {
    seekLock: (consumer, topic, partitions) => seekLock(consumer, topic, plainArray(partitions)),
    seek: (consumer, { topic, topicId, moves, replay }) =>
      seek(
        ...[consumer, topic],
        plainArray(moves.map((move) => move.partition)),
        plainArray(moves.map((move) => move.to)),
        ...[topicId, replay],
      ),
    adoptTaken: (consumer, topics) => adoptTaken(consumer, textArray(topics)),
  } satisfies Partial<OperatorQueries>;
}

// Locks nothing. Returns nothing, so that whoever writes the log need not be allowed to read it.
const auditText = (own: string) => `
  INSERT INTO ${own}audit_log (consumer, actor, action, reason, details)
  VALUES ($1, $2, $3, $4, $5::jsonb)`;

// Index: audit_log_consumer, downwards from where the page before ended. Locks nothing.
const auditLogText = (own: string) => `
  SELECT id, floor(extract(epoch FROM at) * 1000)::bigint AS at, actor, action, reason,
    details::text AS details
  FROM ${own}audit_log
  WHERE consumer = $1 AND id < coalesce($2, 9223372036854775807)
  ORDER BY id DESC LIMIT $3`;

function auditQueries(own: string) {
  const audit = define("audit", auditText(own), { prepare: false });
  const auditLog = define("audit_log", auditLogText(own), { prepare: false });
  return {
    audit: ({ consumer, actor, action, reason, details }) =>
      audit(consumer, actor, action, reason, JSON.stringify(details)),
    auditLog: (consumer, { limit, below }) => auditLog(consumer, below, limit),
  } satisfies Partial<OperatorQueries>;
}
