import { BrokerError } from "@oncebox/core";
import { expect, it } from "vitest";
import { Cluster } from "./cluster.ts";
import type { KafkajsClient } from "./kafkajs-client.ts";

/** Clients whose connections never come about, until they are destroyed. */
function scene() {
  const clients: { destroyed: boolean }[] = [];
  const cluster = new Cluster(() => {
    const state = { destroyed: false };
    clients.push(state);
    let fail = (_: Error): void => undefined;
    const connecting = new Promise<never>((_, reject) => {
      fail = reject;
    });
    return {
      cluster: { connect: () => connecting },
      destroy: () => {
        state.destroyed = true;
        fail(new Error("the client was closed"));
      },
    } as unknown as KafkajsClient;
  });
  return { cluster, clients };
}

it("answers what waits with an error when it is closed, and connects no more", async () => {
  // Guards: the flag. What waited behind a cut question opened connections that nobody ends.
  const { cluster, clients } = scene();
  const questions = [
    cluster.describe("orders"),
    cluster.offsets("orders", "latest"),
    cluster.group("billing", []),
  ];
  const answers = Promise.allSettled(questions);
  // The first one is under way.
  while (clients.length === 0) await Promise.resolve();
  cluster.close();
  for (const answer of await answers) {
    expect(answer).toMatchObject({ status: "rejected", reason: { code: "broker-unavailable" } });
    expect((answer as PromiseRejectedResult).reason).toBeInstanceOf(BrokerError);
    expect((answer as PromiseRejectedResult).reason.message).toContain("closed");
  }
  expect(clients).toEqual([{ destroyed: true }]);
  await expect(cluster.describe("orders")).rejects.toThrow("asking for topic orders: the broker");
  expect(clients).toHaveLength(1);
});
