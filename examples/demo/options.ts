// Owns the command line of the demo.

import { parseArgs } from "node:util";
import type { SqlBreak } from "../../test/fixtures/breaks.ts";

export interface DemoOptions {
  readonly messages: number;
  readonly break: "fence" | "dedupe" | null;
  readonly servers: boolean;
}

const messagesMin = 100;
const messagesMax = 1_000_000;

export const usage = `usage: npm run demo -- [--messages N] [--break dedupe|fence] [--servers]
  without options  one process and no server: SQLite in a temporary file, a broker in memory
  --servers        real PostgreSQL and Kafka, and worker processes that are killed and frozen;
                   DATABASE_URL and KAFKA_BROKERS when set, else started here and removed again
  --messages N     orders to place, ${messagesMin} to 1,000,000 (default 2,000)
  --break dedupe   consumers record no ids: must end with doubled orders
  --break fence    with --servers: workers neither check their claim nor record ids: the same`;

/** Throws UsageError, with a text for a person. */
export function parseOptions(args: readonly string[]): DemoOptions {
  const { messages, break: broken, servers } = parsed(args);
  const count = Number(messages);
  if (!/^\d+$/.test(messages) || count < messagesMin || count > messagesMax) {
    throw new UsageError(
      `--messages must be a whole number from ${messagesMin} to ${messagesMax}, not "${messages}"`,
    );
  }
  if (broken !== undefined && broken !== "fence" && broken !== "dedupe") {
    throw new UsageError(`--break must be fence or dedupe, not "${broken}"`);
  }
  if (broken === "fence" && !servers) {
    // A process that was frozen, and wakes up with a claim that is void, is what a fence is for.
    throw new UsageError("--break fence needs --servers: only a real process can be frozen");
  }
  return { messages: count, break: broken ?? null, servers };
}

export class UsageError extends Error {}

/** The statements that a break replaces. Without ids the fence stands alone, and shows when it goes. */
export function sqlBreaks(broken: DemoOptions["break"]): readonly SqlBreak[] {
  if (broken === null) return [];
  return broken === "fence" ? ["fence", "dedupe"] : ["dedupe"];
}

function parsed(args: readonly string[]) {
  try {
    const { values } = parseArgs({
      args: [...args],
      options: {
        messages: { type: "string", default: "2000" },
        break: { type: "string" },
        servers: { type: "boolean", default: false },
      },
    });
    return values;
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
}
