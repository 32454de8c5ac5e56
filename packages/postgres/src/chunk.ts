/**
 * The transaction of one chunk: begun, fenced and recorded by `open`; what is parked, the advance and
 * COMMIT end it. How it ends is in handler-transaction.ts. Decides nothing.
 */
import {
  type ChunkTransaction,
  ClaimLostError,
  type LogMark,
  type PartitionClaim,
  type PartitionRef,
  type Recorded,
  type RecordRef,
  StorageError,
  type ToPark,
} from "@oncebox/core";
import type { Connection } from "./connections.ts";
import { begun, type HandlerParts, OpenTransaction, opening } from "./handler-transaction.ts";
import type { OwnTransaction } from "./handles/handles.ts";
import type { Names } from "./names.ts";
import { amongParked } from "./parking.ts";
import type { ParkingQueries } from "./parking-queries.ts";
import type { ClaimKey, Identified, InboxQueries, OpenedRow, TakerRow } from "./queries.ts";
import { numbersOf } from "./wire.ts";

export interface ChunkParts<Tx> extends HandlerParts<Tx> {
  readonly queries: InboxQueries;
  readonly parking: ParkingQueries;
  readonly names: Names;
}

/** I2, I3. Throws ClaimLostError. */
export function openChunk<Tx>(
  parts: ChunkParts<Tx>,
  claim: PartitionClaim,
  consumer: number,
  records: readonly RecordRef[],
): Promise<ChunkTransaction<Tx>> {
  const { handles, queries, parking, limits, names } = parts;
  return opening(parts, `chunk of ${nameOf(claim)}`, async (connection) => {
    const withId = records.filter((record): record is Identified => record.id !== null);
    const sources = new Set([claim.topic, ...withId.map((record) => record.source)]);
    const ids = await names.idsOf(connection, sources);
    const key = { claim, consumer, topicId: ids.get(claim.topic) ?? 0 };
    const sourceIds = withId.map((record) => ids.get(record.source) ?? 0);
    const first = queries.open(key, withId, sourceIds);
    const opened = await begun<OpenedRow & Record<string, unknown>>(limits, connection, first);
    if (opened.next_offset === null) throw claimLost(claim);
    const read = { ...opened, next_offset: opened.next_offset };
    const fresh = await recordedOf(parts, connection, key, records, sourceIds, read);
    // Without the hint there is nothing: nobody but a chunk, which holds the row, parks or writes it.
    const { recorded, left } =
      opened.parked === true
        ? await amongParked(parking, connection, key, records, fresh)
        : { recorded: fresh, left: false };
    const own = await handles.own(connection.client);
    return new Chunk(parts, connection, own, key, read, recorded, left);
  });
}

/** What became of each record; asks whose an id is only where not all were new. */
async function recordedOf(
  { queries }: Pick<ChunkParts<unknown>, "queries">,
  connection: Connection,
  key: ClaimKey,
  records: readonly RecordRef[],
  sourceIds: readonly number[],
  opened: { readonly next_offset: bigint; readonly recorded: string },
): Promise<Recorded[]> {
  const inserted = new Set(numbersOf(opened.recorded));
  const taken: { readonly id: Uint8Array; readonly source: number; readonly offset: bigint }[] = [];
  let place = -1;
  for (const { id, offset } of records) {
    if (id === null) continue;
    place += 1;
    if (offset < opened.next_offset || inserted.has(String(offset))) continue;
    taken.push({ id, source: sourceIds[place] ?? 0, offset });
  }
  const takers = new Map<bigint, TakerRow>();
  if (taken.length > 0) {
    const sources = taken.map((row) => row.source);
    const ids = taken.map((row) => row.id);
    const statement = queries.takers(key.consumer, sources, ids);
    const { rows } = await connection.run<TakerRow>(statement);
    for (const [index, row] of taken.entries()) {
      const taker = rows[index];
      if (taker?.taken !== true) throw takerGone();
      takers.set(row.offset, taker);
    }
  }
  return records.map((record) => {
    if (record.offset < opened.next_offset) return "done";
    const taker = takers.get(record.offset);
    return taker === undefined ? "new" : outcomeOf(key, record, taker);
  });
}

/** Of a record whose id was there before, or came twice in this chunk. */
function outcomeOf({ claim, topicId }: ClaimKey, record: RecordRef, taker: TakerRow): Recorded {
  const own =
    taker.topic === topicId &&
    taker.partition === claim.partition &&
    taker.record_offset === record.offset;
  const { number, until } = claim.replay;
  // Left behind by a handler that committed early: the record itself has not been done. Not so below
  // a position that was left by a seek: there the id may stem from the time before, and from a topic
  // that was made anew since and filled with the same. In a replay the core gives ids of that replay.
  if (own && (number > 0 || record.offset >= until)) return "new";
  return taker.checksum === null || taker.checksum === record.checksum ? "duplicate" : "conflict";
}

function takerGone(): StorageError {
  return new StorageError(
    "storage-conflict",
    "an id was taken when it was recorded and free when it was looked up: its row was deleted in between",
    { retryable: true },
  );
}

class Chunk<Tx> extends OpenTransaction<Tx> implements ChunkTransaction<Tx> {
  readonly nextOffset: bigint;
  readonly recorded: readonly Recorded[];
  readonly #parts: ChunkParts<Tx>;
  readonly #key: ClaimKey;
  readonly #xid: bigint;
  /** Whether messages of the partition were parked when it was opened. */
  readonly #left: boolean;

  constructor(
    parts: ChunkParts<Tx>,
    connection: Connection,
    own: OwnTransaction<Tx>,
    key: ClaimKey,
    opened: { readonly next_offset: bigint; readonly xid: bigint },
    recorded: readonly Recorded[],
    left: boolean,
  ) {
    const undertaking = {
      name: nameOf(key.claim),
      undone: "the position does not move",
      fenced: (cause: unknown) => claimLost(key.claim, cause),
    };
    super(parts, connection, own, undertaking, opened.xid);
    this.#parts = parts;
    this.#key = key;
    this.nextOffset = opened.next_offset;
    this.#xid = opened.xid;
    this.recorded = recorded;
    this.#left = left;
  }

  readonly commit = async (
    nextOffset: bigint,
    mark: LogMark,
    park: readonly ToPark[] = [],
  ): Promise<void> => {
    const { queries, parking } = this.#parts;
    const key = this.#key;
    const parked = this.#left || park.length > 0;
    const range = [this.nextOffset, nextOffset] as const;
    const advance = queries.advance(key, this.#xid, ...range, mark, parked);
    const parks = park.length === 0 ? [] : [parking.park(key, this.#xid, park)];
    await this.commitBehind([...parks, advance]);
  };
}

export function claimLost(claim: PartitionClaim, cause?: unknown): ClaimLostError {
  const { consumer, topic, partition, epoch } = claim;
  return new ClaimLostError(`the claim on ${nameOf(claim)} was taken over`, {
    cause,
    details: { consumer, topic, partition, epoch },
  });
}

export function nameOf({ consumer, topic, partition }: PartitionRef): string {
  return `${topic}/${partition} for ${consumer}`;
}
