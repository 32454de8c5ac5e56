// Owns what stands for a process where all are one: a connection, a broker and a clock of its own,
// and a death that leaves behind what a killed process leaves behind, and nothing else.

import { type Clock, type Observer, type SyncStorage, systemClock } from "@oncebox/core";
import { sqliteStorage } from "@oncebox/sqlite";
import { type MemoryBroker, type MemoryCluster, memoryBroker } from "@oncebox/testing";
import type { Database } from "better-sqlite3";

/** Short, so that the end of a member or a relay is noticed soon. */
export const times = {
  sessionTimeoutMs: 600,
  heartbeatIntervalMs: 60,
  rebalanceTimeoutMs: 2_000,
  publishTimeoutMs: 300,
  leaseDurationMs: 600,
};

/** Thrown into whatever a dead process was doing: it goes on nowhere. */
export class Gone extends Error {
  constructor(name: string) {
    super(`${name} is gone`);
  }
}

export class Process {
  readonly name: string;
  readonly storage: SyncStorage<Database>;
  readonly broker: MemoryBroker;
  readonly clock: Clock;
  readonly #database: Database;
  #alive = true;

  /** `called`: told of each verb of the storage before it runs. */
  constructor(
    name: string,
    database: Database,
    cluster: MemoryCluster,
    called: (verb: string, args: readonly unknown[]) => void = () => undefined,
  ) {
    this.name = name;
    this.#database = database;
    this.clock = {
      ...systemClock,
      sleep: (ms, signal) => this.#ifAlive(systemClock.sleep(ms, signal)),
    };
    this.storage = this.#mortal(sqliteStorage({ database }), called);
    const { leaseDurationMs: _, ...timing } = times;
    this.broker = memoryBroker({ ...timing, cluster, clock: this.clock, name, maxWaitMs: 100 });
  }

  get alive(): boolean {
    return this.#alive;
  }

  /**
   * Dies as by SIGKILL: the connection ends without COMMIT or ROLLBACK, nothing is heard of it in the
   * network, and whatever it waits for never comes.
   */
  die(): void {
    this.#alive = false;
    this.broker.network.silence();
    this.#database.close();
  }

  /** The dead say nothing. */
  observed(observer: Observer): Observer {
    return (event) => {
      if (this.#alive) observer(event);
    };
  }

  async end(): Promise<void> {
    if (!this.#alive) return;
    await this.broker.close();
    await this.storage.close();
    this.#database.close();
  }

  #ifAlive<R>(result: Promise<R>): Promise<R> {
    return result.then((value) => (this.#alive ? value : new Promise(() => undefined)));
  }

  /** Verbs that wait answer a dead process never; the others must answer, and throw. */
  #mortal<S extends object>(
    storage: S,
    called: (verb: string, args: readonly unknown[]) => void,
  ): S {
    return new Proxy(storage, {
      get: (target, name) => {
        const verb: unknown = Reflect.get(target, name);
        if (typeof verb !== "function" || name === "trouble") return verb;
        return (...args: unknown[]) => {
          if (this.#alive) called(String(name), args);
          if (this.#alive) {
            const result: unknown = verb.apply(target, args);
            return result instanceof Promise ? this.#ifAlive(result) : result;
          }
          if (String(name).endsWith("Sync")) throw new Gone(this.name);
          return new Promise(() => undefined);
        };
      },
    });
  }
}
