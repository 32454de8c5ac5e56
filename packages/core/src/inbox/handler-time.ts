/**
 * How long a handler may take. One watch for a chunk, wound up anew for each handler, because a timer
 * for each message would cost more than many a handler.
 */
import { HandlerError } from "../errors.ts";
import { type Clock, noReason } from "../ports/clock.ts";

export interface HandlerWatch {
  /** Aborted when a handler has taken too long. */
  readonly signal: AbortSignal;
  /** A handler begins now. */
  readonly begin: () => void;
  /** Resolves when a handler has taken too long; never, once `end` was called. */
  readonly hung: Promise<"hung">;
  readonly end: () => void;
}

export function handlerWatch(clock: Clock, timeoutMs: number): HandlerWatch {
  const over = new AbortController();
  const ended = new AbortController();
  let began = clock.now();
  const watching = async (): Promise<"hung"> => {
    for (;;) {
      const leftMs = began + timeoutMs - clock.now();
      if (leftMs <= 0) {
        over.abort();
        return "hung";
      }
      await clock.sleep(leftMs, ended.signal);
      if (ended.signal.aborted) return new Promise(() => {});
    }
  };
  return {
    signal: over.signal,
    begin: () => {
      began = clock.now();
    },
    hung: watching(),
    end: () => ended.abort(noReason),
  };
}

export function handlerHung(
  { topic, partition }: { readonly topic: string; readonly partition: number },
  offset: bigint | null,
  timeoutMs: number,
): HandlerError {
  const at = `${topic}/${partition}${offset === null ? "" : `@${offset}`}`;
  return new HandlerError(
    "handler-timed-out",
    `the handler of ${topic} did not end within ${timeoutMs} ms at ${at}: its transaction was cut off`,
    { details: { topic, partition, offset, timeoutMs } },
  );
}
