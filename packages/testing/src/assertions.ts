/**
 * What a test of handlers asks: was it applied once, dropped as a duplicate, rolled back? Plain
 * functions for any test runner; each throws an error that says what was found. Works with rows and
 * events of any storage and broker.
 */
import type { Observer, OnceboxEvent, ParkedMessage, StorageVerbs } from "@oncebox/core";

/** What was expected is not so. */
export class ExpectationError extends Error {
  override readonly name = "ExpectationError";
}

/** Events of services, kept in their order. */
export interface EventLog {
  /** To be given to a service as its `observer`. */
  readonly observer: Observer;
  readonly events: readonly OnceboxEvent[];
  readonly ofType: <T extends OnceboxEvent["type"]>(
    type: T,
  ) => readonly Extract<OnceboxEvent, { type: T }>[];
}

export function eventLog(): EventLog {
  const events: OnceboxEvent[] = [];
  return {
    events,
    observer: (event) => {
      events.push(event);
    },
    ofType: <T extends OnceboxEvent["type"]>(type: T) =>
      events.filter((event): event is Extract<OnceboxEvent, { type: T }> => event.type === type),
  };
}

/** Most entries of a kind that a message lists. */
const listedMax = 5;
/** Parked messages that are asked for at once. */
const pageRows = 100;

/**
 * Throws unless the effects are exactly these, each once, in any order: nothing lost, nothing
 * doubled, nothing else. `keyOf` names an effect by what it stems from, instead of by its content.
 */
export function expectAppliedOnce<T>(
  effects: readonly T[],
  expected: readonly T[],
  { keyOf = shown }: { readonly keyOf?: (effect: T) => string } = {},
): void {
  const found = countsOf(effects.map(keyOf));
  const wanted = new Set(expected.map(keyOf));
  const lost = [...wanted].filter((key) => !found.has(key));
  const doubled = [...found].filter(([key, count]) => count > 1 && wanted.has(key));
  const others = [...found.keys()].filter((key) => !wanted.has(key));
  const complaints = [
    listed("missing", lost),
    listed(
      "applied more than once",
      doubled.map(([key, count]) => `${key} (${count} times)`),
    ),
    listed("not expected", others),
  ].filter((complaint) => complaint !== "");
  if (complaints.length === 0) return;
  throw new ExpectationError(
    `each of ${wanted.size} effects must be there once; ${complaints.join("; ")}`,
  );
}

/**
 * Throws unless exactly so many messages were dropped as duplicates, in one topic or in all: their
 * handlers were not called, and their positions moved on.
 */
export function expectDuplicates(
  log: Pick<EventLog, "ofType">,
  count: number,
  { topic }: { readonly topic?: string } = {},
): void {
  const chunks = log
    .ofType("inbox.chunk-committed")
    .filter((chunk) => topic === undefined || chunk.topic === topic);
  const found = chunks.reduce((sum, chunk) => sum + chunk.duplicates, 0);
  if (found === count) return;
  const applied = chunks.reduce((sum, chunk) => sum + chunk.applied, 0);
  const where = topic === undefined ? "" : ` of ${topic}`;
  throw new ExpectationError(
    `${count} messages${where} must have been dropped as duplicates, but ${found} were; ${applied} were applied`,
  );
}

/** A message, by its place. */
export interface MessagePlace {
  readonly topic: string;
  readonly partition: number;
  readonly offset: bigint;
}

/**
 * Throws unless the message failed and nothing of it is there: it was tried, its partition waits for
 * it, and none of `effects`, what its handler would have written, was found.
 */
export function expectRolledBack(
  log: Pick<EventLog, "ofType">,
  { topic, partition, offset }: MessagePlace,
  effects: readonly unknown[] = [],
): void {
  const name = `the message at ${topic}/${partition}, offset ${offset},`;
  const here = (event: MessagePlaceOf) => event.topic === topic && event.partition === partition;
  const tries = log.ofType("inbox.blocked").filter((each) => here(each) && each.offset === offset);
  if (tries.length === 0) {
    throw new ExpectationError(`${name} must have failed, but no attempt of it did`);
  }
  const passed = log
    .ofType("inbox.chunk-committed")
    .find((chunk) => here(chunk) && chunk.firstOffset <= offset && offset < chunk.nextOffset);
  if (passed !== undefined) {
    throw new ExpectationError(
      `${name} must be rolled back, but its chunk was committed: the position is ${passed.nextOffset}`,
    );
  }
  if (effects.length > 0) {
    throw new ExpectationError(
      `${name} was rolled back, but ${listed("left", effects.map(shown))}`,
    );
  }
}

