// Owns a stand-in for the core beside a kafkajs consumer: it keeps everything it is told, and the
// positions that a test sets. Tests wait for what they expect to be told; nothing sleeps.

import type {
  BrokerRecord,
  ConsumerCallbacks,
  Displacement,
  FetchPosition,
  LogState,
  RecordBatch,
  TopicPartition,
} from "@oncebox/core";

interface Displaced {
  readonly at: TopicPartition;
  readonly asked: bigint;
  readonly why: Displacement;
}

export interface Recorder {
  readonly callbacks: ConsumerCallbacks;
  readonly assignments: { number: number; partitions: readonly TopicPartition[] }[];
  readonly batches: RecordBatch[];
  readonly displaced: Displaced[];
  readonly unreadable: { at: TopicPartition; asked: bigint; error: Error }[];
  readonly troubled: { at: TopicPartition; error: Error }[];
  readonly failures: Error[];
  /** The log as the last fetch of a partition found it, by `topic/partition`. */
  readonly logs: Map<string, LogState>;
  /** Positions asked for so far, whatever the answer. */
  asked: number;
  /**
   * The next offset to deliver, by `partition`, or by `topic/partition` where a test has several. A
   * number knows nothing of the log; what was delivered leaves a whole position behind.
   */
  readonly positions: Map<string | number, bigint | FetchPosition | null>;
  /** The offset of a position. */
  offset(key: string | number): bigint | null;
  /** Values delivered, in order, as text. */
  values(partition?: number): (string | null)[];
  records(): BrokerRecord[];
  /** Resolves as soon as it holds; rejects with all that was told when it does not in time. */
  until(holds: () => boolean, what: string): Promise<void>;
}

const patienceMs = 20_000;

/** Starts every partition at 0 when it is assigned, unless the test has set a position. */
export function recorder(): Recorder {
  const waiting = new Set<() => void>();
  const told = () => {
    for (const check of waiting) check();
  };
  const keyOf = ({ topic, partition }: TopicPartition) => {
    const full = `${topic}/${partition}`;
    return self.positions.has(full) ? full : partition;
  };
  const note = <T>(list: T[], item: T) => {
    list.push(item);
    told();
  };
  const self: Recorder = {
    assignments: [],
    batches: [],
    displaced: [],
    unreadable: [],
    troubled: [],
    failures: [],
    logs: new Map(),
    asked: 0,
    positions: new Map(),
    callbacks: {
      assigned: (number, partitions) => {
        for (const at of partitions) {
          if (!self.positions.has(keyOf(at))) self.positions.set(keyOf(at), 0n);
        }
        note(self.assignments, { number, partitions });
      },
      position: (at) => {
        self.asked += 1;
        told();
        return positionOf(self.positions.get(keyOf(at)));
      },
      fetched: (at, log) => {
        self.logs.set(`${at.topic}/${at.partition}`, log);
        told();
      },
      deliver: (batch) => {
        // As the core does: only what continues is accepted.
        if (self.offset(keyOf(batch)) !== batch.fetchedOffset) return;
        const { endOffset: offset, topicId, endEpoch: leaderEpoch } = batch;
        self.positions.set(keyOf(batch), { offset, topicId, leaderEpoch });
        note(self.batches, batch);
      },
      displaced: (at, asked, why) => {
        self.positions.set(keyOf(at), null);
        note(self.displaced, { at, asked, why });
      },
      unreadable: (at, asked, error) => {
        self.positions.set(keyOf(at), null);
        note(self.unreadable, { at, asked, error });
      },
      troubled: (at, error) => note(self.troubled, { at, error }),
      failed: (error) => note(self.failures, error),
    },
    offset: (key) => positionOf(self.positions.get(key))?.offset ?? null,
    values: (partition) =>
      self.batches
        .filter((batch) => partition === undefined || batch.partition === partition)
        .flatMap((batch) => batch.records)
        .map(({ value }) => (value === null ? null : Buffer.from(value).toString())),
    records: () => self.batches.flatMap((batch) => batch.records),
    until: (holds, what) =>
      new Promise((resolve, reject) => {
        const check = () => {
          if (!holds()) return;
          waiting.delete(check);
          clearTimeout(timer);
          resolve();
        };
        const timer = setTimeout(() => {
          waiting.delete(check);
          const { assignments, batches, displaced, troubled, failures, positions } = self;
          const told = { assignments, batches, displaced, troubled, failures };
          const seen = { ...told, positions: [...positions] };
          reject(new Error(`did not happen: ${what}; seen: ${shown(seen)}`));
        }, patienceMs);
        waiting.add(check);
        check();
      }),
  };
  return self;
}

function positionOf(kept: bigint | FetchPosition | null | undefined): FetchPosition | null {
  if (typeof kept !== "bigint") return kept ?? null;
  return { offset: kept, topicId: null, leaderEpoch: null };
}

function shown(seen: unknown): string {
  return JSON.stringify(seen, (_key, value) => {
    if (typeof value === "bigint") return `${value}n`;
    if (value instanceof Uint8Array) return Buffer.from(value).toString();
    return value instanceof Error ? `${value.name}: ${value.message}` : value;
  });
}
