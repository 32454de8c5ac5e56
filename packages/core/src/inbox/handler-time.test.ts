import { describe, expect, it } from "vitest";
import { handlerHung, handlerWatch } from "./handler-time.ts";

/** A clock that stands still until it is moved. */
function standing() {
  let now = 0;
  const sleepers = new Set<{ due: number; wake: () => void }>();
  return {
    now: () => now,
    epochMs: () => now,
    random: () => 0,
    sleep: (ms: number, signal?: AbortSignal) =>
      new Promise<void>((resolve) => {
        const sleeper = { due: now + ms, wake: resolve };
        sleepers.add(sleeper);
        signal?.addEventListener("abort", () => resolve(), { once: true });
      }),
    move: async (ms: number) => {
      now += ms;
      for (const sleeper of [...sleepers]) {
        if (sleeper.due > now) continue;
        sleepers.delete(sleeper);
        sleeper.wake();
      }
      // Lets what was woken run.
      await new Promise((resolve) => setImmediate(resolve));
    },
  };
}

describe("a watch over the handlers of a chunk", () => {
  it("counts each handler by itself", async () => {
    const clock = standing();
    const watch = handlerWatch(clock, 100);
    await clock.move(90);
    watch.begin();
    await clock.move(90);
    expect(watch.signal.aborted).toBe(false);
    await clock.move(10);
    expect(watch.signal.aborted).toBe(true);
    expect(await watch.hung).toBe("hung");
  });

  it("says nothing once it has ended", async () => {
    const clock = standing();
    const watch = handlerWatch(clock, 100);
    watch.end();
    await clock.move(1_000);
    expect(watch.signal.aborted).toBe(false);
    expect(await Promise.race([watch.hung, Promise.resolve("quiet")])).toBe("quiet");
  });

  it("tells where", () => {
    const error = handlerHung({ topic: "orders", partition: 3 }, 7n, 100);
    expect(error.message).toContain("did not end within 100 ms at orders/3@7");
    expect(error.details).toEqual({ topic: "orders", partition: 3, offset: 7n, timeoutMs: 100 });
  });
});
