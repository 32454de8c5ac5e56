/**
 * Parked messages, promise I6: what a chunk finds of them, turns to try one again, and what people do
 * with them. Decides nothing: when and how often to try is the core's.
 */
import {
  ClaimLostError,
  type ParkedMessage,
  type ParkedRecord,
  type ParkedTransaction,
  type ParkedTurn,
  type ParkingVerbs,
  type Recorded,
  type RecordRef,
} from "@oncebox/core";
import type { Limits } from "./begin.ts";
import type { Connection, Connections } from "./connections.ts";
import { begun, type HandlerParts, OpenTransaction, opening } from "./handler-transaction.ts";
import type { OwnTransaction } from "./handles/handles.ts";
import type { OperatorQueries } from "./operator-queries.ts";
import type { OutboxQueries } from "./outbox-queries.ts";
import { ownTransaction } from "./own-transaction.ts";
import type {
  AmongParkedRow,
  ChangedRow,
  OpenedParkedRow,
  ParkedRow,
  ParkingQueries,
  RecordColumns,
  TakenRow,
} from "./parking-queries.ts";
import type { StorageErrors } from "./postgres-errors.ts";
import type { ClaimKey } from "./queries.ts";
import { registerLockTimeoutMs } from "./registration.ts";
import { headersOf, nameFromStored, numbersOf } from "./wire.ts";

/** A chunk's records, with what is parked of them and of their keys. To be asked behind the lock. */
export async function amongParked(
  parking: ParkingQueries,
  connection: Connection,
  key: ClaimKey,
  records: readonly RecordRef[],
  fresh: readonly Recorded[],
): Promise<{ readonly recorded: readonly Recorded[]; readonly left: boolean }> {
  const { rows } = await connection.run<AmongParkedRow & Record<string, unknown>>(
    parking.amongParked(key, records),
  );
  const [found] = rows;
  if (found === undefined) throw new TypeError("oncebox_among_parked answered nothing");
  const offsets = new Set(numbersOf(found.offsets));
  const held = new Set(numbersOf(found.held));
  const recorded = records.map((record, index): Recorded => {
    const outcome = fresh[index] as Recorded;
    const offset = String(record.offset);
    if (outcome === "done") return outcome;
    if (offsets.has(offset)) return "duplicate";
    return outcome === "new" && held.has(offset) ? "held" : outcome;
  });
  return { recorded, left: found.any_left };
}

export interface TurnParts<Tx> extends HandlerParts<Tx> {
  readonly parking: ParkingQueries;
}

/** Throws ClaimLostError. */
export function openParked<Tx>(
  parts: TurnParts<Tx>,
  turn: ParkedTurn,
): Promise<ParkedTransaction<Tx>> {
  const { handles, parking, limits } = parts;
  return opening(parts, `try of ${nameOf(turn)}`, async (connection) => {
    const opened = await begun<OpenedParkedRow & Record<string, unknown>>(
      limits,
      connection,
      parking.open(turn),
    );
    if (!opened.held) throw turnLost(turn);
    const own = await handles.own(connection.client);
    return new Turn(parts, connection, own, turn, opened.xid);
  });
}

class Turn<Tx> extends OpenTransaction<Tx> implements ParkedTransaction<Tx> {
  readonly #parking: ParkingQueries;
  readonly #turn: ParkedTurn;
  readonly #xid: bigint;

  constructor(
    parts: TurnParts<Tx>,
    connection: Connection,
    own: OwnTransaction<Tx>,
    turn: ParkedTurn,
    xid: bigint,
  ) {
    const undertaking = {
      name: nameOf(turn),
      undone: "the message stays parked",
      fenced: (cause: unknown) => turnLost(turn, cause),
    };
    super(parts, connection, own, undertaking, xid);
    this.#parking = parts.parking;
    this.#turn = turn;
    this.#xid = xid;
  }

