/**
 * I6: parked messages, each tried by one process at a time: taken for a lease, removed at the end of
 * the transaction that handles it, given back with what became of it; looked at and changed by a person.
 * Decides nothing about when a message is tried again or given up.
 *
 * Leases are counted by the clock of the machine, as those of lanes are; where that clock is set, a
 * turn ends early or late, and the token fences whoever held it before.
 */
import {
  ClaimLostError,
  type ParkedFilter,
  type ParkedMessage,
  type ParkedPage,
  type ParkedState,
  type ParkedTurn,
  type ParkingVerbs,
  sha256First16,
} from "@oncebox/core";
import type { Database } from "better-sqlite3";
import { endMarked, mark, nameOf } from "./chunk.ts";
import { hexOf } from "./headers.ts";
import { enqueueRows } from "./lanes.ts";
import { type Access, reading, writing } from "./locking.ts";
import { columnsOf, msOf, type RecordColumns, recordOf } from "./parked-rows.ts";
import {
  changeableText,
  dueText,
  heldText,
  parkedText,
  redriveText,
  releaseText,
  removeText,
  settleText,
  skipText,
  takeBackText,
  takeText,
} from "./parking-queries.ts";
import { auditText } from "./queries.ts";
import { all, int, numberOf, one, prepared, run } from "./statements.ts";

type Take = Parameters<ParkingVerbs["takeParked"]>[0];
type Change = Parameters<ParkingVerbs["changeParked"]>[0];

interface TurnRow extends RecordColumns {
  readonly id: bigint;
  readonly topic: string;
  readonly partition: bigint;
  readonly token: string;
  readonly attempts: bigint;
}

interface ParkedRow extends Omit<TurnRow, "token"> {
  readonly state: ParkedState;
  readonly error_code: string | null;
  readonly error: string | null;
  readonly parked_at: bigint;
  readonly next_attempt_at: bigint | null;
}

export function parkingVerbs(access: Access): ParkingVerbs {
  return {
    takeParked: async (request) => {
      const doing = `taking of parked messages for ${request.consumer}`;
      // It is asked again and again, mostly in vain: that must not take the file's one write lock.
      const any = await reading(access, doing, (db) => due(db, request, 1).length > 0);
      return any ? writing(access, { doing }, (db) => take(db, request)) : [];
    },
    releaseParked: ({ consumer, token }) =>
      writing(access, { doing: `return of parked messages of ${consumer}` }, (db) =>
        run(db, releaseText, consumer, token),
      ),
    settleParked: (turn, { state, counts, afterMs, error }, letters = []) =>
      writing(access, { doing: `settling of ${nameOfTurn(turn)}` }, (db) => {
        const { id, token } = turn;
        const { changes } = prepared(db, settleText).run({
          ...{
            id,
            token,
            state,
            uncounted: int(counts ? 0 : 1),
            after: msOf(afterMs),
            ...columnsOf(error),
          },
        });
        const held = changes === 1;
        // Behind the fence: of a turn that was taken over nothing is written.
        if (held) enqueueRows(db, letters);
        else if (!counts) prepared(db, takeBackText).run({ id });
        return held;
      }),
    parked: async (filter, page) => {
      const { consumer } = filter;
      const rows = await reading(access, `look at parked messages of ${consumer}`, (db) =>
        found<ParkedRow>(db, parkedText(filter), filter, page),
      );
      return rows.map((row) => messageOf(consumer, row));
    },
    changeParked: (change) =>
      writing(
        access,
        { doing: `${change.action} of messages of ${change.filter.consumer}` },
        (db) => changeParked(db, change),
      ),
  };
}

function due(db: Database, { consumer, topics }: Take, limit: number) {
  const values = [consumer, JSON.stringify(topics), int(limit)];
  return all<{ readonly id: bigint }>(db, dueText, ...values);
}

