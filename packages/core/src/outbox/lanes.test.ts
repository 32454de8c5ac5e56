import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { laneCount } from "../hashes.ts";
import { createLanes, fairShare, type HeldLane, isShort, lanesToTake, surplusOf } from "./lanes.ts";

const relayCount = fc.integer({ min: 1, max: 200 });

describe("the fair share", () => {
  it.each([
    [0, 64],
    [1, 64],
    [2, 32],
    [3, 22],
    [5, 13],
    [64, 1],
    [100, 1],
  ])("of one among %i relays is %i lanes", (relays, share) => {
    expect(fairShare(relays)).toBe(share);
  });

  it("covers every lane, and leaves none to fight over once all are taken", () => {
    fc.assert(
      fc.property(relayCount, (relays) => {
        expect(fairShare(relays) * relays).toBeGreaterThanOrEqual(laneCount);
        // All lanes are taken: somebody below the share does not ask in a hurry for ever.
        const least = laneCount - fairShare(relays) * (relays - 1);
        if (least > 0) expect(isShort(Math.floor(laneCount / relays), relays)).toBe(false);
      }),
    );
  });

  it("is asked for, and never more", () => {
    expect(lanesToTake(0, 2)).toBe(32);
    expect(lanesToTake(30, 2)).toBe(2);
    expect(lanesToTake(64, 2)).toBe(0);
  });
});

describe("surplus", () => {
  const lane = (number: number, state: HeldLane["state"] = "active"): HeldLane => {
    return { lane: number, token: `t${number}`, deadline: 0, state };
  };
  const held = Array.from({ length: 64 }, (_, number) => lane(number));

  it("is what is above the share, least work first", () => {
    const work = ({ lane: number }: HeldLane) => (number < 40 ? 5 : 0);
    const lanes = surplusOf(held, 2, work).map((one) => one.lane);
    expect(lanes).toHaveLength(32);
    expect(lanes.filter((number) => number >= 40)).toHaveLength(24);
  });

  it("is nothing at or below the share", () => {
    expect(surplusOf(held, 1, () => 0)).toEqual([]);
    expect(surplusOf(held.slice(0, 32), 2, () => 0)).toEqual([]);
  });

  it("does not count lanes that are being given back already", () => {
    const draining = Array.from({ length: 32 }, (_, number) => lane(number, "draining"));
    expect(surplusOf([...draining, ...held.slice(32)], 2, () => 0)).toEqual([]);
  });
});

describe("lanes", () => {
  const answer = (...leases: [number, string][]) => {
    return { relays: 1, leases: leases.map(([lane, token]) => ({ lane, token })) };
  };

  it("are held until the end of the lease, counted from before the request", () => {
    const lanes = createLanes();
    const { gained } = lanes.answered(answer([1, "a"], [2, "b"]), 100, 1_000);
    expect(gained.map((one) => one.lane)).toEqual([1, 2]);
    expect(gained[0]?.deadline).toBe(1_100);
    const again = lanes.answered(answer([1, "a"], [2, "b"]), 400, 1_000);
    expect(again).toEqual({ gained: [], lost: [], takenOver: [] });
    expect(lanes.held()).toEqual(gained);
    expect(gained[0]?.deadline).toBe(1_400);
  });

  it("are lost where they are missing, and another lease where the token is", () => {
    const lanes = createLanes();
    const { gained } = lanes.answered(answer([1, "a"], [2, "b"]), 0, 1_000);
    const change = lanes.answered(answer([1, "c"]), 500, 1_000);
    expect(change.lost).toEqual(gained);
    expect(change.takenOver).toEqual(gained);
    expect(gained.map((one) => one.state)).toEqual(["lost", "lost"]);
    expect(change.gained).toHaveLength(1);
    expect(lanes.held()).toEqual(change.gained);
  });

  it("that drain are not missed when they are gone", () => {
    const lanes = createLanes();
    lanes.answered(answer([1, "a"]), 0, 1_000);
    const [one] = lanes.held();
    if (one === undefined) throw new Error("not held");
    one.state = "draining";
    const { lost, takenOver } = lanes.answered(answer(), 500, 1_000);
    expect([lost.length, takenOver.length]).toEqual([1, 0]);
  });

  it("that were dropped do not take a newer lease with them", () => {
    const lanes = createLanes();
    const { gained: old } = lanes.answered(answer([1, "a"]), 0, 1_000);
    const { gained } = lanes.answered(answer([1, "b"]), 500, 1_000);
    lanes.drop(old);
    expect(lanes.held()).toEqual(gained);
  });
});
