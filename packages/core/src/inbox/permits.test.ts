import { describe, expect, it } from "vitest";
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
});
