// Owns the storage scripts made by chance: each follows from its seed, and is the same in every run.

import type { MemoryTx } from "@oncebox/testing";
import { run } from "./storage-run.ts";
import type { Actor, Script, Step } from "./storage-script.ts";
import type { StorageSide } from "./storage-side.ts";

/** Numbers below `n` that follow from a seed (mulberry32). */
export type Chance = (n: number) => number;

export function chanceOf(seed: number): Chance {
  let state = seed | 0;
  return (n) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % n;
  };
}

const actors: readonly Actor[] = ["a", "b", "c"];
const partitions = 2;
const stepCount = 26;

/** What the generator remembers of its own steps, whatever becomes of them. */
interface Memory {
  readonly claims: string[];
  readonly chunks: string[];
  readonly reads: { readonly lease: string; readonly read: string; readonly by: Actor }[];
  readonly leases: { readonly lease: string; readonly by: Actor }[];
  count: number;
}

/** Several processes at once: chunks overlap, claims are taken over, ids and relays meet. */
export function interleaved(seed: number): Script {
  const chance = chanceOf(seed);
  const known: Memory = { claims: [], chunks: [], reads: [], leases: [], count: 0 };
  const steps: Step[] = [
    { do: "register", by: "a", starts: Array.from({ length: partitions }, () => chance(3)) },
    // Names that a database stores on first use are there: who stores them first waits for nobody.
    ...([
      { do: "begin", as: "first" },
      { do: "record", in: "first", by: "a", ids: [99] },
    ] as const),
    { do: "commit", of: "first" },
  ];
  for (const [partition, by] of (["a", "b"] as const).entries()) {
    steps.push(claimStep(known, by, partition));
  }
  while (steps.length < stepCount) steps.push(stepOf(chance, known));
  return { name: `interleaved, seed ${seed}`, steps };
}

function nameOf(known: Memory, prefix: string): string {
  known.count += 1;
  return `${prefix}${known.count}`;
}

function claimStep(known: Memory, by: Actor, partition: number): Step {
  const as = nameOf(known, by);
  known.claims.push(as);
  return { do: "claim", by, as, partition };
}

function pick<T>(chance: Chance, list: readonly T[]): T | undefined {
  // The latest are the interesting ones.
  return list.length === 0 ? undefined : list[list.length - 1 - chance(Math.min(list.length, 3))];
}

function stepOf(chance: Chance, known: Memory): Step {
  const by = actors[chance(actors.length)] as Actor;
  const roll = chance(100);
  if (roll < 12) return claimStep(known, by, chance(partitions));
  if (roll < 34) return openStep(chance, known) ?? stepOf(chance, known);
  if (roll < 72) return chunkStep(chance, known, by) ?? stepOf(chance, known);
  if (roll < 78) return seekStep(chance, by);
  if (roll < 82) return { do: "lost", by, claims: known.claims.slice(-3) };
  return relayStep(chance, known, by);
}

function openStep(chance: Chance, known: Memory): Step | null {
  const claim = pick(chance, known.claims);
  if (claim === undefined) return null;
  const as = nameOf(known, "k");
  known.chunks.push(as);
  const first = chance(6);
  const records = Array.from({ length: chance(4) }, (_, n) => {
    const at = first + n;
    const kind = chance(10);
    if (kind === 0) return { at, id: null };
    if (kind === 1) return { at, sum: 1 };
    return kind < 5 ? { at, id: chance(6) } : { at, id: 10 * (claim.length % 2) + at };
  });
  return { do: "open", by: claim.charAt(0) as Actor, as, claim, records };
}

function chunkStep(chance: Chance, known: Memory, by: Actor): Step | null {
  const chunk = pick(chance, known.chunks);
  if (chunk === undefined) return null;
  const roll = chance(100);
  if (roll < 20) return { do: "effect", in: chunk, text: nameOf(known, "e") };
  if (roll < 30) return { do: "record", in: chunk, by, ids: [chance(6), chance(6)] };
  if (roll < 40) {
    const rows = [nameOf(known, "r"), nameOf(known, "r")];
    return { do: "enqueue", in: chunk, by, lane: chance(3), rows };
  }
  if (roll < 45) return { do: "fail", in: chunk };
  if (roll < 49) return { do: "end secretly", in: chunk, begin: chance(2) === 0 };
  if (roll < 52) return { do: "cut", in: chunk };
  if (roll < 58) return { do: "rollback", of: chunk };
  if (roll < 62) return { do: "destroy", of: chunk };
  if (roll < 66) {
    const fault = chance(2) === 0 ? "request-lost" : "reply-lost";
    return { do: "commit", of: chunk, to: chance(9), fault };
  }
  return { do: "commit", of: chunk, to: chance(9) };
}

