import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  type Ownership,
  range,
  roundRobin,
  type Shares,
  type Strategy,
  type Subscriber,
  sticky,
} from "./assignment-strategies.ts";

type Assigned = Record<string, Record<string, number[]>>;
type Counts = Readonly<Record<string, number>>;

const partitionsOf = (counts: Counts) => (topic: string) => [...Array(counts[topic] ?? 0).keys()];

function assigned(
  members: Readonly<Record<string, readonly string[]>>,
  counts: Counts,
  strategy: Strategy = roundRobin,
): Assigned {
  const subscribers = Object.entries(members).map(([memberId, topics]) => ({ memberId, topics }));
  return plain(strategy(subscribers, partitionsOf(counts)));
}

const plain = (shares: Shares): Assigned =>
  Object.fromEntries([...shares].map(([member, owned]) => [member, { ...owned }]));

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
    const odd = assigned({ a: ["__proto__"] }, JSON.parse('{"__proto__":1}'));
    expect(Object.entries(odd.a ?? {})).toEqual([["__proto__", [0]]]);
  });
});

describe("range", () => {
  it("gives neighbours together, topic by topic, the first members one more", () => {
    expect(assigned({ b: ["t", "u"], a: ["t", "u"] }, { t: 3, u: 3 }, range)).toEqual({
      a: { t: [0, 1], u: [0, 1] },
      b: { t: [2], u: [2] },
    });
  });

  it("brings partitions of equal number together in one member", () => {
    const found = assigned({ a: ["t", "u"], b: ["t", "u"], c: ["t", "u"] }, { t: 7, u: 7 }, range);
    for (const owned of Object.values(found)) expect(owned.t).toEqual(owned.u);
  });

  it("counts only those who subscribe", () => {
    expect(assigned({ a: ["u"], b: ["t"], c: ["t"] }, { t: 4, u: 1 }, range)).toEqual({
      a: { u: [0] },
      b: { t: [0, 1] },
      c: { t: [2, 3] },
    });
  });
});

const own = (generation: number, owned: Assigned[string]): Ownership => ({
  generation,
  partitions: Object.entries(owned),
});

/** What each member says at its next join. */
function after(shares: Assigned, members: Readonly<Record<string, readonly string[]>>) {
  return Object.entries(members).map(([memberId, topics]): Subscriber => {
    const owned = shares[memberId];
    return owned === undefined ? { memberId, topics } : { memberId, topics, owned: own(1, owned) };
  });
}

const keysOf = (owned: Assigned[string] | undefined): string[] =>
  Object.entries(owned ?? {}).flatMap(([topic, numbers]) => numbers.map((n) => `${topic}/${n}`));
const loadsOf = (found: Assigned) => Object.values(found).map((owned) => keysOf(owned).length);

describe("sticky", () => {
  const t6 = partitionsOf({ t: 6 });

  it("believes the later generation where two claim the same", () => {
    const shares = sticky(
      [
        { memberId: "a", topics: ["t"], owned: own(3, { t: [0, 1, 2] }) },
        { memberId: "b", topics: ["t"], owned: own(4, { t: [0, 4, 5] }) },
      ],
      t6,
    );
    expect(plain(shares)).toEqual({ a: { t: [1, 2, 3] }, b: { t: [0, 4, 5] } });
  });

  it("gives to others what a member does not subscribe to any more, and what is gone to nobody", () => {
    const shares = sticky(
      [
        { memberId: "a", topics: ["u"], owned: own(1, { t: [0, 1], u: [0, 9] }) },
        { memberId: "b", topics: ["t", "u"] },
      ],
      partitionsOf({ t: 2, u: 1 }),
    );
    expect(plain(shares)).toEqual({ a: { u: [0] }, b: { t: [0, 1] } });
  });
});

const topics = ["a", "b", "c"];
const members = fc.dictionary(
  fc.string({ minLength: 1, maxLength: 3 }),
  fc.subarray(topics, { minLength: 1 }),
  { minKeys: 1, maxKeys: 8 },
);
const counts = fc.record({ a: fc.nat(12), b: fc.nat(12), c: fc.nat(12) });

/** Claims as they may come: of anything, by anybody, at any generation. */
const claims = fc.dictionary(
  fc.string({ minLength: 1, maxLength: 3 }),
  fc.record({
    generation: fc.nat(3),
    partitions: fc.array(
      fc.tuple(fc.constantFrom(...topics, "d"), fc.array(fc.nat(14), { maxLength: 6 })),
      { maxLength: 3 },
    ),
  }),
);

