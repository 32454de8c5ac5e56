/**
 * The relay's side of the outbox: leases of lanes, reading, settling. There is no floor: one writer
 * at a time means that positions are committed in their order, so a lane is read from its first row,
 * and a row that was deleted costs nothing.
 *
 * Leases are counted by the clock of the machine. All processes that share a SQLite file run on one,
 * because its locks do; where that clock is set, lanes change hands early or late, and the token
 * fences whoever held them before.
 */
import type { LaneLease, OutboxEntry, OutboxRow, StorageVerbs } from "@oncebox/core";
import type { Database } from "better-sqlite3";
import { headersOf, hexOf, pairsOf } from "./headers.ts";
import { type Access, reading, writing } from "./locking.ts";
import {
  aliveText,
  deleteText,
  enqueueText,
  forgetDeadText,
  holdsText,
  leaveText,
  liveText,
  lookText,
  releaseText,
  renewText,
  rowText,
  takeText,
} from "./outbox-queries.ts";
import { all, int, one, run } from "./statements.ts";

type LaneVerbs = Pick<StorageVerbs, "leaseLanes" | "releaseLanes" | "readLanes" | "settleBatch">;
type Read = Parameters<LaneVerbs["readLanes"]>[1];

export function laneVerbs(access: Access): LaneVerbs {
  let turn = 0;
  return {
    leaseLanes: ({ relay, leaseMs, renew, acquireMax }) =>
      writing(access, { doing: "lease of outbox lanes" }, (db) => {
        const ms = int(leaseMs);
        const renewed = renew.filter(({ lane, token }) => run(db, renewText, ms, int(lane), token));
        const kept = JSON.stringify(renew.map(({ lane }) => lane));
        const taken = all<{ lane: bigint; token: string }>(
          ...[db, takeText, relay, ms, kept, int(acquireMax)],
        );
        const leases = taken.map(({ lane, token }) => ({ lane: Number(lane), token }));
        // After the lanes: whoever still holds one is counted.
        run(db, aliveText, relay, ms);
        run(db, forgetDeadText);
        const live = one<{ relays: bigint }>(db, liveText);
        return { leases: [...renewed, ...leases], relays: Number(live?.relays ?? 1) };
      }),
    releaseLanes: (relay, leases) =>
      writing(access, { doing: "release of outbox lanes" }, (db) => {
        for (const { lane, token } of leases) run(db, releaseText, int(lane), token);
        run(db, leaveText, relay);
      }),
    readLanes: async (leases, request) => {
      if (leases.length === 0) return { rows: [], more: false, belowFloor: 0 };
      // Another lane comes first each time: where a limit is reached, it is so for others each time.
      turn = (turn + 1) % leases.length;
      const lanes = [...leases.slice(turn), ...leases.slice(0, turn)].map(({ lane }) => lane);
      return reading(access, "read of outbox rows", (db) => readLanes(db, lanes, request));
    },
    settleBatch: (leases, published) =>
      writing(access, { doing: "settling of outbox rows" }, (db) => settle(db, leases, published)),
  };
}

function settle(db: Database, leases: readonly LaneLease[], published: readonly OutboxRow[]) {
  const held = new Set<number>();
  for (const { lane, token } of leases) {
    if (one(db, holdsText, int(lane), token) !== undefined) held.add(lane);
  }
  for (const { lane, position } of published) {
    if (held.has(lane)) run(db, deleteText, position, int(lane));
  }
  const asked = new Set([...leases, ...published].map(({ lane }) => lane));
  return { lost: [...asked].filter((lane) => !held.has(lane)) };
}

/** Rows of one lane that were seen, lowest first, without their content. */
interface Seen {
  readonly lane: number;
  /** Looked at up to here. */
  above: bigint;
  ahead: { readonly position: bigint; readonly bytes: bigint }[];
  over: boolean;
}

/** Looked at in one statement: enough to make many a statement unnecessary, little to throw away. */
const lookRows = 16;

/** First rows of all lanes, second rows of all lanes, and so on: a full lane starves no other. */
function readLanes(db: Database, lanes: readonly number[], request: Read) {
  const pending = new Set(request.pending.map(({ position }) => position));
  const rows: OutboxRow[] = [];
  let bytes = 0;
  let waiting = lanes.map((lane): Seen => ({ lane, above: 0n, ahead: [], over: false }));
  while (waiting.length > 0) {
    const going: Seen[] = [];
    for (const seen of waiting) {
      const next = nextOf(db, seen, pending);
      if (next === undefined) continue;
      const size = Number(next.bytes);
      const full =
        rows.length === request.rows || (rows.length > 0 && bytes + size > request.bytes);
      if (full) return { rows, more: true, belowFloor: 0 };
      const row = contentOf(db, seen.lane, next.position);
      bytes += size;
      if (row !== null) rows.push(row);
      going.push(seen);
    }
    waiting = going;
  }
  return { rows, more: false, belowFloor: 0 };
}

function nextOf(db: Database, seen: Seen, pending: ReadonlySet<bigint>) {
  while (seen.ahead.length === 0 && !seen.over) {
    const found = all<Seen["ahead"][number]>(
      ...[db, lookText, int(seen.lane), seen.above, int(lookRows)],
    );
    seen.over = found.length < lookRows;
    seen.above = found.at(-1)?.position ?? seen.above;
    seen.ahead = found.filter(({ position }) => !pending.has(position));
  }
  return seen.ahead.shift();
}

interface ContentRow {
  readonly message_id: string;
  readonly topic: string;
  readonly key: Uint8Array | null;
  readonly value: Uint8Array | null;
  readonly headers: string;
}

/** Null where it was settled by whoever has taken the lane over meanwhile. */
function contentOf(db: Database, lane: number, position: bigint): OutboxRow | null {
  const row = one<ContentRow>(db, rowText, position, int(lane));
  if (row === undefined) return null;
  const { message_id: id, topic, key, value } = row;
  return { lane, position, id, topic, key, value, headers: headersOf(row.headers) };
}

/** O1. One statement, whatever the number of rows. */
export function enqueueRows(db: Database, rows: readonly OutboxEntry[]): void {
  if (rows.length === 0) return;
  const list = rows.map(({ lane, id, topic, key, value, headers }) => [
    ...[lane, id, topic, hexOf(key), hexOf(value)],
    pairsOf(headers),
  ]);
  run(db, enqueueText, JSON.stringify(list));
}
