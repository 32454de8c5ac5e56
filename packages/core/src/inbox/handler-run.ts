/**
 * One call of a handler inside a transaction that somebody else begins and ends: what the handler is
 * given, what its failure means, and how it is cut off. The same for a chunk and for a parked message.
 */
import { HandlerError, OnceboxError, StorageError } from "../errors.ts";
import { idBytesOf, incomingIdentity } from "../ids.ts";
import { idOf, type Message, sourceOf, textOf } from "../message.ts";
import { handlerOutbox } from "../outbox/outbox.ts";
import type { BrokerRecord } from "../ports/broker.ts";
import type { Clock } from "../ports/clock.ts";
import type { ParkedRecord } from "../ports/parking.ts";
import type { HandlerTransaction, PartitionRef, Storage } from "../ports/storage.ts";
import type { BatchHandler, BatchMessageContext, Handler } from "./handler.ts";
import { type HandlerWatch, handlerHung, handlerWatch } from "./handler-time.ts";

/** What every handler of one topic is run with. */
export interface HandlerCall<Tx> {
  readonly storage: Storage<Tx>;
  readonly handler: Handler<Tx> | BatchHandler<Tx>;
  /** Of the messages that the handler enqueues. */
  readonly source: string | undefined;
  readonly clock: Clock;
  /** Longest time of one handler, in milliseconds. */
  readonly handlerTimeoutMs: number;
  readonly attempt: number;
  /** Aborted when there is no time left: the transaction is cut where it stands. */
  readonly cut: AbortSignal;
}

/** What handlers of one transaction have in common. */
export interface Running {
  readonly watch: HandlerWatch;
  /** For handlers: cut, or hung. */
  readonly signal: AbortSignal;
  /** Whether a handler published something. */
  published: boolean;
  /** Whether a handler did what is refused on a shared transaction. */
  refused: boolean;
}

/** Runs one handler. Throws what it throws. */
export async function handleOne<Tx>(
  call: HandlerCall<Tx>,
  transaction: HandlerTransaction<Tx>,
  at: PartitionRef,
  record: BrokerRecord | ParkedRecord,
  running: Running,
  shared: boolean,
): Promise<void> {
  const { handler, attempt } = call;
  if ("runBatch" in handler)
    return handleBatch({ ...call, handler }, transaction, at, [record], running);
  const message = messageOf(at, record);
  await handling(transaction, record.offset, running, { shared }, (tx) => {
    const context = contextOf(call, tx, at, record, running);
    return handler.run(message, tx, Object.assign(context, { attempt, signal: running.signal }));
  });
}

/** Runs the handler of a batch once. Throws what it throws, and what an earlier decoding threw. */
export async function handleBatch<Tx>(
  call: HandlerCall<Tx> & { readonly handler: BatchHandler<Tx> },
  transaction: HandlerTransaction<Tx>,
  at: PartitionRef,
  records: readonly (BrokerRecord | ParkedRecord)[],
  running: Running,
): Promise<void> {
  const { handler, attempt } = call;
  const given = decodedOf(handler, at, records);
  const [{ offset } = { offset: 0n }] = records;
  await handling(transaction, offset, running, { shared: false }, (tx) => {
    const of = onceFor((message) => contextOf(call, tx, at, recordIn(given, message), running));
    return handler.runBatch([...given.keys()], tx, { attempt, signal: running.signal, of });
  });
}

/** One context for each message, however often it is asked for: ids count what it has enqueued. */
export function onceFor<Context>(
  make: (message: Message<unknown>) => Context,
): (message: Message<unknown>) => Context {
  const made = new Map<Message<unknown>, Context>();
  return (message) => {
    const context = made.get(message) ?? make(message);
    made.set(message, context);
    return context;
  };
}

/** Thrown where one message of a batch is known to be at fault: its handler was not called. */
export class FailedAt extends Error {
  readonly offset: bigint;

  constructor(offset: bigint, cause: unknown) {
    super("one message of a batch failed", { cause });
    this.offset = offset;
  }
}

type Incoming = BrokerRecord | ParkedRecord;

/** The messages of a batch, as its handler gets them, each with its record. */
export function decodedOf<Tx>(
  { decode }: Pick<BatchHandler<Tx>, "decode">,
  at: PartitionRef,
  records: readonly Incoming[],
): ReadonlyMap<Message<unknown>, Incoming> {
  return new Map(
    records.map((record) => {
      try {
        return [decode(messageOf(at, record)), record];
      } catch (error) {
        throw new FailedAt(record.offset, error);
      }
    }),
  );
}

export function recordIn(
  given: ReadonlyMap<Message<unknown>, Incoming>,
  message: Message<unknown>,
): Incoming {
  const record = given.get(message);
  if (record !== undefined) return record;
  throw new TypeError("of() takes one of the messages that the handler was given, as it was given");
}

/** The time of one call of a handler, and its hold on the transaction. */
export async function handling<Tx>(
  transaction: HandlerTransaction<Tx>,
  offset: bigint,
  running: Running,
  use: Parameters<HandlerTransaction<Tx>["handle"]>[0],
  work: (tx: Tx) => Promise<void>,
): Promise<void> {
  const { tx, end, refused } = transaction.handle(use);
  const ended = running.watch.begin(offset);
  try {
    await work(tx);
  } finally {
    ended();
    end();
    running.refused ||= refused();
  }
}

