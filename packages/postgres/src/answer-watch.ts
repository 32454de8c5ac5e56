/**
 * How long a statement of ours may stay without an answer. A peer that vanished without a word leaves
 * the socket open: nobody would ever tell. Decides only that a connection is silent; what follows for
 * the statement is told by its error, as with any other loss.
 *
 * One timer for all connections of a storage, armed anew at most once in each time-out: a timer for
 * each statement would cost more than many a statement. It keeps no process alive.
 */
import { StorageError } from "@oncebox/core";

/** A statement on its way. */
export interface Awaited {
  readonly sentAt: number;
  readonly dueAt: number;
  readonly silent: (error: StorageError) => void;
}

export interface AnswerWatch {
  /**
   * A statement is sent now, which may wait for locks for `lockWaitMs`. `silent` is called where no
   * answer came in time; not after `answered`.
   */
  readonly sent: (lockWaitMs: number, silent: Awaited["silent"]) => Awaited;
  readonly answered: (awaited: Awaited) => void;
  /** All that was sent on this client has been answered. */
  readonly heard: (client: object) => void;
  /**
   * Whether nothing was heard of this client since a statement was sent that never got its answer:
   * what cut one connection off has most often cut off all that were open then.
   */
  readonly suspects: (client: object) => boolean;
}

export function answerWatch(timeoutMs: number): AnswerWatch {
  const awaited = new Set<Awaited>();
  const heardAt = new WeakMap<object, number>();
  let silentSince = Number.NEGATIVE_INFINITY;
  let armed = false;

  const arm = (ms: number) => {
    armed = true;
    setTimeout(() => {
      // What came in while the process stood still has not been read yet: sockets come after timers.
      setImmediate(look);
    }, ms).unref();
  };
  const look = () => {
    armed = false;
    const now = performance.now();
    // Whatever is sent from now on is due after this.
    let next = now + timeoutMs;
    for (const one of [...awaited]) {
      if (one.dueAt > now) {
        next = Math.min(next, one.dueAt);
        continue;
      }
      awaited.delete(one);
      silentSince = Math.max(silentSince, one.sentAt);
      const silentMs = Math.round(now - one.sentAt);
      one.silent(
        new StorageError(
          "storage-unavailable",
          `the database did not answer for ${silentMs} ms: the connection was destroyed`,
          { retryable: true, details: { silentMs } },
        ),
      );
    }
    if (awaited.size > 0) arm(Math.ceil(next - now));
  };

  return {
    sent: (lockWaitMs, silent) => {
      const sentAt = performance.now();
      const one = { sentAt, dueAt: sentAt + timeoutMs + lockWaitMs, silent };
      awaited.add(one);
      if (!armed) arm(timeoutMs);
      return one;
    },
    answered: (one) => {
      awaited.delete(one);
    },
    heard: (client) => {
      heardAt.set(client, performance.now());
    },
    suspects: (client) => (heardAt.get(client) ?? Number.POSITIVE_INFINITY) < silentSince,
  };
}

/** Where nothing is watched: DDL takes as long as it takes. */
export function noAnswerWatch(): AnswerWatch {
  const one = { sentAt: 0, dueAt: 0, silent: () => {} };
  return { sent: () => one, answered: () => {}, heard: () => {}, suspects: () => false };
}
