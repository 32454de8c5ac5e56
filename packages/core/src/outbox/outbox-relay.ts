/**
 * Carries committed outbox rows to Kafka, in order per key. Any number of relays share the lanes. It
 * owns when to lease, read, send and settle; it never keeps a transaction open while it sends, never
 * sends two batches at once, and never counts trouble against a message.
 */
import { ConfigurationError } from "../errors.ts";
import { guarded, type Observer } from "../events.ts";
import { uuidv7 } from "../ids.ts";
import { type Clock, systemClock, within } from "../ports/clock.ts";
import type { LaneLease } from "../ports/outbox.ts";
import type { StorageVerbs } from "../ports/storage.ts";
import { type Service, service } from "../service.ts";
import { Backlog } from "./backlog.ts";
import { createLanes, type HeldLane, isShort, lanesToTake, surplusOf } from "./lanes.ts";
import { createPublisher, type Publisher } from "./publisher.ts";
import { type OutboxRelayOptions, type RelaySettings, relaySettings } from "./relay-options.ts";
import { atOnce, createSteps, never, type Step, type Steps } from "./steps.ts";

/** Publishes what the outbox holds, until it is stopped. */
export interface OutboxRelay extends Service {
  /** Looks into the outbox at once: for a commit that the storage cannot see. */
  readonly wake: () => void;
}

/**
 * Makes a relay. Throws ConfigurationError that lists every wrong option. `start` resolves when the
 * first lanes were asked for, and rejects with what `storage.check` finds or with ConfigurationError
 * `pool-too-small`. Trouble with Kafka or the database never ends it: it backs off, says so
 * (`outbox.trouble`), and goes on by itself.
 */
export function createOutboxRelay<Tx>(options: OutboxRelayOptions<Tx>): OutboxRelay {
  const relay = new LaneRelay(options, relaySettings(options));
  return {
    ...service(
      {
        start: (stopping) => relay.start(stopping),
        stop: (deadlineMs) => relay.stop(deadlineMs),
      },
      options.clock,
    ),
    wake: () => relay.wake(),
  };
}

/** Lease, read and settle may run at the same time, each on a connection; listening holds another. */
const connectionsNeeded = 4;

/** How long the busy interval lasts after rows were written whose commit will not be seen. */
const expectedForMs = 1_000;

/** Batches in memory that are not blocked: one on its way, one read ahead, the rest to be settled. */
const unblockedBatchesMax = 4;

/** How much sooner lanes are asked for while others still drain them. */
const shortRenewals = 4;

/** Part of a stop's deadline that is kept for giving lanes back. */
const stopReserveMs = 1_000;

type StepName = "lease" | "settle" | "read" | "publish" | "listen";

/** The pause before the next look into the outbox. */
export function nextPollMs(
  read: { readonly rows: number; readonly more: boolean },
  previousMs: number,
  expecting: boolean,
  { pollBusyMs, pollIdleMs }: Pick<RelaySettings, "pollBusyMs" | "pollIdleMs">,
): number {
  if (read.rows > 0) return read.more ? 0 : pollBusyMs;
  if (read.more || expecting) return pollBusyMs;
  return Math.min(pollIdleMs, Math.max(pollBusyMs, previousMs * 2));
}

/**
 * Steps of a relay (see `createSteps`), and what they are due for:
 *
 *   lease    a third of the lease, or lanes that have drained: renew, take, drain, give back
 *   settle   rows were acknowledged
 *   read     a bell, a poll or a sweep, while there is room for a batch ahead
 *   publish  rows are ready or a block's pause is over, in lanes whose lease outlasts it
 *   listen   once
 *
 *   (made) ──start──▶ running ──stop──▶ stopping ──nothing runs, all settled; or no time left──▶ ended
 *                     all steps         what runs ends; lease and settle only
 */
