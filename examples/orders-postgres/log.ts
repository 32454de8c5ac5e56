// Owns the log: one line of JSON for each event, on standard output. Errors are named with code and
// message; their other fields may hold values of rows, and stay out.

import type { Observer, OnceboxEvent } from "@oncebox/core";

type Level = "debug" | "info" | "warn" | "error";

export function log(level: Level, event: string, fields: object = {}): void {
  const line = { at: new Date().toISOString(), level, event, ...fields };
  process.stdout.write(`${JSON.stringify(line, (_, value: unknown) => plain(value))}\n`);
}

function plain(value: unknown): unknown {
  if (typeof value === "bigint") return Number(value);
  if (!(value instanceof Error)) return value;
  const { code } = value as { readonly code?: unknown };
  // Of a connection that failed on every address, node-postgres gives no message but this.
  const message = value.message || String(code ?? value.name);
  return { name: value.name, message, ...(typeof code === "string" ? { code } : {}) };
}

/** What happens all the time while all is well. */
const routine: ReadonlySet<OnceboxEvent["type"]> = new Set([
  "inbox.batch-dropped",
  "inbox.chunk-opening",
  "inbox.offsets-committed",
]);

/** What is worth knowing, and nothing to worry about. */
const news: ReadonlySet<OnceboxEvent["type"]> = new Set([
  "inbox.assigned",
  "inbox.claimed",
  "inbox.chunk-committed",
  "inbox.unblocked",
  "outbox.lanes-held",
  "outbox.published",
]);

/** For `observer` of a consumer or a relay. Routine is logged where LOG_LEVEL is `debug`. */
export const logEvents: Observer = ({ type, ...fields }) => {
  if (routine.has(type)) {
    if (process.env.LOG_LEVEL === "debug") log("debug", type, fields);
  } else {
    log(news.has(type) ? "info" : "warn", type, fields);
  }
};
