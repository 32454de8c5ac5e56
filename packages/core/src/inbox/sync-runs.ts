/**
 * A chunk, or a parked message, on a storage whose driver answers at once: the same steps as in
 * chunk.ts and parked-run.ts, in one call that nothing interrupts. A handler that does not return cannot
 * be cut off here: nothing else of the process runs meanwhile.
 */
import { HandlerError } from "../errors.ts";
import { syncHandlerOutbox } from "../outbox/outbox.ts";
import type { BrokerRecord } from "../ports/broker.ts";
import type { ParkedRecord } from "../ports/parking.ts";
import type { PartitionRef, Storage, SyncChunk, SyncStorage } from "../ports/storage.ts";
import {
  afterFailure,
  type ChunkCounts,
  type ChunkOutcome,
  type ChunkRun,
  countsOf,
  idConflict,
  markOf,
  type RunChunk,
  recordRefs,
  runChunk,
} from "./chunk.ts";
import type { Handler } from "./handler.ts";
import { handlerFailed, incomingOf } from "./handler-run.ts";
import {
  type ParkedOutcomeOfRun,
  type ParkedRun,
  type RunParked,
  runParked,
} from "./parked-run.ts";
import { sorted } from "./parking.ts";

/** How the messages of one topic are run, from its log and from where they are parked. */
export interface Runners {
  readonly runChunk: RunChunk;
  readonly runParked: RunParked;
}

/**
 * `source` is that of the messages the handler enqueues. On a SyncStorage the handler must not return
 * promises.
 */
export function runnersOf<Tx>(
  storage: Storage<Tx> | SyncStorage<Tx>,
  handler: Handler<Tx>,
  source?: string,
): Runners {
  if (!storage.synchronous) {
    const call = { storage, handler, source };
    return {
      runChunk: (run) => runChunk({ ...run, ...call }),
      runParked: (run) => runParked({ ...run, ...call }),
    };
  }
  const call = { storage, handler, source };
  let turnedAt = Number.NEGATIVE_INFINITY;
  // Work that never waits would keep heartbeats, fetches and timers from their turn.
  const turn = async ({ clock, cut }: Pick<ChunkRun, "clock" | "cut">) => {
    if (clock.now() - turnedAt < turnEveryMs) return;
    await clock.sleep(0, cut);
    turnedAt = clock.now();
  };
  return {
    runChunk: async (run) => {
      await turn(run);
      return runSyncChunk({ ...run, ...call });
    },
    runParked: async (run) => {
      await turn(run);
      return runParkedSync({ ...run, ...call });
    },
  };
}

/** For how long such work may follow one another before the rest of the process has its turn. */
const turnEveryMs = 10;

interface SyncCall<Tx> extends Pick<ChunkRun, "clock" | "attempt" | "cut"> {
  readonly storage: SyncStorage<Tx>;
  readonly handler: Handler<Tx>;
  readonly source: string | undefined;
}

/** Where a chunk is, for what is to be said when it fails. */
interface Progress {
  at: bigint | null;
  counts: ChunkCounts;
  published: boolean;
}

/** Thrown through the storage, so that it rolls back. */
class Moved extends Error {
  readonly nextOffset: bigint;

  constructor(nextOffset: bigint) {
    super("the position is another");
    this.nextOffset = nextOffset;
  }
}

function runSyncChunk<Tx>(run: SyncCall<Tx> & ChunkRun): ChunkOutcome {
  const { storage, claim, chunk, cut } = run;
  if (cut.aborted) return { kind: "cut" };
  const counts = { applied: 0, duplicates: 0, parked: 0, dropped: 0 };
  const progress: Progress = { at: null, counts, published: false };
  try {
    storage.chunkSync(claim, recordRefs(claim, chunk.records), (transaction) => {
      const park = handleAll(run, transaction, progress);
      return { nextOffset: chunk.endOffset, mark: markOf(chunk), park };
    });
  } catch (error) {
    if (error instanceof Moved) return { kind: "moved", nextOffset: error.nextOffset };
    const { at: offset } = progress;
    if (offset === null) return afterFailure(storage, error);
    const trouble = storage.trouble(error);
    if (trouble !== null) return { kind: "trouble", trouble, error };
    return { kind: "failed", offset, error: handlerFailed(claim, offset, error) };
  }
  if (progress.published) storage.wake.send();
  return { kind: "committed", ...progress.counts };
}

/** Returns what is to be set aside. */
function handleAll<Tx>(
  run: SyncCall<Tx> & ChunkRun,
  { nextOffset, recorded, tx, proveOpen }: SyncChunk<Tx>,
  progress: Progress,
) {
  const { chunk, claim, giveUp } = run;
  if (nextOffset !== chunk.firstOffset) throw new Moved(nextOffset);
  const found = sorted(chunk.records, recorded, giveUp);
  for (const { record, conflict } of found.toHandle) {
    progress.at = record.offset;
    if (conflict) throw idConflict(claim, record.offset);
    progress.published = handleOne(run, claim, tx, record) || progress.published;
    // At once: the handlers behind it would write outside of any transaction.
    proveOpen();
  }
  progress.at = null;
  progress.counts = countsOf(found);
  return found.toPark;
}

function runParkedSync<Tx>(run: SyncCall<Tx> & ParkedRun): ParkedOutcomeOfRun {
  const { storage, turn, cut } = run;
  if (cut.aborted) return { kind: "cut" };
  let handling = false;
  let published = false;
  try {
    storage.parkedSync(turn, ({ tx, proveOpen }) => {
      handling = true;
      published = handleOne(run, turn, tx, turn.record);
      proveOpen();
      handling = false;
    });
  } catch (error) {
    const { offset } = turn.record;
    if (!handling) return afterFailure(storage, error);
    const trouble = storage.trouble(error);
    if (trouble !== null) return { kind: "trouble", trouble, error };
    return { kind: "failed", error: handlerFailed(turn, offset, error) };
  }
  if (published) storage.wake.send();
  return { kind: "committed" };
}

/** Runs one handler; tells whether it published something. */
function handleOne<Tx>(
  call: SyncCall<Tx>,
  at: PartitionRef,
  tx: Tx,
  record: BrokerRecord | ParkedRecord,
): boolean {
  const { storage, handler, source, clock, attempt, cut: signal } = call;
  const { message, identity } = incomingOf(at, record);
  const outbox = syncHandlerOutbox(storage, tx, identity, { source, clock });
  let published = false;
  const enqueue: typeof outbox.enqueue = (messages) => {
    published = true;
    return outbox.enqueue(messages);
  };
  // The handler's type is that of storages that wait; a SyncConsumer's own takes none that does.
  const run1 = handler.run as (message: unknown, tx: Tx, context: object) => unknown;
  const result = run1(message, tx, {
    ...{ attempt, signal, idempotencyKey: identity },
    outbox: { enqueue },
  });
  if (isPromiseLike(result)) throw asynchronous(at, record.offset, result);
  return published;
}

function isPromiseLike(value: unknown): value is PromiseLike<unknown> {
  return typeof (value as { readonly then?: unknown } | null | undefined)?.then === "function";
}

function asynchronous(
  { topic, partition }: PartitionRef,
  offset: bigint,
  result: PromiseLike<unknown>,
): HandlerError {
  // What it rejects with later is told by this error already.
  result.then(undefined, () => {});
  return new HandlerError(
    "handler-not-synchronous",
    `the handler of ${topic} returned a promise at ${topic}/${partition}@${offset}: on this storage a transaction ends when the handler returns. Write it without await, or use a storage that waits (knexStorage of @oncebox/sqlite/knex)`,
    { details: { topic, partition, offset } },
  );
}
