/**
 * Handlers that fail, hang or end their process at messages that a test chooses: to see what an
 * application makes of it. At all other messages they are the handlers that they were.
 */
import type { Handler, HandlerContext, Message } from "@oncebox/core";

/** When a handler misbehaves. */
export interface Misbehaviour {
  /**
   * At which messages. The value is encoded as in the log: `topic.decode(value)`.
   * @defaultValue at every one
   */
  readonly when?: (message: Message<Uint8Array | null>, context: HandlerContext) => boolean;
  /**
   * In how many first attempts of each such message, as `context.attempt` counts them; then it is
   * handled like any other.
   * @defaultValue in every one
   */
  readonly attempts?: number;
  /**
   * Whether the handler does its work before, which must then not be there.
   * @defaultValue false
   */
  readonly after?: boolean;
}

export interface Failing extends Misbehaviour {
  /**
   * What is thrown. A `PermanentError` makes the message dead at once.
   * @defaultValue an Error
   */
  readonly error?: unknown;
}

export interface Killing extends Omit<Misbehaviour, "attempts"> {
  /**
   * Ends the process: `kill` of a memory process, or `() => process.kill(process.pid, "SIGKILL")` in a
   * process of its own.
   */
  readonly kill: () => unknown;
}

/** The handler, which throws. */
export function failing<Tx>(handler: Handler<Tx>, options: Failing = {}): Handler<Tx> {
  return misbehaving(handler, options, async ({ attempt }) => {
    if ("error" in options) throw options.error;
    throw new Error(`the handler of ${handler.topic} fails attempt ${attempt}, as it was told to`);
  });
}

/**
 * The handler, which never answers: it waits until its `signal` is aborted, as it is after
 * `handlerTimeoutMs`, and throws then.
 */
export function hanging<Tx>(handler: Handler<Tx>, options: Misbehaviour = {}): Handler<Tx> {
  return misbehaving(handler, options, async ({ signal }) => {
    await new Promise<void>((resolve) => {
      if (signal.aborted) return resolve();
      signal.addEventListener("abort", () => resolve(), { once: true });
    });
    throw new Error(`the handler of ${handler.topic} hung until it was cut off, as it was told to`);
  });
}

/**
 * The handler, which ends its process and never answers. A death is no attempt that could be counted
 * here: one that is to happen a few times only is `when`'s to end.
 */
export function killing<Tx>(handler: Handler<Tx>, options: Killing): Handler<Tx> {
  return misbehaving(handler, options, async () => {
    options.kill();
    return new Promise<never>(() => undefined);
  });
}

/** What `act` does never resolves: nothing comes behind it. */
function misbehaving<Tx>(
  handler: Handler<Tx>,
  { when = () => true, attempts = Number.POSITIVE_INFINITY, after = false }: Misbehaviour,
  act: (context: HandlerContext) => Promise<never>,
): Handler<Tx> {
  return {
    topic: handler.topic,
    run: async (message, tx, context) => {
      const acts = context.attempt <= attempts && when(message, context);
      if (acts && !after) await act(context);
      await handler.run(message, tx, context);
      if (acts) await act(context);
    },
  };
}
