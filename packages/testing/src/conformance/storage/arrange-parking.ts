/** What the cases of parked messages stand on: messages that are set aside, taken, looked at. */
import type {
  ChunkTransaction,
  ParkedFilter,
  ParkedMessage,
  ParkedPage,
  ParkedRecord,
  ParkedState,
  ParkedTurn,
  PartitionClaim,
  RecordRef,
  Storage,
  ToPark,
} from "@oncebox/core";
import { eventually, holds, same } from "../check.ts";
import { claim, consumer, longWaitMs, noMark, record, topic } from "./arrange.ts";

/** Never over while a case runs. */
export const longLeaseMs = 60_000;
/** Short enough to wait for its end. */
export const briefLeaseMs = 150;
/** Not due while a case runs. */
export const muchLaterMs = 3_600_000;

export const failure = { code: "handler-failed", text: "the handler's own" };

export function bytesOf(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

/** A record as it lay in the log; its key as a text, null for none. */
export function message(
  offset: number,
  key: string | null,
  changes: Partial<ParkedRecord> = {},
): ParkedRecord {
  const { timestamp } = record(offset);
  const value = bytesOf(`value ${offset}`);
  const bytes = key === null ? null : bytesOf(key);
  return { offset: BigInt(offset), timestamp, key: bytes, value, headers: [], ...changes };
}

/** To be set aside: waiting, due at once, after one failed try, unless told otherwise. */
export function toPark(offset: number, key: string | null, changes: Partial<ToPark> = {}): ToPark {
  const usual = { state: "waiting", attempts: 1, afterMs: 0, error: failure } as const;
  return { record: message(offset, key), ...usual, ...changes };
}

/** The same record as a chunk records it. */
export function keyed(
  offset: number,
  key: string | null,
  changes: Parameters<typeof record>[1] = {},
): RecordRef {
  return record(offset, { key: key === null ? null : bytesOf(key), ...changes });
}

/** A chunk that parks them, and nothing else: behind it the partition goes on. Has no ids. */
export async function park<Tx>(
  storage: Storage<Tx>,
  parking: readonly ToPark[],
  partition = 0,
): Promise<PartitionClaim> {
  const claimed = await claim(storage, partition);
  const records = parking.map(({ record: { offset, key } }) => {
    return record(Number(offset), { id: null, key });
  });
  const ascending = (a: RecordRef, b: RecordRef) => (a.offset < b.offset ? -1 : 1);
  const chunk = await storage.open(claimed, [...records].sort(ascending));
  const last = records.reduce((top, { offset }) => (offset > top ? offset : top), 0n);
  const above = last < chunk.nextOffset ? chunk.nextOffset : last + 1n;
  await chunk.commit(above, noMark, parking);
  return claimed;
}

/** What a chunk over these records says of them; it is rolled back. */
export async function recordedOf<Tx>(
  storage: Storage<Tx>,
  claimed: PartitionClaim,
  ...records: readonly RecordRef[]
): Promise<ChunkTransaction<Tx>["recorded"]> {
  const chunk = await storage.open(claimed, records);
  await chunk.rollback();
  return chunk.recorded;
}

type TakeRequest = Parameters<Storage<never>["takeParked"]>[0];

/** Takes what is due of the topic, for a long time, unless told otherwise. */
export function take<Tx>(
  storage: Storage<Tx>,
  changes: Partial<TakeRequest> = {},
): Promise<readonly ParkedTurn[]> {
  const usual = { consumer, topics: [topic], limit: 100, leaseMs: longLeaseMs };
  return storage.takeParked({ ...usual, token: crypto.randomUUID(), ...changes });
}

/** Takes the only one that can be taken. */
export async function takeOne<Tx>(
  storage: Storage<Tx>,
  changes: Partial<TakeRequest> = {},
): Promise<ParkedTurn> {
  const [turn, ...others] = await take(storage, changes);
  holds(turn !== undefined && others.length === 0, "exactly one parked message must be taken");
  return turn;
}

/** As soon as the lease that somebody has on it ran out. */
export function takeAfterLease<Tx>(storage: Storage<Tx>): Promise<ParkedTurn> {
  return eventually(longWaitMs, async () => (await take(storage))[0], "a turn after the lease");
}

export function offsetsOf(parked: readonly { readonly record: ParkedRecord }[]): readonly bigint[] {
  return parked.map(({ record: { offset } }) => offset);
}

/** Takes them in one call: exactly these, in any order. */
export async function sameTaken<Tx>(
  storage: Storage<Tx>,
  expected: readonly bigint[],
  what: string,
): Promise<readonly ParkedTurn[]> {
  const turns = await take(storage);
  const ascending = (a: bigint, b: bigint) => (a < b ? -1 : 1);
  same([...offsetsOf(turns)].sort(ascending), expected, `the offsets taken ${what}`);
  return turns;
}

/** Parked messages of the consumer, the first page of a thousand. */
export function look<Tx>(
  storage: Storage<Tx>,
  filter: Partial<ParkedFilter> = {},
  page: Partial<ParkedPage> = {},
): Promise<readonly ParkedMessage[]> {
  return storage.parked({ consumer, ...filter }, { limit: 1_000, above: null, ...page });
}

/** The offsets that are parked, in the order of parking, and their states. */
export async function sameParked<Tx>(
  storage: Storage<Tx>,
  expected: readonly (readonly [bigint, ParkedState])[],
  what = "what is parked",
): Promise<readonly ParkedMessage[]> {
  const found = await look(storage);
  const pairs = found.map(({ record: { offset }, state }) => [offset, state] as const);
  same(pairs, expected, what);
  return found;
}

/** Commits a turn whose handler wrote nothing: the message is gone. */
export async function finish<Tx>(storage: Storage<Tx>, turn: ParkedTurn): Promise<void> {
  await (await storage.openParked(turn)).commit();
}
