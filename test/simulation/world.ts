// Owns the servers of one run and what is known of them from outside: a cluster and a database in
// memory, the topics, every value a partition's row has had, and the trace. Decides nothing.

import { createHash } from "node:crypto";
import { setImmediate } from "node:timers/promises";
import {
  type BrokerRecord,
  defineTopic,
  json,
  OnceboxError,
  type OnceboxEvent,
} from "@oncebox/core";
import {
  type ManualClock,
  type MemoryBroker,
  type MemoryCluster,
  type MemoryDatabase,
  manualClock,
  memoryBroker,
  memoryCluster,
  memoryDatabase,
} from "@oncebox/testing";
import type { Intent, LogRecord, Position } from "../fixtures/checker.ts";
import type { Plan } from "./plan.ts";

export interface Order {
  readonly id: string;
  readonly key: string;
  /** Place among the messages of its key. */
  readonly sequence: number;
}

export const orders = defineTopic({ name: "orders", value: json<Order>() });
export const invoices = defineTopic({ name: "invoices", value: json<Order>() });
/** Copies of dead orders. */
export const lettersTopic = "orders.dead";
export const consumerName = "billing";
/** Of the lanes of a relay. */
export const leaseDurationMs = 5_000;

/** A row of `effects`: what a handler leaves behind. */
export interface EffectRow extends Order {
  readonly partition: number;
  readonly offset: bigint;
  readonly worker: string;
}

/** What the partition table holds, as far as it is looked at from outside. */
export interface StoredPosition extends Position {
  readonly owner: string | null;
  /** Another one with every claim and every seek. */
  readonly token: string | null;
  /** What is tried alone, written down before. */
  readonly trying: { readonly offset: bigint; readonly claims: number } | null;
}

export type Snapshot = ReturnType<MemoryDatabase["snapshot"]>;

interface Change {
  readonly row: unknown;
}

export interface OpenTransaction {
  readonly state: string;
  readonly connection: string;
  readonly changes: Map<string, Map<string, Change>>;
}

/** The tables behind a memory database: a trigger on a real one sees the same. */
interface TablesBehind {
  commit: (transaction: OpenTransaction) => void;
  get: (transaction: null, table: string, key: string) => unknown;
  entries: (transaction: null, table: string) => readonly (readonly [string, unknown])[];
}

interface LogBehind {
  readonly epoch: number;
  readonly newLeader: () => void;
  /** All that was not aborted. */
  readonly stored: () => readonly BrokerRecord[];
  readonly read: (
    from: bigint,
    limits: {
      readonly recordsMax: number;
      readonly bytesMax: number;
      readonly uncommitted: boolean;
    },
  ) => { readonly records: readonly BrokerRecord[] } | null;
  readonly state: () => {
    readonly start: bigint;
    readonly end: bigint;
    readonly lastStable: bigint;
  };
}

interface TopicBehind {
  id: string;
  readonly logs: readonly LogBehind[];
}

interface ClusterBehind {
  readonly topic: (name: string) => TopicBehind;
  readonly log: (at: { topic: string; partition: number }) => LogBehind;
  readonly groups: ReadonlyMap<
    string,
    {
      readonly offsets: (
        topics: readonly string[],
      ) => readonly { readonly partition: number; readonly offset: bigint }[];
    }
  >;
}

/** Everything that happened, in one number; kept as text only where somebody wants to read it. */
export class Trace {
  readonly #hash = createHash("sha256");
  readonly #sink: ((line: string) => void) | null;
  readonly #clock: ManualClock;
  lines = 0;

  constructor(clock: ManualClock, sink: ((line: string) => void) | null) {
    this.#clock = clock;
    this.#sink = sink;
  }

  note(who: string, what: string): void {
    this.lines += 1;
    const line = `${this.#clock.now().toFixed(3)} ${who} ${what}`;
    this.#hash.update(line);
    this.#sink?.(line);
  }

  event(who: string, event: OnceboxEvent): void {
    let text = event.type as string;
    for (const [name, value] of Object.entries(event)) {
      if (name !== "type" && name !== "consumer" && name !== "topic") text += ` ${shown(value)}`;
    }
    this.note(who, text);
  }

  digest(): string {
    return this.#hash.digest("hex").slice(0, 16);
  }
}

function shown(value: unknown): string {
  if (value instanceof OnceboxError) return `${value.code} (${value.message})`;
  if (value instanceof Error) return value.message;
  if (Array.isArray(value)) return `[${value.map(shown).join(",")}]`;
  if (typeof value !== "object" || value === null) return String(value);
  return Object.values(value).map(shown).join("/");
}

