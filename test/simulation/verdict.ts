// Owns the judgement of one run: its history for the checker, and what only a simulator can see.

import {
  BrokerError,
  OnceboxError,
  type OnceboxEvent,
  type ParkedTurn,
  PositionError,
} from "@oncebox/core";
import { MemoryDatabaseError } from "@oncebox/testing";
import {
  type Anomaly,
  check,
  type Delivery,
  type Effect,
  type History,
  type Intent,
  type LogEnd,
  type OffsetPair,
} from "../fixtures/checker.ts";
import { PlannedFailure } from "./handler.ts";
import { type Happenings, recordsOf } from "./happenings.ts";
import { type IdWatch, idManners } from "./ids.ts";
import { type Manners, manners } from "./manners.ts";
import { type ParkedWatch, parkedManners } from "./parked.ts";
import type { Sources } from "./sources.ts";
import { type EffectRow, invoices, orders, type World } from "./world.ts";

/** What the checker does not name. */
export const ownAnomalies = {
  attemptSpent: "messages that were blamed for trouble of the database",
  floorAnomaly: "rows of the outbox below their floor",
  unannounced: "records taken away before they were read, of which nobody said so",
  totals: "counters that differ from the effects they count: lost updates",
  absent: "processes that run and are no members of their group",
  unstopped: "processes that did not stop in time",
  broke: "errors that nobody caught",
} as const;

export type Finding =
  | Anomaly
  | keyof typeof ownAnomalies
  | keyof typeof manners
  | keyof typeof parkedManners
  | keyof typeof idManners;

/** A finding, and what was found. */
export type Findings = ReadonlyMap<Finding, readonly string[]>;

interface Range {
  readonly partition: number;
  readonly from: bigint;
  readonly to: bigint;
}

const troubles: ReadonlySet<string> = new Set([
  ...["connection-lost", "unavailable", "read-only"],
  ...["deadlock", "lock-timeout", "statement-timeout"],
]);

/** What the processes say, as far as the judgement needs it. */
export class Witness {
  readonly deliveries: Delivery[] = [];
  readonly announced: Range[] = [];
  readonly blamed: string[] = [];
  readonly belowFloor: string[] = [];
  readonly broken: string[] = [];
  readonly absent: string[] = [];
  readonly unstopped: string[] = [];
  readonly pairs = new Map<string, OffsetPair>();

  event(worker: string, event: OnceboxEvent): void {
    if (event.type === "inbox.chunk-opening") {
      const { topic, partition, firstOffset, endOffset, messages } = event;
      this.deliveries.push({ worker, topic, partition, firstOffset, endOffset, messages });
    } else if (event.type === "inbox.displaced") {
      this.#announce(event.partition, event.error);
    } else if (event.type === "inbox.blocked" || event.type === "inbox.redrive-failed") {
      const why = blame(event.error);
      if (why !== null) this.blamed.push(`${event.partition}@${event.offset}: ${why}`);
    } else if (event.type === "outbox.floor-anomaly") this.belowFloor.push(`${event.rows} rows`);
  }

  /** A parked message is handed to its handler. */
  opening(worker: string, { topic, partition, record }: ParkedTurn): void {
    const [firstOffset, endOffset] = [record.offset, record.offset + 1n];
    this.deliveries.push({ worker, topic, partition, firstOffset, endOffset, messages: 1 });
  }

  broke(error: unknown): void {
    this.broken.push(error instanceof Error ? (error.stack ?? error.message) : String(error));
  }

  /** All are up, and had their time to join. */
  running(workers: Iterable<{ readonly name: string; readonly member: string | null }>): void {
    for (const { name, member } of workers) if (member === null) this.absent.push(name);
  }

  /** All were asked to stop, and had their time for it. */
  stopped(workers: Iterable<{ readonly name: string; readonly down: boolean }>): void {
    for (const { name, down } of workers) if (!down) this.unstopped.push(name);
  }

