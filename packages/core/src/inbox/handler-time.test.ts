import { describe, expect, it } from "vitest";
import { clockByHand } from "../clock-by-hand.ts";
import { handlerHung, handlerWatch } from "./handler-time.ts";

describe("a watch over the handlers of a chunk", () => {
  it("counts each handler by itself", async () => {
    const { clock, advance } = clockByHand();
    const watch = handlerWatch(clock, 100);
    await advance(90);
    const ended = watch.begin(7n);
    await advance(90);
    ended();
    watch.begin(8n);
    await advance(90);
    expect(watch.signal.aborted).toBe(false);
    await advance(10);
    expect(watch.signal.aborted).toBe(true);
    expect(await watch.hung).toBe(8n);
  });

  it("finds the one that hangs among those that run at once", async () => {
    const { clock, advance } = clockByHand();
    const watch = handlerWatch(clock, 100);
    const first = watch.begin(1n);
    await advance(10);
    watch.begin(2n);
    const third = watch.begin(3n);
    first();
    third();
    await advance(99);
    expect(watch.signal.aborted).toBe(false);
    await advance(1);
    expect(await watch.hung).toBe(2n);
  });

  it("says nothing once it has ended", async () => {
    const { clock, advance } = clockByHand();
    const watch = handlerWatch(clock, 100);
    watch.end();
    await advance(1_000);
    expect(watch.signal.aborted).toBe(false);
    expect(await Promise.race([watch.hung, Promise.resolve("quiet")])).toBe("quiet");
  });

  it("tells where", () => {
    const error = handlerHung({ topic: "orders", partition: 3 }, 7n, 100);
    expect(error.message).toContain("did not end within 100 ms at orders/3@7");
    expect(error.details).toEqual({ topic: "orders", partition: 3, offset: 7n, timeoutMs: 100 });
  });
});
