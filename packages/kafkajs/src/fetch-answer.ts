/**
 * What an answer to a fetch means, partition by partition: for the core (records, a position that
 * does not fit, trouble of one partition) or for us (a leader that moved, a topic made anew). Decides
 * nothing about positions, and lets no partition's trouble reach another's.
 */
import type { ConsumerCallbacks, Displacement, FetchPosition, LogBounds } from "@oncebox/core";
import { systemClock, type TopicPartition } from "@oncebox/core";
import type { Assignment } from "./fetch-hook.ts";
import type { FetchAnswer, FetchedPartition } from "./fetch-request.ts";
import type { KafkaNode } from "./kafkajs-client.ts";
import { errorOfCode, fetchVerdict, requestFailed } from "./kafkajs-errors.ts";
import { decodeRecords } from "./record-batch.ts";
import { type Lasting, ofMoving, ofTrouble, type Setbacks } from "./setbacks.ts";
import type { TopicIds } from "./topic-ids.ts";

/** One partition as it was asked for. */
export interface Asked {
  readonly at: TopicPartition;
  readonly position: FetchPosition;
  readonly topicId: string;
}

export interface AnswerContext {
  readonly callbacks: Pick<
    ConsumerCallbacks,
    "fetched" | "deliver" | "displaced" | "unreadable" | "troubled"
  >;
  /** The current one. */
  readonly assignment: () => Assignment | null;
  /** Not so once the partition was asked for again: of another node, when its leader moved. */
  readonly isLatest: (asked: Asked) => boolean;
  readonly topicIds: TopicIds;
  readonly setbacks: Setbacks;
  readonly lasting: Lasting;
  /** The metadata is old: read again soon, without waiting for it. */
  readonly refresh: () => void;
}

/** By id and partition, as Kafka answers. */
export type AskedPartitions = ReadonlyMap<string, Asked>;

export function answerKey(topicId: string, partition: number): string {
  return `${topicId}/${partition}`;
}

/**
 * Hands over an answer to a fetch under `assignment`; nothing more of it once there is another one.
 * Throws where Kafka refused the request as a whole.
 */
export async function takeAnswer(
  context: AnswerContext,
  node: KafkaNode,
  assignment: Assignment,
  asked: AskedPartitions,
  answer: FetchAnswer,
): Promise<void> {
  if (answer.errorCode !== 0) throw requestFailed("Fetch", answer.errorCode);
  for (const fetched of answer.partitions) {
    const question = asked.get(answerKey(fetched.topicId, fetched.partition));
    if (question === undefined) continue;
    // Decoding waits where records are compressed, and a join may have come in between.
    if (context.assignment() !== assignment) return;
    if (!context.isLatest(question)) continue;
    await takePartition(context, node, assignment, question, fetched);
  }
}

async function takePartition(
  context: AnswerContext,
  node: KafkaNode,
  assignment: Assignment,
  asked: Asked,
  fetched: FetchedPartition,
): Promise<void> {
  const { at, position } = asked;
  switch (fetchVerdict(fetched.errorCode)) {
    case "fetched":
      context.setbacks.clear(at);
      context.lasting.clear(at);
      if (fetched.diverging === null) return takeRecords(context, assignment, asked, fetched);
      return context.callbacks.displaced(at, position.offset, {
        kind: "log-diverged",
        endOffset: sharedEnd(position.offset, fetched),
      });
    case "outside": {
      const why = displacementOf(position, await boundsOf(node, at));
      if (context.assignment() === assignment && context.isLatest(asked)) {
        context.callbacks.displaced(at, position.offset, why);
      }
      return;
    }
    case "other-topic":
      context.topicIds.contradicted(at.topic, position.topicId, node);
      return waitForMetadata(context, at, fetched.errorCode);
    case "moving":
      return waitForMetadata(context, at, fetched.errorCode);
    case "trouble":
      context.setbacks.add(at, ofTrouble, systemClock.now());
      context.refresh();
      return context.callbacks.troubled(at, errorOfCode(fetched.errorCode, at.topic, at.partition));
  }
}

