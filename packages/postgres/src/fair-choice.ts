/** Which of the rows that were seen make up a batch: lanes take turns. Pure. */
import type { OutboxRow } from "@oncebox/core";

export interface SeenRow {
  readonly position: bigint;
  /** Read before and not settled. */
  readonly pending: boolean;
  readonly bytes: number;
  /** Null where its content was not fetched. */
  readonly row: OutboxRow | null;
}

export interface ReadLimits {
  readonly rows: number;
  readonly bytes: number;
  /** Whether one row is taken whatever its size. */
  readonly any: boolean;
}

export interface Choice {
  readonly rows: readonly OutboxRow[];
  readonly bytes: number;
  /** Whether rows that were seen are not among them. */
  readonly left: boolean;
}

/**
 * First rows of all lanes, second rows of all lanes, and so on, until a limit is reached: a full lane
 * starves no other. Of each lane the lowest rows are taken, without a hole: a later row of a key
 * never goes before an earlier one.
 */
export function chooseFairly(
  lanes: ReadonlyMap<number, readonly SeenRow[]>,
  limits: ReadLimits,
): Choice {
  const rows: OutboxRow[] = [];
  let bytes = 0;
  let waiting = [...lanes.values()]
    .map((seen) => seen.filter((row) => !row.pending))
    .filter((seen) => seen.length > 0);
  let left = false;
  for (let turn = 0; waiting.length > 0; turn += 1) {
    const next: typeof waiting = [];
    for (const seen of waiting) {
      const { row, bytes: size } = seen[turn] as SeenRow;
      if (row === null) {
        // Nothing behind it in this lane either.
        left = true;
        continue;
      }
      const fits = bytes + size <= limits.bytes || (limits.any && rows.length === 0);
      if (rows.length === limits.rows || !fits) return { rows, bytes, left: true };
      rows.push(row);
      bytes += size;
      if (seen.length > turn + 1) next.push(seen);
    }
    waiting = next;
  }
  return { rows, bytes, left };
}
