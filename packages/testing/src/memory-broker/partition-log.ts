/**
 * The log of one partition: records, markers of transactions, holes, leader epochs, and the two ends.
 * Answers what a fetch finds. Knows no members and no time.
 */
import type { BrokerRecord, Displacement, FetchPosition, LogState } from "@oncebox/core";

interface Entry {
  readonly offset: bigint;
  /** Null: the marker that ends a transaction. */
  readonly record: BrokerRecord | null;
  readonly transaction: number | null;
  readonly bytes: number;
}

/** A record before it has a place. */
export type NewRecord = Pick<BrokerRecord, "key" | "value" | "headers" | "timestamp">;

export interface ReadLimits {
  readonly recordsMax: number;
  readonly bytesMax: number;
  /** Hands out records of open and aborted transactions as well. */
  readonly uncommitted: boolean;
}

export interface Read {
  readonly records: readonly BrokerRecord[];
  readonly endOffset: bigint;
  readonly endEpoch: number | null;
  /** Stopped at a record whose bytes are broken. */
  readonly corrupt: boolean;
}

interface EpochStart {
  readonly epoch: number;
  readonly start: bigint;
}

type Outcome = "open" | "committed" | "aborted";

export class PartitionLog {
  #start = 0n;
  #end = 0n;
  /** By offset. */
  #entries: Entry[] = [];
  #epochs: EpochStart[] = [{ epoch: 0, start: 0n }];
  readonly #outcomes = new Map<number, Outcome>();
  /** First offset of each open transaction. */
  readonly #open = new Map<number, bigint>();
  readonly #corrupt = new Set<bigint>();

  get epoch(): number {
    return this.#epochs.at(-1)?.epoch ?? 0;
  }

