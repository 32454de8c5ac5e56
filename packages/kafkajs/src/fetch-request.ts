/**
 * The Fetch request in version 13: the first that names a topic by its id, and one in which Kafka
 * checks the epoch of what was read before. Wire form only: never decides what is asked.
 */
import type { OwnRequest } from "./own-request.ts";
import type { AbortedTransaction } from "./record-batch.ts";
import { type Reader, uvarintSize, Writer } from "./wire.ts";

/** One partition to fetch. */
export interface AskedPartition {
  readonly topicId: string;
  readonly partition: number;
  readonly offset: bigint;
  /** Leader epoch of what lies before the offset; null: not known, and not checked. */
  readonly leaderEpoch: number | null;
  readonly bytesMax: number;
}

/** Partitions in the order in which the broker fills its answer. */
export interface FetchQuestion {
  readonly maxWaitMs: number;
  readonly minBytes: number;
  readonly bytesMax: number;
  readonly partitions: readonly AskedPartition[];
}

/** What Kafka answers for one partition. */
export interface FetchedPartition {
  readonly topicId: string;
  readonly partition: number;
  readonly errorCode: number;
  readonly highWatermark: bigint;
  readonly lastStable: bigint;
  readonly logStart: bigint;
  readonly aborted: readonly AbortedTransaction[];
  /** The last epoch that this log shares with what was read, and where it ends; null: it fits. */
  readonly diverging: { readonly epoch: number; readonly endOffset: bigint } | null;
  readonly bytes: Buffer;
}

export interface FetchAnswer {
  readonly throttleMs: number;
  /** An error of the whole request. */
  readonly errorCode: number;
  readonly partitions: readonly FetchedPartition[];
}

const noEpoch = -1;
const readCommitted = 1;
const partitionSize = 4 + 4 + 8 + 4 + 8 + 4 + 1;

export function fetchRequest(question: FetchQuestion): OwnRequest<FetchAnswer> {
  return {
    apiKey: 1,
    apiName: "Fetch",
    version: 13,
    since: "3.1",
    body: encodeFetch(question),
    decode: decodeFetch,
    holdMs: question.maxWaitMs,
  };
}

/** Neighbours of one topic go under one entry; a topic may come more than once. */
function runsOf(partitions: readonly AskedPartition[]): AskedPartition[][] {
  const runs: AskedPartition[][] = [];
  for (const asked of partitions) {
    const run = runs.at(-1);
    if (run?.[0]?.topicId === asked.topicId) run.push(asked);
    else runs.push([asked]);
  }
  return runs;
}

function encodeFetch({ maxWaitMs, minBytes, bytesMax, partitions }: FetchQuestion): Buffer {
  const runs = runsOf(partitions);
  let size = 1 + 4 * 4 + 1 + 4 + 4 + uvarintSize(runs.length + 1) + 3;
  for (const run of runs) size += 16 + uvarintSize(run.length + 1) + run.length * partitionSize + 1;
  const writer = new Writer(size);
  writer.uvarint(0); // optional fields of the header
  writer.int32(-1); // a consumer, not a replica
  writer.int32(maxWaitMs);
  writer.int32(minBytes);
  writer.int32(bytesMax);
  writer.int8(readCommitted);
  writer.int32(0); // no fetch session
  writer.int32(-1);
  writer.uvarint(runs.length + 1);
  for (const run of runs) {
    writer.raw(Buffer.from(run[0]?.topicId ?? "", "base64url"));
    writer.uvarint(run.length + 1);
    for (const asked of run) {
      writer.int32(asked.partition);
      writer.int32(noEpoch); // the current leader's: what kafkajs knows of it may be old
      writer.int64(asked.offset);
      writer.int32(asked.leaderEpoch ?? noEpoch);
      writer.int64(-1n); // log start: of replicas only
      writer.int32(asked.bytesMax);
      writer.uvarint(0);
    }
    writer.uvarint(0);
  }
  writer.uvarint(1); // no topics to forget
  writer.uvarint(1); // no rack
  writer.uvarint(0);
  return writer.bytes;
}

function decodeFetch(reader: Reader): FetchAnswer {
  const throttleMs = reader.int32();
  const errorCode = reader.int16();
  reader.int32(); // fetch session
  const topics = reader.compactList(() => {
    const topicId = reader.uuid();
    const partitions = reader.compactList(() => decodePartition(reader, topicId));
    reader.tags();
    return partitions;
  });
  reader.tags();
  return { throttleMs, errorCode, partitions: topics.flat() };
}

const divergingEpochTag = 0;

function decodePartition(reader: Reader, topicId: string): FetchedPartition {
  const partition = reader.int32();
  const errorCode = reader.int16();
  const highWatermark = reader.int64();
  const lastStable = reader.int64();
  const logStart = reader.int64();
  const aborted = reader.compactList(() => {
    const transaction = { producerId: reader.int64(), firstOffset: reader.int64() };
    reader.tags();
    return transaction;
  });
  reader.int32(); // preferred read replica: only with a rack
  // Records keep a view of these bytes: a copy, so that one partition's do not hold the whole answer.
  const bytes = Buffer.from(reader.compactBytes() ?? []);
  let diverging: FetchedPartition["diverging"] = null;
  reader.tags((tag) => {
    if (tag !== divergingEpochTag) return;
    diverging = { epoch: reader.int32(), endOffset: reader.int64() };
  });
  return {
    topicId,
    partition,
    errorCode,
    highWatermark,
    lastStable,
    logStart,
    aborted,
    diverging,
    bytes,
  };
}
