/**
 * The rows a relay has read and not settled, and which of them may be sent next. It keeps order per
 * key whatever fails, does no I/O and reads no clock.
 *
 *   ready ──chosen──▶ sending ──acknowledged──▶ published ──settled──▶ (gone)
 *     ▲ ▲               │
 *     │ └──passed── waiting behind a block ◀──unknown, refused
 *     └─────────────────┘ the head of a block is sent alone when its pause is over
 *
 * A block holds what must not be sent now: the rows of one key behind a message that Kafka refuses,
 * of one partition behind an outcome that is not known, of one topic that is refused as a whole. All
 * waiting rows of one key are in one block, because an existing block is looked for from the
 * narrowest scope to the widest before a new one is made.
 */
import { mapKeyOf } from "../message.ts";
import type { PublishResult } from "../ports/broker.ts";
import type { OutboxRow } from "../ports/outbox.ts";
import type { HeldLane } from "./lanes.ts";
import { createQueue, type Entry, type Queue, sentBytes } from "./queue.ts";

export type Scope = "message" | "partition" | "topic";

export interface Block {
  readonly scope: Scope;
  readonly name: string;
  readonly topic: string;
  /** Failed tries in a row; back-off grows with it. */
  attempt: number;
  /** When its head may be sent, by the relay's clock. */
  until: number;
  readonly queue: Queue;
}

/** A block was made, or its head failed again. */
export interface Blocked {
  readonly scope: Scope;
  readonly topic: string;
  readonly id: string;
  readonly attempt: number;
  readonly waitMs: number;
  readonly error: unknown;
}

export interface Outcome {
  readonly published: number;
  readonly unknown: {
    readonly messages: number;
    /** The longest of their pauses. */
    readonly waitMs: number;
    readonly error: unknown;
  } | null;
  /** Only what was refused now: rows that joined an existing block are not told again. */
  readonly blocked: readonly Blocked[];
}

export interface BatchRequest {
  readonly now: number;
  readonly rowsMax: number;
  readonly bytesMax: number;
  /** Whether the lane's lease outlasts a publish that starts now. */
  readonly mayUse: (lane: HeldLane) => boolean;
  /** Null while the topic's number of partitions is not known. */
  readonly partitionOf: (row: OutboxRow) => number | null;
}

type Wait = (attempt: number) => number;

export class Backlog {
  readonly #all = new Map<HeldLane, Map<bigint, Entry>>();
  readonly #ready = createQueue();
  readonly #blockedSize = { rows: 0, bytes: 0 };
  readonly #blocks = new Map<string, Block>();
  #sending: readonly Entry[] = [];
  /** Which rows of the batch are the head of which block. */
  readonly #heads = new Map<Entry, Block>();
  readonly #published = new Set<Entry>();

  /** Rows that may be sent as soon as their lane's lease allows. */
  get ready(): Queue["size"] {
    return this.#ready.size;
  }

  /** Rows that wait behind blocks. */
  get blocked(): Queue["size"] {
    return this.#blockedSize;
  }

  get unblockedRows(): number {
    return this.#ready.size.rows + this.unsettledRows;
  }

  /** Rows on their way, or sent and not settled. */
  get unsettledRows(): number {
    return this.#sending.length + this.#published.size;
  }

  get hasPublished(): boolean {
    return this.#published.size > 0;
  }

