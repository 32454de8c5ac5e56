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
  letterIn,
  markOf,
  type RunChunk,
  recordRefs,
  runChunk,
} from "./chunk.ts";
import type { BatchHandler, Handler } from "./handler.ts";
import {
  decodedOf,
  FailedAt,
  handlerFailed,
  messageContext,
  messageOf,
  onceFor,
  recordIn,
} from "./handler-run.ts";
import {
  type ParkedOutcomeOfRun,
  type ParkedRun,
  type RunParked,
  runParked,
} from "./parked-run.ts";
import { type Sorted, sorted } from "./parking.ts";

/** How the messages of one topic are run, from its log and from where they are parked. */
export interface Runners {
  readonly runChunk: RunChunk;
  readonly runParked: RunParked;
}

/** On a SyncStorage the handler must not return promises. */
export function runnersOf<Tx>(
  storage: Storage<Tx> | SyncStorage<Tx>,
  handler: Handler<Tx> | BatchHandler<Tx>,
  how: {
    /** Of the messages the handler enqueues. */
    readonly source: string | undefined;
    readonly deduplicate: "id" | "offset";
  },
): Runners {
  if (!storage.synchronous) {
    const call = { storage, handler, ...how };
    return {
      runChunk: (run) => runChunk({ ...run, ...call }),
      runParked: (run) => runParked({ ...run, ...call }),
    };
  }
  const call = { storage, handler, ...how };
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
  readonly handler: Handler<Tx> | BatchHandler<Tx>;
  readonly source: string | undefined;
  readonly deduplicate: "id" | "offset";
}

/** Where a chunk is, for what is to be said when it fails. */
interface Progress {
  /** The first message of the call that runs, and whether it is the only one. */
  at: { readonly offset: bigint; readonly alone: boolean } | null;
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
    storage.chunkSync(claim, recordRefs(claim, chunk.records, run.deduplicate), (transaction) => {
      const park = handleAll(run, transaction, progress);
      return { nextOffset: chunk.endOffset, mark: markOf(chunk), park };
    });
  } catch (error) {
    if (error instanceof Moved) return { kind: "moved", nextOffset: error.nextOffset };
    const { at } = progress;
    if (at === null) return afterFailure(storage, error);
    const trouble = storage.trouble(error);
    if (trouble !== null) return { kind: "trouble", trouble, error };
    const offset = error instanceof FailedAt ? error.offset : at.alone ? at.offset : null;
    return { kind: "failed", offset, error: handlerFailed(claim, at.offset, error) };
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
  const { storage, chunk, claim, giveUp } = run;
  if (nextOffset !== chunk.firstOffset) throw new Moved(nextOffset);
  const found = sorted(chunk.records, recorded, giveUp);
  for (const call of callsOf(run, found)) {
    const [
      {
        record: { offset },
      },
    ] = call;
    progress.at = { offset, alone: call.length === 1 };
    for (const { record, conflict } of call) {
      if (conflict) throw new FailedAt(record.offset, idConflict(claim, record.offset));
    }
    const records = call.map(({ record }) => record);
    progress.published = handle(run, claim, tx, records) || progress.published;
    // At once: the handlers behind it would write outside of any transaction.
    proveOpen();
  }
  if (found.givenUp !== null) {
    // Told as in chunk.ts: no handler ran for it.
    progress.at = { offset: found.givenUp.offset, alone: true };
    const letter = letterIn(run, found);
    if (letter !== null) storage.enqueueSync(tx, [letter]);
    progress.published = letter !== null || progress.published;
  }
  progress.at = null;
  progress.counts = countsOf(found);
  return found.toPark;
}

type Call = [Sorted["toHandle"][number], ...Sorted["toHandle"][number][]];

/** What the handler is given in one call. */
function callsOf<Tx>({ handler }: SyncCall<Tx>, { toHandle }: Sorted): readonly Call[] {
  if (!("runBatch" in handler)) return toHandle.map((item) => [item]);
  const [first, ...rest] = toHandle;
  return first === undefined ? [] : [[first, ...rest]];
}

function runParkedSync<Tx>(run: SyncCall<Tx> & ParkedRun): ParkedOutcomeOfRun {
  const { storage, turn, cut } = run;
  if (cut.aborted) return { kind: "cut" };
  let handling = false;
  let published = false;
  try {
    storage.parkedSync(turn, ({ tx, proveOpen }) => {
      handling = true;
      published = handle(run, turn, tx, [turn.record]);
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

/** Calls the handler; tells whether it published something. */
function handle<Tx>(
  call: SyncCall<Tx>,
  at: PartitionRef,
  tx: Tx,
  records: readonly (BrokerRecord | ParkedRecord)[],
): boolean {
  const { storage, handler, source, clock, attempt, cut: signal } = call;
  let published = false;
  const contextOf = (record: BrokerRecord | ParkedRecord) =>
    messageContext(at, record, (identity) => {
      const outbox = syncHandlerOutbox(storage, tx, identity, { source, clock });
      const enqueue: typeof outbox.enqueue = (messages) => {
        published = true;
        return outbox.enqueue(messages);
      };
      return { enqueue };
    });
  // The handlers' types are those of storages that wait; a SyncConsumer's own takes none that does.
  type Run = (given: unknown, tx: Tx, context: object) => unknown;
  let result: unknown;
  if ("runBatch" in handler) {
    const given = decodedOf(handler, at, records);
    const of = onceFor((message) => contextOf(recordIn(given, message)));
    result = (handler.runBatch as Run)([...given.keys()], tx, { attempt, signal, of });
  } else {
    for (const record of records) {
      const context = Object.assign(contextOf(record), { attempt, signal });
      result = (handler.run as Run)(messageOf(at, record), tx, context);
    }
  }
  if (isPromiseLike(result)) throw asynchronous(at, records[0]?.offset ?? 0n, result);
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