  /** Where a position was moved back on purpose, the group follows a while later. */
  compare(world: World, moved: ReadonlySet<number>): void {
    const positions = world.committed();
    for (const [partition, groupOffset] of world.groupOffsets()) {
      if (moved.has(partition)) continue;
      const nextOffset = positions.get(partition)?.nextOffset ?? -1n;
      const pair = { topic: orders.name, partition, groupOffset, nextOffset };
      this.pairs.set(`${partition} ${groupOffset} ${nextOffset}`, pair);
    }
  }

  #announce(partition: number, error: OnceboxError): void {
    const { from, to } = error.details as { readonly from?: unknown; readonly to?: unknown };
    if (!(error instanceof PositionError)) return;
    if (typeof from === "bigint" && typeof to === "bigint") {
      this.announced.push({ partition, from, to });
    }
  }
}

/** Failures that are a message's own, whatever lies behind them. */
const ownCodes: ReadonlySet<string> = new Set([
  ...["handler-timed-out", "message-kills-process"],
  ...["transaction-aborted", "transaction-ended-early"],
]);

/** What statements meet in a transaction that an earlier handler has spoilt, or ended. */
const aftermaths: ReadonlySet<string> = new Set(["transaction-aborted", "bad-statement"]);

/** Whether a handler failed for what another one did to their transaction before. */
function failedByAnother(error: OnceboxError): boolean {
  for (let link: unknown = error; link instanceof Error; link = link.cause) {
    if (link instanceof MemoryDatabaseError && aftermaths.has(link.failure)) return true;
    if (link instanceof OnceboxError && link.code === "invalid-handle") return true;
  }
  return false;
}

/** Why a failed handling is no failure of its message; null where it is one, or may look like one. */
function blame(error: OnceboxError): string | null {
  for (let link: unknown = error; link instanceof Error; link = link.cause) {
    if (link instanceof PlannedFailure) return null;
    if (link instanceof MemoryDatabaseError && troubles.has(link.failure)) return link.message;
    if (link instanceof BrokerError) return link.message;
  }
  return ownCodes.has(error.code) || failedByAnother(error) ? null : error.message;
}

/** What has to be looked at besides the servers. */
export interface Judged {
  readonly sources: Sources;
  readonly happenings: Happenings;
  readonly manners: Manners;
  readonly parked: ParkedWatch;
  readonly ids: IdWatch;
}

export function judge(world: World, witness: Witness, judged: Judged): Findings {
  const effects = effectsOf(world);
  const findings = new Map<Finding, readonly string[]>();
  const report = check(historyOf(world, witness, judged, effects));
  for (const [name, list] of Object.entries(report.found)) findings.set(name as Anomaly, list);
  if (world.plan.publishing) {
    const published = check(invoiceHistory(world, effects, judged));
    for (const name of ["unpublished", "uncommitted", "disordered"] as const) {
      const own = published.found[name].map((line) => `invoice ${line}`);
      findings.set(name, [...(findings.get(name) ?? []), ...own]);
    }
  }
  for (const name of Object.keys(manners) as (keyof typeof manners)[]) {
    findings.set(name, judged.manners.found[name]);
  }
  for (const name of Object.keys(parkedManners) as (keyof typeof parkedManners)[]) {
    findings.set(name, judged.parked.found[name]);
  }
  for (const name of Object.keys(idManners) as (keyof typeof idManners)[]) {
    findings.set(name, judged.ids.found[name]);
  }
  findings.set("attemptSpent", witness.blamed);
  findings.set("floorAnomaly", witness.belowFloor);
  findings.set("broke", witness.broken);
  findings.set("absent", witness.absent);
  findings.set("unstopped", witness.unstopped);
  findings.set("totals", wrongTotals(world, effects));
  findings.set("unannounced", unannounced(world, witness, judged, effects));
  // A handler that commits behind our back may be repeated: it must not be lost.
  if (world.plan.committing > 0) {
    for (const name of ["doubled", "totals", "inverted", "parkedAstray"] as const)
      findings.delete(name);
  }
  for (const [name, list] of findings) if (list.length === 0) findings.delete(name);
  return findings;
}

