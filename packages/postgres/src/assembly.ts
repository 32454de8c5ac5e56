/** Puts the parts of the storage port together, over any kind of handles. Owns nothing itself. */
import { ClaimLostError, type OutboxEntry, type Storage } from "@oncebox/core";
import type { QueryResult } from "pg";
import { answerWatch } from "./answer-watch.ts";
import { checkDatabase } from "./check.ts";
import { openChunk } from "./chunk.ts";
import { type ClaimQueries, claimQueries } from "./claim-queries.ts";
import type { Clients } from "./clients.ts";
import { type Connections, connections } from "./connections.ts";
import { finished, type Handles } from "./handles/handles.ts";
import { createLanes } from "./lanes.ts";
import { createNames } from "./names.ts";
import { type OperatorQueries, operatorQueries } from "./operator-queries.ts";
import { type OutboxQueries, outboxQueries } from "./outbox-queries.ts";
import { openParked, parkingVerbs } from "./parking.ts";
import { type ParkingQueries, parkingQueries } from "./parking-queries.ts";
import { partitionVerbs } from "./partitions.ts";
import { type StorageErrors, storageErrors } from "./postgres-errors.ts";
import { pruningVerbs } from "./pruning.ts";
import { type PruningQueries, pruningQueries } from "./pruning-queries.ts";
import { type InboxQueries, inboxQueries } from "./queries.ts";
import { recordIds } from "./record-ids.ts";
import { registrationVerbs } from "./registration.ts";
import { seekVerbs } from "./seek.ts";
import { type StorageOptions, withDefaults } from "./storage-options.ts";
import { runTransaction } from "./transaction.ts";
import { createWake } from "./wake.ts";

/** The storage with connections from here and handles of this kind. The options were checked. */
export function assembled<Tx>(
  clients: Clients,
  handles: Handles<Tx>,
  options: StorageOptions,
): Storage<Tx> {
  const { schema, answerTimeoutMs, ...more } = withDefaults(options);
  const errors = storageErrors();
  const answers = answerWatch(answerTimeoutMs);
  const pooled = connections({ ...more, clients, errors, answers });
  const wake = createWake({
    connections: pooled,
    channel: `oncebox_${schema}`.slice(0, 63),
    askEveryMs: answerTimeoutMs,
  });
  return {
    ...verbs({
      ...{ errors, schema, handles, connections: pooled, woken: wake.send },
      idleInTransactionTimeoutMs: more.idleInTransactionTimeoutMs,
      lockTimeoutMs: Math.ceil(answerTimeoutMs / 2),
      queries: inboxQueries(schema),
      claims: claimQueries(schema),
      operator: operatorQueries(schema),
      parking: parkingQueries(schema),
      pruning: pruningQueries(schema),
      outbox: outboxQueries(schema),
    }),
    wake: {
      send: wake.send,
      // Nothing to expect where the commit itself wakes.
      expect: handles.seesEveryCommit ? () => {} : wake.expect,
      listen: wake.listen,
    },
    close: async () => {
      await wake.close();
      clients.close();
    },
  };
}

interface Parts<Tx> {
  readonly connections: Connections;
  readonly handles: Handles<Tx>;
  readonly queries: InboxQueries;
  readonly claims: ClaimQueries;
  readonly operator: OperatorQueries;
  readonly parking: ParkingQueries;
  readonly pruning: PruningQueries;
  readonly outbox: OutboxQueries;
  readonly errors: StorageErrors;
  readonly schema: string;
  readonly idleInTransactionTimeoutMs: number | null;
  /**
   * Of what comes before the handlers of a chunk. Shorter than the wait for an answer: else a lock
   * that others hold would look like a database that does not answer.
   */
  readonly lockTimeoutMs: number;
  readonly woken: () => void;
}

function verbs<Tx>(parts: Parts<Tx>): Omit<Storage<Tx>, "wake" | "close"> {
  const { connections: pooled, handles, queries, errors } = parts;
  const { consumerId, ...partitions } = partitionVerbs(parts);
  const chunkParts = {
    ...parts,
    limits: parts,
    names: createNames(queries, parts),
    terminate: (xid: bigint) => {
      pooled
        .with("end of a cut transaction", (connection) => connection.run(queries.terminate(xid)))
        .catch(() => {
          // It ends by itself, at the latest with the statement that it runs.
        });
    },
  };
  return {
    ...partitions,
    ...registrationVerbs(parts),
    ...seekVerbs(parts),
    ...parkingVerbs({ ...parts, limits: parts }),
    ...pruningVerbs(parts),
    ...createLanes(pooled, parts.outbox),
    check: () => checkDatabase(parts),
    trouble: errors.trouble,
    recordIds: (tx, consumer, ids) => recordIds(parts, tx, consumer, ids),
    open: async (claim, records) => {
      const consumer = await consumerId(claim.consumer);
      if (consumer === null) {
        throw new ClaimLostError(`consumer ${claim.consumer} is not registered in this database`);
      }
      return openChunk(chunkParts, claim, consumer, records);
    },
    openParked: (turn) => openParked(chunkParts, turn),
    enqueue: async (tx, rows) => {
      await enqueue(parts, tx, rows);
      if (rows.length > 0) handles.afterCommit(tx, parts.woken);
    },
    transaction: (work) => runTransaction(parts, work),
  };
}

/** O1. One statement, whatever the number of rows; in a handler it may be that of the whole chunk. */
async function enqueue<Tx>(
  { connections: pooled, handles, outbox, errors }: Parts<Tx>,
  tx: Tx,
  rows: readonly OutboxEntry[],
): Promise<void> {
  const hold = handles.holdOf(tx);
  if (hold?.later !== undefined && rows.length > 0) {
    if (hold.ended()) throw finished();
    const kept = hold.later.keep(rows);
    if (kept !== null) return kept;
  }
  const given = handles.clientOf(tx);
  // Without waiting where there is nothing to wait for: a COMMIT that follows must not overtake.
  const client = given instanceof Promise ? await given : given;
  if (rows.length === 0) return;
  const query = client.query as (config: object) => Promise<QueryResult>;
  try {
    await query.call(client, pooled.statementOf(outbox.enqueue(rows)));
  } catch (error) {
    throw errors.translated("enqueue", error);
  }
}
