// Owns the producing side of a run: what is meant to be sent, noted before each attempt and outside
// of the tested database. It goes on only as far as it is let, so that messages keep coming while
// workers die, however fast the machine is.

import { type Kafka, type Message, Partitioners, type Producer } from "kafkajs";
import type { Intent } from "../fixtures/checker.ts";

export interface ProducerOptions {
  readonly kafka: Kafka;
  readonly topic: string;
  /** Different messages; repeats come on top. */
  readonly messages: number;
  /** Share of the messages that are sent a second time, later, under the same id. */
  readonly repeats: number;
  readonly chance: () => number;
}

/** Whoever writes the messages of a run, and goes on only as far as it is let. */
export interface MessageSource {
  /** Everything that was meant to be sent so far. */
  readonly intents: readonly Intent[];
  /** Lets so many more messages go. */
  readonly allow: (messages: number) => void;
  readonly allowAll: () => void;
  /** Sends no more: the run broke off. */
  readonly abandon: () => void;
  /** Sends everything; resolves when the last was answered. */
  readonly run: () => Promise<void>;
}

const keys = 96;
const batchSize = 40;
/** A repeat is of one of so many messages before it. */
const recentMax = 400;

export class ChurnProducer implements MessageSource {
  readonly intents: Intent[] = [];
  readonly #options: ProducerOptions;
  readonly #sequences = new Map<string, number>();
  #allowed = 0;
  #abandoned = false;
  #wake = () => {};

  constructor(options: ProducerOptions) {
    this.#options = options;
  }

  allow(messages: number): void {
    this.#allowed = Math.min(this.#options.messages, this.#allowed + messages);
    this.#wake();
  }

  allowAll(): void {
    this.allow(this.#options.messages);
  }

  abandon(): void {
    this.#abandoned = true;
    this.#wake();
  }

  /** One batch after another. */
  async run(): Promise<void> {
    const { kafka, messages } = this.#options;
    const producer = kafka.producer({
      createPartitioner: Partitioners.DefaultPartitioner,
      // Nothing is sent twice but what is meant to be: some runs rest on that.
      retry: { retries: 0 },
    });
    await producer.connect();
    try {
      while (this.intents.length < messages && !this.#abandoned) {
        const count = Math.min(batchSize, this.#allowed - this.intents.length);
        if (count > 0) await this.#send(producer, count);
        else await this.#allowedMore();
      }
    } finally {
      await producer.disconnect();
    }
  }

  #allowedMore(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }

  async #send(producer: Producer, count: number): Promise<void> {
    const { topic, repeats, chance } = this.#options;
    const first = this.intents.length;
    const batch: Message[] = [];
    for (let i = 0; i < count; i += 1) {
      const key = `k${Math.floor(chance() * keys)}`;
      const sequence = (this.#sequences.get(key) ?? 0) + 1;
      this.#sequences.set(key, sequence);
      const intent: Intent = { id: `m${this.intents.length}`, key, sequence, state: "unknown" };
      this.intents.push(intent);
      batch.push(messageOf(intent));
      if (chance() >= repeats) continue;
      const age = Math.floor(chance() * Math.min(recentMax, this.intents.length));
      batch.push(messageOf(this.intents[this.intents.length - 1 - age] as Intent));
    }
    // Rejects where it was not acknowledged: these servers are left in peace, so the run is void.
    await producer.send({ topic, acks: -1, messages: batch });
    for (let i = first; i < this.intents.length; i += 1) {
      this.intents[i] = { ...(this.intents[i] as Intent), state: "acknowledged" };
    }
  }
}

function messageOf({ id, key, sequence }: Intent): Message {
  return { key, value: String(sequence), headers: { id } };
}
