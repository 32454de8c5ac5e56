/**
 * Finds handlers that are not fit for `ordering: "key"`: it runs the same messages through a consumer
 * in order and then those of different keys at once, again and again with other pauses, and compares
 * what they leave behind. Owns the runs; restoring the database is its user's.
 */
import {
  ConfigurationError,
  checkOptions,
  createConsumer,
  type Handler,
  having,
  integer,
  type OnceboxEvent,
  type OutgoingMessage,
  type Rule,
  type Storage,
  systemClock,
  within,
} from "@oncebox/core";
import { ExpectationError, listed, shown } from "./assertions.ts";
import { type MemoryBroker, memoryBroker } from "./memory-broker/memory-broker.ts";
import { entriesOf, without } from "./snapshots.ts";
import { stirred } from "./stirring.ts";

export interface OrderingComparison<Tx> {
  /**
   * Your storage, on a connection that is pipelined. The runs leave rows in the tables of Oncebox,
   * under a consumer's name of their own.
   */
  readonly storage: Storage<Tx>;
  /** The handler: `topic.handler(run)`. */
  readonly handler: Handler<Tx>;
  /** Of the handler's topic, in this order, at most 10,000, of two keys at least: all in one chunk. */
  readonly messages: readonly OutgoingMessage[];
  /**
   * Everything that the handler changes, as it is committed. Compared by content, lists without their
   * order: handlers of different keys have none. What has to be in order goes into one value.
   */
  readonly snapshot: () => unknown;
  /** Brings all that the snapshot shows back to where it was. Called before each run. */
  readonly reset: () => unknown;
  /**
   * How often the messages are handled by key: once as fast as it goes, then with pauses.
   * @defaultValue 20
   */
  readonly runs?: number;
  /**
   * Decides the pauses. A difference that was found names it.
   * @defaultValue another one each time
   */
  readonly seed?: number;
  /**
   * Longest time of one run, in milliseconds.
   * @defaultValue 30000
   */
  readonly runMs?: number;
}

type Complete<Tx> = Required<OrderingComparison<Tx>>;

/** Chunks are not larger. */
const messagesMax = 10_000;
/** What a stop may take: nothing is under way then, or a handler that is to be cut off. */
const stopMs = 1_000;
const seedMax = 2 ** 32;

/**
 * Throws ExpectationError where effects with `ordering: "key"` differ from those in order, and where
 * nothing was compared: the handler failed, was refused what handlers beside others must not do, left
 * nothing, or does not leave the same twice in order. Throws ConfigurationError for wrong options and
 * for a storage that handles everything in order.
 */
export async function compareOrderings<Tx>(comparison: OrderingComparison<Tx>): Promise<void> {
  const { handler, runs, seed, ...given } = checked(comparison);
  const bench = await benchOf({ handler, runs, seed, ...given });
  const stateOf = async () => entriesOf(await given.snapshot());
  const restored = async () => {
    await given.reset();
    return stateOf();
  };
  const effectsOf = async (ordering: Ordering, by: Handler<Tx>) => {
    await bench.run(ordering, by);
    return stateOf();
  };
  const before = await restored();
  const expected = await effectsOf("partition", handler);
  if (differenceOf(before, expected) === "") {
    throw nothing("the handler changed nothing that the snapshot shows");
  }
  const again = differenceOf(before, await restored());
  if (again !== "") throw nothing(`reset does not bring everything back: ${again}`);
  const itself = differenceOf(expected, await effectsOf("partition", handler));
  if (itself !== "") {
    throw nothing(
      `two runs in order differ (${itself}): leave times, random values and numbers that count on out of the snapshot`,
    );
  }
  for (let run = 1; run <= runs; run += 1) {
    await given.reset();
    const stir = run === 1 ? handler : stirred(handler, seed + run);
    const found = differenceOf(expected, await effectsOf("key", stir));
    if (found !== "") throw different(found, { run, runs, seed });
  }
}

function checked<Tx>(comparison: OrderingComparison<Tx>): Complete<Tx> {
  checkOptions("compareOrderings", comparison, {
    storage: having("a storage whose handlers wait, not a synchronous one", "open", "check"),
    handler: having("a handler: topic.handler(run)", "run"),
    messages: aList,
    snapshot: required,
    reset: required,
    runs: integer(1, 10_000),
    seed: integer(0, seedMax),
    runMs: integer(100, 86_400_000),
  });
  const { handler, messages } = comparison;
  const { runs = 20, runMs = 30_000 } = comparison;
  const { seed = Math.floor(systemClock.random() * seedMax) } = comparison;
  const { topic } = handler;
  const other = messages.find((message) => message.topic !== topic);
  if (other !== undefined) {
    throw wrong(`messages must be of the handler's topic ${topic}, and one is of ${other.topic}`);
  }
  // By their bytes, as the consumer tells them apart.
  const utf8 = new TextEncoder();
  const bytesOf = (key: string | Uint8Array) => (typeof key === "string" ? utf8.encode(key) : key);
  const keys = new Set(messages.map(({ key }, nth) => (key === null ? nth : shown(bytesOf(key)))));
  if (keys.size < 2)
    throw wrong("messages must be of two keys at least: nothing else runs at once");
  return { ...comparison, runs, seed, runMs };
}

const required: Rule = { is: "a function", fits: (value) => typeof value === "function" };
const aList: Rule = {
  is: `a list of at most ${messagesMax} messages`,
  fits: (value) => Array.isArray(value) && value.length <= messagesMax,
};

function wrong(what: string): ConfigurationError {
  return new ConfigurationError("invalid-options", `compareOrderings: ${what}`);
}

type Ordering = "partition" | "key";