  readonly commit = (): Promise<void> =>
    this.commitBehind([this.#parking.remove(this.#turn, this.#xid)]);
}

function turnLost(turn: ParkedTurn, cause?: unknown): ClaimLostError {
  const { consumer, topic, partition, id, record } = turn;
  return new ClaimLostError(
    `the turn to try ${nameOf(turn)} was taken over, or its message is parked no more`,
    { cause, details: { consumer, topic, partition, id, offset: record.offset } },
  );
}

function nameOf({ consumer, topic, partition, record }: ParkedTurn): string {
  return `parked ${topic}/${partition}@${record.offset} for ${consumer}`;
}

export interface ParkingParts {
  readonly connections: Connections;
  readonly parking: ParkingQueries;
  readonly operator: OperatorQueries;
  readonly outbox: OutboxQueries;
  readonly errors: StorageErrors;
  readonly limits: Limits;
  readonly idleInTransactionTimeoutMs: number | null;
}

export function parkingVerbs(parts: ParkingParts): ParkingVerbs {
  const { connections, parking, outbox, limits } = parts;
  return {
    takeParked: async (request) => {
      const { consumer } = request;
      const doing = `taking of parked messages of ${consumer}`;
      const { rows } = await connections.with(doing, (connection) =>
        connection.run<TakenRow & Record<string, unknown>>(parking.take(request)),
      );
      return rows.map(({ id, topic, partition, token, attempts, ...row }) => ({
        ...{ consumer, topic, partition, id, token, attempts },
        record: recordOf(row),
      }));
    },
    releaseParked: async (request) => {
      const { lockTimeoutMs } = limits;
      const doing = `return of parked messages of ${request.consumer}`;
      const { rowCount } = await ownTransaction(parts, { doing, lockTimeoutMs }, (connection) =>
        connection.run(parking.release(request)),
      );
      return rowCount ?? 0;
    },
    settleParked: (turn, outcome, letters = []) => {
      const { lockTimeoutMs } = limits;
      const doing = `end of the try of ${nameOf(turn)}`;
      return ownTransaction(parts, { doing, lockTimeoutMs }, async (connection) => {
        const { rowCount } = await connection.run(parking.settle(turn, outcome));
        const held = rowCount === 1;
        // Behind the fence: of a turn that was taken over nothing is written.
        if (held && letters.length > 0) await connection.run(outbox.enqueue(letters));
        if (!held && !outcome.counts) await connection.run(parking.takeBack(turn));
        return held;
      });
    },
    parked: async (filter, page) => {
      const { consumer } = filter;
      const { rows } = await connections.with(`parked messages of ${consumer}`, (connection) =>
        connection.run<ParkedRow & Record<string, unknown>>(parking.parked(filter, page)),
      );
      return rows.map((row) => messageOf(consumer, row));
    },
    changeParked: (change) => changeParked(parts, change),
  };
}

/** Most ids that the audit log names one by one. */
const auditedIdsMax = 100;

async function changeParked(
  parts: ParkingParts,
  { action, filter, page, audit }: Parameters<ParkingVerbs["changeParked"]>[0],
): ReturnType<ParkingVerbs["changeParked"]> {
  const { parking, operator } = parts;
  const { consumer, ids, key } = filter;
  const doing = `${action} of parked messages of ${consumer}`;
  const limits = { doing, lockTimeoutMs: registerLockTimeoutMs };
  return ownTransaction(parts, limits, async (connection) => {
    const { rows } = await connection.run<ChangedRow & Record<string, unknown>>(
      parking[action](filter, page),
    );
    const [answer] = rows;
    if (answer === undefined) throw new TypeError(`oncebox_${action} answered nothing`);
    const changed = numbersOf(answer.changed);
    if (changed.length > 0) {
      const inWords = {
        topic: filter.topic ?? null,
        partition: filter.partition ?? null,
        ids: ids?.map(String) ?? null,
        key: key === undefined ? null : Buffer.from(key).toString("hex"),
        state: filter.state ?? null,
      };
      const details = {
        filter: inWords,
        changed: changed.length,
        ids: changed.slice(0, auditedIdsMax),
      };
      await connection.run(operator.audit({ ...audit, consumer, action, details }));
    }
    const full = Number(answer.seen) >= page.limit;
    return { changed: changed.length, next: full ? answer.last : null };
  });
}

function messageOf(consumer: string, row: ParkedRow): ParkedMessage {
  const { id, topic, partition, state, attempts, error_code: code, error: text } = row;
  return {
    ...{ consumer, topic, partition, id, state, attempts },
    record: recordOf(row),
    error: code === null || text === null ? null : { code, text },
    parkedAt: Number(row.parked_at),
    nextAttemptAt: row.next_attempt_at === null ? null : Number(row.next_attempt_at),
  };
}

function recordOf(row: RecordColumns): ParkedRecord {
  const { record_offset: offset, record_time: timestamp, key, value } = row;
  const headers = headersOf(row.header_names, row.header_values);
  return {
    ...{ offset, timestamp, key, value },
    headers: headers.map(([name, bytes]) => [nameFromStored(name), bytes] as const),
  };
}