class LaneRelay<Tx> {
  readonly #settings: RelaySettings;
  readonly #storage: StorageVerbs;
  readonly #clock: Clock;
  readonly #observe: Observer;
  readonly #relay: string;
  readonly #lanes = createLanes();
  readonly #backlog = new Backlog();
  readonly #publisher: Publisher;
  readonly #steps: Steps;
  #relays = 1;
  #leaseAt = atOnce;
  #leased = () => {};
  #readAt = atOnce;
  #pollMs = 0;
  #woken = false;
  #expectUntil = atOnce;
  #sweepAt = never;
  #readingPaused = false;
  #unlisten: (() => Promise<void>) | null = null;
  #loop: Promise<void> = Promise.resolve();
  #started = false;
  #stopping = false;
  #cut = false;

  constructor(options: OutboxRelayOptions<Tx>, settings: RelaySettings) {
    this.#settings = settings;
    this.#storage = options.storage;
    this.#clock = options.clock ?? systemClock;
    this.#observe = guarded(options.observer);
    this.#relay = uuidv7(this.#clock);
    this.#publisher = createPublisher({
      relay: this.#relay,
      broker: options.broker,
      backlog: this.#backlog,
      clock: this.#clock,
      observe: this.#observe,
      batchRowsMax: settings.batchRowsMax,
      batchBytesMax: settings.batchBytesMax,
      mayUse: (lane, now) => this.#mayUse(lane, now),
      taken: () => this.#steps.ring(),
      stopping: () => this.#stopping,
    });
    const failed = (...trouble: [StepName, number, unknown]) => this.#trouble(...trouble);
    this.#steps = createSteps<StepName>(this.#clock, this.#makeSteps(), failed);
  }

  #makeSteps(): Record<StepName, Step> {
    const unlessStopping = (at: number) => (this.#stopping ? never : at);
    return {
      lease: {
        wantedAt: () => (this.#drained().length > 0 ? atOnce : this.#leaseAt),
        run: () => this.#lease(),
      },
      settle: {
        wantedAt: () => (this.#backlog.hasPublished ? atOnce : never),
        run: () => this.#settle(),
      },
      read: {
        wantedAt: (now) => unlessStopping(this.#readWantedAt(now)),
        run: (now) => this.#read(now),
      },
      publish: {
        wantedAt: (now) =>
          unlessStopping(this.#backlog.sendableAt((lane) => this.#mayUse(lane, now))),
        run: async () => {
          await this.#publisher.publish();
          this.#notePause();
        },
      },
      listen: {
        wantedAt: () => unlessStopping(this.#unlisten === null ? atOnce : never),
        run: () => this.#listen(),
      },
    };
  }

  async start(stopping: AbortSignal): Promise<void> {
    const { poolSize } = await this.#storage.check();
    if (poolSize < connectionsNeeded) {
      throw new ConfigurationError(
        "pool-too-small",
        `an outbox relay needs ${connectionsNeeded} connections (lanes, reading, deleting, listening), the pool has ${poolSize}: enlarge the pool`,
        { details: { needed: connectionsNeeded, poolSize } },
      );
    }
    if (stopping.aborted) return;
    this.#sweepAt = this.#clock.now() + this.#settings.sweepIntervalMs;
    const leased = new Promise<void>((resolve) => {
      this.#leased = resolve;
      stopping.addEventListener("abort", () => resolve(), { once: true });
    });
    this.#started = true;
    this.#loop = this.#steps.run((running) => this.#hasEnded(running));
    await leased;
  }

  async stop(deadlineMs: number): Promise<void> {
    const reserveMs = Math.min(stopReserveMs, deadlineMs / 4);
    this.#stopping = true;
    this.#steps.ring();
    await within(this.#clock, deadlineMs - reserveMs, this.#loop, undefined);
    this.#cut = true;
    this.#steps.ring();
    await this.#loop;
    if (this.#started) await within(this.#clock, reserveMs, this.#close(), undefined);
  }

  wake(): void {
    this.#woken = true;
    this.#readAt = atOnce;
    this.#steps.ring();
  }

  #expect(): void {
    const now = this.#clock.now();
    this.#expectUntil = now + expectedForMs;
    this.#readAt = Math.min(this.#readAt, now + this.#settings.pollBusyMs);
    this.#steps.ring();
  }

  #hasEnded(running: boolean): boolean {
    return this.#cut || (this.#stopping && !running && !this.#backlog.hasPublished);
  }

  /** One after the other: a renewal on its way must not bring back a lane that was given back. */
  async #lease(): Promise<void> {
    const now = this.#clock.now();
    if (now >= this.#leaseAt) await this.#renew(now);
    const drained = this.#drained();
    if (drained.length > 0) await this.#giveBack(drained);
  }

  async #renew(sentAt: number): Promise<void> {
    const { leaseDurationMs, renewIntervalMs } = this.#settings;
    const held = this.#lanes.held();
    const answer = await this.#storage.leaseLanes({
      relay: this.#relay,
      leaseMs: leaseDurationMs,
      renew: held.map(leaseOf),
      acquireMax: this.#stopping ? 0 : lanesToTake(held.length, this.#relays),
    });
    const { gained, lost, takenOver } = this.#lanes.answered(answer, sentAt, leaseDurationMs);
    for (const lane of lost) this.#backlog.drop(lane);
    const surplus = surplusOf(this.#lanes.held(), answer.relays, (l) => this.#backlog.rowsOf(l));
    for (const lane of surplus) {
      lane.state = "draining";
      this.#backlog.drain(lane);
    }
    if (gained.length > 0) this.wake();
    if (takenOver.length > 0) this.#lanesLost(takenOver);
    if (gained.length + lost.length > 0 || answer.relays !== this.#relays) {
      this.#lanesHeld(answer.relays);
    }
    this.#relays = answer.relays;
    this.#notePause();
    const short = isShort(this.#lanes.held().length, answer.relays);
    this.#leaseAt = sentAt + (short ? renewIntervalMs / shortRenewals : renewIntervalMs);
    this.#leased();
  }

  #drained(): HeldLane[] {
    return this.#lanes
      .held()
      .filter((lane) => lane.state === "draining" && !this.#backlog.isBusy(lane));
  }

  async #giveBack(lanes: readonly HeldLane[]): Promise<void> {
    await this.#storage.releaseLanes(this.#relay, lanes.map(leaseOf));
    this.#lanes.drop(lanes);
    for (const lane of lanes) this.#backlog.drop(lane);
    this.#lanesHeld(this.#relays);
  }

  async #settle(): Promise<void> {
    const entries = this.#backlog.published;
    const lanes = [...new Set(entries.map((entry) => entry.lane))];
    const rows = entries.map((entry) => entry.row);
    const { lost } = await this.#storage.settleBatch(lanes.map(leaseOf), rows);
    this.#backlog.settled(entries);
    const gone = lanes.filter((lane) => lane.state !== "lost" && lost.includes(lane.lane));
    if (gone.length === 0) return;
    this.#lanesLost(gone);
    this.#lanes.drop(gone);
    for (const lane of gone) this.#backlog.drop(lane);
  }

  async #read(now: number): Promise<void> {
    const sweep = now >= this.#sweepAt;
    if (sweep) {
      // Also of lanes that are not read for their blocked rows: those may be gone by now.
      this.#backlog.forgetBlocked();
      this.#notePause();
    }
    const room = this.#roomToRead();
    const lanes = this.#readable(now);
    if (room === null || lanes.length === 0) return;
    this.#woken = false;
    const { rows, more, belowFloor } = await this.#storage.readLanes(lanes.map(leaseOf), {
      ...room,
      pending: this.#backlog.pending(),
      sweep,
    });
    const read = this.#clock.now();
    if (sweep) this.#sweepAt = read + this.#settings.sweepIntervalMs;
    if (belowFloor > 0) {
      this.#observe({ type: "outbox.floor-anomaly", relay: this.#relay, rows: belowFloor });
    }
    const leases = new Map(lanes.map((lane) => [lane.lane, lane]));
    for (const row of rows) {
      const lane = leases.get(row.lane);
      if (lane?.state === "active") this.#backlog.add(row, lane);
    }
    const found = { rows: rows.length, more };
    this.#pollMs = nextPollMs(found, this.#pollMs, read < this.#expectUntil, this.#settings);
    // A bell that rang while the read was under way may be for a row it did not see.
    this.#readAt = this.#woken ? atOnce : read + this.#pollMs;
  }

  #readWantedAt(now: number): number {
    if (this.#roomToRead() === null || this.#readable(now, none).length === 0) return never;
    const readAt = this.#readable(now).length === 0 ? never : this.#readAt;
    return Math.min(readAt, this.#sweepAt);
  }

  /** Room for one batch ahead of the one on its way; null where there is none. */
  #roomToRead(): { readonly rows: number; readonly bytes: number } | null {
    const { batchRowsMax, batchBytesMax } = this.#settings;
    const { ready, unblockedRows } = this.#backlog;
    const rows = batchRowsMax - ready.rows;
    const bytes = batchBytesMax - ready.bytes;
    const unsettled = unblockedRows >= unblockedBatchesMax * batchRowsMax;
    return rows <= 0 || bytes <= 0 || unsettled ? null : { rows, bytes };
  }

  #readable(now: number, paused = this.#pausedLanes()): HeldLane[] {
    return this.#lanes
      .held()
      .filter((lane) => lane.state === "active" && lane.deadline > now && !paused.has(lane));
  }

  #pausedLanes(): ReadonlySet<HeldLane> {
    return this.#readingPaused ? this.#backlog.blockedLanes() : none;
  }

  /** The only check that keeps a lane from being sent by two relays: right before sending. */
  #mayUse(lane: HeldLane, now: number): boolean {
    return lane.state === "active" && lane.deadline - now >= this.#settings.leaseNeededMs;
  }

  async #listen(): Promise<void> {
    const unlisten = await this.#storage.wake.listen({
      woken: () => this.wake(),
      expected: () => this.#expect(),
    });
    if (this.#cut) await unlisten();
    else this.#unlisten = unlisten;
  }

  /** What is still on its way keeps its lanes: nobody may send them before its lease is over. */
  async #close(): Promise<void> {
    const lanes = this.#lanes.held().filter((lane) => !this.#backlog.isSending(lane));
    const told = (step: StepName) => (error: unknown) => this.#trouble(step, 0, error);
    const cut = this.#backlog.unsettledRows;
    if (cut > 0) this.#observe({ type: "outbox.batch-cut", relay: this.#relay, messages: cut });
    await Promise.all([
      // Also without a lane: the others stop counting this relay.
      this.#giveBack(lanes).catch(told("lease")),
      this.#publisher.close().catch(told("publish")),
      this.#unlisten?.().catch(told("listen")),
    ]);
  }

  #notePause(): void {
    const { rows, bytes } = this.#backlog.blocked;
    const { blockedRowsMax, blockedBytesMax } = this.#settings;
    const paused = rows >= blockedRowsMax || bytes >= blockedBytesMax;
    if (paused && !this.#readingPaused) {
      this.#observe({
        type: "outbox.reading-paused",
        relay: this.#relay,
        lanes: Array.from(this.#backlog.blockedLanes(), ({ lane }) => lane),
        blockedRows: rows,
        blockedBytes: bytes,
      });
    }
    this.#readingPaused = paused;
  }

  #trouble(step: StepName, waitMs: number, error: unknown): void {
    this.#observe({ type: "outbox.trouble", relay: this.#relay, step, waitMs, error });
  }

  #lanesHeld(relays: number): void {
    const lanes = this.#lanes.held().map(({ lane }) => lane);
    this.#observe({ type: "outbox.lanes-held", relay: this.#relay, lanes, relays });
  }

  #lanesLost(lost: readonly HeldLane[]): void {
    const lanes = lost.map(({ lane }) => lane);
    this.#observe({ type: "outbox.lanes-lost", relay: this.#relay, lanes });
  }
}

const none: ReadonlySet<HeldLane> = new Set();

function leaseOf({ lane, token }: HeldLane): LaneLease {
  return { lane, token };
}
