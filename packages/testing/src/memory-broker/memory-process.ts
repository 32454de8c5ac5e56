/** One process on a memory cluster and a memory database, to be frozen, thawed and killed as a whole. */

import type { ManualClock, ProcessClock } from "../manual-clock.ts";
import type { MemoryDatabase } from "../memory-storage/database.ts";
import {
  type MemoryStorage,
  type MemoryStorageOptions,
  memoryStorage,
} from "../memory-storage/memory-storage.ts";
import type { MemoryCluster } from "./cluster.ts";
import { type MemoryBroker, type MemoryBrokerOptions, memoryBroker } from "./memory-broker.ts";

export interface MemoryProcessOptions {
  readonly clock: ManualClock;
  readonly cluster: MemoryCluster;
  readonly database: MemoryDatabase;
  /** Begins the names of its members, and is that of its storage. */
  readonly name: string;
  readonly broker?: Omit<MemoryBrokerOptions, "clock" | "cluster" | "name">;
  readonly storage?: Omit<MemoryStorageOptions, "clock" | "database" | "name">;
}

export interface MemoryProcess {
  readonly name: string;
  /** To be given to the services of this process. */
  readonly clock: ProcessClock;
  readonly broker: MemoryBroker;
  readonly storage: MemoryStorage;
  /** As SIGSTOP: nothing of it runs, no time-out of its own fires; the world goes on. */
  readonly freeze: () => void;
  /** As SIGCONT: it goes on where it was, with the answers that have come meanwhile. */
  readonly thaw: () => void;
  /**
   * As SIGKILL: nothing of it runs any more, for good. The database rolls back what it had open at once,
   * the group misses it when its session has run out. What comes after it is another memory process: do
   * not thaw its clock, storage or network.
   */
  readonly kill: () => void;
}

/** Makes what one process has of its own: a clock, a broker and a storage. */
export function memoryProcess(options: MemoryProcessOptions): MemoryProcess {
  const { name, cluster, database } = options;
  const clock = options.clock.process();
  const broker = memoryBroker({ ...options.broker, clock, cluster, name });
  const storage = memoryStorage({ ...options.storage, database, name });
  let killed = false;
  const freeze = () => {
    clock.freeze();
    storage.freeze();
    broker.network.silence();
  };
  return {
    ...{ name, clock, broker, storage, freeze },
    kill: () => {
      killed = true;
      freeze();
      database.faults.cutConnections(name);
      // Its group keeps it until the session has run out; of those that run it is none.
      for (const member of cluster.members.keys()) {
        if (member.startsWith(`${name}-`) && /^\d+$/.test(member.slice(name.length + 1))) {
          cluster.members.delete(member);
        }
      }
    },
    thaw: () => {
      if (killed) return;
      clock.thaw();
      storage.thaw();
      broker.network.resume();
    },
  };
}
