// Owns the course of one run: servers, processes, faults, then healing, then the time to get
// everything done, then the judgement. The plan decides all of it; the same plan does the same.

import type { BrokerProducer, ParkedTurn } from "@oncebox/core";
import type { MemoryTx } from "@oncebox/testing";
import { Happenings } from "./happenings.ts";
import { Hits } from "./hits.ts";
import { IdWatch } from "./ids.ts";
import { clockTime, type LongStop, stretchMs } from "./long-stop.ts";
import { Manners } from "./manners.ts";
import { Operations } from "./operations.ts";
import { ParkedWatch } from "./parked.ts";
import type { Fault, Plan, Step, TimedAct } from "./plan.ts";
import { Quirks } from "./quirks.ts";
import { Sources } from "./sources.ts";
import { type Findings, judge, Witness } from "./verdict.ts";
import { Worker } from "./worker.ts";
import { World } from "./world.ts";

export interface Outcome {
  readonly seed: number;
  readonly findings: Findings;
  /** One number for everything that happened. */
  readonly hash: string;
  /** Lines of the trace: events, faults. */
  readonly steps: number;
  /** Faults that fired: act, or step/act. */
  readonly fired: readonly string[];
}

export interface SimulateOptions {
  /** Takes the trace, line by line. */
  readonly sink?: (line: string) => void;
}

const tickMs = 500;
/** Where a plan's faults found nothing to hit, these follow. */
const reserve: readonly TimedAct[] = ["rebalance", "database-cut", "kill"];
const faultsMin = 3;
/** A plan with little in it goes on for longer. */
const stepsMin = 200;
/** What does not keep a process from saying to the database that it lives. */
const ofKafka: ReadonlySet<string> = new Set([
  ...["rebalance", "expel", "mute", "crash", "kafka-outage", "network-cut", "network-down"],
  ...["trouble", "new-leader", "leave", "pause", "retention", "compaction", "wake-ups-lost"],
  ...["hanging-transaction"],
]);
const livenessTicks = 600;
const followTicks = 40;
const stopTicks = 40;
/** Within so long a walk over ids begins, mostly. */
const walkMs = 1_000;
const actEveryTicks = 4;
/** Of a process that ended, until another one knows. */
const endedMs = 10_000;

export async function simulate(plan: Plan, options: SimulateOptions = {}): Promise<Outcome> {
  const run = new Run(plan, options.sink ?? null);
  const findings = await run.whole();
  return {
    seed: plan.seed,
    findings,
    hash: run.world.trace.digest(),
    steps: run.world.trace.lines,
    fired: run.fired,
  };
}

class Run {
  readonly world: World;
  readonly fired: string[] = [];
  readonly #plan: Plan;
  readonly #witness = new Witness();
  readonly #manners: Manners;
  readonly #workers: readonly Worker[];
  readonly #sources: Sources;
  readonly #hits: Hits;
  readonly #happenings: Happenings;
  readonly #quirks: Quirks;
  readonly #parked: ParkedWatch;
  readonly #ids: IdWatch;
  readonly #operations: Operations;
  /** What found nothing to do it to yet. */
  readonly #early: Fault[] = [];