  get published(): readonly Entry[] {
    return [...this.#published];
  }

  /** All rows read and not settled. */
  pending(): OutboxRow[] {
    return [...this.#all.values()].flatMap((rows) => Array.from(rows.values(), ({ row }) => row));
  }

  rowsOf(lane: HeldLane): number {
    return this.#all.get(lane)?.size ?? 0;
  }

  blockedLanes(): ReadonlySet<HeldLane> {
    return new Set([...this.#blocks.values()].flatMap(({ queue }) => [...queue.lanes()]));
  }

  isSending(lane: HeldLane): boolean {
    return this.#sending.some((entry) => entry.lane === lane);
  }

  /** Whether the lane has rows on their way, or sent and not settled: not to be given back yet. */
  isBusy(lane: HeldLane): boolean {
    return this.isSending(lane) || [...this.#published].some((entry) => entry.lane === lane);
  }

  /** Takes in rows as they were read; one that is here already is left out. */
  add(row: OutboxRow, lane: HeldLane): void {
    let rows = this.#all.get(lane);
    if (rows === undefined) {
      rows = new Map();
      this.#all.set(lane, rows);
    }
    if (rows.has(row.position)) return;
    const entry: Entry = { row, lane, bytes: sentBytes(row), partition: -1 };
    rows.set(row.position, entry);
    this.#ready.put(entry);
  }

  /** The lane is another relay's now: nothing read under this lease counts any more. */
  drop(lane: HeldLane): void {
    this.#all.delete(lane);
    this.#forgetUnsent(lane);
    for (const entry of this.#published) if (entry.lane === lane) this.#published.delete(entry);
  }

  /** Nothing more is sent of this lane; what is on its way is still settled. */
  drain(lane: HeldLane): void {
    this.#forgetUnsent(lane);
    this.#onlySent(lane);
  }

  #onlySent(lane: HeldLane): void {
    const rows = this.#all.get(lane);
    const kept = new Set([...this.#sending, ...this.#published]);
    for (const [position, entry] of rows ?? []) if (!kept.has(entry)) rows?.delete(position);
  }

  /**
   * Forgets what waits in lanes with blocked rows, to be read again: a person may have deleted one.
   * Blocks stay and take them in again; ready rows go as well, or they would overtake.
   */
  forgetBlocked(): void {
    for (const lane of this.blockedLanes()) {
      this.#onlySent(lane);
      for (const { queue } of [...this.#blocks.values(), { queue: this.#ready }]) queue.drop(lane);
    }
  }

  #forgetUnsent(lane: HeldLane): void {
    this.#ready.drop(lane);
    for (const block of this.#blocks.values()) {
      block.queue.drop(lane);
      this.#deleteIfOver(block);
    }
  }

  settled(entries: readonly Entry[]): void {
    for (const entry of entries) {
      this.#published.delete(entry);
      this.#all.get(entry.lane)?.delete(entry.row.position);
    }
  }

  /** The topics whose number of partitions must be known to send what is due. */
  topics(now: number): ReadonlySet<string> {
    const topics = new Set<string>();
    for (const { row } of this.#ready.entries()) {
      const block = this.#blocks.get(topicName(row.topic));
      if (block === undefined || block.until <= now) topics.add(row.topic);
    }
    for (const block of this.#blocks.values()) if (block.until <= now) topics.add(block.topic);
    return topics;
  }

  /** Keys have moved to other partitions: what waits for a partition is no longer told apart so. */
  repartitioned(topic: string): void {
    for (const block of this.#blocks.values()) {
      if (block.scope === "partition" && block.topic === topic) this.#release(block);
    }
  }

  /** The topic cannot be sent to, known before sending: its ready rows and due blocks wait. */
  blockTopic(topic: string, error: unknown, now: number, wait: Wait): Blocked[] {
    const blocked: Blocked[] = [];
    for (const block of this.#blocks.values()) {
      const head = block.queue.first(() => true);
      if (block.topic !== topic || block.until > now || head === undefined) continue;
      blocked.push(extend(block, head, error, now, wait));
    }
    const ready = this.#ready.find(topic);
    if (ready !== undefined && !this.#blocks.has(topicName(topic))) {
      blocked.push(extend(this.#block("topic", topicName(topic), topic), ready, error, now, wait));
    }
    return blocked;
  }

  /** When there is something to send: at once, when a block's pause is over, or never. */
  sendableAt(mayUse: BatchRequest["mayUse"]): number {
    if (this.#ready.first(mayUse) !== undefined) return Number.NEGATIVE_INFINITY;
    let due = Number.POSITIVE_INFINITY;
    for (const { until, queue } of this.#blocks.values()) {
      if (until < due && queue.first(mayUse) !== undefined) due = until;
    }
    return due;
  }

  /**
   * The rows to send now, those of a lane in order. One batch at a time: `outcome` must be told
   * before the next is chosen.
   */
  nextBatch(request: BatchRequest): readonly Entry[] {
    const { rowsMax, bytesMax } = request;
    const batch: Entry[] = [];
    let bytes = 0;
    const fits = (entry: Entry) => {
      if (batch.length > 0 && (batch.length >= rowsMax || bytes + entry.bytes > bytesMax)) {
        return false;
      }
      batch.push(entry);
      bytes += entry.bytes;
      return true;
    };
    this.#chooseHeads(request, fits);
    this.#chooseReady(request, fits);
    this.#sending = batch;
    return batch;
  }

  #chooseHeads({ now, mayUse, partitionOf }: BatchRequest, fits: (entry: Entry) => boolean): void {
    for (const block of this.#blocks.values()) {
      if (block.until > now) continue;
      const head = block.queue.first(mayUse);
      const partition = head === undefined ? null : partitionOf(head.row);
      if (head === undefined || partition === null) {
        this.#deleteIfOver(block);
        continue;
      }
      if (!fits(head)) return;
      block.queue.take(head);
      this.#heads.set(head, block);
      head.partition = partition;
    }
  }

  #chooseReady({ mayUse, partitionOf }: BatchRequest, fits: (entry: Entry) => boolean): void {
    let full = false;
    this.#ready.filter((entry) => {
      if (full || !mayUse(entry.lane)) return true;
      const partition = partitionOf(entry.row);
      entry.partition = partition ?? -1;
      const block = this.#blockOf(entry);
      if (block !== undefined) {
        block.queue.put(entry);
        return false;
      }
      if (partition === null) return true;
      full = !fits(entry);
      return full;
    });
  }

  /** What became of the batch. */
  outcome(result: PublishResult, now: number, wait: Wait): Outcome {
    const batch = this.#sending;
    this.#sending = [];
    const acknowledged = new Set(result.acknowledged);
    const refused = new Map(result.refused.map((one) => [one.index, one]));
    const errors = new Map(result.unknown.map((one) => [one.index, one.error]));
    const blocked: Blocked[] = [];
    let published = 0;
    const unknown = { messages: 0, waitMs: 0, error: undefined as unknown };
    for (const [index, entry] of batch.entries()) {
      if (acknowledged.has(index)) {
        published += 1;
        this.#acknowledged(entry);
        continue;
      }
      const refusal = refused.get(index);
      const error = refusal?.error ?? errors.get(index) ?? missing;
      const failure = this.#failed(entry, refusal?.scope ?? "partition", error, now, wait);
      if (refusal === undefined) {
        unknown.messages += 1;
        unknown.waitMs = Math.max(unknown.waitMs, failure?.waitMs ?? 0);
        unknown.error ??= error;
      } else if (failure !== null) {
        blocked.push(failure);
      }
    }
    this.#heads.clear();
    return { published, unknown: unknown.messages === 0 ? null : unknown, blocked };
  }

  #acknowledged(entry: Entry): void {
    if (entry.lane.state !== "lost") this.#published.add(entry);
    const block = this.#heads.get(entry);
    if (block !== undefined) this.#release(block);
  }

  #failed(entry: Entry, scope: Scope, error: unknown, now: number, wait: Wait): Blocked | null {
    const headed = this.#heads.get(entry);
    this.#heads.delete(entry);
    if (entry.lane.state !== "active") {
      // Sent again by the next holder, before anything behind it.
      this.#all.get(entry.lane)?.delete(entry.row.position);
      if (headed !== undefined) this.#deleteIfOver(headed);
      return null;
    }
    if (headed !== undefined) {
      if (scope === headed.scope || scope === "partition" || headed.scope === "message") {
        headed.queue.put(entry);
        return extend(headed, entry, error, now, wait);
      }
      this.#release(headed);
    }
    const existing = this.#blockOf(entry);
    const block = existing ?? this.#block(scope, nameOf(scope, entry), entry.row.topic);
    block.queue.put(entry);
    return existing === undefined ? extend(block, entry, error, now, wait) : null;
  }

  #block(scope: Scope, name: string, topic: string): Block {
    const queue = createQueue(this.#blockedSize);
    const block: Block = { scope, name, topic, attempt: 0, until: 0, queue };
    this.#blocks.set(name, block);
    return block;
  }

  /** From the narrowest scope to the widest: rows of one key never wait in two places. */
  #blockOf(entry: Entry): Block | undefined {
    if (this.#blocks.size === 0) return undefined;
    return (
      this.#blocks.get(nameOf("message", entry)) ??
      this.#blocks.get(nameOf("partition", entry)) ??
      this.#blocks.get(nameOf("topic", entry))
    );
  }

  #release(block: Block): void {
    this.#blocks.delete(block.name);
    block.queue.filter((entry) => {
      this.#ready.put(entry);
      return false;
    });
  }

  #deleteIfOver(block: Block): void {
    const headSent = [...this.#heads.values()].includes(block);
    if (block.queue.size.rows === 0 && !headSent) this.#blocks.delete(block.name);
  }
}

const missing = new Error("the broker's answer left this message out");

function extend(block: Block, entry: Entry, error: unknown, now: number, wait: Wait): Blocked {
  block.attempt += 1;
  const waitMs = wait(block.attempt);
  block.until = now + waitMs;
  const { scope, topic, attempt } = block;
  return { scope, topic, id: entry.row.id, attempt, waitMs, error };
}

function topicName(topic: string): string {
  return `topic ${topic}`;
}

/** What a block is known by. Names of topics have no spaces, so that no two blocks share a name. */
function nameOf(scope: Scope, { row, partition }: Entry): string {
  if (scope === "topic") return topicName(row.topic);
  if (scope === "partition") return `partition ${row.topic} ${partition}`;
  // Without a key there is no order: the message blocks itself only.
  if (row.key === null) return `row ${row.lane} ${row.position}`;
  return `key ${row.topic} ${mapKeyOf(row.key)}`;
}