export class World {
  readonly plan: Plan;
  readonly clock: ManualClock;
  readonly cluster: MemoryCluster;
  readonly database: MemoryDatabase;
  /** What others do to the cluster. */
  readonly outside: MemoryBroker;
  readonly trace: Trace;
  /** Every value of every partition's row since the last move by hand. */
  positions: Position[] = [];
  /** Whose connections are whose: names of storages. */
  readonly clients = new Map<string, string>();
  /** The last statement of each connection. */
  readonly verbs = new Map<string, string>();
  /** When the database was set back last. */
  restoredAt = Number.NEGATIVE_INFINITY;
  /** Connections on which a parked message is tried. */
  readonly turns = new Set<string>();
  /** How often a message failed where its partition waits, by partition and offset. */
  readonly blocked = new Map<string, number>();
  /** Told of every transaction when it is about to be committed, and whose it is. */
  readonly committing: ((transaction: OpenTransaction, client: string | null) => void)[] = [];
  /** Told of every value of a partition's row when it is committed, and by whom. */
  moved: (position: StoredPosition, client: string | null) => void = () => undefined;
  /** The database as it was before the last claim, and who claimed. */
  beforeClaim: { readonly state: Snapshot; readonly client: string | null } | null = null;
  /** What others wrote into a log that was cut off or made anew. */
  readonly written: Intent[] = [];
  /** Records that lay in the log and were taken away. */
  readonly gone: LogRecord[] = [];
  /** Records whose transaction was aborted. */
  readonly aborted: LogRecord[] = [];

  constructor(plan: Plan, sink: ((line: string) => void) | null) {
    this.plan = plan;
    this.clock = manualClock({ seed: plan.seed, settled: setImmediate });
    const { clock } = this;
    this.cluster = memoryCluster({ clock });
    this.database = memoryDatabase({ clock, statementMs: () => clock.random() * 4 });
    this.outside = memoryBroker({ clock, cluster: this.cluster, name: "outside" });
    this.trace = new Trace(clock, sink);
    this.outside.admin.createTopic(orders.name, { partitions: plan.partitions });
    this.outside.admin.createTopic(invoices.name, { partitions: 2 });
    this.outside.admin.createTopic(lettersTopic, { partitions: 1 });
    this.#watchPositions();
  }

  get #tables(): TablesBehind {
    return (this.database as unknown as { readonly tables: TablesBehind }).tables;
  }

  get #cluster(): ClusterBehind {
    return this.cluster as unknown as ClusterBehind;
  }

  log(partition: number): LogBehind {
    return this.#cluster.log({ topic: orders.name, partition });
  }

  /** The topic begins anew and looks as before: its id and its leader epochs stay. */
  replaceLogs(): void {
    const before = this.#cluster.topic(orders.name);
    this.outside.admin.recreateTopic(orders.name);
    const topic = this.#cluster.topic(orders.name);
    topic.id = before.id;
    for (const [place, log] of topic.logs.entries()) {
      while (log.epoch < (before.logs[place]?.epoch ?? 0)) log.newLeader();
    }
  }

  /** Rows of the outbox that are committed and not deleted. */
  outboxRows(): number {
    return this.#tables.entries(null, "outbox").length;
  }

  /** What a table of the library holds, as it is committed now. */
  rowsOf(table: string): readonly unknown[] {
    return this.#tables.entries(null, table).map(([, row]) => row);
  }

  row(table: string, key: string): unknown {
    return this.#tables.get(null, table, key);
  }

  /** Who holds a lane, as it is committed now. */
  lane(lane: number): { readonly owner: string; readonly leasedUntil: number } | null {
    const row = this.#tables.get(null, "lanes", String(lane));
    return (row as { owner: string; leasedUntil: number } | undefined) ?? null;
  }

  /** The position that is committed now, by partition. */
  committed(): ReadonlyMap<number, StoredPosition> {
    const rows = this.#tables.entries(null, "partitions").map(([, row]) => row as StoredPosition);
    return new Map(rows.map((row) => [row.partition, row]));
  }

  groupOffsets(): ReadonlyMap<number, bigint> {
    const offsets = this.#cluster.groups.get(consumerName)?.offsets([orders.name]) ?? [];
    return new Map(offsets.map(({ partition, offset }) => [partition, offset]));
  }

  /** Positions were moved by hand or by a restore: the history begins anew with those of now. */
  forgetPositions(moved: number | null = null): void {
    const others = this.positions.filter(({ partition }) => {
      return moved !== null && partition !== moved;
    });
    const now = [...this.committed().values()].filter(({ partition }) => {
      return moved === null || partition === moved;
    });
    this.positions = [...others, ...now];
  }

  #watchPositions(): void {
    const tables = this.#tables;
    const commit = tables.commit.bind(tables);
    tables.commit = (transaction) => {
      if (transaction.state === "open") {
        const whose = this.clients.get(transaction.connection) ?? null;
        for (const tell of this.committing) tell(transaction, whose);
        for (const { row } of transaction.changes.get("partitions")?.values() ?? []) {
          const { consumer, topic, partition, epoch, nextOffset, token } = row as StoredPosition;
          const client = this.clients.get(transaction.connection) ?? null;
          const before = this.committed().get(partition);
          if (before !== undefined && before.epoch < epoch) {
            this.beforeClaim = { state: this.database.snapshot(), client };
          }
          // Whoever gives up a claim may say so later: a note, whoever holds the partition by now.
          const isNote = this.verbs.get(transaction.connection) === "note-claim";
          const stays = before?.nextOffset === nextOffset && before.token === token;
          if (!isNote || !stays) this.moved(row as StoredPosition, client);
          this.positions.push({ consumer, topic, partition, epoch, nextOffset });
        }
      }
      commit(transaction);
    };
  }
}
