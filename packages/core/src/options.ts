/** Options: unknown keys, wrong kinds and contradictions are refused at construction, all in one list. */
import { ConfigurationError } from "./errors.ts";

/** What one option may be: its kind in words, and whether a value is of it. */
export interface Rule {
  readonly is: string;
  readonly fits: (value: unknown) => boolean;
  readonly optional?: boolean;
}

export function integer(min: number, max: number): Rule {
  return {
    is: `a whole number from ${min} to ${max}`,
    fits: (value) => Number.isSafeInteger(value) && Number(value) >= min && Number(value) <= max,
    optional: true,
  };
}

export function oneOf(...values: readonly string[]): Rule {
  return {
    is: `one of ${values.map((value) => JSON.stringify(value)).join(", ")}`,
    fits: (value) => values.includes(value as string),
    optional: true,
  };
}

export const aFunction: Rule = {
  is: "a function",
  fits: (value) => typeof value === "function",
  optional: true,
};

/** An object with these functions: tells a storage from a pool before anything runs. */
export function having(what: string, ...functions: readonly string[]): Rule {
  return {
    is: what,
    fits: (value) =>
      typeof value === "object" &&
      value !== null &&
      functions.every((name) => typeof (value as Record<string, unknown>)[name] === "function"),
  };
}

/** Names of consumers, groups, relays: what fits a column, a log line and a metric label. */
export const aName: Rule = {
  is: "1 to 200 characters of a-z A-Z 0-9 . _ : -",
  fits: (value) => typeof value === "string" && /^[a-zA-Z0-9._:-]{1,200}$/.test(value),
};

export function optional(rule: Rule): Rule {
  return { ...rule, optional: true };
}

/** Throws one ConfigurationError that lists every key that is unknown, missing or of the wrong kind. */
export function checkOptions(
  what: string,
  given: unknown,
  rules: Readonly<Record<string, Rule>>,
): void {
  if (typeof given !== "object" || given === null) {
    throw new ConfigurationError("invalid-options", `${what}: options must be an object`);
  }
  const problems: string[] = [];
  for (const key of Object.keys(given)) {
    if (!Object.hasOwn(rules, key)) {
      problems.push(`${key} is unknown (known: ${Object.keys(rules).sort().join(", ")})`);
    }
  }
  for (const [key, rule] of Object.entries(rules)) {
    const value = (given as Record<string, unknown>)[key];
    if (value === undefined) {
      if (!rule.optional) problems.push(`${key} is missing: ${rule.is}`);
    } else if (!rule.fits(value)) {
      problems.push(`${key} must be ${rule.is}, not ${shown(value)}`);
    }
  }
  if (problems.length > 0) {
    throw new ConfigurationError("invalid-options", `${what}: ${problems.join("; ")}`, {
      details: { problems },
    });
  }
}

/** Short, and never the inside of an object: it may hold a password. */
function shown(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value.slice(0, 60));
  if (typeof value === "object" && value !== null) return `an object`;
  return String(value);
}
