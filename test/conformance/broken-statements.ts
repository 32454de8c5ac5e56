// Owns how a statement of the PostgreSQL storage is broken on its way to the database.

import type { PostgresVariant } from "./postgres-under-test.ts";

export type Broken = Pick<PostgresVariant, "rewrite" | "wrap">;

/** Breaks that found nothing to break: their storages fail, or pass, for no good reason. */
export const misfits = new Set<string>();

/** Replaces places of one statement, which is found by the comment that names it. */
export function altered(
  statement: string,
  ...changes: readonly (readonly [place: RegExp, by: string])[]
): Broken {
  return {
    rewrite: (text) => {
      if (!text.startsWith(`/* oncebox_${statement} */`)) return text;
      return changes.reduce((changed, [place, by]) => {
        if (!place.test(changed)) misfits.add(`${place} is not in ${changed}`);
        return changed.replace(place, () => by);
      }, text);
    },
  };
}

/** Several replaced statements. */
export function together(...broken: readonly Broken[]): Broken {
  return {
    rewrite: (text) => broken.reduce((changed, { rewrite }) => rewrite?.(changed) ?? changed, text),
  };
}
