/**
 * How long a handler may take. One watch for a transaction, whatever runs in it, because a timer for
 * each message would cost more than many a handler.
 */
import { HandlerError } from "../errors.ts";
import { type Clock, noReason } from "../ports/clock.ts";

export interface HandlerWatch {
  /** Aborted when a handler has taken too long. */
  readonly signal: AbortSignal;
  /** The handler of the message at this offset begins now. Returns what is called when it has ended. */
  readonly begin: (offset: bigint) => () => void;
  /** Resolves to the offset of a handler that took too long; never, once `end` was called. */
  readonly hung: Promise<bigint>;
  readonly end: () => void;
}

export function handlerWatch(clock: Clock, timeoutMs: number): HandlerWatch {
  const over = new AbortController();
  const ended = new AbortController();
  // In the order in which they began: the first has run the longest.
  const running = new Set<{ readonly offset: bigint; readonly began: number }>();
  const watching = async (): Promise<bigint> => {
    for (;;) {
      const [oldest] = running;
      const leftMs = (oldest?.began ?? clock.now()) + timeoutMs - clock.now();
      if (oldest !== undefined && leftMs <= 0) {
        over.abort();
        return oldest.offset;
      }
      await clock.sleep(leftMs, ended.signal);
      if (ended.signal.aborted) return new Promise(() => {});
    }
  };
  return {
    signal: over.signal,
    begin: (offset) => {
      const handler = { offset, began: clock.now() };
      running.add(handler);
      return () => running.delete(handler);
    },
    hung: watching(),
    end: () => ended.abort(noReason),
  };
}

export function handlerHung(
  { topic, partition }: { readonly topic: string; readonly partition: number },
  offset: bigint,
  timeoutMs: number,
): HandlerError {
  return new HandlerError(
    "handler-timed-out",
    `the handler of ${topic} did not end within ${timeoutMs} ms at ${topic}/${partition}@${offset}: its transaction was cut off`,
    { details: { topic, partition, offset, timeoutMs } },
  );
}
