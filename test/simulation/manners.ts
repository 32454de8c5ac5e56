// Owns the watch over how the core uses its ports: what it must never do even where it happens to go
// well. A partition is claimed by whom it is assigned to, moved by whoever claimed it, and told to the
// group under its assignment; a chunk whose transaction was ended under it has failed; a lane's rows
// are sent by who holds it; a producer sends one batch at a time; a stop leaves running chunks their
// time.

import type {
  BrokerProducer,
  OnceboxError,
  OnceboxEvent,
  OutgoingRecord,
  TopicPartition,
} from "@oncebox/core";
import { laneOf } from "@oncebox/core";
import { leaseDurationMs, type StoredPosition, type World } from "./world.ts";

/** What is wrong about each. */
export const manners = {
  strayClaim: "partitions claimed by a process to which they are not assigned",
  strayOpen: "chunks that found their row moved, of a process that does not hold the claim",
  strayCommit: "positions moved by a process that does not hold the claim",
  strayOffsets: "offsets of partitions told to the group by a member they are not assigned to",
  earlyEnd: "chunks that count as committed although a handler ended their transaction",
  hastyCut: "chunks cut off although the stop had time left",
  crowdedRetry: "messages that had failed, tried again in a chunk with others",
  falseAlarm: "partitions at which processes are said to have died, and none has",
  shiftingIds: "messages of which another try derived other ids",
  strayPublish: "messages sent by a relay that does not hold their lane",
  overlappingSends: "batches sent while another one of the same producer was under way",
} as const;

const encoder = new TextEncoder();
const noKey = new Uint8Array();
/** After trouble, until all have said what they have to. */
const aftermathMs = 10_000;
/** Claims in a row that may end without a word before it is told. */
const stalledMax = 3;
/** Of a note, to the database. */
const sayingMs = 50;
const keptMax = 16;

export class Manners {
  readonly found: { readonly [K in keyof typeof manners]: string[] } = {
    strayClaim: [],
    strayOpen: [],
    strayCommit: [],
    strayOffsets: [],
    earlyEnd: [],
    hastyCut: [],
    crowdedRetry: [],
    falseAlarm: [],
    shiftingIds: [],
    strayPublish: [],
    overlappingSends: [],
  };
  readonly #world: World;
  readonly #assigned = new Map<string, ReadonlySet<number>>();
  /** The relay of each process, as the lanes know it. */
  readonly #relays = new Map<string, string>();

  /** Who took each claim, by its token. */
  readonly holders = new Map<string, string | null>();
  /** What the first try of a message has derived. */
  readonly #derived = new Map<string, string>();
  /** Until when somebody may not have said that it lives. */
  #silentUntil = -1;
  /** When the last claims of a partition were won. */
  readonly #wonAt = new Map<number, readonly number[]>();
  /** When a partition's position moved last. */
  readonly #movedAt = new Map<number, number>();
  /** By worker and partition. */
  readonly #claimedAt = new Map<string, number>();
  readonly #leavingAt = new Map<string, number>();
  readonly #thawedAt = new Map<string, number>();
  /** The offset that failed last under the claim at hand. */
  readonly #failed = new Map<string, bigint>();
  readonly #claimedEpoch = new Map<string, bigint>();
  readonly #openedEpoch = new Map<string, bigint>();
  /** Whose chunk has lost its transaction. */
  readonly #endedEarly = new Set<string>();

  constructor(world: World) {
    this.#world = world;
    world.moved = (position, client) => this.#moved(position, client);
  }

  /** A process goes on after it stood still: what it was answered then is old. */
  thawing(worker: string): void {
    this.#thawedAt.set(worker, this.#world.clock.now());
  }

  /** A process is asked to stop in its own time. */
  leaving(worker: string): void {
    this.#leavingAt.set(worker, this.#world.clock.now());
  }

  /** A process, or the database, is in trouble for so long: what it has to say may be lost. */
  troubled(ms: number): void {
    const until = this.#world.clock.now() + ms + aftermathMs;
    this.#silentUntil = Math.max(this.#silentUntil, until);
  }

  /** A run of a handler has derived these ids from its message. */
  derived(message: string, ids: readonly string[]): void {
    const text = ids.join(" ");
    const before = this.#derived.get(message) ?? text;
    this.#derived.set(message, before);
    if (before !== text) this.found.shiftingIds.push(`${message}: ${text}, before ${before}`);
  }