  state(): LogState {
    return { start: this.#start, end: this.#end, lastStable: this.#lastStable() };
  }

  append(records: readonly NewRecord[], transaction: number | null = null): bigint {
    const first = this.#end;
    for (const { key, value, headers, timestamp } of records) {
      const { epoch: leaderEpoch } = this;
      const record = copyOf({ key, value, headers, timestamp, offset: this.#end, leaderEpoch });
      const bytes = recordBytes(record);
      this.#entries.push({ offset: this.#end, record, transaction, bytes });
      this.#end += 1n;
    }
    if (transaction !== null) {
      this.#outcomes.set(transaction, "open");
      if (!this.#open.has(transaction)) this.#open.set(transaction, first);
    }
    return first;
  }

  /** Ends a transaction by its marker. Does nothing where it wrote nothing here. */
  finish(transaction: number, outcome: "committed" | "aborted"): void {
    if (this.#outcomes.get(transaction) !== "open") return;
    this.#outcomes.set(transaction, outcome);
    this.#open.delete(transaction);
    this.#entries.push({ offset: this.#end, record: null, transaction, bytes: 0 });
    this.#end += 1n;
  }

  /** As retention does. */
  deleteBelow(offset: bigint): void {
    this.#start = max(this.#start, min(offset, this.#end));
    this.#entries = this.#entries.filter((entry) => entry.offset >= this.#start);
  }

  /** As compaction does: the offsets stay, what lay there is gone. */
  compact(offsets: ReadonlySet<bigint>): void {
    this.#entries = this.#entries.filter((entry) => !offsets.has(entry.offset));
  }

  /** The bytes at this offset cannot be read from now on. */
  corrupt(offset: bigint): void {
    this.#corrupt.add(offset);
  }

  /** Another leader, which has everything. */
  newLeader(): void {
    const last = this.#epochs.at(-1);
    const epoch = (last?.epoch ?? 0) + 1;
    // An epoch that wrote nothing is forgotten.
    if (last?.start === this.#end) this.#epochs.pop();
    this.#epochs.push({ epoch, start: this.#end });
  }

  /** An unclean election: a leader that lacks everything from `offset` on. */
  truncate(offset: bigint): void {
    const end = max(this.#start, min(offset, this.#end));
    const epoch = this.epoch;
    this.#entries = this.#entries.filter((entry) => entry.offset < end);
    this.#end = end;
    this.#epochs = this.#epochs.filter((each) => each.start < end);
    this.#epochs.push({ epoch: epoch + 1, start: end });
    for (const [transaction, first] of this.#open) {
      if (first < end) continue;
      this.#open.delete(transaction);
      this.#outcomes.delete(transaction);
    }
  }

  /** Whether a position fits; null: it does. The topic's id is the caller's to compare. */
  displacement({ offset, leaderEpoch }: FetchPosition): Displacement | null {
    const bounds = { start: this.#start, end: this.#end };
    const inside = offset >= this.#start && offset <= this.#end;
    if (leaderEpoch !== null) {
      const end = this.#endOfEpoch(leaderEpoch);
      // Nobody knows how far a log agrees whose epoch was never seen here.
      if (end === null && inside) return { kind: "log-diverged", endOffset: null };
      if (end === null) return { kind: "out-of-range", log: bounds };
      if (end.offset < offset || end.epoch < leaderEpoch) {
        return { kind: "log-diverged", endOffset: min(end.offset, offset) };
      }
    }
    return inside ? null : { kind: "out-of-range", log: bounds };
  }

  /** What a fetch hands out; null where there is nothing to account for. */
  read(from: bigint, limits: ReadLimits): Read | null {
    const stable = limits.uncommitted ? this.#end : this.#lastStable();
    if (from >= stable) return null;
    const records: BrokerRecord[] = [];
    let bytes = 0;
    let endOffset = stable;
    for (let place = this.#placeOf(from); place < this.#entries.length; place += 1) {
      const entry = this.#entries[place] as Entry;
      if (entry.offset >= stable) break;
      const full = records.length >= limits.recordsMax || bytes + entry.bytes > limits.bytesMax;
      const corrupt = this.#corrupt.has(entry.offset);
      if (corrupt || (full && records.length > 0)) {
        endOffset = entry.offset;
        if (corrupt && endOffset === from) return this.#answer([], from, true);
        break;
      }
      bytes += entry.bytes;
      if (entry.record !== null && this.#isVisible(entry, limits)) records.push(entry.record);
    }
    return this.#answer(records, endOffset, false);
  }

  /** The first offset at or after a time; never behind where an open transaction begins. */
  offsetAt(timestamp: bigint): bigint {
    const found = this.#entries.find(
      ({ record }) => record !== null && record.timestamp >= timestamp,
    );
    const stable = this.#lastStable();
    return found === undefined ? stable : min(found.offset, stable);
  }

  /** Everything in the log that was not aborted. */
  stored(): readonly BrokerRecord[] {
    return this.#entries.flatMap((entry) => {
      const { record, transaction } = entry;
      const outcome = transaction === null ? "committed" : this.#outcomes.get(transaction);
      return record === null || outcome === "aborted" ? [] : [record];
    });
  }

  #answer(records: readonly BrokerRecord[], endOffset: bigint, corrupt: boolean): Read {
    const endEpoch = this.#epochs.findLast(({ start }) => start < endOffset)?.epoch ?? null;
    return { records: records.map(copyOf), endOffset, endEpoch, corrupt };
  }

  #isVisible({ transaction }: Entry, { uncommitted }: ReadLimits): boolean {
    return uncommitted || transaction === null || this.#outcomes.get(transaction) === "committed";
  }

  #lastStable(): bigint {
    let stable = this.#end;
    for (const first of this.#open.values()) stable = min(stable, max(first, this.#start));
    return stable;
  }

  /** Where an epoch ended, as Kafka tells it; null where it does not know that epoch. */
  #endOfEpoch(epoch: number): { readonly epoch: number; readonly offset: bigint } | null {
    if (epoch > this.epoch) return null;
    const next = this.#epochs.find((each) => each.epoch > epoch);
    const known = this.#epochs.findLast((each) => each.epoch <= epoch);
    return { epoch: known?.epoch ?? epoch, offset: next?.start ?? this.#end };
  }

  #placeOf(offset: bigint): number {
    let low = 0;
    let high = this.#entries.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#entries[middle]?.offset ?? 0n) < offset) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/** Roughly what a record takes in a batch. */
export function recordBytes({ key, value, headers }: Omit<NewRecord, "timestamp">): number {
  const inHeaders = headers.reduce(
    (sum, [name, bytes]) => sum + name.length + (bytes?.length ?? 0),
    0,
  );
  return 70 + (key?.length ?? 0) + (value?.length ?? 0) + inHeaders;
}

function copyOf(record: BrokerRecord): BrokerRecord {
  const { key, value, headers } = record;
  return {
    ...record,
    key: key === null ? null : key.slice(),
    value: value === null ? null : value.slice(),
    headers: headers.map(([name, bytes]) => [name, bytes === null ? null : bytes.slice()]),
  };
}

function min(a: bigint, b: bigint): bigint {
  return a < b ? a : b;
}

function max(a: bigint, b: bigint): bigint {
  return a > b ? a : b;
}
