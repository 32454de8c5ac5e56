// Owns the handler of every simulated process: it leaves traces, and does wrong what the message's
// quirk says. Decides nothing.

import { PermanentError, type Run } from "@oncebox/core";
import { behind, type MemoryProcess, type MemoryTx } from "@oncebox/testing";
import type { Quirk } from "./quirks.ts";
import { invoices, type Order, type World } from "./world.ts";

/** Thrown by a handler because the plan says so: the only thing that may spend an attempt. */
export class PlannedFailure extends Error {
  override readonly name = "PlannedFailure";
}

/** Thrown and caught inside one handler. */
class Undone extends Error {}

export interface HandlerListener {
  readonly quirk: (id: string) => Quirk;
  /** A run of a handler fails, by what it does itself. */
  readonly failing: (tx: MemoryTx) => void;
  /** A handler ends its process. */
  readonly killing: (worker: string, id: string) => void;
  /** A handler is about to end the transaction of its chunk. */
  readonly endingEarly: (worker: string, partition: number, tx: MemoryTx) => void;
  /** What a run of a handler has published, and how its message is known to the outside. */
  readonly derived: (id: string, ids: readonly string[]) => void;
}

const never = () => new Promise<never>(() => undefined);

export function handlerOf(
  worker: string,
  { plan }: World,
  { clock }: MemoryProcess,
  listener: HandlerListener,
): Run<Order, MemoryTx> {
  return async ({ value, partition, offset }, tx, { idempotencyKey, outbox }) => {
    const quirk = listener.quirk(value.id);
    if (quirk.kills > 0) {
      quirk.kills -= 1;
      listener.killing(worker, value.id);
      await never();
    }
    // Some fail before they have written anything, and some behind it.
    const fails = quirk.throws > 0;
    if (fails) quirk.throws -= 1;
    if (fails && value.sequence % 2 === 0) throw planned(value, quirk, tx, listener);
    if (quirk.hangs > 0) {
      quirk.hangs -= 1;
      await never();
    }
    if (quirk.slowMs > 0) await clock.sleep(quirk.slowMs);
    await tx.append("effects", { ...value, partition, offset, worker });
    if (quirk.savepoint) await undoing(tx, quirk.slowMs, clock);
    await tx.update<number>("totals", value.key, (sum) => (sum ?? 0) + 1);
    const ids = plan.publishing
      ? await outbox.enqueue(invoices.message({ key: value.key, value }))
      : [];
    listener.derived(value.id, [idempotencyKey, ...ids]);
    if (fails) throw planned(value, quirk, tx, listener);
    await misbehave(worker, partition, value, quirk, tx, listener);
  };
}

function planned(
  { id }: Order,
  { permanent }: Quirk,
  tx: MemoryTx,
  listener: HandlerListener,
): Error {
  listener.failing(tx);
  const cause = new PlannedFailure(`${id} fails`);
  return permanent ? new PermanentError(`${id} fails for good`, { cause }) : cause;
}

/** What is written behind the savepoint is undone; what others write meanwhile must not be. */
async function undoing(tx: MemoryTx, ms: number, clock: MemoryProcess["clock"]): Promise<void> {
  try {
    await tx.savepoint(async () => {
      if (ms > 0) await clock.sleep(ms);
      await tx.append("undone", "never seen");
      throw new Undone();
    });
  } catch (error) {
    if (!(error instanceof Undone)) throw error;
  }
}

/** The last thing a handler does: any statement after it would fail aloud. */
async function misbehave(
  worker: string,
  partition: number,
  { sequence }: Order,
  quirk: Quirk,
  tx: MemoryTx,
  listener: HandlerListener,
): Promise<void> {
  if (quirk.swallows > 0) {
    quirk.swallows -= 1;
    listener.failing(tx);
    await behind(tx)
      .failStatement()
      .catch(() => undefined);
  } else if (quirk.commits > 0) {
    quirk.commits -= 1;
    listener.failing(tx);
    const { endSecretly } = behind(tx);
    listener.endingEarly(worker, partition, tx);
    await endSecretly({ begin: sequence % 2 === 1 });
  }
}