  #stalled(worker: string, partition: number, claims: number): void {
    // Counted since the position moved last.
    if ((this.#movedAt.get(partition) ?? 0) < this.#silentUntil) return;
    // Claims that waited for one lock are won at once, by those as well who are to give them up: what
    // they have to say comes behind the last of them.
    const now = this.#world.clock.now();
    const won = this.#wonAt.get(partition) ?? [];
    const others = won.filter((at) => now - at <= sayingMs).length - 1;
    if (claims > stalledMax && claims - others <= stalledMax) return;
    this.found.falseAlarm.push(`${partition} by ${worker}: ${claims} claims`);
  }

  endingEarly(worker: string, partition: number): void {
    this.#endedEarly.add(`${worker} ${partition}`);
  }

  /** A member is about to tell the group. */
  offsetsSent(member: string, positions: readonly TopicPartition[]): void {
    const worker = [...this.#assigned.keys()].find((name) => member.startsWith(`${name}-`));
    const own = worker === undefined ? undefined : this.#assigned.get(worker);
    for (const { partition } of positions) {
      if (own?.has(partition) !== true) this.found.strayOffsets.push(`${partition} by ${member}`);
    }
  }

  /** Whoever does not hold the claim is fenced, wherever the row stands. */
  #displaced(worker: string, partition: number, { code }: OnceboxError): void {
    if (code !== "position-rewound") return;
    const now = this.#world.clock.now();
    if (this.#claimedAt.get(`${worker} ${partition}`) === now) return;
    if (this.#thawedAt.get(worker) === now) return;
    const token = this.#world.committed().get(partition)?.token ?? null;
    const holder = token === null ? null : this.holders.get(token);
    if (holder !== worker)
      this.found.strayOpen.push(`${partition} by ${worker}, held by ${holder}`);
  }

  /** After a failure the message runs alone, so that it fails nobody else. */
  #retried(worker: string, event: OnceboxEvent & { type: "inbox.chunk-opening" }): void {
    const { partition, firstOffset, endOffset, messages, epoch } = event;
    this.#openedEpoch.set(`${worker} ${partition}`, epoch);
    this.#endedEarly.delete(`${worker} ${partition}`);
    const failed = this.#failed.get(`${worker} ${partition}`);
    if (failed === undefined || failed < firstOffset || failed >= endOffset) return;
    if (messages > 1) this.found.crowdedRetry.push(`${partition}@${failed} by ${worker}`);
    this.#failed.delete(`${worker} ${partition}`);
  }

  #moved({ partition, token, nextOffset }: StoredPosition, client: string | null): void {
    const before = this.#world.committed().get(partition)?.nextOffset;
    if (before !== nextOffset) this.#movedAt.set(partition, this.#world.clock.now());
    if (token === null) return;
    const holder = this.holders.get(token);
    if (holder === undefined) {
      this.holders.set(token, client);
      const won = this.#wonAt.get(partition) ?? [];
      this.#wonAt.set(partition, [...won, this.#world.clock.now()].slice(-keptMax));
    } else if (holder !== client) {
      const text = `${partition} to ${nextOffset} by ${client}, claimed by ${holder}`;
      this.found.strayCommit.push(text);
    }
  }

  event(worker: string, event: OnceboxEvent): void {
    if (event.type === "inbox.displaced") this.#displaced(worker, event.partition, event.error);
    if (event.type === "inbox.assigned") {
      this.#assigned.set(worker, new Set(event.partitions.map(({ partition }) => partition)));
    } else if (event.type === "inbox.claimed") {
      this.#claimedAt.set(`${worker} ${event.partition}`, this.#world.clock.now());
      this.#failed.delete(`${worker} ${event.partition}`);
      this.#claimedEpoch.set(`${worker} ${event.partition}`, event.epoch);
      const own = this.#assigned.get(worker)?.has(event.partition) ?? false;
      if (!own) this.found.strayClaim.push(`${event.partition} by ${worker}`);
    } else if (event.type === "inbox.blocked") {
      const at = `${worker} ${event.partition}`;
      // A chunk of an assignment that is over may fail under the next one's claim.
      const own = this.#openedEpoch.get(at) === this.#claimedEpoch.get(at);
      if (own && event.error.code !== "handler-timed-out") this.#failed.set(at, event.offset);
    } else if (event.type === "inbox.chunk-opening") this.#retried(worker, event);
    else if (event.type === "inbox.chunk-committed") {
      if (this.#endedEarly.has(`${worker} ${event.partition}`))
        this.found.earlyEnd.push(`${event.partition} to ${event.nextOffset} by ${worker}`);
    } else if (event.type === "inbox.chunk-cut") {
      // Nothing passes between the two where the stop does not wait.
      const at = this.#leavingAt.get(worker);
      if (at === this.#world.clock.now())
        this.found.hastyCut.push(`${event.partition} by ${worker}`);
    } else if (event.type === "inbox.claims-stalled") {
      this.#stalled(worker, event.partition, event.claims);
    } else if (event.type === "outbox.lanes-held") this.#relays.set(worker, event.relay);
  }

  /** The producer of one process, watched. */
  watched(worker: string, producer: BrokerProducer): BrokerProducer {
    let sending = false;
    return {
      ...producer,
      publish: async (records) => {
        if (sending) this.found.overlappingSends.push(worker);
        for (const record of records) this.#checkLane(worker, record);
        sending = true;
        const result = await producer.publish(records);
        sending = false;
        return result;
      },
    };
  }

  #checkLane(worker: string, { topic, key }: OutgoingRecord): void {
    const lane = laneOf(encoder.encode(topic), key ?? noKey);
    const held = this.#world.lane(lane);
    const now = this.#world.clock.now();
    if (held !== null && held.owner === this.#relays.get(worker) && held.leasedUntil >= now) return;
    // What a restore has taken back, its holder cannot know before its lease is over.
    if (now - this.#world.restoredAt <= leaseDurationMs) return;
    this.found.strayPublish.push(`lane ${lane} by ${worker} at ${now}`);
  }
}
