/**
 * How values travel between us and the driver. Our statements pass their own parsers, because a
 * user's parser (int8 as number, say) must not touch offsets and positions.
 */

type Parser = (text: string) => unknown;

const asNumber: Parser = Number;

/** By PostgreSQL's type numbers; anything else stays text. */
const parsers: Readonly<Record<number, Parser>> = {
  16: (text) => text === "t",
  17: bytesOf,
  20: BigInt,
  21: asNumber,
  23: asNumber,
  // xid8: as a number, never as text, which would sort "9" after "10".
  5069: BigInt,
};

const asText: Parser = (text) => text;

/** For the `types` of a query: only our own statements pass it. */
export const ownTypes = {
  getTypeParser: (type: number): Parser => parsers[type] ?? asText,
};

function bytesOf(text: string): Uint8Array {
  return Buffer.from(text.slice(2), "hex");
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("hex");
}

/** 16 bytes as PostgreSQL reads a uuid. */
export function uuidOf(id: Uint8Array): string {
  if (id.length !== 16) throw new RangeError(`a message id has 16 bytes, not ${id.length}`);
  return hex(id);
}

/** An array parameter of numbers, bigints or uuids: nothing in it needs a quote. */
export function plainArray(values: readonly (number | bigint | string | null)[]): string {
  let text = "{";
  for (let i = 0; i < values.length; i += 1) {
    if (i > 0) text += ",";
    text += values[i] ?? "NULL";
  }
  return `${text}}`;
}

export function bytesArray(values: readonly (Uint8Array | null)[]): string {
  return plainArray(values.map((value) => (value === null ? null : `"\\\\x${hex(value)}"`)));
}

export function textArray(values: readonly string[]): string {
  return plainArray(values.map((value) => `"${value.replace(/[\\"]/g, "\\$&")}"`));
}

/** The text form of an array of numbers. */
export function numbersOf(array: string): readonly string[] {
  return array === "{}" ? [] : array.slice(1, -1).split(",");
}

/** The text form of an array of byte strings: hex, so no comma can be inside one. */
export function bytesListOf(array: string): readonly (Uint8Array | null)[] {
  if (array === "{}") return [];
  return array
    .slice(1, -1)
    .split(",")
    .map((item) => (item === "NULL" ? null : Buffer.from(item.slice(4, -1), "hex")));
}

/**
 * A name as the table `sources` holds it: text cannot hold U+0000. Reversible, so two names never
 * become one.
 */
export function storedName(name: string): string {
  if (!name.includes("\\") && !name.includes("\0")) return name;
  return name.replaceAll("\\", "\\\\").replaceAll("\0", "\\0");
}
