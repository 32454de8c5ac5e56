/**
 * The part of the storage port that forgets message ids, promise I7: only what lies before the window
 * of every partition is deleted, a little at a time, and nobody waits for it.
 */

/** Where the log of a partition ended when Kafka was asked. */
export interface LogEnd {
  readonly topic: string;
  /** Which log that is; null: the broker does not tell. */
  readonly topicId: string | null;
  readonly partition: number;
  /** The offset that the next record would get. */
  readonly end: bigint;
}

/** One step of a walk over the ids of a consumer. */
export interface PruneRequest {
  readonly consumer: string;
  /** How far behind the slowest partition an id is kept, in milliseconds. */
  readonly windowMs: number;
  /**
   * How far the time of a partition's last record may lie beyond the database's clock, in milliseconds:
   * up to there it counts as that clock's, beyond it says nothing.
   */
  readonly aheadMsMax: number;
  /** What is known of the ends. */
  readonly ends: readonly LogEnd[];
  /**
   * The database's clock before the ends were asked for, in milliseconds since 1970: so late is a
   * partition that stands at its end, however much later this comes.
   */
  readonly askedAt: number;
  /** How many ids are looked at, about, and how many are deleted at most. */
  readonly limit: number;
  /** `next` of the step before; null: from the first. */
  readonly from: string | null;
}

export interface Pruned {
  readonly deleted: number;
  /** Where the next step goes on; null: all ids were looked at. */
  readonly next: string | null;
  /**
   * Ids of records before this were deleted, in milliseconds since 1970; null: none, because nothing is
   * known of how far a partition has come.
   */
  readonly before: bigint | null;
  /** The partition that decided, the one of which nothing is known first; null: there is none. */
  readonly slowest: { readonly topic: string; readonly partition: number } | null;
}

export interface PruningVerbs {
  /**
   * I7. Deletes ids of the consumer that are older than the window. Each partition of the consumer has
   * come to the time of its last handled record, never beyond the database's clock; to `askedAt`, nor
   * beyond that clock, where it stands at the end of its log (`ends`, of the same log); and nowhere where
   * neither is known, or its last time is before 1970 or too far ahead: then nothing is deleted. The
   * slowest counts, and without partitions the clock. Ids whose record is parked stay. One statement
   * for `limit` ids: waits for nobody, and holds nothing longer. Where an id is taken again meanwhile,
   * it is new.
   */
  readonly pruneIds: (request: PruneRequest) => Promise<Pruned>;
}
