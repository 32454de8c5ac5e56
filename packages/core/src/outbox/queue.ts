/** Rows in the order in which they must be sent: by position within each lane. */
import type { OutboxRow } from "../ports/outbox.ts";
import type { HeldLane } from "./lanes.ts";

/** A row that was read, with the lease it was read under. */
export interface Entry {
  readonly row: OutboxRow;
  readonly lane: HeldLane;
  readonly bytes: number;
  /** Where it goes: set when it is chosen, -1 before. */
  partition: number;
}

export interface Size {
  rows: number;
  bytes: number;
}

export interface Queue {
  readonly size: Readonly<Size>;
  readonly lanes: () => Iterable<HeldLane>;
  readonly put: (entry: Entry) => void;
  readonly take: (entry: Entry) => void;
  readonly drop: (lane: HeldLane) => void;
  /** The first row of the first lane that may be used. */
  readonly first: (mayUse: (lane: HeldLane) => boolean) => Entry | undefined;
  readonly find: (topic: string) => Entry | undefined;
  readonly entries: () => Iterable<Entry>;
  /** Keeps the rows for which `keep` answers true; asks in order within each lane. */
  readonly filter: (keep: (entry: Entry) => boolean) => void;
}

/** Where several queues are counted together, `total` is theirs. */
export function createQueue(total: Size = { rows: 0, bytes: 0 }): Queue {
  const lanes = new Map<HeldLane, Entry[]>();
  const size: Size = { rows: 0, bytes: 0 };
  const count = (entry: Entry, sign: 1 | -1) => {
    for (const sum of [size, total]) {
      sum.rows += sign;
      sum.bytes += sign * entry.bytes;
    }
  };
  function* entries() {
    for (const list of lanes.values()) yield* list;
  }
  return {
    size,
    lanes: () => lanes.keys(),
    put: (entry) => {
      const list = lanes.get(entry.lane);
      if (list === undefined) lanes.set(entry.lane, [entry]);
      else insert(list, entry);
      count(entry, 1);
    },
    take: (entry) => {
      const list = lanes.get(entry.lane) ?? [];
      const at = list.indexOf(entry);
      if (at < 0) throw new TypeError("the row is not in this queue");
      list.splice(at, 1);
      if (list.length === 0) lanes.delete(entry.lane);
      count(entry, -1);
    },
    drop: (lane) => {
      for (const entry of lanes.get(lane) ?? []) count(entry, -1);
      lanes.delete(lane);
    },
    first: (mayUse) => {
      for (const [lane, list] of lanes) if (mayUse(lane)) return list[0];
      return undefined;
    },
    find: (topic) => {
      for (const entry of entries()) if (entry.row.topic === topic) return entry;
      return undefined;
    },
    entries,
    filter: (keep) => {
      for (const [lane, list] of lanes) {
        const kept = list.filter((entry) => {
          if (keep(entry)) return true;
          count(entry, -1);
          return false;
        });
        if (kept.length === 0) lanes.delete(lane);
        else lanes.set(lane, kept);
      }
    },
  };
}

/** Nearly always at the end: a row appears below others only when its transaction was open longer. */
function insert(list: Entry[], entry: Entry): void {
  let at = list.length;
  while (at > 0 && (list[at - 1] as Entry).row.position > entry.row.position) at -= 1;
  list.splice(at, 0, entry);
}

const rowFrameBytes = 64;
const headerFrameBytes = 10;

/** At most what the row takes in Kafka's format: a batch within its limit is taken as one. */
export function sentBytes(row: OutboxRow): number {
  let bytes = rowFrameBytes + (row.key?.length ?? 0) + (row.value?.length ?? 0);
  for (const [name, value] of row.headers) {
    // Three bytes a character at most: counting them exactly would cost more than it saves.
    bytes += headerFrameBytes + name.length * 3 + (value?.length ?? 0);
  }
  return bytes;
}
