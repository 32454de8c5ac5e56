// The broker suite on kafkajs, with real Kafka.

import { brokerConformance } from "@oncebox/testing";
import { afterAll, beforeAll, describe, test } from "vitest";
import { hasKafka } from "../fixtures/servers.ts";
import { capabilities, type KafkaSide, kafkajsUnderTest, kafkaSide } from "./kafkajs-under-test.ts";

describe.skipIf(!hasKafka())("kafkajsBroker", () => {
  let side: KafkaSide;
  beforeAll(async () => {
    side = await kafkaSide();
  });
  afterAll(() => side.close());

  // Most of a case is waiting for the group, and none touches another's topics.
  describe.concurrent("keeps", () => {
    for (const { promise, name, needs, run } of brokerConformance()) {
      test.skipIf(needs.some((need) => !capabilities.has(need)))(`${promise} ${name}`, async () => {
        const { context, close } = kafkajsUnderTest(side);
        try {
          await run(context);
        } finally {
          await close();
        }
      });
    }
  });
});