  constructor(plan: Plan, sink: ((line: string) => void) | null) {
    this.#plan = plan;
    const world = new World(plan, sink);
    this.world = world;
    this.#sources = new Sources(world);
    this.#manners = new Manners(world);
    this.#quirks = new Quirks(plan, world.clock.random);
    this.#parked = new ParkedWatch(world);
    this.#ids = new IdWatch(world);
    const listener = {
      event: (worker: string, event: Parameters<Witness["event"]>[1]) => {
        world.trace.event(worker, event);
        if (event.type === "inbox.blocked") {
          const at = `${event.partition}@${event.offset}`;
          world.blocked.set(at, (world.blocked.get(at) ?? 0) + 1);
        }
        this.#witness.event(worker, event);
        this.#manners.event(worker, event);
        this.#operations.event(event);
      },
      quirk: (id: string) => this.#quirks.of(id),
      failing: (tx: MemoryTx) => this.#parked.failing(tx),
      killing: (_: string, id: string) => this.#parked.killing(id),
      derived: (id: string, ids: readonly string[]) => this.#manners.derived(id, ids),
      ending: (worker: string) => {
        this.#manners.troubled(endedMs);
        this.#parked.ending(worker, this.#manners.holders);
      },
      opening: (worker: string, turn: ParkedTurn) => {
        this.#witness.opening(worker, turn);
        this.#parked.opening(turn);
      },
      opened: (...turn: Parameters<ParkedWatch["opened"]>) => this.#parked.opened(...turn),
      broke: (error: unknown) => this.#witness.broke(error),
      publishing: (records: Parameters<Hits["publishing"]>[0], place: number) =>
        this.#hits.publishing(records, place),
      leaving: (worker: string) => this.#manners.leaving(worker),
      thawing: (worker: string) => {
        this.#manners.thawing(worker);
        this.#parked.thawing(worker);
      },
      endingEarly: (worker: string, partition: number, tx: MemoryTx) => {
        // That of a parked message is no chunk's.
        if (!this.#parked.isTurn(tx)) this.#manners.endingEarly(worker, partition);
      },
      watched: (worker: string, producer: BrokerProducer) =>
        this.#manners.watched(worker, producer),
    };
    this.#workers = Array.from(
      { length: plan.workers },
      (_, place) => new Worker(place, world, listener),
    );
    this.#hits = new Hits(world, this.#workers, this.#manners, (cell, ms) => {
      this.fired.push(cell);
      if (!/^(batch|group-commit|publish)/.test(cell)) this.#manners.troubled(ms);
    });
    this.#happenings = new Happenings(world, this.#workers);
    this.#operations = new Operations(world, {
      ...{ workers: this.#workers, happenings: this.#happenings },
      ...{ quirks: this.#quirks, parked: this.#parked },
    });
  }

  async whole(): Promise<Findings> {
    for (const worker of this.#workers) worker.start();
    this.#sources.start();
    await this.#faultyPhase();
    this.#hits.disarm();
    this.#early.length = 0;
    this.#happenings.heal();
    this.#quirks.heal();
    this.#operations.heal();
    await this.#liveness();
    await this.#end();
    return judge(this.world, this.#witness, {
      sources: this.#sources,
      happenings: this.#happenings,
      manners: this.#manners,
      parked: this.#parked,
      ids: this.#ids,
    });
  }

  async #faultyPhase(): Promise<void> {
    const { clock } = this.world;
    const { spanMs, stop } = this.#plan;
    const faults = [...this.#plan.faults];
    for (let tick = 1; (tick - 1) * tickMs < spanMs; tick += 1) {
      this.#stop((tick - 1) * tickMs);
      const until = Math.min(tick * tickMs, spanMs);
      while (faults[0] !== undefined && faults[0].at < until) {
        const fault = faults.shift() as Fault;
        await clock.advance(Math.max(0, clockTime(stop, fault.at) - clock.now()));
        this.#fault(fault);
      }
      await clock.advance(Math.max(0, clockTime(stop, until) - clock.now()));
      this.#tick(tick);
    }
    for (let more = 0; this.fired.length < faultsMin; more += 1) {
      const act = reserve[more % reserve.length] as TimedAct;
      this.#fault({ at: clock.now(), worker: 0, step: null, act, ms: 300 + more });
      await clock.advance(tickMs);
    }
    while (this.world.trace.lines < stepsMin) await clock.advance(tickMs);
  }

  /** The long stop begins, or ends. */
  #stop(at: number): void {
    const { stop } = this.#plan;
    if (stop === null) return;
    if (at === stop.at - walkMs) this.#stopWalks(stop);
    if (at === stop.at) {
      this.#hits.disarm("prune");
      this.#manners.troubled(stop.ms);
      this.world.trace.note("fault", `long stop ${stop.how.join(" ")} ${stop.ms}`);
      for (const worker of this.#workers) {
        const how = stop.how[worker.place] ?? "kill";
        worker.hold(how);
        this.fired.push(`long-stop/${how}`);
      }
    }
    if (at !== stop.at + stretchMs) return;
    this.world.trace.note("fault", "long stop is over");
    for (const worker of this.#workers) worker.letGo();
  }

  /** From its next walk on it stands still, and the statement that it was about to send is sent after. */
  #stopWalks({ ms, how }: LongStop): void {
    for (const [worker, each] of how.entries()) {
      if (each !== "mid-walk") continue;
      const common = { at: this.world.clock.now(), worker, ms: ms + walkMs };
      this.#hits.arm({ ...common, step: "prune", act: "freeze-before" });
    }
  }

  #fault(fault: Fault): void {
    if (fault.step !== null) {
      this.#hits.arm(fault as Fault & { readonly step: Step });
      return;
    }
    if (!ofKafka.has(fault.act)) this.#manners.troubled(fault.ms);
    const busy = this.world.database.openTransactions() > 0 ? "busy" : "idle";
    if (this.#happenings.act(fault as Fault & { readonly act: TimedAct })) {
      this.fired.push(`${fault.act}/${busy}`);
    } else if (fault.act === "retention-ahead") this.#early.push(fault);
  }

  #tick(tick: number): void {
    this.#happenings.tick();
    for (const fault of this.#early.splice(0)) this.#fault(fault);
    this.#witness.compare(this.world, this.#happenings.moved);
    if (tick % actEveryTicks === 0) this.#operations.act();
  }

  async #liveness(): Promise<void> {
    for (let tick = 1; tick <= livenessTicks && !this.#settled(); tick += 1) {
      await this.world.clock.advance(tickMs);
      this.#tick(tick);
    }
    // The group's offsets follow a while later.
    for (let tick = 1; tick <= followTicks && !this.#followed(); tick += 1) {
      await this.world.clock.advance(tickMs);
    }
    this.#parked.ended();
    this.#witness.running(this.#workers);
    this.#witness.compare(this.world, new Set());
  }

  #settled(): boolean {
    const { world } = this;
    if (!this.#sources.done || !this.#operations.done || world.outboxRows() > 0) return false;
    if (world.clock.now() < this.#hits.quietAt) return false;
    const positions = world.committed();
    for (let partition = 0; partition < this.#plan.partitions; partition += 1) {
      const { end } = world.log(partition).state();
      if (positions.get(partition)?.nextOffset !== end) return false;
    }
    return this.#workers.every(({ running }) => running);
  }

  #followed(): boolean {
    if (this.#workers.some(({ member }) => member === null)) return false;
    const group = this.world.groupOffsets();
    return [...this.world.committed()].every(([partition, { nextOffset }]) => {
      return (group.get(partition) ?? nextOffset) === nextOffset;
    });
  }

  async #end(): Promise<void> {
    for (const worker of this.#workers) worker.end();
    for (let tick = 0; tick < stopTicks; tick += 1) {
      if (this.#workers.every(({ down }) => down)) break;
      await this.world.clock.advance(tickMs);
    }
    this.#witness.compare(this.world, new Set());
    this.#witness.stopped(this.#workers);
  }
}
