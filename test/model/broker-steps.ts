// Owns short forms of the steps of broker scripts: one topic t, one group g.

import type { At, BrokerStep, ScriptMessage } from "./broker-script.ts";

export const t: At = ["t", 0];
export const create = (partitions = 1): BrokerStep => ({ do: "create", topic: "t", partitions });
export const produce = (at: At, ...values: readonly string[]): BrokerStep => {
  return { do: "produce", at, values };
};
export const begin = (as: string, at: At, ...values: readonly string[]): BrokerStep => {
  return { do: "begin", as, at, values };
};
export const end = (of: string, how: "commit" | "abort"): BrokerStep => ({ do: "end", of, how });
export const join = (as: string): BrokerStep => ({ do: "join", as, group: "g", topics: ["t"] });
export const leave = (member: string): BrokerStep => ({ do: "leave", member });
export const read: BrokerStep = { do: "read", group: "g" };
export const point = (
  at: At,
  to: number | null,
  log: { id?: number; epoch?: number } = {},
): BrokerStep => {
  return { do: "point", group: "g", at, to, ...log };
};
export const publish = (...messages: readonly ScriptMessage[]): BrokerStep => {
  return { do: "publish", by: "p", messages };
};
export const offsets = (from: "earliest" | "latest" | number): BrokerStep => {
  return { do: "offsets", topic: "t", from };
};
export const commit = (
  member: string,
  to: number,
  at: readonly At[] | { ownedBy: string },
): BrokerStep => {
  return { do: "commit", member, to, at };
};
export const group: BrokerStep = { do: "group", group: "g", topics: ["t", "u"] };
export const stored: BrokerStep = { do: "stored", topic: "t" };
