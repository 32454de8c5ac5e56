/**
 * The relay's side of the outbox: leases of lanes, reading above their floors, settling. Owns the
 * floors in memory, one for each lease; what is stored with the lane is allowed to lag.
 */
import type { LaneLease, LeaseAnswer, LeaseRequest, OutboxRow, Storage } from "@oncebox/core";
import type { Connections } from "./connections.ts";
import { type Choice, chooseFairly, type ReadLimits, type SeenRow } from "./fair-choice.ts";
import { afterRead, afterSettle, type Floor, floorAt, lowered, risen } from "./floors.ts";
import type { LaneRange, LeasedRow, OutboxQueries, ReadRow, SettledRow } from "./outbox-queries.ts";
import { headersOf, numbersOf } from "./wire.ts";

type LaneVerbs = Pick<Storage<never>, "leaseLanes" | "releaseLanes" | "readLanes" | "settleBatch">;

interface Held {
  readonly lane: number;
  readonly relay: string;
  state: Floor;
  /** As it stands in the database. */
  stored: bigint;
  /** Whether the last read left rows of this lane behind: it gets a larger share of the next. */
  full: boolean;
}

/**
 * A floor is stored when it has risen by so many positions, and when its lane is given back. Each
 * time makes a version of the lane's row, which stays while an old snapshot is held; after a crash
 * the next holder passes over at most so many dead rows, once.
 */
const storeEvery = 50_000n;

/** From so many rows in one batch on, an index is clearly cheaper than reading the whole table. */
const backlogRows = 250;

export function createLanes(connections: Connections, queries: OutboxQueries): LaneVerbs {
  return new Lanes(connections, queries);
}

class Lanes implements LaneVerbs {
  readonly #connections: Connections;
  readonly #queries: OutboxQueries;
  readonly #held = new Map<string, Held>();
  /** The server that answered last, by when it was started. */
  #server: string | null = null;
  #turn = 0;
  /**
   * Whether the last read left rows behind. Only then statements are prepared: a plan that the
   * server keeps from a time when the table was empty would read all of it, for each lane, when it
   * is full. In a backlog the plan it keeps is the right one, and planning is a tenth of the work.
   */
  #backlog = false;

  constructor(connections: Connections, queries: OutboxQueries) {
    this.#connections = connections;
    this.#queries = queries;
  }