interface Bench<Tx> {
  /** Resolves when all messages are committed in one chunk. Rejects with ExpectationError. */
  readonly run: (ordering: Ordering, handler: Handler<Tx>) => Promise<void>;
}

/** A broker with the messages in one partition, read from the beginning by each run. */
async function benchOf<Tx>(complete: Complete<Tx>): Promise<Bench<Tx>> {
  const { storage, handler, messages } = complete;
  const { pipelined, idleInTransactionTimeoutMs } = await storage.check();
  if (!pipelined) {
    throw wrong(
      'this storage handles everything in order, ordering "key" or not, as its connection is not pipelined: on PostgreSQL make the pool with `pipeline: true`; on SQLite there is nothing to compare',
    );
  }
  const { topic } = handler;
  const broker = memoryBroker({
    batchRecordsMax: messages.length,
    batchBytesMax: 2 ** 30,
    // A fetch before the claim has its position finds nothing, and the next one comes after this.
    maxWaitMs: 5,
    sessionTimeoutMs: Math.max(30_000, idleInTransactionTimeoutMs ?? 0),
  });
  broker.admin.createTopic(topic);
  for (const message of messages) broker.admin.send(message);
  // The same for all runs: idempotency keys and the ids of what is enqueued are made of it.
  const name = `compare-orderings-${crypto.randomUUID()}`;
  return {
    run: async (ordering, by) => {
      await rewind(storage, broker, name, topic);
      await handleAll({ ...complete, handler: by }, { name, broker, ordering });
    },
  };
}

/** To the first message, which is handled anew. A reset may have taken our rows as well. */
async function rewind<Tx>(
  storage: Storage<Tx>,
  broker: MemoryBroker,
  consumer: string,
  topic: string,
): Promise<void> {
  if (!(await storage.isRegistered(consumer, topic))) return;
  const { topicId } = await broker.offsets(topic, "earliest");
  await storage.seek({
    ...{ consumer, topic, topicId, replay: true, expected: null },
    moves: [{ partition: 0, to: 0n }],
    audit: { actor: "compareOrderings", reason: "the messages are handled once more" },
  });
}

async function handleAll<Tx>(
  { storage, handler, messages, runMs }: Complete<Tx>,
  { name, broker, ordering }: { name: string; broker: MemoryBroker; ordering: Ordering },
): Promise<void> {
  let failure: unknown;
  const noting: Handler<Tx> = {
    topic: handler.topic,
    run: async (...call) => {
      try {
        await handler.run(...call);
      } catch (error) {
        failure ??= error;
        throw error;
      }
    },
  };
  let end: (complaint: string | null) => void = () => undefined;
  const ended = new Promise<string | null>((resolve) => {
    end = resolve;
  });
  const judge = judgeOf(ordering, BigInt(messages.length));
  const consumer = createConsumer({
    ...{ name, storage, broker, partitionsAtOnceMax: 1 },
    ...{
      chunkSizeMax: messages.length,
      chunkBytesMax: 2 ** 30,
      handlersAtOnceMax: messages.length,
    },
    observer: (event) => {
      const verdict = judge(event);
      if (verdict === undefined) return;
      if ("error" in event) failure ??= event.error;
      end(verdict);
    },
  });
  consumer.handle(noting, { ordering, onFailure: "block" });
  try {
    await consumer.start();
    const late = `the messages were not handled within ${runMs} ms`;
    const complaint = await within(systemClock, runMs, ended, late);
    if (complaint !== null) throw nothing(complaint, failure);
  } finally {
    await consumer.stop({ deadlineMs: stopMs });
  }
}

/** Null: all is committed. Undefined: it goes on. Text: why nothing is compared. */
function judgeOf(
  ordering: Ordering,
  endOffset: bigint,
): (event: OnceboxEvent) => string | null | undefined {
  let opened = 0;
  return (event) => {
    switch (event.type) {
      case "inbox.ordering-kept":
        return 'the handler used a savepoint, a setting or a nested transaction, which is refused beside other handlers, so its topic is handled in order, whatever its ordering says: use ordering "partition"';
      case "inbox.blocked":
        return ordering === "key"
          ? `the handler failed while others ran beside it, at offset ${event.offset}`
          : `the handler failed in order at offset ${event.offset}`;
      case "inbox.chunk-rerun":
        return "the database was in trouble";
      case "inbox.chunk-opening":
        opened += 1;
        // In order, the message that fails is told by itself, with its error.
        if (opened === 1 || ordering === "partition") return undefined;
        return "a handler failed while others ran beside it, and its chunk was done again in order";
      case "inbox.chunk-committed":
        if (event.nextOffset !== endOffset) return undefined;
        return opened === 1 ? null : "the messages were not handled in one chunk";
      default:
        return undefined;
    }
  };
}

/** What the first has and the second has not, and the other way round. Empty: nothing. */
function differenceOf(first: readonly string[], second: readonly string[]): string {
  const missing = listed("missing", without(first, second));
  const extra = listed("extra", without(second, first));
  return [missing, extra].filter((text) => text !== "").join("; ");
}

function different(
  found: string,
  { run, runs, seed }: { readonly run: number; readonly runs: number; readonly seed: number },
): ExpectationError {
  const pauses = run === 1 ? "without pauses" : `seed ${seed} draws the same pauses again`;
  return new ExpectationError(
    `effects with ordering "key" are not those in order (run ${run} of ${runs}; ${pauses}): ${found}. Handlers of different keys touch the same rows, or share something else, and locks do not separate handlers of one transaction: change shared rows by one relative statement (SET n = n + $1), or use ordering "partition"`,
  );
}

function nothing(why: string, cause?: unknown): ExpectationError {
  const text = `nothing was compared: ${why}`;
  return new ExpectationError(text, cause === undefined ? undefined : { cause });
}
