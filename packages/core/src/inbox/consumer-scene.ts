/**
 * A consumer on a broker and a storage of a few lines and a clock that stands still, for the tests
 * beside it. No part of the package: nothing but tests imports it.
 */
import { clockByHand, settled } from "../clock-by-hand.ts";
import { ClaimLostError } from "../errors.ts";
import type { OnceboxEvent } from "../events.ts";
import { utf8 } from "../message.ts";
import type { Broker, ConsumerCallbacks, GroupOffset, LogState } from "../ports/broker.ts";
import type {
  ChunkTransaction,
  LogMark,
  PartitionClaim,
  PartitionRef,
  RecordRef,
  Storage,
} from "../ports/storage.ts";
import { bytes, defineTopic } from "../topic.ts";
import { createConsumer } from "./consumer.ts";
import type { ConsumerOptions } from "./consumer-options.ts";
import type { Run } from "./handler.ts";

export const orders = defineTopic({ name: "orders", value: bytes() });
export const topicId = "topic-1";

/** Hands out its clients, so that a test can speak as each of them. */
function fakeBroker() {
  const clients: ConsumerCallbacks[] = [];
  const group = { offsets: [] as readonly GroupOffset[], answers: Promise.resolve() };
  const offsets = new Map([[0, 0n]]);
  const broker = {
    timing: {
      sessionTimeoutMs: 30_000,
      heartbeatIntervalMs: 3_000,
      rebalanceTimeoutMs: 30_000,
      publishTimeoutMs: 5_000,
    },
    offsets: async () => ({ topicId: "topic-2", offsets }),
    retentionMs: async () => 0,
    group: async () => {
      await group.answers;
      return { members: 1, offsets: group.offsets };
    },
    consumer: async (_: unknown, says: ConsumerCallbacks) => {
      clients.push(says);
      const commit = async (positions: readonly GroupOffset[]) => {
        group.offsets = positions;
        return true;
      };
      return { commit, stop: async () => undefined };
    },
  } as unknown as Broker;
  return { broker, clients, group };
}

type Seek = Parameters<Storage<"tx">["seek"]>[0];

/** Rows of two partitions, without a database under them. */
function fakeStorage() {
  const noMark: LogMark = { topicId: null, leaderEpoch: null, last: null };
  const fresh = () => ({ nextOffset: 10n, epoch: 0n, soughtEpoch: 0n, log: noMark });
  const row = fresh();
  const neighbour = fresh();
  const rowOf = (partition: number) => (partition === 0 ? row : neighbour);
  const seeks: Seek[] = [];
  const holds = (claim: PartitionClaim) => claim.token === `${rowOf(claim.partition).epoch}`;
  const prove = (claim: PartitionClaim) => {
    if (!holds(claim)) throw new ClaimLostError("taken over");
  };
  const transaction = (
    claim: PartitionClaim,
    records: readonly RecordRef[],
  ): ChunkTransaction<"tx"> => ({
    nextOffset: rowOf(claim.partition).nextOffset,
    recorded: records.map(() => "new"),
    handle: () => ({ tx: "tx", end: () => undefined, refused: () => false }),
    commit: async (nextOffset) => {
      prove(claim);
      rowOf(claim.partition).nextOffset = nextOffset;
    },
    rollback: async () => true,
    destroy: () => undefined,
  });
  const parts = {
    check: async () => ({ pipelined: true, poolSize: 10, idleInTransactionTimeoutMs: null }),
    registerTopic: async () => undefined,
    isRegistered: async () => true,
    trouble: (error: unknown) => ((error as Error).message === "down" ? "global" : null),
    claim: async (ref: PartitionRef): Promise<PartitionClaim> => {
      const claimed = rowOf(ref.partition);
      claimed.epoch += 1n;
      const replay = { number: 0, until: 0n };
      const stalled = { stalledClaims: 1, trying: null };
      return {
        ...ref,
        ...claimed,
        ...stalled,
        token: `${claimed.epoch}`,
        replay,
        incarnation: "db-1",
      };
    },
    noteClaim: async () => undefined,
    takeParked: async () => [],
    releaseParked: async () => 0,
    settleParked: async () => true,
    lostClaims: async (claims: readonly PartitionClaim[]) =>
      claims.filter((one) => !holds(one) || rowOf(one.partition).nextOffset !== one.nextOffset),
    open: async (claim: PartitionClaim, records: readonly RecordRef[]) => {
      prove(claim);
      return transaction(claim, records);
    },
    seek: async (seek: Seek) => {
      seeks.push(seek);
      if (seek.expected !== null && !holds(seek.expected)) return null;
      const [{ to = 0n } = {}] = seek.moves;
      const moved = [{ partition: 0, from: row.nextOffset, to }];
      row.epoch += 1n;
      Object.assign(row, { nextOffset: to, soughtEpoch: row.epoch });
      return moved;
    },
    wake: { send: () => undefined, expect: () => undefined },
  };
  return { row, parts, seeks };
}

/** What a test puts into `storage` is what the consumer meets from then on. */
export function makeConsumer(
  run: Run<Uint8Array, "tx"> = async () => undefined,
  options: Partial<ConsumerOptions<"tx">> = {},
) {
  const { clock, advance } = clockByHand();
  const { row, parts, seeks } = fakeStorage();
  const storage: Record<string, unknown> = { ...parts };
  const { broker, clients, group } = fakeBroker();
  const events: OnceboxEvent[] = [];
  const handled: bigint[] = [];
  const consumer = createConsumer<"tx">({
    ...{ name: "billing", storage: storage as unknown as Storage<"tx">, broker, clock },
    observer: (event) => events.push(event),
    ...options,
  }).handle(orders, async (message, tx, context) => {
    await run(message, tx, context);
    handled.push(message.offset);
  });
  const ofType = <T extends OnceboxEvent["type"]>(type: T) =>
    events.filter((event): event is Extract<OnceboxEvent, { type: T }> => event.type === type);
  const at = { topic: orders.name, partition: 0 };
  const newest = () => clients.at(-1) as ConsumerCallbacks;
  let assignment = 0;
  const assigned = async (partitions = [at]) => {
    assignment += 1;
    newest().assigned(assignment, partitions);
    await settled();
  };
  const position = () => newest().position(at)?.offset ?? null;
  /** The client has fetched so many records at the position it is told. */
  const delivered = async (count = 1) => {
    const fetchedOffset = position();
    if (fetchedOffset === null) throw new Error("the partition is left out of the fetch");
    const records = Array.from({ length: count }, (_, i) => {
      const fields = { timestamp: 0n, leaderEpoch: 0, key: null, value: utf8("v"), headers: [] };
      return { offset: fetchedOffset + BigInt(i), ...fields };
    });
    const endOffset = fetchedOffset + BigInt(count);
    newest().deliver({
      ...at,
      assignment,
      fetchedOffset,
      endOffset,
      records,
      topicId,
      endEpoch: 0,
    });
    await settled();
  };
  const fetched = (end: bigint, log: Partial<LogState> = {}) =>
    newest().fetched(at, { start: 0n, lastStable: end, end, ...log });
  const place = { at, newest, assigned, position, delivered, fetched };
  const world = { ...place, advance, clients, group, row, parts, seeks, storage };
  return { ...world, consumer, events, ofType, handled };
}

/** Started, and given the one partition, which stands at 10. */
export async function reading(...given: Parameters<typeof makeConsumer>) {
  const scene = makeConsumer(...given);
  await scene.consumer.start();
  await scene.assigned();
  return scene;
}
