/**
 * Finds handlers that write around their transaction: it runs one in a transaction that is rolled
 * back, and compares what can be seen from outside before and after. Works on any storage whose
 * handlers wait.
 */
import {
  createOutbox,
  type Handler,
  type HandlerContext,
  type Message,
  type Storage,
} from "@oncebox/core";
import { ExpectationError, listed, shown } from "./assertions.ts";
import { entriesOf, without } from "./snapshots.ts";

export interface RollbackProbe<Tx> {
  /** Where the transaction is run and rolled back. */
  readonly storage: Storage<Tx>;
  /**
   * Calls the handler. It gets the transaction and what a consumer gives beside it; what it throws is
   * thrown again, once nothing was found.
   */
  readonly run: (tx: Tx, context: HandlerContext) => Promise<unknown>;
  /**
   * Everything that the handler could change, as seen from outside: rows of the tables, files, calls
   * that a stub has counted. Compared by content.
   */
  readonly snapshot: () => unknown;
  /**
   * Waits for what the handler may have started and not awaited.
   * @defaultValue nothing is waited for
   */
  readonly settle?: () => Promise<unknown>;
}

/** Rolls the transaction back; nobody else can throw it. */
const rolledBack = Symbol("rolled back");

/**
 * Throws ExpectationError where the handler left something behind although its transaction was rolled
 * back: it wrote by another connection, to a file, or to another system.
 */
export async function probeRollback<Tx>(probe: RollbackProbe<Tx>): Promise<void> {
  const { storage, run, snapshot, settle } = probe;
  const before = await snapshot();
  // As text: what a snapshot hands out may be changed by the handler.
  const beforeText = shown(before);
  const beforeEntries = entriesOf(before);
  let failure: { readonly error: unknown } | null = null;
  try {
    await storage.transaction(async (tx) => {
      await run(tx, contextOf(storage, tx));
      throw rolledBack;
    });
  } catch (error) {
    if (error !== rolledBack) failure = { error };
  }
  await settle?.();
  const after = await snapshot();
  if (shown(after) !== beforeText) throw leftBehind(beforeEntries, entriesOf(after), failure);
  if (failure !== null) throw failure.error;
}

/** The message that a handler of its own file is called with, in a probe. */
export function probedMessage(
  handler: Pick<Handler<never>, "topic">,
  fields: Partial<Omit<Message<Uint8Array | null>, "topic">>,
): Message<Uint8Array | null> {
  const place = { topic: handler.topic, partition: 0, offset: 0n, timestamp: 0n };
  const content = { id: null, key: null, keyBytes: null, value: null, headers: [] };
  return { ...place, ...content, ...fields };
}

function contextOf<Tx>(storage: Storage<Tx>, tx: Tx): HandlerContext {
  const outbox = createOutbox({ storage });
  return {
    attempt: 1,
    idempotencyKey: "probe",
    signal: new AbortController().signal,
    outbox: { enqueue: (messages) => outbox.enqueue(tx, messages) },
  };
}

function leftBehind(
  before: readonly string[],
  after: readonly string[],
  failure: { readonly error: unknown } | null,
): ExpectationError {
  const complaints = [
    listed("appeared", without(after, before)),
    listed("disappeared", without(before, after)),
  ].filter((complaint) => complaint !== "");
  const what =
    complaints.length === 0 ? "the order of what is there changed" : complaints.join("; ");
  const text = `the handler's transaction was rolled back, but it left something behind: ${what}. It must write through tx alone`;
  return failure === null
    ? new ExpectationError(text)
    : new ExpectationError(text, { cause: failure.error });
}
