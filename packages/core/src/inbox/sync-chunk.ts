/**
 * One chunk on a storage whose driver answers at once: the same steps as in chunk.ts, in one call, so
 * that no other statement of this process gets into its transaction. Picks, for each topic, which of
 * the two runs its chunks.
 */
import { HandlerError } from "../errors.ts";
import { syncHandlerOutbox } from "../outbox/outbox.ts";
import type { BrokerRecord } from "../ports/broker.ts";
import type { Storage, SyncChunk, SyncStorage } from "../ports/storage.ts";
import {
  afterFailure,
  type ChunkOutcome,
  type ChunkRun,
  handlerFailed,
  idConflict,
  incomingOf,
  markOf,
  type RunChunk,
  recordRefs,
  runChunk,
} from "./chunk.ts";
import type { Handler } from "./handler.ts";

/**
 * What runs a topic's chunks; `source` is that of the messages its handler enqueues. On a SyncStorage
 * the handler must not return promises.
 */
export function chunkRunner<Tx>(
  storage: Storage<Tx> | SyncStorage<Tx>,
  handler: Handler<Tx>,
  source?: string,
): RunChunk {
  if (!storage.synchronous) return (run) => runChunk({ ...run, storage, handler, source });
  let turnedAt = Number.NEGATIVE_INFINITY;
  return async (run) => {
    // Chunks that never wait would keep heartbeats, fetches and timers from their turn.
    if (run.clock.now() - turnedAt >= turnEveryMs) {
      await run.clock.sleep(0, run.cut);
      turnedAt = run.clock.now();
    }
    return runSyncChunk({ ...run, storage, handler, source });
  };
}

/** For how long chunks may follow one another before the rest of the process has its turn. */
const turnEveryMs = 10;

interface SyncHandlerRun<Tx> extends ChunkRun {
  readonly storage: SyncStorage<Tx>;
  readonly handler: Handler<Tx>;
  readonly source: string | undefined;
}

/** Where a chunk is, for what is to be said when it fails. */
interface Progress {
  at: BrokerRecord | null;
  applied: number;
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

function runSyncChunk<Tx>(run: SyncHandlerRun<Tx>): ChunkOutcome {
  const { storage, claim, chunk, cut } = run;
  if (cut.aborted) return { kind: "cut" };
  const progress: Progress = { at: null, applied: 0, published: false };
  try {
    storage.chunkSync(claim, recordRefs(claim, chunk.records), (transaction) => {
      handleAll(run, transaction, progress);
      return { nextOffset: chunk.endOffset, mark: markOf(chunk) };
    });
  } catch (error) {
    if (error instanceof Moved) return { kind: "moved", nextOffset: error.nextOffset };
    if (progress.at === null) return afterFailure(storage, error);
    const trouble = storage.trouble(error);
    if (trouble !== null) return { kind: "trouble", trouble, error };
    return handlerFailed(claim, progress.at, error);
  }
  const { applied, published } = progress;
  if (published) storage.wake.send();
  return { kind: "committed", applied, duplicates: chunk.records.length - applied };
}

function handleAll<Tx>(
  run: SyncHandlerRun<Tx>,
  { nextOffset, recorded: outcomes, tx, proveOpen }: SyncChunk<Tx>,
  progress: Progress,
): void {
  const { chunk, claim } = run;
  if (nextOffset !== chunk.firstOffset) throw new Moved(nextOffset);
  for (const [index, record] of chunk.records.entries()) {
    const recorded = outcomes[index];
    if (recorded === "duplicate" || recorded === "done") continue;
    progress.at = record;
    if (recorded !== "new") throw idConflict(claim, record);
    progress.published = handleOne(run, tx, record) || progress.published;
    // At once: the handlers behind it would write outside of any transaction.
    proveOpen();
    progress.applied += 1;
  }
  progress.at = null;
}

/** Runs one handler; tells whether it published something. */
function handleOne<Tx>(run: SyncHandlerRun<Tx>, tx: Tx, record: BrokerRecord): boolean {
  const { storage, handler, source, clock, claim, attempt, cut: signal } = run;
  const { message, identity } = incomingOf(claim, record);
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
  if (isPromiseLike(result)) throw asynchronous(run, record, result);
  return published;
}

function isPromiseLike(value: unknown): value is PromiseLike<unknown> {
  return typeof (value as { readonly then?: unknown } | null | undefined)?.then === "function";
}

function asynchronous<Tx>(
  { claim: { topic, partition } }: SyncHandlerRun<Tx>,
  { offset }: BrokerRecord,
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
