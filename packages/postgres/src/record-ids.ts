/** I3 for `inbox.once`: ids recorded in the caller's own transaction. */
import { type MessageRef, type Recorded, StorageError } from "@oncebox/core";
import type { QueryResult } from "pg";
import type { Connections } from "./connections.ts";
import type { Handles } from "./handles/handles.ts";
import type { StorageErrors } from "./postgres-errors.ts";
import type { InboxQueries, RecordedRow, Statement, TakerRow } from "./queries.ts";

type Outcome = Exclude<Recorded, "done" | "held">;

export interface RecordParts<Tx> {
  readonly connections: Connections;
  readonly handles: Handles<Tx>;
  readonly queries: InboxQueries;
  readonly errors: StorageErrors;
}

export async function recordIds<Tx>(
  { connections, handles, queries, errors }: RecordParts<Tx>,
  tx: Tx,
  consumer: string,
  ids: readonly MessageRef[],
): Promise<readonly Outcome[]> {
  const given = handles.clientOf(tx);
  const client = given instanceof Promise ? await given : given;
  if (ids.length === 0) return [];
  const run = async <R>(statement: Statement): Promise<R[]> => {
    const query = client.query as (config: object) => Promise<QueryResult>;
    return (await query.call(client, connections.statementOf(statement))).rows as R[];
  };
  try {
    let rows = await run<RecordedRow>(queries.record(consumer, ids));
    if (rows.some((row) => row.consumer === null || row.source === null)) {
      // The first time only. In the caller's transaction: a second connection might have to wait
      // for one that the caller keeps busy.
      await run(queries.addConsumer(consumer));
      await run(queries.addNames([...new Set(ids.map((id) => id.source))]));
      rows = await run<RecordedRow>(queries.record(consumer, ids));
    }
    return await outcomesOf(rows, ids, (doubtful) => {
      const [{ consumer: number } = {}] = rows;
      const sources = doubtful.map((index) => rows[index]?.source ?? 0);
      const list = doubtful.map((index) => (ids[index] as MessageRef).id);
      return run<TakerRow>(queries.takers(number ?? 0, sources, list));
    });
  } catch (error) {
    throw errors.translated("recording of message ids", error);
  }
}

async function outcomesOf(
  rows: readonly RecordedRow[],
  ids: readonly MessageRef[],
  takersOf: (indexes: number[]) => Promise<TakerRow[]>,
): Promise<Outcome[]> {
  const outcomes: Outcome[] = [];
  const doubtful: number[] = [];
  const first = new Set<string>();
  for (const [index, { id }] of ids.entries()) {
    const row = rows[index];
    // The same id twice in one call: the first is new, if any.
    const name = `${row?.source}/${Buffer.from(id).toString("hex")}`;
    if (row?.inserted === true && !first.has(name)) outcomes[index] = "new";
    else doubtful.push(index);
    first.add(name);
  }
  if (doubtful.length === 0) return outcomes;
  const takers = await takersOf(doubtful);
  for (const [place, index] of doubtful.entries()) {
    const taker = takers[place];
    if (taker?.taken !== true) {
      throw new StorageError("storage-conflict", "an id's row was deleted while it was looked up", {
        retryable: true,
      });
    }
    const checksum = ids[index]?.checksum ?? null;
    const same = checksum === null || taker.checksum === null || checksum === taker.checksum;
    outcomes[index] = same ? "duplicate" : "conflict";
  }
  return outcomes;
}
