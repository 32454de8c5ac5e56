// Owns what the steps of one script have made so far: claims, transactions, handles, leases, reads;
// and what is read at the end. A name that stands for nothing is an outcome, not a fault.

import type {
  ChunkTransaction,
  LaneLease,
  OutboxRow,
  PartitionClaim,
  RecordRef,
} from "@oncebox/core";
import type { CommitFault, OwnTransaction } from "@oncebox/testing";
import { uniqueName } from "../fixtures/names.ts";
import {
  type Labels,
  positionsInWords,
  rowsInWords,
  ThrownByWork,
  Unmade,
} from "./storage-outcome.ts";
import type { Actor, Script, ScriptId, ScriptRecord, Step } from "./storage-script.ts";
import type { StorageSide } from "./storage-side.ts";

/** A transaction by `storage.transaction`, led from outside. */
export interface Work<Tx> {
  readonly tx: Tx;
  readonly end: (error: Error | null) => Promise<void>;
}

export type Open<Tx> = { readonly actor: Actor } & (
  | { readonly kind: "chunk"; readonly chunk: ChunkTransaction<Tx>; readonly claim: PartitionClaim }
  | { readonly kind: "own"; readonly own: OwnTransaction<Tx> }
  | { readonly kind: "work"; readonly work: Work<Tx> }
);

export class Scene<Tx> {
  readonly side: StorageSide<Tx>;
  readonly labels: Labels;
  /** A database outlives its scripts; they share no consumer. */
  readonly consumer = uniqueName("consumer");
  readonly claims = new Map<string, PartitionClaim>();
  /** Also those that have ended: what is done to them then is an outcome as well. */
  readonly made = new Map<string, Open<Tx>>();
  /** Names of transactions that the database holds open. */
  readonly open = new Set<string>();
  readonly handles = new Map<string, { readonly tx: Tx; readonly end: () => void }>();
  /** Which transaction a handle is of, where it has a name of its own. */
  readonly ofHandle = new Map<string, string>();
  readonly leases = new Map<string, readonly LaneLease[]>();
  readonly tokens = new Map<number, string>();
  readonly reads = new Map<string, readonly OutboxRow[]>();
  #late = 0;
  #armed: { readonly fault: CommitFault; readonly deliver: () => void } | null = null;

  constructor(side: StorageSide<Tx>, labels: Labels) {
    this.side = side;
    this.labels = labels;
  }

  openCount(): number {
    return this.open.size + this.#late;
  }

  actorOf(name: string): Actor {
    return this.made.get(name)?.actor ?? "a";
  }

  /** The name of the transaction that a step works in; null: in none that is open. */
  transactionOf(step: Step): string | null {
    if ("in" in step) return this.ofHandle.get(step.in) ?? step.in;
    return "of" in step ? step.of : null;
  }

  armed(fault: CommitFault, deliver: () => void): void {
    this.#armed = { fault, deliver };
  }

  /** The COMMIT that was broken was that of an open transaction, which hangs until it arrives. */
  hangs(): void {
    if (this.#armed?.fault === "request-late") this.#late += 1;
  }

  deliver(): void {
    this.#armed?.deliver();
    this.#armed = null;
    this.#late = 0;
  }

  /** The handle of that name, or that of the transaction, made when it is first asked for. */
  txOf(name: string): Tx {
    const known = this.handles.get(name);
    if (known !== undefined) return known.tx;
    const open = found(this.made.get(name));
    const handle =
      open.kind === "chunk"
        ? open.chunk.handle()
        : { tx: open.kind === "own" ? open.own.tx : open.work.tx, end: () => {} };
    this.handles.set(name, handle);
    return handle.tx;
  }

  async endAll(): Promise<void> {
    for (const name of [...this.open]) {
      const open = this.made.get(name);
      this.open.delete(name);
      if (open?.kind === "chunk") await open.chunk.rollback();
      else if (open?.kind === "own") await open.own.rollback().catch(() => {});
      else if (open?.kind === "work") await open.work.end(new ThrownByWork()).catch(() => {});
    }
  }
}

export function found<T>(thing: T | undefined): T {
  if (thing === undefined) throw new Unmade();
  return thing;
}

export const checksum = 7;
const topic = "orders";
export const usualTopic = topic;

/** 16 bytes, in no order that follows from `n`. */
export function idOf(n: number): Uint8Array {
  const bytes = new Uint8Array(16);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, Math.imul(n + 1, 2_654_435_761));
  view.setUint32(12, n);
  return bytes;
}

export function timeOf(offset: number): bigint {
  return 1_700_000_000_000n + BigInt(offset);
}

export function recordOf(wanted: ScriptRecord): RecordRef {
  const { at, id = at, sum = checksum } = typeof wanted === "number" ? { at: wanted } : wanted;
  return {
    ...{ offset: BigInt(at), timestamp: timeOf(at), source: topic, checksum: sum },
    id: id === null ? null : idOf(id),
    key: null,
  };
}

export function messageOf(wanted: ScriptId) {
  const { id, sum } = typeof wanted === "number" ? { id: wanted, sum: checksum } : wanted;
  return { source: topic, id: idOf(id), checksum: sum };
}

/** What is committed when the script is over. */
export async function finalLines<Tx>(
  scene: Scene<Tx>,
  { steps }: Script,
): Promise<readonly string[]> {
  const { side, labels, consumer } = scene;
  const storage = side.storageOf("a");
  const positions = positionsInWords(await storage.positions(consumer), labels);
  const effects = [...(await side.effects())].sort();
  const lines = [...positions, `effects: ${effects.join(" ") || "none"}`];
  const ids = steps.flatMap((step) => {
    if (step.do === "record")
      return step.ids.map((each) => (typeof each === "number" ? each : each.id));
    if (step.do !== "open") return [];
    return step.records.flatMap((each) => {
      const { at, id = at } = typeof each === "number" ? { at: each } : each;
      return id ?? [];
    });
  });
  const universe = [...new Set(ids)].sort((a, b) => a - b);
  if (universe.length > 0) {
    const probe = await side.begin();
    const seen = await storage.recordIds(probe.tx, consumer, universe.map(messageOf));
    await probe.rollback();
    lines.push(`ids: ${universe.map((id, place) => `${id} ${seen[place]}`).join(", ")}`);
  }
  if (steps.some((step) => step.do === "enqueue")) lines.push(await outboxLine(scene));
  return lines.map((line) => `end: ${line}`);
}

/** All that is in the outbox, read by a relay that comes after all others. */
async function outboxLine<Tx>({ side, leases }: Scene<Tx>): Promise<string> {
  const storage = side.storageOf("a");
  for (const held of leases.values()) await storage.releaseLanes("over", held);
  const late = await storage.leaseLanes({
    relay: "late",
    leaseMs: 60_000,
    renew: [],
    acquireMax: 64,
  });
  const limits = { rows: 1_000, bytes: 10_000_000, pending: [], sweep: true };
  const { rows } = await storage.readLanes(late.leases, limits);
  await storage.releaseLanes("late", late.leases);
  return `outbox: ${late.leases.length} lanes free, ${rowsInWords(rows)}`;
}
