// Owns the events of the payment provider: whether one is genuine, and what it says.

import { createHmac, timingSafeEqual } from "node:crypto";

export interface PaymentReceived {
  readonly id: string;
  readonly account: string;
  readonly cents: number;
}

/** HMAC-SHA256 of the body's bytes, in hex. */
export function signatureOf(body: Uint8Array, secret: string): string {
  return createHmac("sha256", secret).update(body).digest("hex");
}

export function isGenuine(body: Uint8Array, signature: string, secret: string): boolean {
  const expected = Buffer.from(signatureOf(body, secret));
  const found = Buffer.from(signature);
  return found.length === expected.length && timingSafeEqual(found, expected);
}

/** Null where the body is no such event. */
export function eventFrom(body: Uint8Array): PaymentReceived | null {
  const { id, account, cents } = fieldsOf(body);
  if (!isName(id) || !isName(account) || !Number.isSafeInteger(cents)) return null;
  return { id, account, cents: cents as number };
}

function fieldsOf(body: Uint8Array): Readonly<Record<string, unknown>> {
  try {
    // Leaves a byte order mark out, and takes bytes that are no text for U+FFFD: in a name it is none.
    return JSON.parse(new TextDecoder().decode(body)) ?? {};
  } catch {
    return {};
  }
}

function isName(value: unknown): value is string {
  return typeof value === "string" && /^[\w.-]{1,100}$/.test(value);
}
