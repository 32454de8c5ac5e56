// Owns where messages come from: an application that writes orders and outbox rows in one
// transaction, or other producers that write into the topic. Keeps what was meant to be sent, beside
// the tested database.

import { CommitUnknownError, createOutbox, laneOf } from "@oncebox/core";
import { type MemoryBroker, type MemoryStorage, memoryStorage } from "@oncebox/testing";
import type { Intent } from "../fixtures/checker.ts";
import { clockTime, repeatAt } from "./long-stop.ts";
import { keysMax, needsIds, type Plan, partitionsMax, type TimedAct } from "./plan.ts";
import { invoices, type Order, orders, type World } from "./world.ts";

export const applicationName = "application";

const encoder = new TextEncoder();
const betweenTriesMs = 150;
const lastAfterMs = 4_000;

/** What is sent when, by the plan's seed. */
interface Dispatch extends Order {
  readonly at: number;
  readonly repeated: boolean;
  readonly transaction: "committed" | "aborted" | null;
}

export class Sources {
  readonly #world: World;
  readonly #intents = new Map<string, Intent>();
  readonly #storage: MemoryStorage;
  #open = 0;

  constructor(world: World) {
    this.#world = world;
    const { database } = world;
    this.#storage = memoryStorage({ database, name: applicationName, lockTimeoutMs: 4_000 });
  }

  get intents(): readonly Intent[] {
    return [...this.#intents.values()];
  }

  get done(): boolean {
    return this.#open === 0;
  }

  /** Begins to send, as the plan says. */
  start(): void {
    const { plan, clock, outside } = this.#world;
    keyNames ??= keysOf(outside);
    const first = dispatches(plan, keyNames, clock.random);
    const sending = [...withRepeats(plan, first, clock.random), ...this.#lasts()];
    const byKey = new Map<string, Dispatch[]>();
    for (const each of sending) byKey.set(each.key, [...(byKey.get(each.key) ?? []), each]);
    const send = plan.source === "outbox" ? this.#place : this.#write;
    // One after another per key, so that their order is known.
    for (const list of byKey.values()) {
      this.#open += 1;
      const all = async () => {
        for (const each of list) {
          const restMs = each.at - clock.now();
          if (restMs > 0) await clock.sleep(restMs);
          await send(each);
        }
        this.#open -= 1;
      };
      all().catch((error: unknown) => {
        this.#world.trace.note("source", `broke: ${(error as Error).stack}`);
        throw error;
      });
    }
  }

  /**
   * Where a log was cut off at its end, a consumer that waits there hears of it with the next record:
   * one for each partition, when all is well again.
   */
  #lasts(): readonly Dispatch[] {
    const { plan, outside } = this.#world;
    if (!plan.faults.some(({ act }) => needsIds.has(act as TimedAct))) return [];
    return Array.from({ length: plan.partitions }, (_, partition): Dispatch => {
      let key = "";
      for (let tries = 0; ; tries += 1) {
        key = `last ${tries}`;
        const at = outside.partitionOf(encoder.encode(key), "", plan.partitions);
        if (at === partition) break;
      }
      const at = clockTime(plan.stop, plan.spanMs) + lastAfterMs;
      const order = { id: `last ${partition}`, key, sequence: 1 };
      return { ...order, at, repeated: false, transaction: null };
    });
  }

  #note(order: Order, state: Intent["state"]): void {
    const { id, key, sequence } = order;
    this.#intents.set(id, { id, key, sequence, state });
  }

