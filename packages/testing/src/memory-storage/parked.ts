/**
 * I6. Parked messages: turns that are taken, settled and opened, and what a person does with them.
 * Head or not follows from all rows, never from which of them could be locked.
 */
import type {
  AuditEntry,
  ParkedFilter,
  ParkedMessage,
  ParkedOutcome,
  ParkedPage,
  ParkedTurn,
  ParkingVerbs,
} from "@oncebox/core";
import type { Connection } from "./connection.ts";
import { enqueueRows } from "./lanes.ts";
import { ownTransaction } from "./own-transaction.ts";
import { dueIn, isHead, parkedKey, parkedRows } from "./parked-rows.ts";
import { hexOf, type ParkedRow, registerLockTimeoutMs, type StorageParts } from "./parts.ts";
import { writeAudit } from "./registration.ts";
import type { Transaction } from "./tables.ts";

type Request = Parameters<ParkingVerbs["takeParked"]>[0];
type Release = Parameters<ParkingVerbs["releaseParked"]>[0];
type Change = Parameters<ParkingVerbs["changeParked"]>[0];
type Changed = Awaited<ReturnType<ParkingVerbs["changeParked"]>>;

export function parkingVerbs(parts: StorageParts): ParkingVerbs {
  const { pool } = parts;
  return {
    takeParked: (request) =>
      pool.with(`turns of ${request.consumer}`, (connection) =>
        connection.run("take-parked", (transaction) => take(parts, transaction, request)),
      ),
    releaseParked: (request) =>
      pool.with(`return of turns of ${request.consumer}`, (connection) =>
        connection.run("release-parked", (transaction) => release(parts, transaction, request)),
      ),
    settleParked: async (turn, outcome, letters = []) => {
      const copies = structuredClone(letters);
      return pool.with(`end of a turn of ${turn.consumer}`, (connection) =>
        connection.run("settle-parked", async (transaction) => {
          const held = await settle(parts, transaction, turn, outcome);
          // Behind the fence: of a turn that was taken over nothing is written.
          if (held) enqueueRows(parts, transaction, copies);
          else if (!outcome.counts) await takeBack(parts, transaction, turn);
          return held;
        }),
      );
    },
    parked: (filter, page) =>
      pool.with(`look at what ${filter.consumer} has parked`, (connection) =>
        connection.run(
          "look",
          (transaction) => pageOf(parts, transaction, filter, page).map(shown),
          { writes: false },
        ),
      ),
    changeParked: (change) =>
      ownTransaction(parts, `${change.action} of parked messages`, (connection) =>
        changeParked(parts, connection, change),
      ),
  };
}

/**
 * Does not wait, so it is committed in the turn in which it reads: what nobody has locked it may
 * write.
 */
function take(
  { database }: StorageParts,
  transaction: Transaction,
  { consumer, topics, limit, leaseMs, token }: Request,
): readonly ParkedTurn[] {
  const { tables, locks, clock } = database;
  const now = clock.now();
  return parkedRows(database, transaction, { consumer })
    .filter((row) => row.state !== "dead" && row.dueAt <= now && topics.includes(row.topic))
    .filter((row) => isHead(database, transaction, row) && locks.holderOf(lockOf(row)) === null)
    .sort((a, b) => a.dueAt - b.dueAt)
    .slice(0, limit)
    .map((row) => {
      const attempts = row.attempts + 1;
      const lease = dueIn(database, leaseMs);
      const taken: ParkedRow = { ...row, state: "retrying", attempts, token, ...lease };
      tables.write(transaction, "parked", keyOf(row), taken);
      const { id, topic, partition } = row;
      const record = structuredClone(row.record);
      return { id, consumer, topic, partition, token, record, attempts };
    });
}

async function release(
  parts: StorageParts,
  transaction: Transaction,
  { consumer, token }: Release,
): Promise<number> {
  const { database } = parts;
  const isOurs = (row: ParkedRow) => row.state === "retrying" && row.token === token;
  let released = 0;
  for (const { topic, partition, record } of parkedRows(database, transaction, { consumer })) {
    const key = parkedKey({ consumer, topic, partition }, record);
    const find = () => database.tables.get(transaction, "parked", key) as ParkedRow | undefined;
    const before = find();
    if (before === undefined || !isOurs(before)) continue;
    await database.tables.lock(transaction, `parked/${key}`, parts.lockTimeoutMs);
    const row = find();
    if (row === undefined || !isOurs(row)) continue;
    const waiting = { state: "waiting", attempts: row.attempts - 1, token: null } as const;
    database.tables.write(transaction, "parked", key, {
      ...{ ...row, ...waiting, ...dueIn(database, 0) },
    });
    released += 1;
  }
  return released;
}

async function settle(
  parts: StorageParts,
  transaction: Transaction,
  turn: ParkedTurn,
  { state, counts, afterMs, error }: ParkedOutcome,
): Promise<boolean> {
  const row = await lockTurn(parts, transaction, turn);
  if (row === null) return false;
  const due = dueIn(parts.database, afterMs);
  const settled: ParkedRow = {
    ...{ ...row, state, attempts: row.attempts - (counts ? 0 : 1) },
    ...{ error: error ?? row.error, token: null, ...due },
  };
  parts.database.tables.write(transaction, "parked", keyOf(row), settled);
  return true;
}

