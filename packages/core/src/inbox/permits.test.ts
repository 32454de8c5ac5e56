import { describe, expect, it } from "vitest";
import { settled } from "../clock-by-hand.ts";
import { permits } from "./permits.ts";

const never = new AbortController().signal;

describe("permits", () => {
  it("gives out no more than its count, in the order asked for", async () => {
    const two = permits(2);
    const first = await two.acquire(never);
    await two.acquire(never);
    const order: string[] = [];
    const third = two.acquire(never).then((release) => {
      order.push("third");
      return release;
    });
    const fourth = two.acquire(never).then(() => order.push("fourth"));
    await Promise.resolve();
    expect(order).toEqual([]);
    first?.();
    (await third)?.();
    await fourth;
    expect(order).toEqual(["third", "fourth"]);
  });

  it("counts a permit given back twice once", async () => {
    const one = permits(1);
    const release = await one.acquire(never);
    release?.();
    release?.();
    await one.acquire(never);
    const other = new AbortController();
    const second = one.acquire(other.signal);
    other.abort();
    expect(await second).toBeNull();
  });

  it("lets go of whoever stops waiting, and of nobody else", async () => {
    const one = permits(1);
    const release = await one.acquire(never);
    const impatient = new AbortController();
    const gone = one.acquire(impatient.signal);
    const patient = one.acquire(never);
    impatient.abort();
    expect(await gone).toBeNull();
    release?.();
    expect(await patient).not.toBeNull();
    expect(await one.acquire(impatient.signal)).toBeNull();
  });

  it("gives all of them when nothing else is going on, to one after another", async () => {
    // Guards: two that each hold a part and wait for each other; what kills beside what does not.
    const two = permits(2);
    const release = await two.acquire(never);
    const log: string[] = [];
    const all = ["first", "second"].map(async (name) => {
      const done = await two.acquireAll(never);
      log.push(name);
      return done;
    });
    await settled();
    expect(log).toEqual([]);
    release?.();
    const done = await all[0];
    await settled();
    expect(log).toEqual(["first"]);
    done?.();
    (await all[1])?.();
    expect(await two.acquire(never)).not.toBeNull();
    expect(await two.acquire(never)).not.toBeNull();
  });

  it("gives back what it had where whoever asked for all stops waiting", async () => {
    const two = permits(2);
    const release = await two.acquire(never);
    const impatient = new AbortController();
    const all = two.acquireAll(impatient.signal);
    await settled();
    impatient.abort();
    expect(await all).toBeNull();
    expect(await two.acquire(never)).not.toBeNull();
    release?.();
    expect(await two.acquireAll(impatient.signal)).toBeNull();
  });
});
