// Owns the worker processes of one run: one for each place, replaced when it dies, and everything
// that any of them ever logged. A worker that ends without having been told to fails the run.

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { spawnWorker, type Worker } from "../fixtures/child.ts";
import type { Exit } from "../fixtures/guard.ts";
import type { Step } from "../fixtures/step-log.ts";
import type { Point } from "./points.ts";

export interface Heard {
  readonly worker: string;
  readonly step: Step;
}

/** One worker from its start to its end. */
export interface Life {
  readonly name: string;
  readonly steps: readonly Step[];
  /** Milliseconds since 1970; null for one that was not killed. */
  killedAt: number | null;
}

export interface Member {
  readonly life: Life;
  readonly process: Worker;
  readonly orders: string;
}

export interface CrewOptions {
  readonly file: URL;
  /** A folder of the run's own. */
  readonly folder: string;
  readonly places: number;
  readonly argumentOf: (name: string, orders: string) => string;
}

const waitMs = 40_000;

type Listener = (heard: Heard | null) => void;

export class Crew {
  readonly lives: Life[] = [];
  /** Every step of every worker, in the order in which they arrived here. */
  readonly heard: Heard[] = [];
  readonly #options: CrewOptions;
  readonly #members: Member[] = [];
  readonly #listeners = new Set<Listener>();
  #failure: Error | null = null;
  #ending = false;

  constructor(options: CrewOptions) {
    this.#options = options;
    for (let place = 0; place < options.places; place += 1) this.#fill(place);
  }

  member(place: number): Member {
    const member = this.#members[place];
    if (member === undefined) throw new RangeError(`no place ${place}`);
    return member;
  }

  /** Tells a worker to stop itself at a point, and resolves with its step when it stands. */
  async freeze({ life, orders }: Member, point: Point, nudge: () => void): Promise<Step> {
    const since = this.heard.length;
    writeFileSync(join(orders, point), "");
    const frozen = ({ worker, step }: Heard) => worker === life.name && step.step === "frozen";
    // It only gets there with something to do: more is produced until it does.
    const nudging = setInterval(nudge, 1_000);
    try {
      return (await this.waitFor(`${life.name} to stop at ${point}`, frozen, since)).step;
    } finally {
      clearInterval(nudging);
    }
  }

  /** SIGKILL, and a new worker in the same place. */
  async replace(place: number): Promise<void> {
    const { life, process } = this.member(place);
    life.killedAt = Date.now();
    process.kill("SIGKILL");
    await process.exited;
    this.#fill(place);
  }

  /** An end in good order, and a new worker in the same place. */
  async dismiss(place: number): Promise<void> {
    await this.#leave(this.member(place));
    this.#fill(place);
  }

  /** The first step, past ones from number `since` included, that fulfils the predicate. */
  waitFor(what: string, fulfils: (heard: Heard) => boolean, since = 0): Promise<Heard> {
    const past = this.heard.slice(since).find(fulfils);
    if (past !== undefined) return Promise.resolve(past);
    return new Promise((resolve, reject) => {
      const listener: Listener = (heard) => {
        if (heard?.step.step === "inbox.chunk-committed") timer.refresh();
        if (heard !== null && !fulfils(heard)) return;
        this.#listeners.delete(listener);
        clearTimeout(timer);
        if (heard !== null) resolve(heard);
        else reject(this.#failure ?? new Error(`waited in vain for ${what}\n${this.#tail()}`));
      };
      const timer = setTimeout(listener, waitMs, null);
      this.#listeners.add(listener);
      if (this.#failure !== null) listener(null);
    });
  }

  /** Ends all in good order. */
  async stop(): Promise<void> {
    await Promise.all(this.#members.map((member) => this.#leave(member)));
  }

  /** Ends what still runs, whatever it does. */
  async end(): Promise<void> {
    this.#ending = true;
    for (const { process } of this.#members) process.kill("SIGKILL");
    await Promise.all(this.#members.map(({ process }) => process.exited));
  }

  async #leave({ life: { name }, process }: Member): Promise<void> {
    const took = (wanted: string) => (heard: Heard) =>
      heard.worker === name && heard.step.step === wanted;
    await this.waitFor(`${name} to start`, took("started"));
    process.kill("SIGTERM");
    // By itself: something left open would keep it.
    await this.waitFor(`${name} to end`, took("ended"));
    await process.exited;
  }

  #fill(place: number): void {
    const name = `w${this.lives.length + 1}`;
    const orders = join(this.#options.folder, name);
    mkdirSync(orders);
    const argument = this.#options.argumentOf(name, orders);
    const process = spawnWorker(this.#options.file, { args: [argument] });
    const life: Life = { name, steps: process.steps, killedAt: null };
    this.lives.push(life);
    this.#members[place] = { life, process, orders };
    // A predicate that is never fulfilled hears every step.
    const hear = (step: Step) => {
      this.#tell({ worker: name, step });
      return false;
    };
    process.waitFor(hear, 2 ** 31 - 1).catch(() => undefined);
    void process.exited.then((exit) => this.#ended(life, process, exit));
  }

  #tell(heard: Heard): void {
    this.heard.push(heard);
    for (const listener of [...this.#listeners]) listener(heard);
  }

  #ended(life: Life, process: Worker, exit: Exit): void {
    if (this.#ending || life.killedAt !== null || exit.code === 0) return;
    this.#failure ??= new Error(
      `${life.name} ended by itself (${exit.code ?? exit.signal}):\n${process.output()}\n${this.#tail()}`,
    );
    for (const listener of [...this.#listeners]) listener(null);
  }

  #tail(): string {
    const last = this.heard.slice(-25).map(({ worker, step }) => {
      return `  ${step.at} ${worker} ${step.step} ${JSON.stringify(step.data ?? {}).slice(0, 200)}`;
    });
    return `last steps:\n${last.join("\n")}`;
  }
}
