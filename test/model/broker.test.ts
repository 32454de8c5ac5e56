// The memory broker against kafkajs on real Kafka: every script has the same outcomes on both.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type KafkaSide, kafkaSide } from "../conformance/kafkajs-under-test.ts";
import { hasKafka } from "../fixtures/servers.ts";
import { chanced } from "./broker-generated.ts";
import { kafkajsContext } from "./broker-kafkajs.ts";
import { memoryContext } from "./broker-memory.ts";
import { runBroker } from "./broker-run.ts";
import type { BrokerScript } from "./broker-script.ts";
import { groupScripts } from "./broker-scripts-groups.ts";
import { logScripts } from "./broker-scripts-logs.ts";
import { difference } from "./comparison.ts";
import { inWords } from "./storage-script.ts";

const seeds = Array.from({ length: 12 }, (_, n) => n + 1);

async function onMemory(script: BrokerScript): Promise<readonly string[]> {
  const { context, close } = memoryContext();
  try {
    return await runBroker(script, context);
  } finally {
    await close();
  }
}

describe.skipIf(!hasKafka())("kafkajs", () => {
  let side: KafkaSide;
  beforeAll(() => {
    side = kafkaSide();
  });
  afterAll(() => side.close());

  // Most of a script is waiting for a group, and none touches another's topics.
  describe.concurrent("does as the model:", () => {
    for (const script of [...logScripts, ...groupScripts, ...seeds.map(chanced)]) {
      test(script.name, async () => {
        const model = { name: "memory", lines: await onMemory(script) };
        const { context, close } = kafkajsContext(side);
        try {
          const reality = { name: "kafkajs", lines: await runBroker(script, context) };
          const found = difference(inWords(script.steps), model, reality);
          if (found !== null) expect.fail(`\n${found}\n`);
        } finally {
          await close();
        }
      });
    }
  });
});
