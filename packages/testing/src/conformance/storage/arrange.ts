/** What the storage cases stand on: registered partitions, records, ids, outbox rows, leases. */
import type {
  HandlerTransaction,
  LaneLease,
  LogMark,
  Move,
  Moved,
  OutboxEntry,
  OutboxRead,
  OutboxRow,
  PartitionClaim,
  RecordRef,
  Storage,
} from "@oncebox/core";
import type { ConformanceCase } from "../case.ts";
import { ConformanceError, eventually, holds, same } from "../check.ts";
import type { StorageUnderTest } from "./storage-under-test.ts";

/** Every case holds for every driver's handle. */
export interface StorageCase extends Omit<ConformanceCase<never>, "run"> {
  readonly run: <Tx>(context: StorageUnderTest<Tx>) => Promise<void>;
}

export const consumer = "billing";
export const groupId = "group";
export const topic = "orders.placed";

/** What a commit says of a log that the case does not ask about. */
export const noMark: LogMark = { topicId: null, leaderEpoch: null, last: null };

/** Long enough to see that something waits, short enough to wait for. */
export const shortWaitMs = 200;
/** Never reached where the promises hold. */
export const longWaitMs = 10_000;

/** Registers partitions 0, 1, …, starting at these offsets. */
export async function register<Tx>(
  storage: Storage<Tx>,
  ...starts: readonly bigint[]
): Promise<void> {
  const start = new Map(starts.map((offset, partition) => [partition, offset]));
  const none = { topicId: null, added: new Map() };
  await storage.registerTopic({ consumer, groupId, topic, start, ...none });
}

export function ref(partition = 0) {
  return { consumer, topic, partition, owner: "conformance" };
}

/** Claims a partition that has a row. */
export async function claim<Tx>(
  storage: Storage<Tx>,
  partition = 0,
  waitMs = longWaitMs,
): Promise<PartitionClaim> {
  const claimed = await storage.claim(ref(partition), waitMs);
  holds(claimed !== null, `a claim of the registered partition ${partition} must not be null`);
  return claimed;
}

/** Registers one partition at offset 0 and claims it. */
export async function claimFirst<Tx>(storage: Storage<Tx>): Promise<PartitionClaim> {
  await register(storage, 0n);
  return claim(storage);
}

export const audit = { actor: "an operator", reason: "a case of the suite" };

type Seek = Parameters<Storage<never>["seek"]>[0];

/** Moves positions; without a replay and without an expected claim unless told otherwise. */
export function seek<Tx>(
  storage: Storage<Tx>,
  moves: readonly Move[],
  changes: Partial<Pick<Seek, "topicId" | "replay" | "expected">> = {},
): Promise<readonly Moved[] | null> {
  const usual = { consumer, topic, topicId: null, replay: false, expected: null, audit };
  return storage.seek({ ...usual, moves, ...changes });
}

/** 16 bytes, in no order that follows from `n`. */
export function id(n: number): Uint8Array {
  const bytes = new Uint8Array(16);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, Math.imul(n + 1, 2_654_435_761));
  view.setUint32(12, n);
  return bytes;
}

/** A record at `offset`; unless told otherwise its id and its value follow from the offset. */
export function record(
  offset: number,
  changes: Partial<Omit<RecordRef, "offset">> = {},
): RecordRef {
  const timestamp = 1_700_000_000_000n + BigInt(offset);
  return {
    offset: BigInt(offset),
    timestamp,
    source: topic,
    id: id(offset),
    checksum: 7,
    key: null,
    ...changes,
  };
}

/** Writes effects through a handle of the chunk or the turn, as a handler does. */
export async function handle<Tx>(
  { insertEffect }: StorageUnderTest<Tx>,
  chunk: HandlerTransaction<Tx>,
  ...texts: readonly string[]
): Promise<void> {
  const { tx, end } = chunk.handle();
  for (const text of texts) await insertEffect(tx, text);
  end();
}

