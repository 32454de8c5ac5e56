import { expect, it } from "vitest";
import { reading } from "./consumer-scene.ts";

it("a partition that is taken over again and again is claimed back less and less often", async () => {
  // Guards the doubling in #fenced: a member that is cut off from Kafka, and from Kafka only, hears of
  // no rebalance. It must not keep its successor from working until its client is built anew.
  const scene = await reading();
  const thief = async () => {
    scene.row.epoch += 1n;
  };
  const claims = () => scene.ofType("inbox.claimed").length;
  const waits: number[] = [];
  for (let theft = 0; theft < 4; theft += 1) {
    await thief();
    const before = claims();
    let seconds = 0;
    while (claims() === before && seconds < 120) {
      await scene.advance(1_000);
      seconds += 1;
    }
    waits.push(seconds);
  }
  expect(waits).toEqual([...waits].sort((a, b) => a - b));
  expect(waits.at(-1)).toBeGreaterThan(20);
  // A commit of its own shows that the partition is its own again.
  await scene.delivered();
  await thief();
  await scene.advance(8_500);
  expect(claims()).toBe(6);
});

it("an operator who seeks again and again waits no longer each time", async () => {
  // Guards the reset in #claimNow: docs/operator.md promises one to two heartbeats for every seek.
  const scene = await reading();
  for (let seek = 1; seek <= 5; seek += 1) {
    scene.row.epoch += 1n;
    scene.row.soughtEpoch = scene.row.epoch;
    scene.row.nextOffset = BigInt(seek);
    await scene.advance(8_500);
    expect(scene.position()).toBe(BigInt(seek));
  }
});

it("an outage is no part of the trouble of a single message", async () => {
  // Guards the count of reruns by kind: a message is set apart after local trouble only.
  let outage = true;
  let deadlocks = 1;
  const scene = await reading();
  scene.storage.trouble = (error: Error) => (error.message === "down" ? "global" : "local");
  const { open } = scene.parts;
  scene.storage.open = async (...given: Parameters<typeof open>) => {
    if (outage) throw new Error("down");
    deadlocks -= 1;
    if (deadlocks >= 0) throw new Error("deadlock");
    return open(...given);
  };
  await scene.delivered();
  await scene.advance(45_000);
  expect(scene.ofType("inbox.chunk-rerun").length).toBeGreaterThan(11);
  outage = false;
  await scene.advance(10_000);
  expect(scene.ofType("inbox.chunk-rerun").at(-1)).toMatchObject({ trouble: "local", rerun: 1 });
  expect(scene.ofType("inbox.blocked")).toEqual([]);
  expect(scene.handled).toEqual([10n]);
});
