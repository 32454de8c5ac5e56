// What the verdict asks of claims that are held against a message, each in an outcome made by hand: all
// but the one at hand have ended with their process.

import { expect, it } from "vitest";
import { at, holder, Scene } from "./scene.ts";

async function foundAfter(act: (scene: Scene) => Promise<void> | void): Promise<readonly string[]> {
  const scene = new Scene({});
  await scene.begin();
  await act(scene);
  return Object.keys(scene.found());
}

it("a claim that was given up alive is not held against what was tried under it", async () => {
  const triedTwice = (left: boolean) => async (scene: Scene) => {
    await scene.tryAlone();
    await scene.claimAgain({ left });
    await scene.tryAlone();
  };
  expect(await foundAfter(triedTwice(true))).toEqual([]);
  expect(await foundAfter(triedTwice(false))).toEqual(["overcounted"]);
});

it("nor is one of a process that stood still before, and has gone on", async () => {
  const stoodStill = (goesOn: boolean) => async (scene: Scene) => {
    scene.parked.ending(holder, scene.manners.holders);
    if (goesOn) scene.parked.thawing(holder);
    await scene.tryAlone();
    await scene.claimAgain({ left: false });
    await scene.tryAlone();
  };
  // What it had sent before arrives while it stands still.
  expect(await foundAfter(stoodStill(false))).toEqual([]);
  expect(await foundAfter(stoodStill(true))).toEqual(["overcounted"]);
});

it("a database that was set back may hold a claim against a message whose end it has forgotten", async () => {
  const setBack = async (scene: Scene) => {
    await scene.tryAlone();
    scene.world.restoredAt = scene.world.clock.now();
    await scene.claimAgain({ left: false });
    await scene.tryAlone();
  };
  expect(await foundAfter(setBack)).toEqual([]);
});

it("claims that are won at once have had no time to be taken back", async () => {
  const wonAfter = (ms: number) => async (scene: Scene) => {
    for (let time = 1; time <= 4; time += 1) {
      await scene.world.clock.advance(ms);
      await scene.claimAgain({ left: false });
    }
    scene.say(holder, { ...at, type: "inbox.claims-stalled", claims: 4 });
  };
  expect(await foundAfter(wonAfter(0))).toEqual([]);
  expect(await foundAfter(wonAfter(1_000))).toEqual(["falseAlarm"]);
});
