import { expect, it } from "vitest";
import { guarded, type OnceboxEvent } from "./events.ts";

const event: OnceboxEvent = {
  ...{ type: "outbox.published", relay: "r" },
  ...{ messages: 1, ms: 0 },
};

it("is not hurt by an observer that throws, or whose promise rejects", async () => {
  // Guards: the swallowing of both. An unhandled rejection ends the process.
  const unhandled: unknown[] = [];
  const note = (error: unknown) => unhandled.push(error);
  process.on("unhandledRejection", note);
  try {
    const rejects = guarded(async () => {
      throw new Error("the log is full");
    });
    const throws = guarded(() => {
      throw new Error("the log is full");
    });
    expect([rejects(event), throws(event), guarded(undefined)(event)]).toEqual(
      Array(3).fill(undefined),
    );
    await new Promise((resolve) => setImmediate(resolve));
    expect(unhandled).toEqual([]);
  } finally {
    process.off("unhandledRejection", note);
  }
});
