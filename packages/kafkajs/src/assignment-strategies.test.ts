import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { assignRoundRobin } from "./assigner.ts";

const partitionsOf = (counts: Readonly<Record<string, number>>) => (topic: string) => [
  ...Array(counts[topic] ?? 0).keys(),
];

function assigned(
  members: Readonly<Record<string, readonly string[]>>,
  counts: Readonly<Record<string, number>>,
): Record<string, Record<string, number[]>> {
  const subscribers = Object.entries(members).map(([memberId, topics]) => ({ memberId, topics }));
  const found = assignRoundRobin(subscribers, partitionsOf(counts));
  return Object.fromEntries([...found].map(([member, owned]) => [member, { ...owned }]));
}

describe("round robin", () => {
  it("spreads the partitions of all topics over the members", () => {
    expect(assigned({ b: ["t", "u"], a: ["t", "u"] }, { t: 3, u: 2 })).toEqual({
      a: { t: [0, 2], u: [1] },
      b: { t: [1], u: [0] },
    });
  });

  it("gives a topic only to those who subscribe to it", () => {
    expect(assigned({ a: ["t"], b: ["u"], c: ["t", "u"] }, { t: 2, u: 2 })).toEqual({
      a: { t: [0] },
      b: { u: [0, 1] },
      c: { t: [1] },
    });
  });

  it("leaves nobody without work whom another topic would suit", () => {
    for (const [first, second, third] of [
      ["a", "b", "c"],
      ["c", "b", "a"],
      ["b", "c", "a"],
    ]) {
      // Whichever topic comes first by name.
      for (const [t, u] of [
        ["t", "u"],
        ["u", "t"],
      ] as const) {
        const members = { [`${first}`]: [t], [`${second}`]: [u], [`${third}`]: [t, u] };
        const loads = Object.values(assigned(members, { [t]: 2, [u]: 1 }));
        expect(loads.map((owned) => Object.values(owned).flat().length)).toEqual([1, 1, 1]);
      }
    }
  });

  it("leaves out a topic without partitions and lists members without work", () => {
    expect(assigned({ a: ["t", "gone"], b: ["gone"] }, { t: 1 })).toEqual({ a: { t: [0] }, b: {} });
    expect(assigned({}, { t: 1 })).toEqual({});
  });

  it("gives each partition of each topic to exactly one subscriber, evenly where all subscribe", () => {
    const topics = ["a", "b", "c"];
    const members = fc.dictionary(
      fc.string({ minLength: 1, maxLength: 3 }),
      fc.subarray(topics, { minLength: 1 }),
      { minKeys: 1, maxKeys: 8 },
    );
    const counts = fc.record({ a: fc.nat(12), b: fc.nat(12), c: fc.nat(12) });
    fc.assert(
      fc.property(members, counts, (subscriptions, sizes) => {
        const found = assigned(subscriptions, sizes);
        for (const topic of topics) {
          const owners = Object.entries(found).flatMap(([member, owned]) => {
            if (owned[topic] !== undefined) expect(subscriptions[member]).toContain(topic);
            return owned[topic] ?? [];
          });
          const wanted = Object.values(subscriptions).some((wish) => wish.includes(topic));
          const all = wanted ? [...Array(sizes[topic as "a"]).keys()] : [];
          expect(owners.sort((x, y) => x - y)).toEqual(all);
        }
        const everybodyAll = Object.values(subscriptions).every(({ length }) => length === 3);
        if (!everybodyAll) return;
        const loads = Object.values(found).map((owned) => Object.values(owned).flat().length);
        expect(Math.max(...loads) - Math.min(...loads)).toBeLessThanOrEqual(1);
      }),
    );
  });
});
