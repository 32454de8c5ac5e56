// What the verdict promises of ids that are forgotten, each in an outcome made by hand: when that is
// wrong, when it is right, and what a repeat may do behind it.

import { expect, it } from "vitest";
import { Scene } from "./scene.ts";

const windowMs = 60_000;

type Act = (scene: Scene) => Promise<void> | void;

async function outcomeOf(act: Act) {
  const scene = new Scene({ windowMs });
  await scene.begin();
  await act(scene);
  return scene.found();
}

/** The second message is handled, and so much time passes. */
async function handled(scene: Scene, ms: number): Promise<void> {
  await scene.send(2)();
  await scene.world.clock.advance(ms);
}

it("an id may be forgotten when its window is over and nothing near it is left to read", async () => {
  const found = await outcomeOf(async (scene) => {
    await handled(scene, windowMs + 1);
    const handle = scene.send(3);
    scene.forget();
    await handle();
  });
  expect(found).toEqual({});
});

it("not before its window is over", async () => {
  const found = await outcomeOf(async (scene) => {
    await handled(scene, windowMs - 1_000);
    scene.forget();
  });
  expect(found).toEqual({ forgotten: ["m2: the window is not over"] });
});

it("not while a record from within its window is not read, however late it is", async () => {
  const act =
    (read: boolean): Act =>
    async (scene) => {
      await handled(scene, windowMs - 1_000);
      const handle = scene.send(3);
      if (read) await handle();
      await scene.world.clock.advance(windowMs * 20);
      if (read) await scene.send(4)();
      scene.forget();
      if (!read) await handle();
    };
  expect(Object.keys(await outcomeOf(act(false)))).toEqual(["forgotten"]);
  const found = await outcomeOf(act(true));
  // Only of the newest one it is too early.
  expect(found).toEqual({ forgotten: ["m4: the window is not over"] });
});

it("not while its message is parked", async () => {
  const act =
    (skipped: boolean): Act =>
    async (scene) => {
      await scene.park(null, 0);
      await scene.world.clock.advance(windowMs * 20);
      if (skipped) await scene.skip();
      scene.forget();
    };
  expect(await outcomeOf(act(false))).toEqual({ forgotten: ["m2: it is parked"] });
  expect(await outcomeOf(act(true))).toEqual({});
});

it("a repeat takes effect again where its id was rightly forgotten, once for each time", async () => {
  const act =
    (forget: boolean, beyond: boolean): Act =>
    async (scene) => {
      await handled(scene, windowMs + 1);
      if (forget) scene.forget();
      await scene.send(2)();
      // As if nothing were known of it.
      if (beyond) await scene.apply(2);
    };
  expect(await outcomeOf(act(true, false))).toEqual({});
  expect(await outcomeOf(act(false, false))).toEqual({});
  for (const forget of [true, false]) {
    expect(Object.keys(await outcomeOf(act(forget, true)))).toEqual(["doubled"]);
  }
});

it("what was given up may be forgotten, and takes effect behind its successors when it comes again", async () => {
  const act =
    (forget: boolean): Act =>
    async (scene) => {
      await scene.park(null, 0);
      await scene.skip();
      await scene.send(3)();
      await scene.world.clock.advance(windowMs * 2);
      if (forget) scene.forget();
      await scene.send(2)();
      if (!forget) await scene.apply(2);
    };
  expect(await outcomeOf(act(true))).toEqual({});
  const found = Object.keys(await outcomeOf(act(false)));
  expect(found.sort()).toEqual(["inverted", "parkedAstray"]);
});
