// Owns how outcomes of storage steps are put into words: the same words for the same outcome, on
// whatever database. What differs from run to run is named in the order in which it appears.

import {
  type AuditEntry,
  type ConsumerPositions,
  type LaneLease,
  type LogMark,
  OnceboxError,
  type OutboxRow,
  type PartitionClaim,
  type Trouble,
} from "@oncebox/core";

/** Names for what is random, in the order in which it appears. */
export class Labels {
  readonly #known = new Map<string, string>();

  of(kind: string, value: string): string {
    const known = this.#known.get(`${kind} ${value}`);
    if (known !== undefined) return known;
    const count = [...this.#known.keys()].filter((key) => key.startsWith(`${kind} `)).length;
    const label = `${kind} ${count + 1}`;
    this.#known.set(`${kind} ${value}`, label);
    return label;
  }
}

/** Messages differ between databases; code, advice and whose trouble it is must not. */
export function errorInWords(error: unknown, trouble: (error: unknown) => Trouble): string {
  const whose = trouble(error) ?? "nobody's";
  if (error instanceof OnceboxError) {
    return `error ${error.code}, ${error.retryable ? "retryable" : "final"}, trouble ${whose}`;
  }
  if (error instanceof ThrownByWork) return "error of the work";
  if (error instanceof Unmade) return "nothing is called so";
  if (error instanceof RangeError) return "error of the caller";
  return `error of the database, trouble ${whose}`;
}

/** Thrown by the work of a transaction, to roll it back. */
export class ThrownByWork extends Error {}

/** An outcome of both sides alike: what the step speaks of was never made. */
export class Unmade extends Error {}

export function markInWords({ topicId, leaderEpoch, last }: LogMark): string {
  const found = last === null ? "none" : `${last.offset}@${last.timestamp}#${last.checksum}`;
  return `log ${topicId ?? "?"} epoch ${leaderEpoch ?? "?"} last ${found}`;
}

export function claimInWords(claim: PartitionClaim | null, labels: Labels): string {
  if (claim === null) return "no such partition";
  const { topic, partition, token, epoch, nextOffset, log, replay, soughtEpoch } = claim;
  const base = labels.of("database", claim.incarnation);
  return [
    `${topic}/${partition} at ${nextOffset}`,
    `epoch ${epoch}`,
    `${labels.of("token", token)} of ${base}`,
    markInWords(log),
    `replay ${replay.number} until ${replay.until}, sought in epoch ${soughtEpoch}`,
  ].join(", ");
}

export function positionsInWords(found: ConsumerPositions, labels: Labels): readonly string[] {
  const { groupId, incarnation, positions } = found;
  return [
    `group ${groupId ?? "none"}, ${labels.of("database", incarnation)}`,
    ...positions.map(
      ({ topic, partition, nextOffset, epoch, owner, log }) =>
        `${topic}/${partition} at ${nextOffset}, epoch ${epoch} of ${owner}, ${markInWords(log)}`,
    ),
  ];
}

/** The time is the database's own, and left out. */
export function auditInWords(lines: readonly AuditEntry[]): string {
  const words = lines.map(({ actor, reason, action, details }) =>
    JSON.stringify({ actor, reason, action, details: sorted(details) }),
  );
  return words.join("; ") || "nothing";
}

function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== "object" || value === null) return value;
  const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(entries.map(([key, each]) => [key, sorted(each)]));
}

/** `before`: tokens of leases known so far, by lane. */
export function leasesInWords(
  leases: readonly LaneLease[],
  before: ReadonlyMap<number, string>,
): string {
  const lanesOf = (kept: boolean) => {
    const own = leases.filter(({ lane, token }) => (before.get(lane) === token) === kept);
    return rangesOf(own.map(({ lane }) => lane));
  };
  return `kept ${lanesOf(true)}, taken ${lanesOf(false)}`;
}

/** As few words as possible: `0-3 7`. */
export function rangesOf(numbers: readonly number[]): string {
  const ranges: [number, number][] = [];
  for (const number of [...numbers].sort((a, b) => a - b)) {
    const last = ranges.at(-1);
    if (last !== undefined && last[1] === number - 1) last[1] = number;
    else ranges.push([number, number]);
  }
  return ranges.map(([a, b]) => (a === b ? String(a) : `${a}-${b}`)).join(" ") || "none";
}

/** By lane: which lane comes first is each storage's own choice, the order within one is not. */
export function rowsInWords(rows: readonly OutboxRow[]): string {
  const lanes = new Map<number, string[]>();
  const decoder = new TextDecoder();
  for (const { lane, id, value, position } of rows) {
    const text = value === null ? "null" : decoder.decode(value);
    const word = text === id ? id : `${id}(${text})`;
    lanes.set(lane, [...(lanes.get(lane) ?? []), word]);
    if (typeof position !== "bigint") throw new TypeError(`position ${position} of ${id}`);
  }
  const words = [...lanes]
    .sort(([a], [b]) => a - b)
    .map(([lane, ids]) => `${lane}: ${ids.join(" ")}`);
  return words.join("; ") || "no rows";
}
