import { describe, expect, it } from "vitest";
import type { GroupOffset } from "../ports/broker.ts";
import { systemClock } from "../ports/clock.ts";
import type { PartitionClaim } from "../ports/storage.ts";
import { offsetRelay } from "./offset-relay.ts";

const claim: PartitionClaim = {
  consumer: "billing",
  topic: "orders",
  partition: 3,
  token: "t",
  epoch: 7n,
  nextOffset: 0n,
  log: { topicId: null, leaderEpoch: null, last: null },
  replay: { number: 0, until: 0n },
  soughtEpoch: 0n,
  stalledClaims: 1,
  trying: null,
  incarnation: "db-1",
};

function relayTo(commit: (positions: readonly GroupOffset[]) => Promise<boolean>) {
  const observe = () => undefined;
  return offsetRelay({ consumer: "billing", intervalMs: 1, clock: systemClock, observe, commit });
}

describe("offset relay", () => {
  it("commits the newest position of each partition once, with what tells a set-back database", async () => {
    const sent: GroupOffset[][] = [];
    const relay = relayTo(async (positions) => sent.push([...positions]) > 0);
    relay.note(claim, 5n);
    relay.note(claim, 9n);
    await relay.flush();
    await relay.flush();
    const metadata = "oncebox/1 db-1 7 9";
    expect(sent).toEqual([[{ topic: "orders", partition: 3, offset: 9n, metadata }]]);
  });

  it.each([
    ["says no", async () => false],
    ["breaks the port's promise and throws", () => Promise.reject(new Error("client is gone"))],
  ])("tries again when the broker %s", async (_, failure) => {
    const sent: bigint[] = [];
    let failures = 1;
    const relay = relayTo(async (positions) => {
      failures -= 1;
      if (failures >= 0) return failure();
      return sent.push(...positions.map(({ offset }) => offset)) > 0;
    });
    relay.note(claim, 5n);
    await relay.flush();
    await relay.flush();
    expect(sent).toEqual([5n]);
  });

  it("does not bring an older position back over one noted while a commit failed", async () => {
    const sent: bigint[] = [];
    let first = true;
    const relay = relayTo(async (positions) => {
      sent.push(...positions.map(({ offset }) => offset));
      if (!first) return true;
      first = false;
      relay.note(claim, 8n);
      return false;
    });
    relay.note(claim, 5n);
    await relay.flush();
    await relay.flush();
    expect(sent).toEqual([5n, 8n]);
  });

  it("forgets positions of an assignment that is over, also those whose commit just failed", async () => {
    const sent: bigint[] = [];
    const relay = relayTo(async (positions) => {
      sent.push(...positions.map(({ offset }) => offset));
      relay.clear();
      return false;
    });
    relay.note(claim, 5n);
    relay.clear();
    await relay.flush();
    expect(sent).toEqual([]);
    relay.note(claim, 6n);
    await relay.flush();
    await relay.flush();
    expect(sent).toEqual([6n]);
  });
});
