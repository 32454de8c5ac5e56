// Owns the gathering of a run's history for the checker: tables, read with a connection that no
// consumer has, and group offsets, compared with the database again and again.

import type { Database } from "better-sqlite3";
import type { Effect, OffsetPair, Position } from "../../../test/fixtures/checker.ts";

/**
 * Keeps every value of every partition's row from now on, by triggers in the same transaction: no
 * sampling could miss one.
 */
export function trackPositions(database: Database): void {
  const note = `BEGIN
      INSERT INTO checker_positions (consumer, topic, partition, epoch, next_offset)
      VALUES (NEW.consumer, NEW.topic, NEW.partition, NEW.epoch, NEW.next_offset);
    END`;
  database.exec(`
    CREATE TABLE checker_positions (
      place INTEGER PRIMARY KEY AUTOINCREMENT, consumer INTEGER NOT NULL, topic TEXT NOT NULL,
      partition INTEGER NOT NULL, epoch INTEGER NOT NULL, next_offset INTEGER NOT NULL
    ) STRICT;
    CREATE TRIGGER checker_added AFTER INSERT ON oncebox_inbox_partitions ${note};
    CREATE TRIGGER checker_moved AFTER UPDATE ON oncebox_inbox_partitions ${note};`);
}

type Rows<R> = readonly R[];

function read<R>(database: Database, query: string): Rows<R> {
  return database.prepare(query).safeIntegers(true).all() as Rows<R>;
}

export function readPositions(database: Database): Position[] {
  const rows = read<{
    consumer: string;
    topic: string;
    partition: bigint;
    epoch: bigint;
    next_offset: bigint;
  }>(
    database,
    `SELECT c.name AS consumer, p.topic, p.partition, p.epoch, p.next_offset
     FROM checker_positions p JOIN oncebox_consumers c ON c.id = p.consumer ORDER BY p.place`,
  );
  return rows.map(({ partition, next_offset: nextOffset, ...row }) => {
    return { ...row, partition: Number(partition), nextOffset };
  });
}

export function readEffects(database: Database): Effect[] {
  const rows = read<{
    position: bigint;
    message_id: string;
    key: string;
    sequence: bigint;
    topic: string;
    partition: bigint;
    record_offset: bigint;
    worker: string;
  }>(
    database,
    `SELECT position, message_id, key, sequence, topic, partition, record_offset, worker
     FROM invoices ORDER BY position`,
  );
  return rows.map(({ message_id: id, record_offset: offset, ...row }) => {
    return { ...row, id, offset, partition: Number(row.partition), sequence: Number(row.sequence) };
  });
}

/** Ids of the messages whose orders are in the table. */
export function readCommitted(database: Database): string[] {
  return read<{ message_id: string }>(database, "SELECT message_id FROM orders").map(
    (row) => row.message_id,
  );
}

export interface OffsetWatch {
  /** Samples once more, stops, and answers all pairs seen. */
  readonly stop: () => Promise<OffsetPair[]>;
}

const sampleEveryMs = 50;

export function watchOffsets(sample: () => Promise<readonly OffsetPair[]>): OffsetWatch {
  const seen = new Map<string, OffsetPair>();
  let stopped = false;
  const look = async () => {
    for (const pair of await sample()) seen.set(Object.values(pair).join(" "), pair);
  };
  const running = (async () => {
    while (!stopped) {
      await look();
      await new Promise((resolve) => setTimeout(resolve, sampleEveryMs));
    }
    await look();
  })();
  // Told by `stop`, and not as an error that nobody caught.
  running.catch(() => undefined);
  return {
    stop: async () => {
      stopped = true;
      await running;
      return [...seen.values()];
    },
  };
}
