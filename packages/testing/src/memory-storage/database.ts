/**
 * A database in memory, as several storages may share it, each as a process of its own would. Owns
 * the rows, the connections and what goes wrong with them; decides nothing about messages.
 */
import { type Clock, systemClock } from "@oncebox/core";
import { type ClientSetting, Connection, type ConnectionSetting } from "./connection.ts";
import { MemoryDatabaseError } from "./database-error.ts";
import { type DatabaseFaults, FaultDesk } from "./database-faults.ts";
import { Locks } from "./locks.ts";
import { type Snapshot, Tables } from "./tables.ts";

export interface MemoryDatabaseOptions {
  /**
   * Time of leases, time-outs and audits.
   * @defaultValue the machine's
   */
  readonly clock?: Clock;
  /**
   * How long each statement takes, in milliseconds.
   * @defaultValue 0
   */
  readonly statementMs?: number | (() => number);
}

export type WakeListener = { readonly woken: () => void; readonly expected: () => void };

export class MemoryDatabase {
  readonly clock: Clock;
  readonly faults: DatabaseFaults;
  /** Tells this database from any other, also after a restore. */
  readonly incarnation: string;
  /** @internal */
  readonly tables: Tables;
  /** @internal */
  readonly locks: Locks;
  readonly #desk = new FaultDesk();
  readonly #setting: ConnectionSetting;
  readonly #connections = new Set<Connection>();
  readonly #listeners = new Map<WakeListener, string>();
  #numbers = 0;

  constructor({ clock = systemClock, statementMs = 0 }: MemoryDatabaseOptions) {
    this.clock = clock;
    this.locks = new Locks(clock);
    this.tables = new Tables(this.locks);
    this.incarnation = `memory-${Math.floor(clock.random() * 2 ** 48).toString(16)}`;
    this.#setting = {
      clock,
      tables: this.tables,
      faults: this.#desk,
      statementMs: typeof statementMs === "number" ? () => statementMs : statementMs,
    };
    this.faults = faultsOf(this.#desk, {
      cut: (client) => this.#cut(client),
      setFloor: (lane, floor) => {
        const change = this.tables.begin("a fault");
        this.tables.write(change, "floors", String(lane), floor);
        this.tables.commit(change);
      },
    });
  }

  /** Committed rows of a business table, in the order in which they were committed. */
  rows<T = unknown>(table: string): readonly T[] {
    return this.tables.entries(null, `user ${table}`).map(([, row]) => structuredClone(row) as T);
  }

  /** Transactions that are open now, those whose COMMIT is still under way included. */
  openTransactions(): number {
    return this.tables.open.size;
  }

  /** The state as it is committed now. */
  snapshot(): Snapshot {
    return this.tables.snapshot();
  }

  /** Sets everything back, as a restore from a backup does. Ends all connections. */
  restore(snapshot: Snapshot): void {
    this.#cut();
    // A late COMMIT belongs to a state that is gone.
    for (const transaction of [...this.tables.open]) this.tables.rollback(transaction);
    this.tables.restore(snapshot);
  }

  /** A value that was never handed out before, also not before a restore. @internal */
  token(): string {
    this.#numbers += 1;
    return `${this.incarnation}-${this.#numbers}`;
  }

  /** @internal */
  connect(client: ClientSetting): Connection {
    if (this.#desk.down) {
      throw new MemoryDatabaseError("unavailable", "the database cannot be reached", true);
    }
    this.#numbers += 1;
    const connection = new Connection(String(this.#numbers), this.#setting, client);
    this.#connections.add(connection);
    return connection;
  }

  /** @internal */
  disconnect(connection: Connection): void {
    this.#connections.delete(connection);
    if (!connection.lost) connection.cut();
  }

  /** @internal */
  isReadOnly(): boolean {
    return this.#desk.isReadOnly();
  }

  /** @internal */
  listen(listener: WakeListener, client: string): () => void {
    const entry = { ...listener };
    this.#listeners.set(entry, client);
    return () => this.#listeners.delete(entry);
  }

  /** @internal */
  wake(kind: keyof WakeListener, client: string): void {
    for (const [listener, owner] of this.#listeners) {
      if (owner === client || !this.#desk.wakeUpsLost) listener[kind]();
    }
  }

  #cut(client?: string): void {
    for (const connection of this.#connections) {
      if (client === undefined || connection.client === client) connection.cut();
    }
  }
}

interface Acts {
  readonly cut: (client?: string) => void;
  readonly setFloor: DatabaseFaults["setFloor"];
}

function faultsOf(desk: FaultDesk, { cut, setFloor }: Acts): DatabaseFaults {
  return {
    get onStatement() {
      return desk.onStatement;
    },
    set onStatement(hook) {
      desk.onStatement = hook;
    },
    get onCommit() {
      return desk.onCommit;
    },
    set onCommit(hook) {
      desk.onCommit = hook;
    },
    breakNextCommit: (fault, client) => desk.breakNextCommit(fault, client),
    deliverLateCommits: () => desk.deliverLateCommits(),
    cutConnections: cut,
    outage: (on) => {
      desk.down = on;
      if (on) cut();
    },
    readOnly: (on) => desk.readOnly(on),
    loseWakeUps: (on) => {
      desk.wakeUpsLost = on;
    },
    setFloor,
  };
}

/** A database of its own, empty. */
export function memoryDatabase(options: MemoryDatabaseOptions = {}): MemoryDatabase {
  return new MemoryDatabase(options);
}
