/**
 * A producer: one call at a time, and an outcome for every record. What is acknowledged is in the
 * log; what is not may be.
 */
import {
  BrokerError,
  type BrokerProducer,
  type Clock,
  type OutgoingRecord,
  type PublishResult,
} from "@oncebox/core";
import type { PublishFault } from "./broker-faults.ts";
import { type MemoryCluster, topicMissing } from "./cluster.ts";
import { nameOf } from "./group.ts";
import type { Link } from "./link.ts";
import { recordBytes } from "./partition-log.ts";

export interface ProducerSettings {
  readonly cluster: MemoryCluster;
  readonly clock: Clock;
  readonly link: Link;
  readonly publishMs: number;
  readonly publishTimeoutMs: number;
}

type Outcome = "acknowledged" | { readonly unknown: Error } | Refusal;

interface Refusal {
  readonly refused: Error;
  readonly scope: "message" | "topic";
}

export function memoryProducer(settings: ProducerSettings): BrokerProducer {
  let closed = false;
  let before: Promise<unknown> = Promise.resolve();
  return {
    publish: (records) => {
      const result = before.then(async () => {
        if (closed) return resultOf(records.map(() => unknown("the producer is closed")));
        return resultOf(await publish(settings, records));
      });
      before = result;
      return result;
    },
    close: async () => {
      closed = true;
      await before;
    },
  };
}

async function publish(
  settings: ProducerSettings,
  records: readonly OutgoingRecord[],
): Promise<readonly Outcome[]> {
  const { clock, link, cluster, publishMs, publishTimeoutMs } = settings;
  const { cuts } = link;
  const over = new AbortController();
  const sent = (async () => {
    await clock.sleep(publishMs, over.signal);
    await link.pass();
    return !cluster.down && link.cuts === cuts;
  })().catch(() => false);
  const late = clock.sleep(publishTimeoutMs, over.signal).then(() => false);
  const arrived = await Promise.race([sent, late]);
  over.abort("over");
  if (!arrived) return records.map(() => unknown("no broker answered"));
  return store(settings, records);
}

function store(settings: ProducerSettings, records: readonly OutgoingRecord[]): readonly Outcome[] {
  const outcomes: Outcome[] = [];
  const byPartition = new Map<string, number[]>();
  for (const [index, record] of records.entries()) {
    const refusal = refusalOf(settings.cluster, record);
    if (refusal === null) {
      const name = nameOf(record);
      byPartition.set(name, [...(byPartition.get(name) ?? []), index]);
    } else outcomes[index] = refusal;
  }
  for (const indexes of byPartition.values()) {
    const own = indexes.map((index) => records[index] as OutgoingRecord);
    const outcome = storeIn(settings, own);
    for (const index of indexes) outcomes[index] = outcome;
  }
  return outcomes;
}

function refusalOf(cluster: MemoryCluster, record: OutgoingRecord): Refusal | null {
  const topic = cluster.topics.get(record.topic);
  if (topic === undefined) return { refused: topicMissing([record.topic]), scope: "topic" };
  if (topic.logs[record.partition] === undefined) {
    // Not the record's own fault: it would be taken where its topic had more of them.
    return refused(`${record.topic} has no partition ${record.partition}`, "topic");
  }
  const bytes = recordBytes(record);
  if (bytes <= topic.recordBytesMax) return null;
  return refused(`${bytes} bytes are more than ${record.topic} takes`, "message");
}

/** Records of one partition: all of them have one outcome. */
function storeIn(
  { cluster, clock }: ProducerSettings,
  records: readonly OutgoingRecord[],
): Outcome {
  const [{ topic, partition }] = records as [OutgoingRecord];
  const at = { topic, partition };
  const append = () => {
    const timestamp = BigInt(clock.epochMs());
    cluster.log(at).append(records.map((record) => ({ ...record, timestamp })));
    cluster.changed(at);
  };
  const fault = cluster.hooks.onPublish?.(at, records) ?? null;
  if (fault !== null) return faulty(fault, clock, append);
  if (cluster.topic(topic).understaffed) return unknown("too few replicas are in sync");
  append();
  return "acknowledged";
}

function faulty(fault: PublishFault, clock: Clock, append: () => void): Outcome {
  if (fault.kind === "refused-message") return refused("refused by a fault", "message");
  if (fault.kind === "refused-topic") return refused("refused by a fault", "topic");
  if (fault.kind === "unknown-stored") append();
  if (fault.kind === "unknown-late") {
    // Where the topic is gone by then there is nothing to append to.
    clock
      .sleep(fault.ms)
      .then(append)
      .catch(() => undefined);
  }
  return unknown("the answer was lost");
}

function unknown(text: string): Outcome {
  return { unknown: new BrokerError("broker-unavailable", text, { retryable: true }) };
}

function refused(text: string, scope: Refusal["scope"]): Refusal {
  return { refused: new BrokerError("broker-refused", text), scope };
}

function resultOf(outcomes: readonly Outcome[]): PublishResult {
  const acknowledged: number[] = [];
  const lost: { index: number; error: Error }[] = [];
  const declined: { index: number; error: Error; scope: "message" | "topic" }[] = [];
  for (const [index, outcome] of outcomes.entries()) {
    if (outcome === "acknowledged") acknowledged.push(index);
    else if ("unknown" in outcome) lost.push({ index, error: outcome.unknown });
    else declined.push({ index, error: outcome.refused, scope: outcome.scope });
  }
  return { acknowledged, unknown: lost, refused: declined };
}