/** By whoever was overtaken, alive: its own attempt is not to count, the turn of the other goes on. */
async function takeBack(
  { database, lockTimeoutMs }: StorageParts,
  transaction: Transaction,
  turn: ParkedTurn,
): Promise<void> {
  const key = parkedKey(turn, turn.record);
  const find = () => {
    const row = database.tables.get(transaction, "parked", key) as ParkedRow | undefined;
    return row?.id === turn.id && row.state !== "dead" ? row : null;
  };
  if (find() === null) return;
  await database.tables.lock(transaction, `parked/${key}`, lockTimeoutMs);
  const row = find();
  if (row === null) return;
  const attempts = Math.max(0, row.attempts - 1);
  database.tables.write(transaction, "parked", key, { ...row, attempts });
}

/** The row of a turn; null: it is held no more. */
export function heldRow(
  { database }: StorageParts,
  transaction: Transaction,
  turn: ParkedTurn,
): ParkedRow | null {
  const key = parkedKey(turn, turn.record);
  const row = database.tables.get(transaction, "parked", key) as ParkedRow | undefined;
  const held = row?.id === turn.id && row.token === turn.token && row.state === "retrying";
  return held ? row : null;
}

/** The row of a turn that is still held, locked; null: it is not, and nothing was waited for. */
export async function lockTurn(
  parts: StorageParts,
  transaction: Transaction,
  turn: ParkedTurn,
): Promise<ParkedRow | null> {
  if (heldRow(parts, transaction, turn) === null) return null;
  const lock = `parked/${parkedKey(turn, turn.record)}`;
  await parts.database.tables.lock(transaction, lock, parts.lockTimeoutMs);
  return heldRow(parts, transaction, turn);
}

async function changeParked(
  parts: StorageParts,
  connection: Connection,
  { action, filter, page, audit }: Change,
): Promise<Changed> {
  const { tables } = parts.database;
  return connection.run("change-parked", async (transaction) => {
    const looked = pageOf(parts, transaction, filter, page);
    const ids: bigint[] = [];
    for (const { consumer, topic, partition, record } of looked) {
      const key = parkedKey({ consumer, topic, partition }, record);
      const find = () => tables.get(transaction, "parked", key) as ParkedRow | undefined;
      const alive = action === "redrive" ? isAlive(parts, find()) : false;
      if (alive) continue;
      // A turn that is open ends first: then the row is gone, or it is ours.
      await tables.lock(transaction, `parked/${key}`, registerLockTimeoutMs);
      const row = find();
      if (row === undefined || !fits(row, filter)) continue;
      if (action === "redrive" && isAlive(parts, row)) continue;
      tables.write(
        transaction,
        "parked",
        key,
        action === "skip" ? undefined : redriven(parts, row),
      );
      ids.push(row.id);
    }
    if (ids.length > 0) {
      const details = {
        filter: told(filter),
        changed: ids.length,
        ids: ids.slice(0, 100).map(String),
      };
      const { consumer } = filter;
      writeAudit(parts, transaction, { ...audit, consumer, action, details });
    }
    const last = looked.length < page.limit ? undefined : looked.at(-1);
    return { changed: ids.length, next: last?.id ?? null };
  });
}

/** Whether it is being tried under a lease that has not run out. */
function isAlive({ database }: StorageParts, row: ParkedRow | undefined): boolean {
  return row?.state === "retrying" && row.dueAt > database.clock.now();
}

function redriven({ database }: StorageParts, row: ParkedRow): ParkedRow {
  return { ...row, state: "waiting", attempts: 0, token: null, ...dueIn(database, 0) };
}

function pageOf(
  { database }: StorageParts,
  transaction: Transaction,
  filter: ParkedFilter,
  { limit, above }: ParkedPage,
): readonly ParkedRow[] {
  return parkedRows(database, transaction, { consumer: filter.consumer })
    .filter((row) => fits(row, filter) && (above === null || row.id > above))
    .slice(0, limit);
}

function fits(row: ParkedRow, { topic, partition, ids, key, state }: ParkedFilter): boolean {
  return (
    (topic === undefined || row.topic === topic) &&
    (partition === undefined || row.partition === partition) &&
    (ids === undefined || ids.includes(row.id)) &&
    (key === undefined || row.key === hexOf(key)) &&
    (state === undefined || row.state === state)
  );
}

/** A filter as the audit log keeps it. */
function told({ topic, partition, ids, key, state }: ParkedFilter): AuditEntry["details"] {
  return {
    ...{ topic: topic ?? null, partition: partition ?? null, state: state ?? null },
    ...{ ids: ids?.map(String) ?? null, key: key === undefined ? null : hexOf(key) },
  };
}

function shown(row: ParkedRow): ParkedMessage {
  const { id, consumer, topic, partition, state, attempts, error, parkedAt, nextAttemptAt } = row;
  const record = structuredClone(row.record);
  return {
    ...{ id, consumer, topic, partition, record, state, attempts, error, parkedAt },
    nextAttemptAt: state === "dead" ? null : nextAttemptAt,
  };
}

function keyOf(row: ParkedRow): string {
  return parkedKey(row, row.record);
}

function lockOf(row: ParkedRow): string {
  return `parked/${keyOf(row)}`;
}
