/**
 * The outbox: rows written by the caller's transaction, lanes leased by the database's clock, read
 * from their floors and settled exactly. A floor rises to just below the lowest row that is not
 * deleted, committed or not: this database knows them all.
 */
import {
  type LaneLease,
  type LeaseRequest,
  laneCount,
  type OutboxEntry,
  type OutboxRow,
  type Storage,
} from "@oncebox/core";
import { translated } from "./database-error.ts";
import { type MemoryTx, openHoldOf } from "./memory-tx.ts";
import type { LaneRow, StorageParts } from "./parts.ts";
import type { Transaction } from "./tables.ts";

type LaneVerbs = Pick<
  Storage<MemoryTx>,
  "enqueue" | "leaseLanes" | "releaseLanes" | "readLanes" | "settleBatch"
>;

export function laneVerbs(parts: StorageParts): LaneVerbs {
  const run = <R>(verb: string, work: (transaction: Transaction) => R, writes = true) =>
    parts.pool.with(`${verb} of the outbox`, (connection) =>
      connection.run(verb, work, { writes }),
    );
  return {
    enqueue: (tx, rows) => enqueue(parts, tx, rows),
    leaseLanes: (request) => run("lease", (transaction) => lease(parts, transaction, request)),
    releaseLanes: (relay, leases) =>
      run("release", (transaction) => {
        const { tables } = parts.database;
        for (const { lane } of heldOf(parts, transaction, leases)) {
          tables.write(transaction, "lanes", String(lane), undefined);
        }
        const left = lanesOf(parts, transaction).some(([, row]) => row.owner === relay);
        if (!left) tables.write(transaction, "relays", relay, undefined);
      }),
    readLanes: (leases, request) =>
      run("read", (transaction) => read(parts, transaction, leases, request), false),
    settleBatch: (leases, published) =>
      run("settle", (transaction) => settle(parts, transaction, leases, published)),
  };
}

/** O1. One statement, whatever the number of rows. */
async function enqueue(
  parts: StorageParts,
  tx: MemoryTx,
  rows: readonly OutboxEntry[],
): Promise<void> {
  const hold = openHoldOf(tx);
  if (rows.length === 0) return;
  const copies = structuredClone(rows);
  try {
    await hold.connection.run("enqueue", (transaction) => enqueueRows(parts, transaction, copies));
    hold.enqueued();
  } catch (error) {
    hold.failed(error);
    throw translated("enqueue", error);
  }
}

/** In a transaction that somebody else ends. Keeps the rows: who gives them has copied them. */
export function enqueueRows(
  { database: { tables } }: StorageParts,
  transaction: Transaction,
  rows: readonly OutboxEntry[],
): void {
  for (const row of rows) {
    const position = tables.next("outbox");
    tables.write(transaction, "outbox", String(position), { ...row, position });
  }
}

function lanesOf({ database }: StorageParts, transaction: Transaction) {
  return database.tables.entries(transaction, "lanes") as readonly [string, LaneRow][];
}

/** Those whose token is still theirs, lowest lane first. */
function heldOf(
  { database }: StorageParts,
  transaction: Transaction,
  leases: readonly LaneLease[],
): readonly LaneLease[] {
  return leases
    .filter(({ lane, token }) => {
      const row = database.tables.get(transaction, "lanes", String(lane)) as LaneRow | undefined;
      return row?.token === token;
    })
    .sort((a, b) => a.lane - b.lane);
}

function lease(
  parts: StorageParts,
  transaction: Transaction,
  { relay, leaseMs, renew, acquireMax }: LeaseRequest,
) {
  const { tables, clock } = { tables: parts.database.tables, clock: parts.database.clock };
  const now = clock.now();
  const leasedUntil = now + leaseMs;
  tables.write(transaction, "relays", relay, leasedUntil);
  const leases = [...heldOf(parts, transaction, renew)];
  // An expired lease that nobody took is still its holder's to renew.
  const renewing = new Set(renew.map(({ lane }) => lane));
  for (let lane = 0, taken = 0; lane < laneCount && taken < acquireMax; lane += 1) {
    const row = tables.get(transaction, "lanes", String(lane)) as LaneRow | undefined;
    if (renewing.has(lane) || (row !== undefined && row.leasedUntil >= now)) continue;
    leases.push({ lane, token: parts.database.token() });
    taken += 1;
  }
  for (const { lane, token } of leases) {
    tables.write(transaction, "lanes", String(lane), { token, owner: relay, leasedUntil });
  }
  const relays = tables
    .entries(transaction, "relays")
    .filter(([name, until]) => name === relay || Number(until) >= now);
  return { leases, relays: relays.length };
}

