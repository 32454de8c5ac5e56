/**
 * How values travel between us and the driver. Our statements pass their own parsers, because a
 * user's parser (int8 as number, say) must not touch offsets and positions. Nothing here rests on a
 * setting of the session: server, database and role may have others for another application's sake.
 */
import { randomBytes } from "node:crypto";

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

/**
 * In either form of `bytea_output`. Told apart by the text itself: in the form `escape` a backslash
 * is never followed by an x.
 */
function bytesOf(text: string): Uint8Array {
  return text.startsWith("\\x") ? Buffer.from(text.slice(2), "hex") : unescaped(text);
}

const backslash = 92;

/** Printable bytes as they are, a backslash as two, all others as a backslash and three octal digits. */
function unescaped(text: string): Uint8Array {
  const bytes = Buffer.alloc(text.length);
  let length = 0;
  for (let at = 0; at < text.length; at += 1, length += 1) {
    const code = text.charCodeAt(at);
    if (code !== backslash) {
      bytes[length] = code;
    } else if (text.charCodeAt(at + 1) === backslash) {
      bytes[length] = backslash;
      at += 1;
    } else {
      bytes[length] = Number.parseInt(text.slice(at + 1, at + 4), 8);
      at += 3;
    }
  }
  return bytes.subarray(0, length);
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("hex");
}

/** 16 bytes as PostgreSQL reads a uuid. */
export function uuidOf(id: Uint8Array): string {
  if (id.length !== 16) throw new RangeError(`a message id has 16 bytes, not ${id.length}`);
  return hex(id);
}

/**
 * An array parameter of numbers, bigints or uuids: nothing in it needs a quote. It never holds a null:
 * where `array_nulls` is off, NULL in the text of an array is a word like any other.
 */
export function plainArray(values: readonly (number | bigint | string)[]): string {
  return `{${values.join(",")}}`;
}

/** Stands for null in an array of integers: no integer is as large. Statements turn it back. */
export const absentInteger = 2 ** 31;

/** As above, for byte strings: random, so that nobody's bytes are the same. */
export const absentBytes: Uint8Array = randomBytes(16);

/** With `absentBytes` for each null. */
export function bytesArray(values: readonly (Uint8Array | null)[]): string {
  return plainArray(values.map((value) => `"\\\\x${hex(value ?? absentBytes)}"`));
}

export function textArray(values: readonly string[]): string {
  return plainArray(values.map((value) => `"${value.replace(/[\\"]/g, "\\$&")}"`));
}

/** The text form of an array of numbers. */
export function numbersOf(array: string): readonly string[] {
  return array === "{}" ? [] : array.slice(1, -1).split(",");
}

const arrayItem = /"([^"\\]*(?:\\.[^"\\]*)*)"|([^",{}]+)/gs;

/** The text form of an array of byte strings. */
export function bytesListOf(array: string): readonly (Uint8Array | null)[] {
  return Array.from(array.matchAll(arrayItem), ([, quoted, plain]) => {
    if (plain === "NULL") return null;
    return bytesOf(plain ?? (quoted as string).replace(/\\(.)/gs, "$1"));
  });
}

/** Headers out of two arrays of one length: names as JSON, values as the text of the array. */
export function headersOf(names: string, values: string): [string, Uint8Array | null][] {
  const list = bytesListOf(values);
  return (JSON.parse(names) as string[]).map((name, index) => [name, list[index] ?? null]);
}

/** A name as a column of text holds it, which cannot hold U+0000. Two names never become one. */
export function storedName(name: string): string {
  if (!name.includes("\\") && !name.includes("\0")) return name;
  return name.replaceAll("\\", "\\\\").replaceAll("\0", "\\0");
}

/** The name that `storedName` was given. */
export function nameFromStored(stored: string): string {
  if (!stored.includes("\\")) return stored;
  return stored.replace(/\\(.)/g, (_, character) => (character === "0" ? "\0" : character));
}
