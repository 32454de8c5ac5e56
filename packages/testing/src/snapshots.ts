/** What a user's snapshot holds, told apart and held against another one. */
import { shown } from "./assertions.ts";

/** Elements of a list, fields of an object, rows of each table: whatever can be told apart. */
export function entriesOf(state: unknown, name = ""): readonly string[] {
  const label = (text: string) => (name === "" ? text : `${name}: ${text}`);
  if (Array.isArray(state)) return state.map((each) => label(shown(each)));
  const plain = typeof state === "object" && state !== null;
  if (!plain || state instanceof Uint8Array || state instanceof Date || state instanceof Set) {
    return [label(shown(state))];
  }
  const fields = state instanceof Map ? [...state] : Object.entries(state);
  // What shows no fields is compared as a whole: it is no object without content.
  if (fields.length === 0 && shown(state) !== "{}" && !(state instanceof Map)) {
    return [label(shown(state))];
  }
  return fields.flatMap(([field, value]) =>
    entriesOf(value, name === "" ? String(field) : `${name}.${String(field)}`),
  );
}

/** Elements of the first that the second lacks, repeats counted. */
export function without(first: readonly string[], second: readonly string[]): readonly string[] {
  const left = [...second];
  return first.filter((each) => {
    const place = left.indexOf(each);
    if (place < 0) return true;
    left.splice(place, 1);
    return false;
  });
}
