// Owns the running of a broker script: one step after another, and what became of each in words.
// Judges nothing. How records are cut into batches, who of a group reads what, and how often a group
// shares anew is each broker's own business, and left out.

import { OnceboxError } from "@oncebox/core";
import type { BrokerUnderTest } from "@oncebox/testing";
import { Scene } from "./broker-scene.ts";
import type { BrokerScript } from "./broker-script.ts";
import { actOnBroker } from "./broker-verbs.ts";

/** One line for each step. Rejects where a group does not come to rest. */
export async function runBroker(
  { steps }: BrokerScript,
  context: BrokerUnderTest,
): Promise<readonly string[]> {
  const scene = new Scene(context);
  const lines: string[] = [];
  for (const [place, step] of steps.entries()) {
    const words = await actOnBroker(scene, step).catch((error: unknown) => {
      // What is ours is an outcome; anything else is a fault of the script or of the runner.
      if (error instanceof OnceboxError) {
        return `error ${error.code}, ${error.retryable ? "retryable" : "final"}`;
      }
      throw new Error(`step ${place + 1}, ${step.do}: ${String(error)}`, { cause: error });
    });
    lines.push(`${place + 1} ${step.do}: ${words}`);
  }
  return lines;
}
