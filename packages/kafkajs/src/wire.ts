/**
 * Kafka's wire primitives: reading from and writing to one buffer. Owns numbers and lengths, never
 * the meaning of what is read.
 */

/** Bytes that are not what the protocol says they must be: never a reason to guess. */
export class MalformedBytesError extends Error {
  override readonly name = "MalformedBytesError";
}

const twoTo7 = 2 ** 7;

export class Reader {
  at = 0;
  readonly bytes: Buffer;

  constructor(bytes: Buffer) {
    this.bytes = bytes;
  }

  get left(): number {
    return this.bytes.length - this.at;
  }

  int8(): number {
    this.at += 1;
    return this.bytes.readInt8(this.at - 1);
  }

  int16(): number {
    this.at += 2;
    return this.bytes.readInt16BE(this.at - 2);
  }

  int32(): number {
    this.at += 4;
    return this.bytes.readInt32BE(this.at - 4);
  }

  int64(): bigint {
    this.at += 8;
    return this.bytes.readBigInt64BE(this.at - 8);
  }

  string(): string {
    const length = this.int16();
    return length < 0 ? "" : this.take(length).toString("utf8");
  }

  /** A view, not a copy. */
  take(length: number): Buffer {
    this.#check(length);
    this.at += length;
    return this.bytes.subarray(this.at - length, this.at);
  }

  /** A list whose count is 32 bits wide; a null list is empty. */
  list<T>(item: () => T): T[] {
    const count = this.int32();
    const items: T[] = [];
    for (let i = 0; i < count; i += 1) items.push(item());
    return items;
  }

  /** Zigzag, at most 32 bits. */
  varint(): number {
    let value = 0;
    for (let shift = 0; shift < 35; shift += 7) {
      const byte = this.bytes[this.at];
      if (byte === undefined) throw new MalformedBytesError("a number is cut off");
      this.at += 1;
      value |= (byte & 0x7f) << shift;
      if (byte < 0x80) return (value >>> 1) ^ -(value & 1);
    }
    throw new MalformedBytesError("a number is longer than 32 bits");
  }

  /** Zigzag, at most 64 bits. Timestamps are close together: nearly always one byte. */
  varlong(): bigint {
    let low = 0;
    let scale = 1;
    for (let count = 0; count < 7; count += 1) {
      const byte = this.bytes[this.at];
      if (byte === undefined) throw new MalformedBytesError("a number is cut off");
      this.at += 1;
      low += (byte & 0x7f) * scale;
      if (byte < 0x80) return BigInt(low % 2 === 0 ? low / 2 : -(low + 1) / 2);
      scale *= twoTo7;
    }
    let value = BigInt(low);
    for (let shift = 49n; shift < 70n; shift += 7n) {
      const byte = this.bytes[this.at];
      if (byte === undefined) throw new MalformedBytesError("a number is cut off");
      this.at += 1;
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return BigInt.asIntN(64, (value >> 1n) ^ -(value & 1n));
    }
    throw new MalformedBytesError("a number is longer than 64 bits");
  }

  /** Bytes behind a varint length; a negative length is null. A view on the buffer's memory. */
  varbytes(): Uint8Array | null {
    const length = this.varint();
    if (length < 0) return null;
    this.#check(length);
    const start = this.bytes.byteOffset + this.at;
    this.at += length;
    // Not a Buffer: its `slice` shares memory and its `toString` decodes, unlike other brokers' bytes.
    return new Uint8Array(this.bytes.buffer as ArrayBuffer, start, length);
  }

