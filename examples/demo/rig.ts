// Owns what the demo does to a worker beside its work: the log of its steps, the accident it is told
// to have, and statements that are broken on purpose. No application needs any of this.

import type { Message, Observer } from "@oncebox/core";
import type pg from "pg";
import { brokenClient, type SqlBreak } from "../../test/fixtures/breaks.ts";
import { stepData } from "../../test/fixtures/history.ts";
import { stepLog } from "../../test/fixtures/step-log.ts";

/** The signals that tell a worker which accident to have at its next chunk. */
export const accidents = {
  /** Killed inside a chunk: an invoice is written, nothing is committed. */
  kill: "SIGUSR2",
  /** Frozen when it holds records and is about to open the transaction of a chunk. */
  freeze: "SIGWINCH",
} as const;

export interface Rig {
  readonly observer: Observer;
  readonly handling: (message: Message<unknown>) => void;
  readonly written: () => void;
  readonly poolOptions: pg.PoolConfig;
}

export function rig(breaks: readonly SqlBreak[]): Rig {
  const log = stepLog();
  const told = new Set<keyof typeof accidents>();
  let place: object = {};
  process.on(accidents.kill, () => told.add("kill"));
  process.on(accidents.freeze, () => told.add("freeze"));

  /** The worker does it to itself, so that it happens exactly here and not a few statements later. */
  const accident = (kind: keyof typeof accidents, signal: NodeJS.Signals, where: object) => {
    if (!told.delete(kind)) return;
    log("accident", { kind, ...where });
    process.kill(process.pid, signal);
  };
  return {
    observer: (event) => {
      const data = stepData(event);
      log(event.type, data);
      if (event.type === "inbox.chunk-opening") accident("freeze", "SIGSTOP", data);
    },
    handling: ({ topic, partition, offset }) => {
      place = { topic, partition, offset: String(offset) };
      log("handling", place);
    },
    written: () => accident("kill", "SIGKILL", place),
    poolOptions: breaks.length === 0 ? {} : { Client: clientWith(breaks, log) },
  };
}

function clientWith(breaks: readonly SqlBreak[], log: ReturnType<typeof stepLog>) {
  const heard = new Set<string>();
  return brokenClient(breaks, (name, statement) => {
    if (heard.has(`${name} ${statement}`)) return;
    heard.add(`${name} ${statement}`);
    log("broken", { name, statement });
  });
}