export async function sameEffects<Tx>(
  { effects }: StorageUnderTest<Tx>,
  ...expected: readonly string[]
): Promise<void> {
  same([...(await effects())].sort(), [...expected].sort(), "the committed effects");
}

/** The partition's position, read by claiming it. */
export async function sameNextOffset<Tx>(
  storage: Storage<Tx>,
  expected: bigint,
  partition = 0,
): Promise<PartitionClaim> {
  const claimed = await claim(storage, partition);
  same(claimed.nextOffset, expected, "next_offset");
  return claimed;
}

/** While so many questions are answered, a statement that was sent has got to where it waits. */
export const roundTrips = 30;

/**
 * Resolves when this many transactions are open and the last one's first statement has got to where
 * it waits, or `over` says that waiting for it is in vain.
 */
export async function untilOpen<Tx>(
  { openTransactions }: StorageUnderTest<Tx>,
  count: number,
  over: () => boolean,
): Promise<void> {
  await eventually(
    longWaitMs,
    async () => (over() || (await openTransactions()) >= count ? true : undefined),
    `${count} open transactions`,
  );
  for (let n = 0; n < roundTrips && !over(); n += 1) await openTransactions();
}

/** An outbox row; key and value follow from `name` unless given. */
export function entry(lane: number, name: string, changes: Partial<OutboxEntry> = {}): OutboxEntry {
  const bytes = new TextEncoder().encode(name);
  return { lane, id: name, topic, key: bytes, value: bytes, headers: [], ...changes };
}

/** Commits rows in a transaction of their own. */
export async function publish<Tx>(
  { begin }: StorageUnderTest<Tx>,
  storage: Storage<Tx>,
  ...entries: readonly OutboxEntry[]
): Promise<void> {
  const own = await begin();
  await storage.enqueue(own.tx, entries);
  await own.commit();
}

/** Takes all free lanes. */
export async function lease<Tx>(
  storage: Storage<Tx>,
  relay = "relay-a",
  leaseMs = 60_000,
): Promise<readonly LaneLease[]> {
  const { leases } = await storage.leaseLanes({ relay, leaseMs, renew: [], acquireMax: 64 });
  return leases;
}

/** Takes all free lanes; all 64 must be free. */
export async function leaseAll<Tx>(
  storage: Storage<Tx>,
  relay = "relay-a",
  leaseMs = 60_000,
): Promise<readonly LaneLease[]> {
  const leases = await lease(storage, relay, leaseMs);
  same(leases.length, 64, "the number of lanes leased while all are free");
  return leases;
}

export function read<Tx>(
  storage: Storage<Tx>,
  leases: readonly LaneLease[],
  request: Partial<Parameters<Storage<Tx>["readLanes"]>[1]> = {},
): Promise<OutboxRead> {
  return storage.readLanes(leases, {
    rows: 1_000,
    bytes: 10_000_000,
    pending: [],
    sweep: false,
    ...request,
  });
}

export function names(rows: readonly OutboxRow[]): string[] {
  return rows.map((row) => row.id);
}

/** Settles as the holder of the lanes. */
export async function settle<Tx>(
  storage: Storage<Tx>,
  leases: readonly LaneLease[],
  rows: readonly OutboxRow[],
): Promise<void> {
  const { lost } = await storage.settleBatch(leases, rows);
  same(lost, [], "the lost lanes of a settle under live leases");
}

/** Reads and settles until nothing is left; the rows in the order of reading. */
export async function drain<Tx>(
  storage: Storage<Tx>,
  leases: readonly LaneLease[],
  request: Parameters<typeof read>[2] = {},
): Promise<readonly OutboxRow[]> {
  const all: OutboxRow[] = [];
  // A bound on the rounds: a storage that never deletes would give the same rows for ever.
  for (let round = 0; round < 1_000; round += 1) {
    const { rows } = await read(storage, leases, request);
    if (rows.length === 0) return all;
    all.push(...rows);
    await settle(storage, leases, rows);
  }
  throw new ConformanceError("1,000 rounds of reading and settling must empty the outbox");
}
