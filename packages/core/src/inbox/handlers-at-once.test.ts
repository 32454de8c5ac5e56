import { expect, it } from "vitest";
import { settled } from "../clock-by-hand.ts";
import { utf8 } from "../message.ts";
import { atOnceByKey } from "./handlers-at-once.ts";

const item = (name: string, key: string | null) => ({ name, key: key === null ? null : utf8(key) });

/** Items begin when they are called and end when the test says so. */
function scene(items: readonly ReturnType<typeof item>[], limit = 10) {
  const log: string[] = [];
  const ends = new Map<string, (error?: Error) => void>();
  const done = atOnceByKey(items, limit, ({ name }) => {
    log.push(name);
    return new Promise((resolve, reject) => {
      ends.set(name, (error) => (error === undefined ? resolve() : reject(error)));
    });
  });
  const end = async (name: string, error?: Error) => {
    ends.get(name)?.(error);
    await settled();
  };
  return { log, end, done };
}

it("runs different keys at once and one key in order", async () => {
  const { log, end, done } = scene([item("a1", "a"), item("b1", "b"), item("a2", "a")]);
  expect(log).toEqual(["a1", "b1"]);
  await end("b1");
  expect(log).toEqual(["a1", "b1"]);
  await end("a1");
  expect(log).toEqual(["a1", "b1", "a2"]);
  await end("a2");
  await done;
});

it("takes each message without a key for a key of its own", () => {
  expect(scene([item("x", null), item("y", null)]).log).toEqual(["x", "y"]);
});

it("runs no more than the limit", async () => {
  const { log, end } = scene([item("x", null), item("y", null), item("z", null)], 2);
  expect(log).toEqual(["x", "y"]);
  await end("y");
  expect(log).toEqual(["x", "y", "z"]);
});

it("begins nothing after a failure, and ends when all that runs has ended", async () => {
  // Guards: a rollback under a handler that still writes.
  const { log, end, done } = scene([item("x", null), item("y", null), item("z", null)], 2);
  let over = false;
  const failed = done.catch((error: Error) => {
    over = true;
    return error.message;
  });
  await end("x", new Error("first"));
  expect([over, log]).toEqual([false, ["x", "y"]]);
  await end("y", new Error("second"));
  expect(await failed).toBe("first");
  expect(log).toEqual(["x", "y"]);
});
