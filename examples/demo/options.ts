// Owns the command line of the demo.

import { parseArgs } from "node:util";
import type { SqlBreak } from "../../test/fixtures/breaks.ts";

export interface DemoOptions {
  readonly messages: number;
  readonly break: "fence" | "dedupe" | null;
}

const messagesMin = 100;
const messagesMax = 1_000_000;

export const usage = `usage: npm run demo -- [--messages N] [--break fence|dedupe] [--servers]
  --messages N     orders to place, ${messagesMin} to 1,000,000 (default 2,000)
  --break fence    workers neither check their claim nor record ids: must end with doubled orders
  --break dedupe   workers record no ids and the shop repeats 5 % of its messages: the same
  --servers        use real PostgreSQL and Kafka (always the case so far)
  servers          DATABASE_URL and KAFKA_BROKERS when set, else started here and removed again`;

/** Throws UsageError, with a text for a person. */
export function parseOptions(args: readonly string[]): DemoOptions {
  const { messages, break: broken } = parsed(args);
  const count = Number(messages);
  if (!/^\d+$/.test(messages) || count < messagesMin || count > messagesMax) {
    throw new UsageError(
      `--messages must be a whole number from ${messagesMin} to ${messagesMax}, not "${messages}"`,
    );
  }
  if (broken !== undefined && broken !== "fence" && broken !== "dedupe") {
    throw new UsageError(`--break must be fence or dedupe, not "${broken}"`);
  }
  return { messages: count, break: broken ?? null };
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
        servers: { type: "boolean" },
      },
    });
    return values;
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
}
