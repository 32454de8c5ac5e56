// Owns the processes of a run, one relay and the workers, and what their logs of steps say.

import { spawnWorker, type Worker } from "../../test/fixtures/child.ts";
import type { Step } from "../../test/fixtures/step-log.ts";
import { DemoFailure, type Undo } from "./ending.ts";
import { type Accident, accidentSignal } from "./rig.ts";
import { type Setting, toArguments } from "./setting.ts";

/** Longest wait for anything that has to happen: generous, since machines may be busy. */
export const patienceMs = 60_000;

export class Cast {
  readonly relay: Worker;
  readonly workers = new Map<string, Worker>();
  readonly #setting: Setting;
  readonly #ended = new Set<Worker>();
  /** Those that may have ended: by accident, or because they were told to. */
  readonly #mayHaveEnded = new Set<Worker>();

  constructor(setting: Setting, undo: Undo) {
    this.#setting = setting;
    undo.push(() => this.#kill());
    this.relay = this.#start("relay", null);
  }

  worker(name: string): Worker {
    const worker = this.workers.get(name);
    if (worker === undefined) throw new TypeError(`nobody is called ${name}`);
    return worker;
  }

  hire(name: string, accident: Accident | null = null): Worker {
    const worker = this.#start(name, accident);
    this.workers.set(name, worker);
    return worker;
  }

  /** Resolves when the workers hold all partitions between them, and each at least one. */
  async settled(names: readonly string[], partitions: number): Promise<void> {
    await this.relay.waitFor("started", patienceMs);
    const share = Math.floor(partitions / names.length);
    await this.until("the workers did not share the partitions", () =>
      names.every((name) => this.#claimedNow(name).size === share),
    );
  }

  /** From now on the next chunk of this worker is its accident. */
  async arm(name: string): Promise<void> {
    const worker = this.worker(name);
    worker.kill(accidentSignal);
    await worker.waitFor("told", patienceMs);
  }

  /** Polls a condition on the logs; a process that ends on its own ends the wait. */
  async until(otherwise: string, condition: () => boolean): Promise<void> {
    const deadline = performance.now() + patienceMs;
    while (!condition()) {
      this.checkAlive();
      if (performance.now() > deadline) {
        throw new DemoFailure(`${otherwise} in ${patienceMs} ms\n${this.#lastSteps()}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  /** Throws where a process has ended that nobody told to. */
  checkAlive(): void {
    for (const [name, worker] of [...this.workers, ["relay", this.relay] as const]) {
      if (this.#ended.has(worker) && !this.#mayHaveEnded.has(worker)) {
        throw new DemoFailure(`${name} ended on its own:\n${worker.output()}`);
      }
    }
  }

  mayEnd(name: string): void {
    this.#mayHaveEnded.add(this.worker(name));
  }

  /** Ends all in good order. Throws where one does not. */
  async dismiss(): Promise<void> {
    this.checkAlive();
    for (const worker of [this.relay, ...this.workers.values()]) {
      if (this.#ended.has(worker)) continue;
      this.#mayHaveEnded.add(worker);
      worker.kill("SIGTERM");
      const { code, signal } = await worker.exited;
      if (code === 0) continue;
      throw new DemoFailure(`a process ended with ${code ?? signal}:\n${worker.output()}`);
    }
  }

  steps(): ReadonlyMap<string, readonly Step[]> {
    return new Map([...this.workers].map(([name, worker]) => [name, worker.steps]));
  }

  #start(name: string, accident: Accident | null): Worker {
    const file = new URL(name === "relay" ? "./relay.ts" : "./worker.ts", import.meta.url);
    const worker = spawnWorker(file, { args: toArguments({ ...this.#setting, name, accident }) });
    void worker.exited.then(() => this.#ended.add(worker));
    return worker;
  }

  /** Partitions claimed since the worker's last assignment. */
  #claimedNow(name: string): Set<unknown> {
    const { steps } = this.worker(name);
    const last = steps.findLastIndex(({ step }) => step === "inbox.assigned");
    const claims = steps.slice(last + 1).filter(({ step }) => step === "inbox.claimed");
    return new Set(last < 0 ? [] : claims.map(({ data }) => data?.partition));
  }

  #lastSteps(): string {
    const lines = [...this.workers].map(([name, worker]) => {
      const last = worker.steps.slice(-4).map((step) => `\n    ${JSON.stringify(step)}`);
      return `  ${name}, last steps:${last.join("")}\n${worker.output()}`;
    });
    return lines.join("");
  }

  async #kill(): Promise<void> {
    for (const worker of [this.relay, ...this.workers.values()]) {
      if (!this.#ended.has(worker)) worker.kill("SIGKILL");
      await worker.exited;
    }
  }
}