  readonly leaseLanes = async (request: LeaseRequest): Promise<LeaseAnswer> => {
    const { rows } = await this.#connections.with("lease of outbox lanes", (connection) =>
      connection.run<{ [K in keyof LeasedRow]: LeasedRow[K] }>(this.#queries.lease(request)),
    );
    this.#answeredBy(rows[0]?.server);
    const leases: LaneLease[] = [];
    for (const { lane, token, floor } of rows) {
      if (lane === null || token === null || floor === null) continue;
      leases.push({ lane, token });
      if (!this.#held.has(token)) this.#hold(request.relay, lane, token, floor);
    }
    const tokens = new Set(leases.map((lease) => lease.token));
    for (const [token, held] of this.#held) {
      if (held.relay === request.relay && !tokens.has(token)) this.#held.delete(token);
    }
    return { leases, relays: Number(rows[0]?.relays ?? 1) };
  };

  readonly releaseLanes = async (relay: string, leases: readonly LaneLease[]): Promise<void> => {
    const floors = leases.map((lease) => ({
      ...lease,
      floor: this.#held.get(lease.token)?.state.floor ?? 0n,
    }));
    for (const { token } of leases) this.#held.delete(token);
    await this.#connections.with("release of outbox lanes", (connection) =>
      connection.run(this.#queries.release(relay, floors)),
    );
  };

  readonly readLanes: LaneVerbs["readLanes"] = async (leases, request) => {
    const { rows, bytes, sweep } = request;
    if (leases.length === 0) return { rows: [], more: false, belowFloor: 0 };
    const lanes = this.#inTurn(leases.map((lease) => this.#heldOf(lease)));
    const floors = new Map(lanes.map((held) => [held.lane, held.state.floor]));
    const pending = new Set(request.pending.map((row) => row.position));
    const limits = limitsOf(lanes, rows, countByLane(request.pending));
    const first = await this.#look(lanes, { limits, pending, sweep, rows, bytes, any: true });
    for (const held of lanes) held.full = first.full.has(held.lane);
    this.#backlog = first.left && first.rows.length >= backlogRows;
    const found = [...first.rows];
    let more = first.left || first.full.size > 0;
    const full = lanes.filter((held) => held.full);
    const missing = rows - found.length;
    if (full.length > 0 && missing > 0 && bytes > first.bytes && !first.left) {
      // Again from the floors, leaving out what was found: a row that was committed meanwhile below
      // those may belong to the key of one above them.
      const share = Math.min(missing, Math.ceil((4 * missing) / full.length));
      const out = countByLane([...request.pending, ...found]);
      const second = await this.#look(full, {
        limits: full.map((held) => share + (out.get(held.lane) ?? 0)),
        pending: new Set([...pending, ...found.map((row) => row.position)]),
        ...{ sweep, rows: missing, bytes: bytes - first.bytes, any: false },
      });
      found.push(...second.rows);
      more = second.left || second.full.size > 0;
    }
    const below = sweep ? found.filter((row) => row.position <= (floors.get(row.lane) ?? 0n)) : [];
    return { rows: found, more, belowFloor: below.length };
  };

  readonly settleBatch: LaneVerbs["settleBatch"] = async (leases, published) => {
    const prepare = this.#backlog && published.length >= backlogRows;
    const lanes = leases.map((lease) => {
      const held = this.#heldOf(lease);
      const due = held.state.floor - held.stored >= storeEvery;
      // As of now: what is read while this runs may belong to younger transactions.
      const { highest } = held.state;
      return { ...lease, held, highest, floor: due ? held.state.floor : 0n };
    });
    const { rows } = await this.#connections.with("settling of outbox rows", (connection) =>
      connection.run<{ [K in keyof SettledRow]: SettledRow[K] }>(
        this.#queries.settle(lanes, published, { prepare }),
      ),
    );
    const [settled] = rows;
    if (settled === undefined) throw new TypeError("oncebox_settle answered nothing");
    const stillHeld = new Set(numbersOf(settled.held).map(Number));
    for (const { held, highest, floor, token } of lanes) {
      if (!stillHeld.has(held.lane)) {
        this.#held.delete(token);
        continue;
      }
      held.state = afterSettle(held.state, highest, settled.xid);
      if (floor > held.stored) held.stored = floor;
    }
    const asked = new Set([...leases, ...published].map(({ lane }) => lane));
    return { lost: [...asked].filter((lane) => !stillHeld.has(lane)) };
  };

  async #look(lanes: readonly Held[], request: LookRequest): Promise<Look> {
    const { limits, pending, sweep, bytes } = request;
    const ranges = lanes.map((held, index): LaneRange => {
      const above = sweep ? 0n : held.state.floor;
      return { lane: held.lane, above, limit: limits[index] ?? 1 };
    });
    const prepare = this.#backlog;
    const statement = this.#queries.read(ranges, [...pending], bytes * 2, { prepare });
    const answer = await this.#connections.with("read of outbox rows", (connection) =>
      connection.runForArrays<ReadRow>(statement),
    );
    const seen = seenIn(answer, ranges);
    // It was read from floors that are void now: rows of one key could come in the wrong order.
    if (this.#answeredBy(seen.server)) return this.#look(lanes, request);
    const choice = chooseFairly(seen.lanes, request);
    // The last of a lane is its highest.
    const highest = new Map<number, bigint>();
    for (const { lane, position } of choice.rows) highest.set(lane, position);
    for (const held of lanes) {
      held.state = afterRead(held.state, highest.get(held.lane) ?? 0n);
      const lowest = seen.lanes.get(held.lane)?.[0]?.position ?? null;
      if (sweep && lowest !== null) held.state = lowered(held.state, lowest);
      held.state = risen(held.state, seen.xmin, lowest);
    }
    return { ...choice, full: seen.full };
  }

  /** Another lane comes first each time: where bytes run out, they do so for others each time. */
  #inTurn(lanes: readonly Held[]): Held[] {
    this.#turn = (this.#turn + 1) % lanes.length;
    return [...lanes.slice(this.#turn), ...lanes.slice(0, this.#turn)];
  }

  /**
   * After a restart or a fail-over the database may be older than what it told us, and positions may
   * come again: what is remembered of floors is void, and true is returned.
   */
  #answeredBy(server: string | undefined): boolean {
    if (server === undefined || server === this.#server) return false;
    const changed = this.#server !== null;
    this.#server = server;
    if (changed) for (const held of this.#held.values()) held.state = floorAt(0n);
    return changed;
  }

  #heldOf({ lane, token }: LaneLease): Held {
    // A lease that was not taken here is read from the start: slow, never wrong.
    return this.#held.get(token) ?? this.#hold("", lane, token, 0n);
  }

  #hold(relay: string, lane: number, token: string, floor: bigint): Held {
    const held = { lane, relay, state: floorAt(floor), stored: floor, full: false };
    if (relay !== "") this.#held.set(token, held);
    return held;
  }
}

