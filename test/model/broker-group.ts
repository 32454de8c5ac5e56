// Owns a group as the core would lead it: members with ears, and the positions that all of them
// share, as they would in a database. A batch counts only where it goes on from the position, under
// the member's latest assignment.

import type {
  BrokerConsumer,
  ConsumerCallbacks,
  Displacement,
  FetchPosition,
  LogState,
  RecordBatch,
  TopicPartition,
} from "@oncebox/core";

export interface Member {
  readonly consumer: BrokerConsumer;
  readonly ear: Ear;
}

interface Ear {
  readonly callbacks: ConsumerCallbacks;
  assignments: number;
  owned: readonly TopicPartition[];
}

/** What a group has heard of one partition. */
interface Reading {
  position: FetchPosition | null;
  /** Answers since the read began: the first of them may have been asked for before it. */
  answers: number;
  log: LogState | null;
  /** Since they were last told of. */
  readonly accepted: string[];
  /** Put into words when they are told: what is new has a name by then. */
  readonly events: (() => string)[];
}

const decoder = new TextDecoder();
/** Only a defect is waited for so long. */
const patienceMs = 15_000;

export class Group {
  readonly members = new Map<string, Member>();
  readonly #readings = new Map<string, Reading>();
  readonly #failures: string[] = [];
  /** Between two reads nothing is asked for: what a step finds would hang on how fast others are. */
  #reading = false;

  reading({ topic, partition }: TopicPartition): Reading {
    const name = `${topic}/${partition}`;
    const known = this.#readings.get(name);
    if (known !== undefined) return known;
    const position = { offset: 0n, topicId: null, leaderEpoch: null };
    const made = { position, answers: 0, log: null, accepted: [], events: [] };
    this.#readings.set(name, made);
    return made;
  }

  ear(describe: (why: Displacement) => string): Ear {
    let current = -1;
    const callbacks: ConsumerCallbacks = {
      assigned: (assignment, partitions) => {
        if (assignment <= current) this.#failures.push("an assignment's number did not rise");
        current = assignment;
        ear.assignments += 1;
        ear.owned = partitions;
      },
      position: (at) => (this.#reading ? this.reading(at).position : null),
      fetched: (at, log) => {
        const reading = this.reading(at);
        reading.answers += 1;
        reading.log = log;
      },
      deliver: (batch) => {
        if (this.#reading && batch.assignment === current) this.#accept(batch);
      },
      displaced: (at, asked, why) => {
        const reading = this.reading(at);
        // Void where the position was moved since it was asked.
        if (!this.#reading || reading.position?.offset !== asked) return;
        reading.position = null;
        reading.events.push(() => `displaced at ${asked}: ${describe(why)}`);
      },
      unreadable: (at, asked) => {
        this.reading(at).position = null;
        this.reading(at).events.push(() => `unreadable at ${asked}`);
      },
      // Comes and goes with elections, as the server pleases.
      troubled: () => {},
      failed: (error) => this.#failures.push(`failed: ${error.message}`),
    };
    const ear: Ear = { callbacks, assignments: 0, owned: [] };
    return ear;
  }

  #accept({ topic, partition, fetchedOffset, endOffset, records, ...batch }: RecordBatch): void {
    const reading = this.reading({ topic, partition });
    if (reading.position?.offset !== fetchedOffset) return;
    const { topicId, endEpoch: leaderEpoch } = batch;
    reading.position = { offset: endOffset, topicId, leaderEpoch };
    for (const { offset, value, leaderEpoch: epoch } of records) {
      const text = value === null ? "null" : decoder.decode(value);
      reading.accepted.push(`${offset}=${text} (epoch ${epoch})`);
    }
  }

  shares(): readonly TopicPartition[] {
    return [...this.members.values()].flatMap(({ ear }) => ear.owned);
  }

  /** Every member was given a share since, and the shares are `count` partitions, each once. */
  async shared(before: ReadonlyMap<string, number>, count: number): Promise<void> {
    await this.#until(() => {
      const heard = [...this.members].every(
        ([name, { ear }]) => ear.assignments > (before.get(name) ?? 0),
      );
      const names = this.shares().map(({ topic, partition }) => `${topic}/${partition}`);
      return heard && names.length === count && new Set(names).size === count;
    }, `shares of ${count} partitions`);
  }

  /** Everything that can be read was read, as of now. */
  async caughtUp(): Promise<void> {
    for (const reading of this.#readings.values()) reading.answers = 0;
    this.#reading = true;
    await this.#until(
      () =>
        this.shares().every((at) => {
          const { position, answers, log } = this.reading(at);
          if (position === null) return true;
          return answers >= 2 && log !== null && position.offset >= log.lastStable;
        }),
      "the end of the log",
    );
    this.#reading = false;
  }

  async #until(holds: () => boolean, what: string): Promise<void> {
    const deadline = performance.now() + patienceMs;
    while (!holds()) {
      const late = performance.now() > deadline;
      if (late) this.#failures.push(`${what} did not come in ${patienceMs} ms`);
      if (this.#failures.length > 0) throw new Error(this.#failures.join("; "));
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
  }
}
