// Owns what the processes of one run of the demo have in common, and how it reaches them.

import type { SqlBreak } from "../../test/fixtures/breaks.ts";

export interface Setting {
  readonly databaseUrl: string;
  readonly brokers: readonly string[];
  readonly topic: string;
  readonly sessionTimeoutMs: number;
  /** Statements to be replaced in the workers, to show that the checker notices. */
  readonly breaks: readonly SqlBreak[];
}

export const consumerName = "billing";
export const schema = "oncebox";

/** As the one argument of a child process. */
export function toArguments(setting: Setting, name: string): string[] {
  return [JSON.stringify({ ...setting, name })];
}

export function fromArguments(): Setting & { readonly name: string } {
  const [text] = process.argv.slice(2);
  if (text === undefined) throw new Error("this process is started by demo.ts");
  return JSON.parse(text);
}