function effectsOf({ database }: World): readonly Effect[] {
  return database.rows<EffectRow>("effects").map((row, place) => {
    return { ...row, topic: orders.name, position: BigInt(place) };
  });
}

function historyOf(
  world: World,
  witness: Witness,
  { sources, happenings, parked, ids }: Judged,
  effects: readonly Effect[],
): History {
  const { aborted, positions, plan } = world;
  const stored = recordsOf(world, orders.name);
  // What was taken away after it was handled owes its effect as if it lay there still.
  const handled = happenings.losses.length === 0 && happenings.moved.size === 0;
  const records = handled ? [...stored, ...world.gone] : stored;
  const gone = handled ? [] : world.gone;
  // What a log lost is nobody's debt: `unannounced` asks whether it was told.
  const kept = new Set(records.map(({ id }) => id));
  const excused = new Set(gone.map(({ id }) => id).filter((id) => !kept.has(id)));
  const intents = [...sources.intents, ...world.written].map((intent): Intent => {
    const lost = intent.state === "acknowledged" && excused.has(intent.id);
    return lost ? { ...intent, state: "unknown" } : intent;
  });
  const logEnds = Array.from({ length: plan.partitions }, (_, partition): LogEnd => {
    return { topic: orders.name, partition, end: world.log(partition).state().end };
  });
  const placed = world.database.rows<string>("placed").filter((id) => !excused.has(id));
  const committed = plan.source === "outbox" ? placed : null;
  return {
    ...{ intents, committed, records, logEnds, effects, positions, gone, aborted },
    deliveries: witness.deliveries,
    parked: parked.history(),
    forgotten: ids.history(),
    offsets: [...witness.pairs.values()],
  };
}

/** What the handlers published: each effect owes one message, in the order of its key's effects. */
/** Skipped, or parked to the end. */
function givenUp({ parked }: Judged): ReadonlySet<string> {
  return new Set(parked.history().flatMap(({ id, end }) => (end === null ? [] : [id])));
}

function invoiceHistory(world: World, effects: readonly Effect[], judged: Judged): History {
  const left = givenUp(judged);
  const records = recordsOf(world, invoices.name);
  const published = new Set(records.map(({ id }) => id));
  // What a handler has committed behind our back stays where its message is dead then or given up, and
  // what it would have published was perhaps never written.
  const torn = ({ id }: Effect) => world.plan.committing > 0 && left.has(id) && !published.has(id);
  const owed = effects.filter((effect) => !torn(effect));
  return {
    intents: owed.map(({ id, key, sequence }) => ({ id, key, sequence, state: "acknowledged" })),
    committed: owed.map(({ id }) => id),
    ...{ records, parked: judged.parked.history(), forgotten: judged.ids.history() },
    ...{ logEnds: [], deliveries: [], effects: [], positions: [], offsets: [] },
  };
}

function wrongTotals({ database }: World, effects: readonly Effect[]): readonly string[] {
  const counted = database.rows<number>("totals").reduce((sum, each) => sum + each, 0);
  return counted === effects.length ? [] : [`${counted} counted, ${effects.length} effects`];
}

/** Records that retention took before they were read; only where nothing else happened to the log. */
function unannounced(
  { gone }: World,
  { announced }: Witness,
  { happenings: { losses, restored }, parked }: Judged,
  effects: readonly Effect[],
): readonly string[] {
  // What was set aside was read before.
  const read = [...effects, ...parked.history()];
  const applied = new Set(read.map(({ id }) => id));
  // A database that was set back to before the consumer's start has it begin anew.
  if (restored) return [];
  return losses
    .filter(({ act, partition }) => {
      const here = losses.filter((loss) => loss.partition === partition);
      return act === "retention-ahead" && here.length === 1;
    })
    .flatMap(({ partition }) =>
      gone.filter((record) => {
        const told = announced.some(
          ({ partition: where, from, to }) =>
            where === partition && from <= record.offset && record.offset <= to,
        );
        return (
          record.partition === partition && record.id !== null && !applied.has(record.id) && !told
        );
      }),
    )
    .map(({ id, partition, offset }) => `${id} at ${partition}@${offset}`);
}
