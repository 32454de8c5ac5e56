// Owns the producing side of a run with Kafka's transactions: six producers that write at the same
// time, each one transaction after another, every second of which is aborted. What is meant to be
// there is noted before each attempt. Transactions of different producers overlap in a partition in
// every way: that is what a filter for aborted records has to get right.

import type { Kafka, Message, Producer, Transaction } from "kafkajs";
import type { Intent } from "../fixtures/checker.ts";
import { uniqueName } from "../fixtures/names.ts";
import type { MessageSource, ProducerOptions } from "./producer.ts";

const writers = 6;
const keysEach = 12;
/** What kafkajs takes for the end of an aborted transaction, wherever it comes from. */
const markerKey = Buffer.from([0, 0, 0, 0]);
const sendsMax = 4;
const recordsMax = 14;

export class TransactionalWriters implements MessageSource {
  readonly intents: Intent[] = [];
  readonly #options: ProducerOptions;
  readonly #partitions: number;
  readonly #sequences = new Map<string, number>();
  #allowed = 0;
  #abandoned = false;
  #wake: (() => void)[] = [];

  constructor(options: ProducerOptions, partitions: number) {
    this.#options = options;
    this.#partitions = partitions;
  }

  allow(messages: number): void {
    this.#allowed = Math.min(this.#options.messages, this.#allowed + messages);
    for (const wake of this.#wake.splice(0)) wake();
  }

  allowAll(): void {
    this.allow(this.#options.messages);
  }

  abandon(): void {
    this.#abandoned = true;
    this.allow(0);
  }

  async run(): Promise<void> {
    const producers: Producer[] = [];
    try {
      await Promise.all(
        Array.from({ length: writers }, async (_, writer) => {
          const producer = producerOf(this.#options.kafka);
          producers.push(producer);
          await producer.connect();
          await this.#write(producer, writer);
        }),
      );
      // The log of each partition ends with records that nobody may see.
      const last = producers[0] as Producer;
      const tail = await last.transaction();
      for (let partition = 0; partition < this.#partitions; partition += 1) {
        await this.#send(tail, 0, { partition, count: 3, aborted: true });
      }
      await tail.abort();
    } finally {
      await Promise.all(producers.map((producer) => producer.disconnect()));
    }
  }

  async #write(producer: Producer, writer: number): Promise<void> {
    for (let turn = writer; !this.#abandoned; turn += 1) {
      // Only here: an open transaction holds up all readers of its partitions.
      while (this.intents.length >= this.#allowed) {
        if (this.#abandoned || this.#allowed >= this.#options.messages) return;
        await new Promise<void>((resolve) => this.#wake.push(resolve));
      }
      await this.#transact(producer, writer, turn % 2 === 0);
    }
  }

  async #transact(producer: Producer, writer: number, aborted: boolean): Promise<void> {
    const { chance } = this.#options;
    const mine: number[] = [];
    const transaction = await producer.transaction();
    const spans = chance() < 0.5;
    const home = Math.floor(chance() * this.#partitions);
    const sends = 1 + Math.floor(chance() * sendsMax);
    for (let i = 0; i < sends; i += 1) {
      const partition = spans ? (home + i) % this.#partitions : home;
      const count = 1 + Math.floor(chance() * recordsMax);
      mine.push(...(await this.#send(transaction, writer, { partition, count, aborted })));
    }
    if (aborted) await transaction.abort();
    else await transaction.commit();
    if (aborted) return;
    for (const index of mine) {
      this.intents[index] = { ...(this.intents[index] as Intent), state: "acknowledged" };
    }
  }

  /** Notes and sends; returns the places of the intents. */
  async #send(
    transaction: Transaction,
    writer: number,
    { partition, count, aborted }: { partition: number; count: number; aborted: boolean },
  ): Promise<number[]> {
    const places: number[] = [];
    const messages: Message[] = [];
    for (let i = 0; i < count; i += 1) {
      const { key, bytes } = this.#keyOf(writer, partition, aborted);
      const sequence = (this.#sequences.get(key) ?? 0) + 1;
      this.#sequences.set(key, sequence);
      const id = `m${this.intents.length}`;
      // What is aborted certainly left nothing behind, whenever it is read.
      const state = aborted ? "failed" : "unknown";
      places.push(this.intents.push({ id, key, sequence, state }) - 1);
      messages.push({ key: bytes, value: String(sequence), headers: { id }, partition });
    }
    await transaction.send({ topic: this.#options.topic, acks: -1, messages });
    return places;
  }

  /** A committed key has one partition and one writer, so that its order is known. */
  #keyOf(writer: number, partition: number, aborted: boolean) {
    const number = Math.floor(this.#options.chance() * keysEach);
    if (number === 0 && aborted) return { key: "marker of none", bytes: markerKey };
    if (number === 0 && writer + partition === 0) return { key: "marker", bytes: markerKey };
    const key = `w${writer}-${partition}-${number}`;
    return { key, bytes: key };
  }
}

function producerOf(kafka: Kafka): Producer {
  return kafka.producer({
    transactionalId: uniqueName("writer"),
    idempotent: true,
    maxInFlightRequests: 1,
    // The end of a transaction takes its time; the next one is refused until then.
    retry: { initialRetryTime: 20, retries: 30, maxRetryTime: 500 },
  });
}