function waitForMetadata(context: AnswerContext, at: TopicPartition, code: number): void {
  context.setbacks.add(at, ofMoving, systemClock.now());
  context.refresh();
  notFetched(context, at, code);
}

/** To be called again and again: the core must not take the client for silent while it lasts. */
export function notFetched(
  { callbacks, lasting }: Pick<AnswerContext, "callbacks" | "lasting">,
  at: TopicPartition,
  code: number,
): void {
  if (!lasting.seen(at, systemClock.now())) return;
  callbacks.troubled(at, errorOfCode(code, at.topic, at.partition));
}

/**
 * Up to where the log agrees with what was read. Where Kafka's answer lies at or above the position,
 * the epoch before the position is not in this log at all, and nothing says where they part.
 */
export function sharedEnd(
  offset: bigint,
  { diverging, highWatermark }: Pick<FetchedPartition, "diverging" | "highWatermark">,
): bigint | null {
  if (diverging === null || diverging.endOffset < 0n) return null;
  const { endOffset } = diverging;
  const end = endOffset < highWatermark || highWatermark < 0n ? endOffset : highWatermark;
  return end < offset ? end : null;
}

/**
 * Kafka also says "out of range" of an offset inside of the log, where it does not know the epoch of
 * what lies before. Without an epoch that cannot be: then the log has moved since.
 */
export function displacementOf(position: FetchPosition, log: LogBounds | null): Displacement {
  const inside = log !== null && log.start <= position.offset && position.offset <= log.end;
  return inside && position.leaderEpoch !== null
    ? { kind: "log-diverged", endOffset: null }
    : { kind: "out-of-range", log };
}

async function takeRecords(
  { callbacks, assignment: current, isLatest }: AnswerContext,
  assignment: Assignment,
  asked: Asked,
  { bytes, aborted, logStart, lastStable, highWatermark }: FetchedPartition,
): Promise<void> {
  const { at, position, topicId } = asked;
  const { offset } = position;
  const counts = () => current() === assignment && isLatest(asked);
  callbacks.fetched(at, { start: logStart, lastStable, end: highWatermark });
  let decoded: Awaited<ReturnType<typeof decodeRecords>>;
  try {
    decoded = await decodeRecords(bytes, offset, aborted);
  } catch (error) {
    // They never will decode, and the other partitions can go on.
    const cause = error instanceof Error ? error : new Error(`its codec failed: ${error}`);
    if (counts()) callbacks.unreadable(at, offset, cause);
    return;
  }
  const { records, endOffset, endEpoch } = decoded;
  if (!counts() || endOffset === null || endOffset <= offset) return;
  callbacks.deliver({
    ...at,
    assignment: assignment.number,
    fetchedOffset: offset,
    endOffset,
    endEpoch,
    topicId,
    records,
  });
}

const earliest = -2;
const latest = -1;

/** Null where Kafka does not say: the report matters more than its numbers. */
async function boundsOf(node: KafkaNode, at: TopicPartition): Promise<LogBounds | null> {
  const offset = async (timestamp: number): Promise<bigint> => {
    const { responses } = await node.listOffsets({
      // Uncommitted included: the end of the log, not the last stable offset.
      isolationLevel: 0,
      topics: [{ topic: at.topic, partitions: [{ partition: at.partition, timestamp }] }],
    });
    const listed = responses[0]?.partitions[0]?.offset;
    if (listed === undefined) throw new Error("no offset was listed");
    return BigInt(listed);
  };
  try {
    return { start: await offset(earliest), end: await offset(latest) };
  } catch {
    return null;
  }
}

/** A topic that Kafka refuses to describe: trouble of each of its partitions. */
export function troubleTopic(context: AnswerContext, topic: string, code: number): void {
  const verdict = fetchVerdict(code);
  for (const at of context.assignment()?.partitions ?? []) {
    if (at.topic !== topic) continue;
    const waits = verdict === "trouble" ? ofTrouble : ofMoving;
    context.setbacks.add(at, waits, systemClock.now());
    if (verdict !== "trouble") notFetched(context, at, code);
    else context.callbacks.troubled(at, errorOfCode(code, topic, at.partition));
  }
}
