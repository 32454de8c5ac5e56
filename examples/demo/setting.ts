// Owns what the processes of one run of the demo have in common, and how it reaches them.

import type { SqlBreak } from "../../test/fixtures/breaks.ts";
import type { Accident } from "./rig.ts";

export interface Setting {
  readonly databaseUrl: string;
  readonly brokers: readonly string[];
  readonly topic: string;
  /** The billing's stable name, and its group's: of its own for each run, as brokers may be shared. */
  readonly consumer: string;
  readonly sessionTimeoutMs: number;
  /** Statements to be replaced in the workers, to show that the checker notices. */
  readonly breaks: readonly SqlBreak[];
}

export const schema = "oncebox";

/** What one worker is started with. */
export interface Role extends Setting {
  readonly name: string;
  readonly accident: Accident | null;
}

/** A role as the one argument of a child process. */
export function toArguments(role: Role): string[] {
  return [JSON.stringify(role)];
}

export function fromArguments(): Role {
  const [text] = process.argv.slice(2);
  if (text === undefined) throw new Error("this process is started by demo.ts");
  return JSON.parse(text);
}