function contextOf<Tx>(
  { storage, source, clock }: HandlerCall<Tx>,
  tx: Tx,
  at: PartitionRef,
  record: Incoming,
  running: Running,
): BatchMessageContext {
  return messageContext(at, record, (identity) => {
    const outbox = handlerOutbox(storage, tx, identity, { source, clock });
    return {
      enqueue: (messages) => {
        running.published = true;
        return outbox.enqueue(messages);
      },
    };
  });
}

/**
 * What belongs to one message, each part made when it is first asked for: most handlers want neither,
 * and both cost more than the call. Own properties, so that a copy of the context has them as well.
 */
export function messageContext<Outbox>(
  at: PartitionRef,
  record: Incoming,
  outboxOf: (identity: string) => Outbox,
): { readonly idempotencyKey: string; readonly outbox: Outbox } {
  let known: string | undefined;
  let outbox: Outbox | undefined;
  const identity = () => {
    known ??= identityOf(at, record);
    return known;
  };
  return {
    get idempotencyKey() {
      return identity();
    },
    get outbox() {
      outbox ??= outboxOf(identity());
      return outbox;
    },
  };
}

/** The message as its handler gets it. */
export function messageOf(
  { topic, partition }: PartitionRef,
  record: Incoming,
): Message<Uint8Array | null> {
  const idBytes = idOf(record.headers);
  return {
    id: idBytes === null ? null : textOf(idBytes),
    topic,
    partition,
    offset: record.offset,
    timestamp: record.timestamp,
    key: record.key === null ? null : textOf(record.key),
    keyBytes: record.key,
    value: record.value,
    headers: record.headers,
  };
}

/** What identifies a message in all that is derived from it. */
export function identityOf(
  { consumer, topic, partition }: PartitionRef,
  { headers, offset }: Incoming,
): string {
  const id = idOf(headers);
  return incomingIdentity({
    ...{ consumer, topic, partition, offset },
    source: sourceOf(headers, topic),
    idBytes: id === null ? null : idBytesOf(id),
  });
}

export type HandlerFailure =
  | { readonly kind: "trouble"; readonly trouble: "global" | "local"; readonly error: unknown }
  | { readonly kind: "failed"; readonly error: OnceboxError };

/** Rolls back, then tells the handler's own failure from trouble of the database under it. */
export async function afterHandler<Tx>(
  { storage }: Pick<HandlerCall<Tx>, "storage">,
  transaction: HandlerTransaction<Tx>,
  at: PartitionRef,
  offset: bigint,
  error: unknown,
): Promise<HandlerFailure> {
  const clean = await transaction.rollback();
  const trouble = storage.trouble(error);
  if (trouble !== null) return { kind: "trouble", trouble, error };
  // The connection went away under the handler, whatever it made of that, or is still busy with what the
  // handler left running. Of this transaction alone, as far as is known: where the database is away,
  // the next one tells, and waits without limit.
  if (!clean) return { kind: "trouble", trouble: "local", error };
  return { kind: "failed", error: handlerFailed(at, offset, error) };
}

/** The handler's own failure, as one of ours. */
export function handlerFailed(at: PartitionRef, offset: bigint, error: unknown): OnceboxError {
  if (error instanceof FailedAt) return handlerFailed(at, offset, error.cause);
  if (error instanceof OnceboxError) return error;
  const { topic, partition } = at;
  return new HandlerError(
    "handler-failed",
    `the handler of ${topic} failed at ${topic}/${partition}@${offset}: ${reason(error)}`,
    { cause: error, details: { topic, partition, offset } },
  );
}

/**
 * Runs the work of a transaction, and waits for nothing past a deadline: a handler that never returns
 * must not hold anything. Then the transaction is destroyed.
 */
export async function untilCut<Tx, Outcome>(
  { cut, clock, handlerTimeoutMs }: Pick<HandlerCall<Tx>, "cut" | "clock" | "handlerTimeoutMs">,
  transaction: HandlerTransaction<Tx>,
  at: PartitionRef,
  work: (running: Running) => Promise<Outcome>,
): Promise<
  Outcome | { readonly kind: "cut" } | { kind: "failed"; offset: bigint; error: HandlerError }
> {
  const watch = handlerWatch(clock, handlerTimeoutMs);
  const signal = AbortSignal.any([cut, watch.signal]);
  let onCut = () => {};
  const wasCut = new Promise<{ readonly kind: "cut" }>((resolve) => {
    onCut = () => {
      transaction.destroy();
      resolve({ kind: "cut" });
    };
    cut.addEventListener("abort", onCut, { once: true });
  });
  const hung = watch.hung.then((offset) => {
    transaction.destroy();
    const error = handlerHung(at, offset, handlerTimeoutMs);
    return { kind: "failed" as const, offset, error };
  });
  try {
    const outcome = work({ watch, signal, published: false, refused: false });
    return await Promise.race([outcome, wasCut, hung]);
  } finally {
    cut.removeEventListener("abort", onCut);
    watch.end();
  }
}

/** What the storage threw, as one of ours. */
export function storageFailed(what: string, error: unknown): OnceboxError {
  if (error instanceof OnceboxError) return error;
  return new StorageError("storage-failed", `${what} failed: ${reason(error)}`, { cause: error });
}

function reason(error: unknown): string {
  if (error instanceof Error) return error.message;
  try {
    return String(error);
  } catch {
    // An object without a text form, thrown on purpose or by accident.
    return "a value that cannot be shown";
  }
}
