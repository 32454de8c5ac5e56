/**
 * From which position a lane may be read. A floor that is too high hides a row for good, or shows
 * it after a later one of its key; positions become visible out of order, so the highest one seen
 * is no floor. Pure decisions; lanes.ts keeps them.
 *
 * The rule. Every row takes its transaction's id before its position. A settling transaction makes
 * its own id x after the reads before it were answered, so whoever owns a position at or below the
 * highest one they returned has an id below x: that pair is a mark. When a later snapshot shows no
 * transaction below or at x running (xmin > x), all those rows are visible in it or rolled back, so
 * nothing can appear at or below the mark any more. Then, and only then, the floor may rise: to the
 * mark, or to just below the lowest row that this very snapshot shows unpublished.
 *
 * Rules that look right and lose rows: taking the row's own xid below xmin as enough; taking the
 * snapshot's xmax for x (it is the last *completed* id + 1, so a running transaction may have a
 * higher one and a lower position); reading the sequence and the snapshot in one statement.
 */

interface Mark {
  readonly position: bigint;
  readonly xid: bigint;
}

export interface Floor {
  /** Reading starts above it. */
  readonly floor: bigint;
  /** Highest position that any answered read returned. */
  readonly highest: bigint;
  /**
   * The oldest mark that is not due yet and the newest: the oldest so that a floor rises at all
   * while settling goes on, the newest so that it rises far.
   */
  readonly marks: readonly Mark[];
}

export function floorAt(floor: bigint): Floor {
  return { floor, highest: floor, marks: [] };
}

/** A read was answered. `highest`: of the rows it returned in this lane. */
export function afterRead(state: Floor, highest: bigint): Floor {
  return highest > state.highest ? { ...state, highest } : state;
}

/** A settling transaction was answered. `highest`: as it was when the transaction was sent. */
export function afterSettle(state: Floor, highest: bigint, xid: bigint): Floor {
  const [oldest, newest] = state.marks;
  const known = newest ?? oldest;
  if (highest <= state.floor || (known !== undefined && highest <= known.position)) return state;
  const mark = { position: highest, xid };
  return { ...state, marks: oldest === undefined ? [mark] : [oldest, mark] };
}

/**
 * What a read's snapshot allows. `lowest`: the lowest row of the lane above the floor that it shows,
 * read before or not; null where there is none.
 */
export function risen(state: Floor, xmin: bigint, lowest: bigint | null): Floor {
  const due = state.marks.filter((mark) => xmin > mark.xid).at(-1);
  if (due === undefined) return state;
  const marks = state.marks.filter((mark) => mark.position > due.position);
  const top = lowest !== null && lowest <= due.position ? lowest - 1n : due.position;
  return { ...state, marks, floor: top > state.floor ? top : state.floor };
}

/** A sweep found a row where none could be: it stays readable until it is published. */
export function lowered(state: Floor, lowest: bigint): Floor {
  return lowest <= state.floor ? { ...state, floor: lowest - 1n } : state;
}
