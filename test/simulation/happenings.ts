// Owns the faults that come at a time, whatever the processes do: to processes, to the database, to
// the network and to the log. Each undoes itself after its time, or when the run is healed.

import type { LogRecord } from "../fixtures/checker.ts";
import type { Fault, TimedAct } from "./plan.ts";
import type { Worker } from "./worker.ts";
import { consumerName, orders, type Snapshot, type World } from "./world.ts";

export interface Loss {
  readonly partition: number;
  readonly act: TimedAct;
}

const outageMaxMs = 6_000;
const backupEveryMs = 3_000;

export class Happenings {
  readonly #world: World;
  readonly #workers: readonly Worker[];
  readonly #undo = new Set<() => void>();
  #backup: Snapshot;
  #backupAt = 0;
  restored = false;
  /** Partitions whose position may have been moved back by somebody. */
  readonly moved = new Set<number>();
  /** What was done to logs that takes records away before they were read. */
  readonly losses: Loss[] = [];

  constructor(world: World, workers: readonly Worker[]) {
    this.#world = world;
    this.#workers = workers;
    this.#backup = world.database.snapshot();
  }

  /** Keeps a state to restore to. */
  tick(): void {
    const { clock, database } = this.#world;
    if (clock.now() - this.#backupAt < backupEveryMs) return;
    this.#backup = database.snapshot();
    this.#backupAt = clock.now();
  }

  /** False where there was nothing to do it to. */
  act(fault: Fault & { readonly act: TimedAct }): boolean {
    const worker = this.#workers[fault.worker];
    const done = worker !== undefined && this.#acts[fault.act](worker, fault.ms);
    if (done) this.#world.trace.note("fault", `${fault.act} w${fault.worker} ${fault.ms}`);
    return done;
  }

  heal(): void {
    for (const undo of [...this.#undo]) undo();
    this.#world.database.faults.deliverLateCommits();
    for (const worker of this.#workers) {
      worker.thaw();
      worker.start();
    }
  }

  /** Undone once: after so long, or by `heal`. */
  #later(ms: number, undo: () => void): true {
    const once = () => {
      if (this.#undo.delete(once)) undo();
    };
    this.#undo.add(once);
    this.#world.clock
      .sleep(ms)
      .then(once)
      .catch(() => undefined);
    return true;
  }

  readonly #acts: Readonly<Record<TimedAct, (worker: Worker, ms: number) => boolean>> = {
    kill: (worker, ms) => {
      worker.kill(ms);
      return true;
    },
    freeze: (worker, ms) => {
      worker.freeze();
      return this.#later(ms, () => worker.thaw());
    },
    leave: (worker, ms) => {
      worker.leave(ms);
      return true;
    },
    pause: (worker, ms) => {
      worker.pause();
      return this.#later(ms, () => worker.resume());
    },
    "database-cut": (worker, ms) => {
      this.#world.database.faults.cutConnections(ms % 2 === 0 ? undefined : worker.name);
      return true;
    },
    "database-outage": (_, ms) => {
      this.#world.database.faults.outage(true);
      return this.#later(ms % outageMaxMs, () => this.#world.database.faults.outage(false));
    },
    "database-read-only": (_, ms) => {
      this.#world.database.faults.readOnly(true);
      return this.#later(ms % outageMaxMs, () => this.#world.database.faults.readOnly(false));
    },
    "wake-ups-lost": (_, ms) => {
      this.#world.database.faults.loseWakeUps(true);
      return this.#later(ms, () => this.#world.database.faults.loseWakeUps(false));
    },
    restore: (_, ms) => {
      const { beforeClaim, database } = this.#world;
      const undone = ms % 2 === 0 ? beforeClaim : null;
      database.restore(undone?.state ?? this.#backup);
      // Whose claim is undone stands still meanwhile, so that another one claims under its number.
      const claimer = this.#workers.find(({ name }) => name === undone?.client);
      if (claimer !== undefined) {
        this.#member(claimer, this.#world.outside.faults.expel);
        claimer.freeze();
        this.#later(ms % outageMaxMs, () => claimer.thaw());
      }
      this.#world.forgetPositions();
      this.restored = true;
      this.#world.restoredAt = this.#world.clock.now();
      for (let at = 0; at < this.#world.plan.partitions; at += 1) this.moved.add(at);
      return true;
    },
    rebalance: () => {
      this.#world.outside.faults.rebalance(consumerName);
      return true;
    },
    expel: (worker) => this.#member(worker, this.#world.outside.faults.expel),
    mute: (worker) => this.#member(worker, this.#world.outside.faults.mute),
    crash: (worker) => this.#member(worker, this.#world.outside.faults.crash),
    "kafka-outage": (_, ms) => {
      this.#world.outside.faults.outage(true);
      return this.#later(ms % outageMaxMs, () => this.#world.outside.faults.outage(false));
    },
    "network-cut": ({ network }) => {
      network?.cut();
      return network !== null;
    },
    "network-down": ({ network }, ms) => {
      network?.down(true);
      return network !== null && this.#later(ms, () => network.down(false));
    },
    trouble: (_, ms) => {
      const at = { topic: orders.name, partition: this.#partition(ms) };
      this.#world.outside.faults.trouble(at, new Error("no leader"));
      return this.#later(ms, () => this.#world.outside.faults.trouble(at, null));
    },
    "new-leader": (_, ms) => {
      this.#world.outside.admin.electLeader(orders.name, this.#partition(ms));
      return true;
    },
    "hanging-transaction": (_, ms) => {
      const open = this.#world.outside.admin.transaction();
      const partition = this.#partition(ms);
      const offset = this.#world.log(partition).state().end;
      const order = { id: `hanging ${this.#world.clock.now()}`, key: "hanging", sequence: 1 };
      open.write(orders.name, partition, [{ key: order.key, value: JSON.stringify(order) }]);
      this.#world.aborted.push({ topic: orders.name, partition, offset, ...order });
      return this.#later(ms, () => open.abort());
    },
    retention: (_, ms) => this.#delete(this.#partition(ms), 0n),
    "retention-ahead": (_, ms) => {
      const behind = this.#partitions().find((at) => {
        const handled = this.#world.committed().get(at)?.nextOffset ?? 0n;
        return this.#world.log(at).state().lastStable > handled;
      });
      return behind !== undefined && this.#delete(behind, BigInt(1 + (ms % 3)));
    },
    truncation: (_, ms) => {
      const partition = this.#partition(ms);
      const { start, end } = this.#world.log(partition).state();
      const from = end - BigInt(1 + (ms % 4));
      if (from < start) return false;
      this.#lose(partition, "truncation", (offset) => offset >= from);
      this.#world.outside.admin.truncate(orders.name, partition, from);
      this.#goOn(partition, Number(end - from) + (ms % 3));
      return true;
    },
    recreation: (_, ms) => {
      if (this.#world.log(this.#partition(ms)).state().end === 0n) return false;
      this.#anew("recreation", ms, () => this.#world.outside.admin.recreateTopic(orders.name));
      return true;
    },
    replacement: (_, ms) => {
      if (this.#world.log(this.#partition(ms)).state().end === 0n) return false;
      // Under a claim that goes on nobody could tell: a restored disk finds no consumer running.
      for (const worker of this.#workers) worker.kill(ms);
      this.#anew("replacement", ms, () => this.#world.replaceLogs());
      return true;
    },
    compaction: (_, ms) => {
      const partition = this.#partition(ms);
      const handled = this.#world.committed().get(partition)?.nextOffset ?? 0n;
      const offsets = this.#stored(partition)
        .map(({ offset }) => offset)
        .filter((offset) => offset < handled && (offset + BigInt(ms)) % 2n === 0n);
      if (offsets.length === 0) return false;
      this.#keep(partition, (offset) => offsets.includes(offset));
      this.#world.outside.admin.compact(orders.name, partition, offsets);
      return true;
    },
  };

  #partition(ms: number): number {
    return ms % this.#world.plan.partitions;
  }

  #partitions(): readonly number[] {
    return Array.from({ length: this.#world.plan.partitions }, (_, at) => at);
  }

  /** All logs become others, each as long as it was or a little longer. */
  #anew(act: TimedAct, ms: number, how: () => void): void {
    const ends = this.#partitions().map((at) => this.#world.log(at).state().end);
    for (const at of this.#partitions()) this.#lose(at, act, () => true);
    how();
    for (const [at, end] of ends.entries()) this.#goOn(at, Number(end) + (ms % 3));
  }

  /** Others write on where a log lost its records: the old positions fit its length again. */
  #goOn(partition: number, count: number): void {
    const { written, outside, clock } = this.#world;
    const key = `on ${partition} ${clock.now()}`;
    for (let sequence = 1; sequence <= count; sequence += 1) {
      const order = { id: `${key} ${sequence}`, key, sequence };
      const headers = [["id", encoder.encode(order.id)]] as const;
      const value = JSON.stringify(order);
      outside.admin.produce(orders.name, partition, [{ key, value, headers }]);
      written.push({ ...order, state: "acknowledged" });
    }
  }

  #member({ member }: Worker, act: (member: string) => void): boolean {
    if (member === null) return false;
    act(member);
    return true;
  }

  /** As retention does: below the position, or so far beyond it. */
  #delete(partition: number, beyond: bigint): boolean {
    const { start, lastStable } = this.#world.log(partition).state();
    const handled = this.#world.committed().get(partition)?.nextOffset ?? 0n;
    const below = handled + beyond < lastStable ? handled + beyond : lastStable;
    if (below <= start) return false;
    if (below > handled) this.#lose(partition, "retention-ahead", (offset) => offset < below);
    else this.#keep(partition, (offset) => offset < below);
    this.#world.outside.admin.deleteRecords(orders.name, partition, below);
    return true;
  }

  #lose(partition: number, act: TimedAct, which: (offset: bigint) => boolean): void {
    this.#keep(partition, which);
    this.losses.push({ partition, act });
    this.moved.add(partition);
  }

  #keep(partition: number, which: (offset: bigint) => boolean): void {
    this.#world.gone.push(...this.#stored(partition).filter(({ offset }) => which(offset)));
  }

  #stored(partition: number): readonly LogRecord[] {
    return recordsOf(this.#world, orders.name).filter((record) => record.partition === partition);
  }
}

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** A topic as the checker reads it: ids come out of the values, whatever the headers hold. */
export function recordsOf({ outside }: World, topic: string): readonly LogRecord[] {
  return outside.admin.stored(topic).map(({ partition, offset, key, value }) => {
    const { id = null } = JSON.parse(decoder.decode(value ?? new Uint8Array())) as {
      readonly id?: string;
    };
    return { topic, partition, offset, id, key: key === null ? null : decoder.decode(key) };
  });
}