function seekStep(chance: Chance, by: Actor): Step {
  const moves = [[chance(partitions), chance(6)]] as const;
  return { do: "seek", by, moves, replay: chance(2) === 0 };
}

function relayStep(chance: Chance, known: Memory, by: Actor): Step {
  const held = pick(chance, known.leases);
  const read = pick(chance, known.reads);
  const roll = chance(100);
  if (held === undefined || roll < 20) {
    const as = nameOf(known, "l");
    known.leases.push({ lease: as, by });
    const renew = held?.by === by && chance(2) === 0 ? { renew: held.lease } : {};
    return { do: "lease", by, as, ms: 5_000, max: [64, 2, 0][chance(3)] ?? 64, ...renew };
  }
  if (roll < 60 || read === undefined) {
    const as = nameOf(known, "q");
    known.reads.push({ ...held, read: as });
    return { do: "read", by: held.by, as, leases: held.lease, sweep: chance(5) === 0 };
  }
  if (roll < 85) return { do: "settle", by: read.by, leases: read.lease, read: read.read };
  if (roll < 92) return { do: "pass", ms: 3_000 };
  return { do: "release", by: held.by, leases: held.lease };
}

/** One transaction after another, for databases with one writer. */
export function serial(seed: number): Script {
  const chance = chanceOf(seed);
  const known: Memory = { claims: [], chunks: [], reads: [], leases: [], count: 0 };
  const starts = Array.from({ length: partitions }, () => chance(3));
  const steps: Step[] = [{ do: "register", by: "a", starts }, claimStep(known, "a", 0)];
  while (steps.length < stepCount) steps.push(...serialSteps(chance, known));
  return { name: `serial, seed ${seed}`, steps };
}

function serialSteps(chance: Chance, known: Memory): readonly Step[] {
  const by = actors[chance(actors.length)] as Actor;
  const roll = chance(100);
  if (roll < 20) return [claimStep(known, by, chance(partitions))];
  if (roll < 30) return [seekStep(chance, by)];
  if (roll < 35) return [{ do: "lost", by, claims: known.claims.slice(-3) }];
  if (roll < 55) {
    const step = relayStep(chance, known, by);
    return step.do === "pass" ? [] : [step];
  }
  const opening = openStep(chance, known);
  if (opening?.do !== "open") return [];
  const { as } = opening;
  const rows = [nameOf(known, "r")];
  const inside: readonly Step[] = [
    { do: "effect", in: as, text: nameOf(known, "e") },
    { do: "record", in: as, by: opening.by, ids: [chance(6), { id: chance(6), sum: 1 }] },
    { do: "enqueue", in: as, by: opening.by, lane: chance(3), rows },
  ];
  const end: Step =
    chance(4) === 0 ? { do: "rollback", of: as } : { do: "commit", of: as, to: chance(9) };
  return [opening, ...inside.slice(0, chance(4)), end];
}

/**
 * Leaves out what a server may answer in more than one way. Where several wait for one lock, it does
 * not say who comes first. Of a circle of waiting it may end any, after a while, where the model ends
 * at once whoever closes it. And a COMMIT that is lost behind a failed statement is unknown where it
 * is sent without waiting, and was never sent where it is not.
 */
export async function comparable(
  script: Script,
  side: () => StorageSide<MemoryTx>,
): Promise<Script> {
  const beyond = placeBeyond(script, await run(script, side()));
  if (beyond === null) return script;
  const steps = script.steps.filter((_, place) => place !== beyond);
  return comparable({ ...script, steps }, side);
}

/** The first step of that kind. */
function placeBeyond({ steps }: Script, lines: readonly string[]): number | null {
  const waiting = new Set<number>();
  for (const line of lines) {
    const number = Number.parseInt(line, 10);
    if (Number.isNaN(number)) continue;
    if (line.endsWith(": waits")) waiting.add(number);
    else waiting.delete(number);
    const step = steps[number - 1];
    const sent = step === undefined || !("fault" in step) || line.includes("commit-unknown");
    if (waiting.size > 1 || line.endsWith("trouble local") || !sent) return number - 1;
  }
  return null;
}