/**
 * Throws unless exactly these messages of a consumer are parked, in any order and in any state; says
 * of those that are not expected why they were set aside.
 */
export async function expectParked(
  { parked }: Pick<StorageVerbs, "parked">,
  consumer: string,
  expected: readonly MessagePlace[],
): Promise<void> {
  const nameOf = ({ topic, partition, offset }: MessagePlace) => `${topic}/${partition}@${offset}`;
  const found = new Map<string, string>();
  for (let above: bigint | null = null, more = true; more; ) {
    const page: readonly ParkedMessage[] = await parked({ consumer }, { limit: pageRows, above });
    for (const { topic, partition, record, error } of page) {
      const name = nameOf({ topic, partition, offset: record.offset });
      found.set(name, error === null ? name : `${name} (${error.code}: ${error.text})`);
    }
    above = page.at(-1)?.id ?? null;
    more = page.length === pageRows;
  }
  const wanted = new Set(expected.map(nameOf));
  const complaints = [
    listed(
      "not parked",
      [...wanted].filter((name) => !found.has(name)),
    ),
    listed(
      "not expected",
      [...found].filter(([name]) => !wanted.has(name)).map(([, shown]) => shown),
    ),
  ].filter((complaint) => complaint !== "");
  if (complaints.length === 0) return;
  throw new ExpectationError(
    `${wanted.size} messages of ${consumer} must be parked; ${complaints.join("; ")}`,
  );
}

type MessagePlaceOf = Pick<MessagePlace, "topic" | "partition">;

function countsOf(keys: readonly string[]): ReadonlyMap<string, number> {
  const counts = new Map<string, number>();
  for (const key of keys) counts.set(key, (counts.get(key) ?? 0) + 1);
  return counts;
}

/** Empty where there is nothing to list. */
export function listed(what: string, entries: readonly string[]): string {
  if (entries.length === 0) return "";
  const more = entries.length - listedMax;
  const first = entries.slice(0, listedMax).join(", ");
  return `${what}: ${first}${more > 0 ? `, and ${more} more` : ""}`;
}

/** A value by its content: the same text for the same content. */
export function shown(value: unknown): string {
  if (typeof value === "bigint") return `${value}n`;
  if (value instanceof Uint8Array) {
    return `<${Array.from(value, (byte) => byte.toString(16).padStart(2, "0")).join(" ")}>`;
  }
  if (value instanceof Date) return value.toISOString();
  if (value instanceof Error) return String(value);
  if (value instanceof Map) return `Map ${shown([...value])}`;
  if (value instanceof Set) return `Set ${shown([...value])}`;
  if (Array.isArray(value)) return `[${value.map(shown).join(", ")}]`;
  if (typeof value === "object" && value !== null) {
    // Sorted: two objects with the same content are the same, whatever order they were filled in.
    const fields = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
    if (fields.length === 0) return bare(value);
    return `{${fields.map(([name, field]) => `${name}: ${shown(field)}`).join(", ")}}`;
  }
  // As JSON all that is not finite would be null.
  if (typeof value === "number") return String(value);
  return JSON.stringify(value) ?? String(value);
}

/** An object without fields to see: what it says of itself. Two that say nothing would look the same. */
function bare(value: object): string {
  const prototype: unknown = Object.getPrototypeOf(value);
  if (prototype === Object.prototype || prototype === null) return "{}";
  const { toJSON } = value as { toJSON?: () => unknown };
  if (typeof toJSON === "function") return shown(toJSON.call(value));
  if (value.toString !== Object.prototype.toString) return String(value);
  throw new ExpectationError(
    `a ${value.constructor.name} cannot be compared: it shows no fields, no toJSON and no toString of its own`,
  );
}
