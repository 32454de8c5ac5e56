/**
 * One parked message, one transaction: prove the turn, run the handler, commit without its row. The
 * partition's row is never touched, so chunks go on beside it. It answers what became of the
 * transaction and decides nothing about what happens next.
 */
import type { OnceboxError } from "../errors.ts";
import type { Clock } from "../ports/clock.ts";
import type { ParkedTurn } from "../ports/parking.ts";
import type { ParkedTransaction, Storage } from "../ports/storage.ts";
import { afterFailure } from "./chunk.ts";
import type { BatchHandler, Handler } from "./handler.ts";
import { afterHandler, handleOne, type Running, untilCut } from "./handler-run.ts";

export type ParkedOutcomeOfRun =
  | { readonly kind: "committed" }
  | { readonly kind: "failed"; readonly error: OnceboxError }
  | { readonly kind: "trouble"; readonly trouble: "global" | "local"; readonly error: unknown }
  /** Another has the turn, or the message is gone. */
  | { readonly kind: "fenced" }
  /** It is gone, or its turn runs out: then it is tried again. */
  | { readonly kind: "unknown"; readonly error: OnceboxError }
  | { readonly kind: "cut" };

export interface ParkedRun {
  readonly turn: ParkedTurn;
  readonly attempt: number;
  readonly cut: AbortSignal;
  readonly clock: Clock;
  /** Longest time of the handler, in milliseconds. */
  readonly handlerTimeoutMs: number;
}

/** Runs the parked messages of one topic: made by `runnersOf`. */
export type RunParked = (run: ParkedRun) => Promise<ParkedOutcomeOfRun>;

interface HandlerRun<Tx> extends ParkedRun {
  readonly storage: Storage<Tx>;
  readonly handler: Handler<Tx> | BatchHandler<Tx>;
  readonly source: string | undefined;
}

export async function runParked<Tx>(run: HandlerRun<Tx>): Promise<ParkedOutcomeOfRun> {
  const { storage, turn, cut } = run;
  let transaction: ParkedTransaction<Tx>;
  try {
    transaction = await storage.openParked(turn);
  } catch (error) {
    return afterFailure(storage, error);
  }
  if (cut.aborted) {
    transaction.destroy();
    return { kind: "cut" };
  }
  return untilCut(run, transaction, turn, (running) => handleAndCommit(run, transaction, running));
}

async function handleAndCommit<Tx>(
  run: HandlerRun<Tx>,
  transaction: ParkedTransaction<Tx>,
  running: Running,
): Promise<ParkedOutcomeOfRun> {
  const { storage, turn } = run;
  try {
    await handleOne(run, transaction, turn, turn.record, running, false);
  } catch (error) {
    return afterHandler(run, transaction, turn, turn.record.offset, error);
  }
  running.watch.end();
  try {
    await transaction.commit();
  } catch (error) {
    return afterFailure(storage, error);
  }
  if (running.published) storage.wake.send();
  return { kind: "committed" };
}
