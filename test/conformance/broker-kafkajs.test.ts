// The broker suite on kafkajs, with real Kafka.

import { brokerConformance } from "@oncebox/testing";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { hasKafka } from "../fixtures/servers.ts";
import { capabilities, type KafkaSide, kafkajsUnderTest, kafkaSide } from "./kafkajs-under-test.ts";

const cases = brokerConformance();
const isPossible = ({ needs }: (typeof cases)[number]) =>
  needs.every((need) => capabilities.has(need));

describe.skipIf(!hasKafka())("kafkajsBroker", () => {
  let side: KafkaSide;
  beforeAll(() => {
    side = kafkaSide();
  });
  afterAll(() => side.close());

  // Most of a case is waiting for the group, and none touches another's topics.
  describe.concurrent("keeps", () => {
    for (const { promise, name, run } of cases.filter(isPossible)) {
      test(`${promise} ${name}`, async () => {
        const { context, close } = kafkajsUnderTest(side);
        try {
          await run(context);
        } finally {
          await close();
        }
      });
    }
  });

  // Shown by broker-kafkajs-cluster.test.ts.
  test("with no case left out but those that need a cluster", () => {
    const skipped = cases.filter((each) => !isPossible(each));
    expect(skipped.map(({ promise, name }) => `${promise} ${name}`)).toEqual([
      "B1 what too few replicas could store is not acknowledged; the rest of the call is",
    ]);
  });
});
