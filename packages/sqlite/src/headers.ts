/** Headers and bytes as JSON holds them. Names may repeat, and their order is kept. */
import type { Headers } from "@oncebox/core";

/** Pairs of a name and its bytes in hex. */
export function pairsOf(headers: Headers): readonly (readonly [string, string | null])[] {
  return headers.map(([name, bytes]) => [name, hexOf(bytes)] as const);
}

/** From the text of such pairs. */
export function headersOf(text: string): Headers {
  return (JSON.parse(text) as [string, string | null][]).map(
    ([name, hex]) => [name, hex === null ? null : Buffer.from(hex, "hex")] as const,
  );
}

export function hexOf(bytes: Uint8Array | null): string | null {
  if (bytes === null) return null;
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("hex");
}