/** Found and taken with the write lock held: one by one, so in the order in which they were due. */
function take(db: Database, request: Take): readonly ParkedTurn[] {
  const { consumer, limit, leaseMs, token } = request;
  return due(db, request, limit).map(({ id }) => {
    const row = one<TurnRow>(db, takeText, token, msOf(leaseMs), id);
    if (row === undefined) throw new TypeError("a parked message was found and is not there");
    const { topic } = row;
    const numbers = { partition: Number(row.partition), attempts: Number(row.attempts) };
    return { consumer, topic, ...numbers, id, token, record: recordOf(row) };
  });
}

/** In a transaction that was begun. Throws ClaimLostError; the caller rolls back. */
export function openTurn(db: Database, turn: ParkedTurn): void {
  if (one(db, heldText, turn.id, turn.token) === undefined) throw turnLost(turn);
  mark(db);
}

/** As `commitChunk`, without a position: the end of the message is the last statement before COMMIT. */
export function commitTurn(db: Database, turn: ParkedTurn): void {
  endMarked(db, nameOfTurn(turn), () => {
    if (run(db, removeText, turn.id, turn.token) !== 1) throw turnLost(turn);
  });
}

export function nameOfTurn(turn: ParkedTurn): string {
  return `the parked message at offset ${turn.record.offset} of ${nameOf(turn)}`;
}

function turnLost(turn: ParkedTurn): ClaimLostError {
  const { consumer, topic, partition, id } = turn;
  const { offset } = turn.record;
  return new ClaimLostError(
    `the turn of ${nameOfTurn(turn)} was taken over, or a person has changed the message`,
    { details: { consumer, topic, partition, offset, id } },
  );
}

function found<Row>(
  db: Database,
  text: string,
  { consumer, topic, partition, ids, key, state }: ParkedFilter,
  { limit, above }: ParkedPage,
): readonly Row[] {
  // Those that the text does not name are not bound.
  const values = {
    ...{ consumer, topic, key, state, above: above ?? 0n, limit: int(limit) },
    partition: int(partition ?? null),
    ids: `[${ids?.join() ?? ""}]`,
    hash: key === undefined ? null : sha256First16(key),
  };
  return prepared(db, text).all(values) as Row[];
}

function messageOf(consumer: string, row: ParkedRow): ParkedMessage {
  const { id, topic, state, error_code: code, error: text } = row;
  return {
    ...{ consumer, topic, id, state, record: recordOf(row) },
    partition: Number(row.partition),
    attempts: Number(row.attempts),
    error: code === null || text === null ? null : { code, text },
    parkedAt: Number(row.parked_at),
    nextAttemptAt: numberOf(row.next_attempt_at),
  };
}

/** How many ids a line of the audit log lists. */
const listedMax = 100;

function changeParked(db: Database, { action, filter, page, audit }: Change) {
  const text = changeableText(filter);
  const rows = found<{ readonly id: bigint; readonly tried: bigint }>(db, text, filter, page);
  // Where a process is trying one, its own outcome counts; skipping it takes the turn away.
  const changed = rows.filter(({ tried }) => action === "skip" || tried === 0n);
  for (const { id } of changed) run(db, action === "skip" ? skipText : redriveText, id);
  if (changed.length > 0) {
    const details = {
      filter: told(filter),
      changed: changed.length,
      ids: changed.slice(0, listedMax).map(({ id }) => String(id)),
    };
    const { actor, reason } = audit;
    run(db, auditText, filter.consumer, actor, action, reason, JSON.stringify(details));
  }
  const next = rows.length === page.limit ? (rows.at(-1)?.id ?? null) : null;
  return { changed: changed.length, next };
}

/** A filter as the audit log keeps it; the consumer stands beside it. */
function told({ topic, partition, ids, key, state }: ParkedFilter) {
  return {
    ...{ topic: topic ?? null, partition: partition ?? null, state: state ?? null },
    ...{ ids: ids?.map(String) ?? null, key: hexOf(key ?? null) },
  };
}
