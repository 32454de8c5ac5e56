/**
 * What the cases check with. Runner-neutral: a failed check throws, with a text that says what was
 * promised and what was found. Knows nothing of storages or brokers.
 */
import { type ErrorCode, OnceboxError, systemClock } from "@oncebox/core";

/** A promise was not kept. */
export class ConformanceError extends Error {
  override readonly name = "ConformanceError";
}

/** `promised` is a full sentence about what must hold. */
export function holds(condition: boolean, promised: string): asserts condition {
  if (!condition) throw new ConformanceError(promised);
}

/** Compares by content: numbers, texts, bytes, lists, plain objects. */
export function same<T>(actual: T, expected: T, what: string): void {
  const found = show(actual);
  const wanted = show(expected);
  holds(found === wanted, `${what} must be ${wanted}, but is ${found}`);
}

/** The error that `work` rejects with. Throws where it resolves, or rejects with another code. */
export async function rejected(
  work: Promise<unknown>,
  code: ErrorCode | readonly ErrorCode[],
  what: string,
): Promise<OnceboxError> {
  const codes = typeof code === "string" ? [code] : code;
  const error = await failureOf(work, `${what} must reject with ${codes.join(" or ")}`);
  if (error instanceof OnceboxError && codes.includes(error.code)) return error;
  const found = error instanceof OnceboxError ? `${error.code}: ${error.message}` : String(error);
  throw new ConformanceError(
    `${what} must reject with ${codes.join(" or ")}, but did with ${found}`,
    {
      cause: error,
    },
  );
}

/** What `work` rejects with, whatever it is. Throws where it resolves. */
export async function failureOf(work: Promise<unknown>, promised: string): Promise<unknown> {
  let value: unknown;
  try {
    value = await work;
  } catch (error) {
    return error;
  }
  throw new ConformanceError(`${promised}, but resolved with ${show(value)}`);
}

/** For what may refuse by throwing at once as well as by rejecting. */
export async function attempt(use: () => unknown): Promise<unknown> {
  return use();
}

/** The promise's own outcome, or a ConformanceError where that takes longer than `ms`. */
export async function within<T>(ms: number, work: Promise<T>, what: string): Promise<T> {
  const enough = new AbortController();
  const late = systemClock.sleep(ms, enough.signal).then((): never => {
    throw new ConformanceError(`${what} must take less than ${ms} ms`);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    enough.abort();
  }
}

const pollMs = 5;

/** Asks again and again until the answer is not undefined; at most `ms`. */
export async function eventually<T>(
  ms: number,
  probe: () => Promise<T | undefined>,
  what: string,
): Promise<T> {
  const deadline = systemClock.now() + ms;
  for (;;) {
    const answer = await probe();
    if (answer !== undefined) return answer;
    holds(systemClock.now() < deadline, `${what} must happen within ${ms} ms`);
    await systemClock.sleep(pollMs);
  }
}

/** Whether the promise has settled by now. */
export function settled(work: Promise<unknown>): () => boolean {
  let done = false;
  const settle = () => {
    done = true;
  };
  work.then(settle, settle);
  return () => done;
}

function show(value: unknown): string {
  if (typeof value === "bigint") return `${value}n`;
  if (value instanceof Uint8Array) {
    return `<${Array.from(value, (byte) => byte.toString(16).padStart(2, "0")).join(" ")}>`;
  }
  if (Array.isArray(value)) return `[${value.map(show).join(", ")}]`;
  if (typeof value === "object" && value !== null) {
    // Sorted: two objects with the same content are the same, whatever order they were filled in.
    const fields = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
    return `{${fields.map(([name, field]) => `${name}: ${show(field)}`).join(", ")}}`;
  }
  return value === undefined ? "undefined" : JSON.stringify(value);
}
