import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ConfigurationError } from "./errors.ts";
import { aFunction, aName, checkOptions, having, integer, oneOf, optional } from "./options.ts";

const rules = {
  name: aName,
  storage: having("a storage", "open", "claim"),
  size: integer(1, 100),
  mode: oneOf("block", "park"),
  observer: aFunction,
  clock: optional(having("a clock", "now")),
};

const storage = { open: () => {}, claim: () => {} };

function problemsOf(given: unknown): readonly string[] {
  try {
    checkOptions("createThing", given, rules);
    return [];
  } catch (error) {
    if (!(error instanceof ConfigurationError)) throw error;
    if (error.code !== "invalid-options" || !error.message.startsWith("createThing: ")) throw error;
    return (error.details as { problems?: string[] }).problems ?? [error.message];
  }
}

describe("options", () => {
  it("are accepted with everything, and with only what is needed", () => {
    expect(problemsOf({ name: "billing", storage })).toEqual([]);
    const all = { size: 1, mode: "park", observer: () => {}, clock: { now: () => 0 } };
    expect(problemsOf({ name: "a.b_c:d-1", storage, ...all })).toEqual([]);
    expect(problemsOf({ name: "billing", storage, size: undefined })).toEqual([]);
  });

  it("are refused with every problem in one list", () => {
    expect(problemsOf({ name: "", storage: {}, size: 101, mode: "drop", sice: 3 })).toEqual([
      "sice is unknown (known: clock, mode, name, observer, size, storage)",
      'name must be 1 to 200 characters of a-z A-Z 0-9 . _ : -, not ""',
      "storage must be a storage, not an object",
      "size must be a whole number from 1 to 100, not 101",
      'mode must be one of "block", "park", not "drop"',
    ]);
    expect(problemsOf({})).toEqual([
      "name is missing: 1 to 200 characters of a-z A-Z 0-9 . _ : -",
      "storage is missing: a storage",
    ]);
  });

  it.each([Number.NaN, -1, 0, 0.5, Number.POSITIVE_INFINITY, "5", 5n, null, [], 2 ** 53])(
    "want a whole number within its bounds, not %s",
    (size) => {
      expect(problemsOf({ name: "billing", storage, size })).toHaveLength(1);
    },
  );

  it.each([null, undefined, 1, "x", () => {}])("must be an object, not %s", (given) => {
    expect(problemsOf(given)).toHaveLength(1);
  });

  it("never show the inside of an object: it may hold a password", () => {
    const [problem] = problemsOf({ name: "billing", storage: { password: "hunter2" } });
    expect(problem).not.toContain("hunter2");
  });

  it("of the prototype are not options", () => {
    expect(problemsOf({ name: "billing", storage, constructor: 1 })).toHaveLength(1);
    expect(problemsOf(JSON.parse('{"name":"billing","__proto__":1}'))).toHaveLength(2);
  });

  it("end in no problem or in a list that names each, for 10,000 random objects", () => {
    const anything = fc.anything({ maxDepth: 1, withBigInt: true, withNullPrototype: true });
    const key = fc.oneof(fc.constantFrom(...Object.keys(rules)), fc.string());
    const given = fc.oneof(
      fc.dictionary(key, anything, { maxKeys: 8 }),
      fc.record({
        name: fc.oneof(fc.constant("billing"), anything),
        storage: fc.oneof(fc.constant(storage), anything),
        size: fc.oneof(fc.integer({ min: -5, max: 105 }), fc.double(), anything),
        mode: fc.oneof(fc.constantFrom("block", "park"), anything),
      }),
    );
    const assertion = fc.property(given, (options) => {
      const problems = problemsOf(options);
      const wrong = new Set<string>();
      for (const name of Object.keys(options)) if (!Object.hasOwn(rules, name)) wrong.add(name);
      for (const [name, rule] of Object.entries(rules)) {
        const value = (options as Record<string, unknown>)[name];
        if (value === undefined ? !("optional" in rule && rule.optional) : !rule.fits(value)) {
          wrong.add(name);
        }
      }
      const named = [...wrong].every((name) =>
        problems.some((problem) => problem.startsWith(`${name} `)),
      );
      return named && problems.length === wrong.size;
    });
    fc.assert(assertion, { numRuns: 10_000 });
  }, 30_000);
});