interface Look extends Choice {
  /** Lanes that may have more than was looked at. */
  readonly full: ReadonlySet<number>;
}

interface LookRequest extends ReadLimits {
  readonly limits: readonly number[];
  readonly pending: ReadonlySet<bigint>;
  readonly sweep: boolean;
}

/**
 * How many rows of each lane are looked at: a fair share each, what was read before on top. Lanes
 * that had more last time share the batch once again, so that one hot lane fills it alone.
 */
function limitsOf(
  lanes: readonly Held[],
  rows: number,
  pending: ReadonlyMap<number, number>,
): number[] {
  // One more than its share tells a lane that is empty then from one that has more.
  const share = Math.ceil(rows / lanes.length) + 1;
  const full = lanes.filter((held) => held.full).length;
  const fullShare = full === 0 ? share : Math.max(share, Math.ceil(rows / full) + 1);
  return lanes.map((held) => (held.full ? fullShare : share) + (pending.get(held.lane) ?? 0));
}

function countByLane(rows: readonly OutboxRow[]): Map<number, number> {
  const counts = new Map<number, number>();
  for (const { lane } of rows) counts.set(lane, (counts.get(lane) ?? 0) + 1);
  return counts;
}

/** What one answer says about the snapshot and about each lane, lowest position first. */
function seenIn(answer: readonly ReadRow[], ranges: readonly LaneRange[]) {
  const lanes = new Map<number, SeenRow[]>();
  for (const row of answer) {
    const [, , lane, position, pending, bytes, fetched] = row;
    if (lane === null) continue;
    const content = fetched ? rowOf(row, lane) : null;
    const seen = { position, pending, bytes, row: content };
    const rows = lanes.get(lane) ?? [];
    if ((rows.at(-1)?.position ?? 0n) >= position) {
      throw new TypeError("oncebox_read answered a lane out of order");
    }
    if (rows.push(seen) === 1) lanes.set(lane, rows);
  }
  const full = new Set<number>();
  for (const { lane, limit } of ranges) {
    if ((lanes.get(lane)?.length ?? 0) >= limit) full.add(lane);
  }
  const [xmin = "0", server] = answer[0] ?? [];
  return { lanes, full, xmin: BigInt(xmin), server };
}

function rowOf(row: ReadRow, lane: number): OutboxRow {
  const [, , , position, , , , id, topic, key, value, names, values] = row;
  const headers = names === null || values === null ? [] : headersOf(names, values);
  return { lane, position, id, topic, key, value, headers };
}