  /** The business row locks its key before the message is written: the order per key is its order. */
  readonly #place = async (order: Dispatch): Promise<void> => {
    const { clock } = this.#world;
    const { id, key, sequence } = order;
    const outbox = createOutbox({ storage: this.#storage, clock });
    this.#note(order, "unknown");
    try {
      await this.#storage.transaction(async (tx) => {
        await tx.update<number>("keys", key, (count) => (count ?? 0) + 1);
        await tx.append("placed", id);
        await outbox.enqueue(tx, orders.message({ id, key, value: { id, key, sequence } }));
      });
      this.#note(order, "acknowledged");
    } catch (error) {
      if (!(error instanceof CommitUnknownError)) this.#note(order, "failed");
      await clock.sleep(betweenTriesMs);
    }
  };

  readonly #write = async (order: Dispatch): Promise<void> => {
    const { clock, outside, aborted, plan } = this.#world;
    const { id, key, sequence, transaction } = order;
    const value = JSON.stringify({ id, key, sequence });
    const headers = plan.ids ? ([["id", encoder.encode(id)]] as const) : [];
    const partition = outside.partitionOf(encoder.encode(key), id, plan.partitions);
    const records = Array.from({ length: order.repeated ? 2 : 1 }, () => ({ key, value, headers }));
    if (transaction === null) {
      outside.admin.produce(orders.name, partition, records);
      this.#note(order, "acknowledged");
      return;
    }
    this.#note(order, transaction === "aborted" ? "failed" : "unknown");
    const offset = this.#world.log(partition).state().end;
    const open = outside.admin.transaction();
    open.write(orders.name, partition, records);
    await clock.sleep(clock.random() * 3_000);
    if (transaction === "aborted") {
      aborted.push({ topic: orders.name, partition, offset, id, key });
      open.abort();
    } else {
      open.commit();
      this.#note(order, "acknowledged");
    }
  };
}

/** Found once: the search takes as long as a run, and ends with the same. */
let keyNames: readonly string[] | null = null;

/**
 * Two and two share a lane, of either topic, and no partition where there are more than one: what goes
 * wrong within a lane goes wrong between them.
 */
function keysOf({ partitionOf }: Pick<MemoryBroker, "partitionOf">): readonly string[] {
  const lanesOf = (key: string) =>
    [orders, invoices].map(({ name }) => laneOf(encoder.encode(name), encoder.encode(key)));
  const partitionsOf = (key: string) =>
    Array.from({ length: partitionsMax - 1 }, (_, at) => {
      return partitionOf(encoder.encode(key), "", at + 2);
    });
  const beside = (key: string): string => {
    const lanes = lanesOf(key);
    const partitions = partitionsOf(key);
    for (let number = 1; ; number += 1) {
      const other = `${key}-${number}`;
      if (!lanesOf(other).every((lane, at) => lane === lanes[at])) continue;
      if (partitionsOf(other).every((partition, at) => partition !== partitions[at])) return other;
    }
  };
  return Array.from({ length: keysMax }, (_, place) => {
    const first = `k${place - (place % 2)}`;
    return place % 2 === 0 ? first : beside(first);
  });
}

function dispatches(
  plan: Plan,
  names: readonly string[],
  random: () => number,
): readonly Dispatch[] {
  const { messages, keys, spanMs, repeats, transactional } = plan;
  const times = Array.from({ length: messages }, () => Math.floor(random() * spanMs));
  const sequences = new Map<string, number>();
  return times
    .sort((a, b) => a - b)
    .map((at, place) => {
      const key = names[Math.floor(random() * keys)] as string;
      const sequence = (sequences.get(key) ?? 0) + 1;
      sequences.set(key, sequence);
      const inTransaction = random() < transactional;
      const transaction = random() < 0.5 ? ("aborted" as const) : ("committed" as const);
      return {
        ...{ id: `m${place}`, key, sequence, at: clockTime(plan.stop, at) },
        repeated: random() < repeats,
        transaction: inTransaction ? transaction : null,
      };
    });
}

/** What a producer sends again long after; of one whose transaction was aborted nothing is left. */
function withRepeats(
  plan: Plan,
  dispatched: readonly Dispatch[],
  random: () => number,
): readonly Dispatch[] {
  if (plan.lateRepeats === 0) return dispatched;
  const again = dispatched
    .filter(({ transaction }) => transaction !== "aborted" && random() < plan.lateRepeats)
    .map((each): Dispatch => {
      return { ...each, at: repeatAt(plan, each.at, random), repeated: false, transaction: null };
    });
  return [...dispatched, ...again].sort((a, b) => a.at - b.at);
}