interface ReadRequest {
  readonly rows: number;
  readonly bytes: number;
  readonly pending: readonly OutboxRow[];
  readonly sweep: boolean;
}

function read(
  parts: StorageParts,
  transaction: Transaction,
  leases: readonly LaneLease[],
  request: ReadRequest,
) {
  const pending = new Set(request.pending.map(({ position }) => position));
  const held = new Set(leases.map(({ lane }) => lane));
  const waiting = new Map<number, OutboxRow[]>();
  let belowFloor = 0;
  const all = parts.database.tables
    .entries(transaction, "outbox")
    .map(([, row]) => row as OutboxRow);
  for (const row of all.sort((a, b) => (a.position < b.position ? -1 : 1))) {
    if (!held.has(row.lane) || pending.has(row.position)) continue;
    const below = row.position <= floorOf(parts, transaction, row.lane);
    if (below && !request.sweep) continue;
    if (below) belowFloor += 1;
    waiting.set(row.lane, [...(waiting.get(row.lane) ?? []), row]);
  }
  const rows = inTurns([...waiting.values()], request);
  const found = [...waiting.values()].reduce((sum, list) => sum + list.length, 0);
  // Copies: what a relay does to a row is its own.
  const copies = rows.map((row) => structuredClone(row));
  return { rows: copies, more: rows.length < found, belowFloor };
}

/** First rows of all lanes, second rows of all lanes, and so on: a full lane starves no other. */
function inTurns(lanes: readonly OutboxRow[][], limits: ReadRequest): readonly OutboxRow[] {
  const rows: OutboxRow[] = [];
  let bytes = 0;
  for (let turn = 0; lanes.some((lane) => lane.length > turn); turn += 1) {
    for (const lane of lanes) {
      const row = lane[turn];
      if (row === undefined) continue;
      const size = 64 + (row.key?.length ?? 0) + (row.value?.length ?? 0);
      const fits = rows.length === 0 || bytes + size <= limits.bytes;
      if (!fits || rows.length === limits.rows) return rows;
      rows.push(row);
      bytes += size;
    }
  }
  return rows;
}

function settle(
  parts: StorageParts,
  transaction: Transaction,
  leases: readonly LaneLease[],
  published: readonly OutboxRow[],
) {
  const { tables } = parts.database;
  const held = new Set(heldOf(parts, transaction, leases).map(({ lane }) => lane));
  for (const { lane, position } of published) {
    const key = String(position);
    const row = tables.get(transaction, "outbox", key) as OutboxRow | undefined;
    if (row?.lane === lane && held.has(lane)) tables.write(transaction, "outbox", key, undefined);
  }
  for (const lane of held) {
    const floor = reachable(parts, transaction, lane);
    if (floor > floorOf(parts, transaction, lane)) {
      tables.write(transaction, "floors", String(lane), floor);
    }
  }
  const asked = new Set([...leases, ...published].map(({ lane }) => lane));
  return { lost: [...asked].filter((lane) => !held.has(lane)) };
}

function floorOf({ database }: StorageParts, transaction: Transaction, lane: number): bigint {
  return (database.tables.get(transaction, "floors", String(lane)) as bigint | undefined) ?? 0n;
}

/** Just below the lowest row that is there or may still be committed. */
function reachable({ database }: StorageParts, transaction: Transaction, lane: number): bigint {
  const { tables } = database;
  const there = tables.entries(transaction, "outbox").map(([, row]) => row);
  const rows = [...there, ...tables.pending("outbox")] as readonly OutboxRow[];
  const own = rows.filter((row) => row.lane === lane).map(({ position }) => position - 1n);
  return own.reduce((low, each) => (each < low ? each : low), tables.last("outbox"));
}