describe.each([
  ["round robin", roundRobin],
  ["range", range],
  ["sticky", sticky],
])("%s", (_, strategy) => {
  it("gives each partition of each topic to exactly one subscriber of it", () => {
    fc.assert(
      fc.property(members, counts, claims, (subscriptions, sizes, claimed) => {
        const subscribers = Object.entries(subscriptions).map(([memberId, wish]): Subscriber => {
          const owned = claimed[memberId] ?? Object.values(claimed)[0];
          return owned === undefined
            ? { memberId, topics: wish }
            : { memberId, topics: wish, owned };
        });
        const found = plain(strategy(subscribers, partitionsOf(sizes)));
        expect(Object.keys(found).sort()).toEqual(Object.keys(subscriptions).sort());
        for (const topic of topics) {
          const owners = Object.entries(found).flatMap(([member, owned]) => {
            if (owned[topic] !== undefined) expect(subscriptions[member]).toContain(topic);
            return owned[topic] ?? [];
          });
          const wanted = Object.values(subscriptions).some((wish) => wish.includes(topic));
          const all = wanted ? [...Array(sizes[topic as "a"]).keys()] : [];
          expect(owners.sort((x, y) => x - y)).toEqual(all);
        }
      }),
    );
  });
});

describe.each([
  ["round robin", roundRobin],
  ["sticky", sticky],
])("%s", (_, strategy) => {
  it("is even within one partition where all subscribe to the same", () => {
    fc.assert(
      fc.property(members, counts, (subscriptions, sizes) => {
        const equal = Object.fromEntries(Object.keys(subscriptions).map((id) => [id, topics]));
        const loads = loadsOf(assigned(equal, sizes, strategy));
        expect(Math.max(...loads) - Math.min(...loads)).toBeLessThanOrEqual(1);
      }),
    );
  });
});

describe("sticky, from one assignment to the next", () => {
  const shared = (members: Readonly<Record<string, readonly string[]>>, sizes: Counts) =>
    plain(sticky(after({}, members), partitionsOf(sizes)));

  it("moves nothing when nothing changed", () => {
    fc.assert(
      fc.property(members, counts, (subscriptions, sizes) => {
        const before = shared(subscriptions, sizes);
        const next = sticky(after(before, subscriptions), partitionsOf(sizes));
        expect(plain(next)).toEqual(before);
      }),
    );
  });

  it("moves to a new member what it gets, and nothing else", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 8 }), counts, (many, sizes) => {
        const ids = Array.from({ length: many }, (_, i) => `m${i}`);
        const old = Object.fromEntries(ids.map((id) => [id, topics]));
        const before = shared(old, sizes);
        const next = plain(sticky(after(before, { ...old, new: topics }), partitionsOf(sizes)));
        const loads = loadsOf(next);
        expect(Math.max(...loads) - Math.min(...loads)).toBeLessThanOrEqual(1);
        // No more than its even share, rounded down: the others may have the longer ones.
        const all = sizes.a + sizes.b + sizes.c;
        expect(keysOf(next.new).length).toBe(Math.floor(all / (many + 1)));
        for (const id of ids) {
          expect(keysOf(before[id])).toEqual(expect.arrayContaining(keysOf(next[id])));
        }
      }),
    );
  });

  it("takes nothing from those who stay when one leaves", () => {
    fc.assert(
      fc.property(fc.integer({ min: 2, max: 8 }), counts, fc.nat(), (many, sizes, which) => {
        const ids = Array.from({ length: many }, (_, i) => `m${i}`);
        const before = shared(Object.fromEntries(ids.map((id) => [id, topics])), sizes);
        const staying = ids.filter((_, i) => i !== which % many);
        const left = Object.fromEntries(staying.map((id) => [id, topics]));
        const next = plain(sticky(after(before, left), partitionsOf(sizes)));
        const loads = loadsOf(next);
        expect(Math.max(...loads) - Math.min(...loads)).toBeLessThanOrEqual(1);
        for (const id of staying) {
          expect(keysOf(next[id])).toEqual(expect.arrayContaining(keysOf(before[id])));
        }
      }),
    );
  });
});