  /** Without sign, at most 32 bits. */
  uvarint(): number {
    let value = 0;
    for (let shift = 0; shift < 35; shift += 7) {
      const byte = this.bytes[this.at];
      if (byte === undefined) throw new MalformedBytesError("a number is cut off");
      this.at += 1;
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) {
        if (value >= 2 ** 32) break;
        return value;
      }
    }
    throw new MalformedBytesError("a number is longer than 32 bits");
  }

  /** Bytes of a flexible version: behind their length plus one; zero is null. A view, not a copy. */
  compactBytes(): Buffer | null {
    const length = this.uvarint() - 1;
    return length < 0 ? null : this.take(length);
  }

  compactString(): string | null {
    return this.compactBytes()?.toString("utf8") ?? null;
  }

  /** A list of a flexible version; a null list is empty. */
  compactList<T>(item: () => T): T[] {
    const count = this.uvarint() - 1;
    const items: T[] = [];
    for (let i = 0; i < count; i += 1) items.push(item());
    return items;
  }

  /** Sixteen bytes, in the form in which Kafka's tools show a topic's id. */
  uuid(): string {
    return this.take(16).toString("base64url");
  }

  /** The optional fields at the end of a structure. `field` may read its own; the rest is skipped. */
  tags(field?: (tag: number) => void): void {
    for (let left = this.uvarint(); left > 0; left -= 1) {
      const tag = this.uvarint();
      const size = this.uvarint();
      this.#check(size);
      const end = this.at + size;
      field?.(tag);
      if (this.at > end) throw new MalformedBytesError(`field ${tag} is longer than its size`);
      this.at = end;
    }
  }

  #check(length: number): void {
    if (length >= 0 && length <= this.left) return;
    throw new MalformedBytesError(`${length} bytes wanted, ${this.left} left`);
  }
}

/** Writes into a buffer whose exact size the caller knows beforehand. */
export class Writer {
  at = 0;
  readonly bytes: Buffer;

  constructor(size: number) {
    this.bytes = Buffer.allocUnsafe(size);
  }

  int8(value: number): void {
    this.at = this.bytes.writeInt8(value, this.at);
  }

  int16(value: number): void {
    this.at = this.bytes.writeInt16BE(value, this.at);
  }

  int32(value: number): void {
    this.at = this.bytes.writeInt32BE(value, this.at);
  }

  int64(value: bigint): void {
    this.at = this.bytes.writeBigInt64BE(value, this.at);
  }

  raw(value: Uint8Array): void {
    this.bytes.set(value, this.at);
    this.at += value.length;
  }

  string(value: Uint8Array): void {
    this.int16(value.length);
    this.raw(value);
  }

  varint(value: number): void {
    let rest = ((value << 1) ^ (value >> 31)) >>> 0;
    while (rest >= 0x80) {
      this.bytes[this.at] = (rest & 0x7f) | 0x80;
      this.at += 1;
      rest >>>= 7;
    }
    this.bytes[this.at] = rest;
    this.at += 1;
  }

  uvarint(value: number): void {
    let rest = value;
    while (rest >= 0x80) {
      this.bytes[this.at] = (rest % 0x80) | 0x80;
      this.at += 1;
      rest = Math.floor(rest / 0x80);
    }
    this.bytes[this.at] = rest;
    this.at += 1;
  }

  /** Behind the length plus one, as flexible versions write it. */
  compactBytes(value: Uint8Array): void {
    this.uvarint(value.length + 1);
    this.raw(value);
  }

  varbytes(value: Uint8Array | null): void {
    this.varint(value?.length ?? -1);
    if (value !== null) this.raw(value);
  }
}

export function varintSize(value: number): number {
  const rest = ((value << 1) ^ (value >> 31)) >>> 0;
  return rest < 0x80 ? 1 : rest < 0x4000 ? 2 : rest < 0x200000 ? 3 : rest < 0x10000000 ? 4 : 5;
}

export function uvarintSize(value: number): number {
  let size = 1;
  for (let rest = value; rest >= 0x80; rest = Math.floor(rest / 0x80)) size += 1;
  return size;
}

export function compactBytesSize(value: Uint8Array): number {
  return uvarintSize(value.length + 1) + value.length;
}

export function varbytesSize(value: Uint8Array | null): number {
  return value === null ? 1 : varintSize(value.length) + value.length;
}
