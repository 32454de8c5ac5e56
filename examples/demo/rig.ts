// Owns what the demo does to a worker beside its work: the log of its steps, the accident it is told
// to have, and statements that are broken on purpose. No application needs any of this.

import type { Message, Observer } from "@oncebox/core";
import type pg from "pg";
import { brokenClient, type SqlBreak } from "../../test/fixtures/breaks.ts";
import { stepData } from "../../test/fixtures/history.ts";
import { stepLog } from "../../test/fixtures/step-log.ts";

/**
 * `kill`: killed inside a chunk, an invoice written and nothing committed. `freeze`: stopped when it
 * holds records and is about to open the transaction of a chunk.
 */
export type Accident = "kill" | "freeze";

/** Tells a worker to have its accident at the next chunk; it answers with the step `told`. */
export const accidentSignal = "SIGUSR2";

export interface Rig {
  readonly observer: Observer;
  readonly handling: (message: Message<unknown>) => void;
  readonly written: (message: Message<unknown>) => void;
  readonly poolOptions: pg.PoolConfig;
}

export function rig(planned: Accident | null, breaks: readonly SqlBreak[]): Rig {
  const log = stepLog();
  let due: Accident | null = null;
  process.once(accidentSignal, () => {
    due = planned;
    log("told");
  });

  /** The worker does it to itself, so that it happens exactly here and not a few statements later. */
  const accident = (kind: Accident, signal: NodeJS.Signals, where: object) => {
    if (due !== kind) return;
    due = null;
    log("accident", where);
    process.kill(process.pid, signal);
  };
  return {
    observer: (event) => {
      const data = stepData(event);
      log(event.type, data);
      if (event.type === "inbox.chunk-opening") accident("freeze", "SIGSTOP", data);
    },
    handling: (message) => log("handling", placeOf(message)),
    written: (message) => accident("kill", "SIGKILL", placeOf(message)),
    poolOptions: breaks.length === 0 ? {} : { Client: clientWith(breaks, log) },
  };
}

function placeOf({ topic, partition, offset }: Message<unknown>): object {
  return { topic, partition, offset: String(offset) };
}

function clientWith(breaks: readonly SqlBreak[], log: ReturnType<typeof stepLog>) {
  const heard = new Set<string>();
  return brokenClient(breaks, (name, statement) => {
    if (heard.has(`${name} ${statement}`)) return;
    heard.add(`${name} ${statement}`);
    log("broken", { name, statement });
  });
}
