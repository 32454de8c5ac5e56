// Owns what is done to the workers of a run: a plan drawn from a seed, and its performance. An act
// that aims waits until its victim stands still at a logged point, so that none misses.

import type { Crew, Heard, Member } from "./crew.ts";
import { isTurnPoint, type Point, type TurnPoint } from "./points.ts";

/**
 * `kill`: SIGKILL. `stop`: SIGSTOP past the session, until another worker has the partition, then
 * SIGCONT; at a point of a turn, past its lease, until another worker has applied the message. Both
 * while the victim stands at that point; `anywhere` is where it happens to be, even before it has
 * started. `leave`: ends in good order, and another one joins.
 */
export type ActName = `kill ${Point}` | `stop ${StopPoint}` | "kill anywhere" | "leave";

/** With COMMIT on its way a turn ends by itself, and nobody else ever has it. */
type StopPoint = Exclude<Point, "removing">;

/** How many of each. */
export type ActCounts = Readonly<Partial<Record<ActName, number>>>;

interface Act {
  readonly kind: "kill" | "stop" | "leave";
  /** Null: anywhere. */
  readonly point: Point | null;
  readonly place: number;
  /**
   * Whether the next act waits until another worker has taken the victim's partition; after a kill in a
   * turn, until the one that replaces it has one.
   */
  readonly patient: boolean;
}

/** Numbers in [0, 1), the same for the same seed (mulberry32). */
export function chanceOf(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

export function planOf(counts: ActCounts, places: number, chance: () => number): Act[] {
  const names = (Object.keys(counts) as ActName[]).flatMap((name) =>
    Array.from({ length: counts[name] ?? 0 }, () => ({ name, rank: chance() })),
  );
  let patient = true;
  return names
    .sort((a, b) => a.rank - b.rank)
    .map(({ name }) => {
      const [kind, point = "anywhere"] = name.split(" ") as [Act["kind"], Point | "anywhere"];
      // Two in a row overlap at times, never three: somebody has to be left to go on.
      patient = !patient || chance() < 0.5;
      const place = Math.floor(chance() * places);
      return { kind, point: point === "anywhere" ? null : point, place, patient };
    });
}

export interface Stage {
  readonly crew: Crew;
  readonly sessionTimeoutMs: number;
  /** Lets the producer go on by a third of an act's share. */
  readonly feed: () => void;
  /** Lets it go on by a little, for a victim that has nothing to do. */
  readonly nudge: () => void;
}

/** What a step of a worker says of a chunk. */
interface ChunkStep {
  readonly partition: number;
  readonly epoch: bigint;
  readonly firstOffset: bigint;
}

/** Timers may fire a little early. */
const marginMs = 100;

export async function perform(act: Act, stage: Stage): Promise<void> {
  const { crew, feed } = stage;
  if (act.point !== null) return atPoint(act, act.point, stage);
  feed();
  if (act.kind === "leave") await crew.dismiss(act.place);
  else await crew.replace(act.place);
  feed();
  feed();
}

async function atPoint(act: Act, point: Point, stage: Stage): Promise<void> {
  const { crew, feed, nudge } = stage;
  const member = crew.member(act.place);
  await claimed(crew, member);
  const freezing = crew.freeze(member, point, nudge);
  feed();
  const frozen = await freezing;
  const since = crew.heard.length;
  feed();
  if (isTurnPoint(point)) {
    await inTurn(act, point, stage, member, String(frozen.data?.id), since);
    feed();
    return;
  }
  const chunk = chunkOf(frozen.data ?? {});
  if (act.kind === "kill") {
    await crew.replace(act.place);
    if (act.patient) await takenOver(crew, member, chunk, since);
  } else {
    await stopped(point, stage, member, chunk, since);
  }
  feed();
}

/** A victim needs something to lose: the newest assignment has to be claimed. */
async function claimed(crew: Crew, { life }: Member): Promise<void> {
  await crew.waitFor(`${life.name} to claim a partition`, ({ worker, step }) => {
    if (worker !== life.name || step.step !== "inbox.claimed") return false;
    const assigned = life.steps.findLast((each) => each.step === "inbox.assigned");
    return assigned !== undefined && life.steps.indexOf(step) > life.steps.indexOf(assigned);
  });
}

/** Any process may try the message when the lease has run out, and nobody may before. */
async function inTurn(
  act: Act,
  point: TurnPoint,
  { crew }: Stage,
  member: Member,
  id: string,
  since: number,
): Promise<void> {
  if (act.kind === "kill") {
    await crew.replace(act.place);
    if (act.patient) await claimed(crew, crew.member(act.place));
    return;
  }
  const { name } = member.life;
  const applied = ({ worker, step }: Heard) =>
    worker !== name && step.step === "inbox.redriven" && step.data?.id === id;
  await crew.waitFor(`another worker than ${name} to apply parked message ${id}`, applied, since);
  const resumed = crew.heard.length;
  member.process.kill("SIGCONT");
  await crew.waitFor(
    `${name} to be told off at ${point}`,
    (heard) => heard.worker === name && endsTurn(heard.step, id),
    resumed,
  );
  const joined = ({ worker, step }: Heard) => worker === name && step.step === "inbox.assigned";
  await crew.waitFor(`${name} to join again`, joined, resumed);
}

/** Whether the step tells what became of a turn: it was refused, or its transaction has ended. */
export function endsTurn({ step, data }: Heard["step"], id: string): boolean {
  if (data?.id !== id) return false;
  return step === "turn-ended" || (step === "turn-opened" && data.held === false);
}

/** Past the session and, where the chunk was not begun, past its end; then it goes on. */
async function stopped(
  point: Point,
  stage: Stage,
  member: Member,
  chunk: ChunkStep,
  since: number,
): Promise<void> {
  const { crew, sessionTimeoutMs } = stage;
  const { name } = member.life;
  const overdue = new Promise((resolve) => setTimeout(resolve, sessionTimeoutMs + marginMs));
  await takenOver(crew, member, chunk, since);
  if (point === "opening") await committedBehind(crew, member, chunk, since);
  // By definition of this act. A rebalance that was under way may have moved the partition sooner.
  await overdue;
  const resumed = crew.heard.length;
  member.process.kill("SIGCONT");
  if (point === "opening") {
    await crew.waitFor(`${name} to be told off`, (heard) => endsStale(heard, name, chunk), resumed);
  }
  // Back among the living: kafkajs has noticed, and joined again.
  const joined = ({ worker, step }: Heard) => worker === name && step.step === "inbox.assigned";
  await crew.waitFor(`${name} to join again`, joined, resumed);
}

async function takenOver(crew: Crew, member: Member, chunk: ChunkStep, since: number) {
  const { name } = member.life;
  await crew.waitFor(
    `a takeover of partition ${chunk.partition} from ${name}`,
    ({ worker, step }) =>
      worker !== name &&
      step.step === "inbox.claimed" &&
      Number(step.data?.partition) === chunk.partition &&
      BigInt(String(step.data?.epoch)) > chunk.epoch,
    since,
  );
}

async function committedBehind(crew: Crew, member: Member, chunk: ChunkStep, since: number) {
  const { name } = member.life;
  await crew.waitFor(
    `another worker to commit ${chunk.firstOffset} of partition ${chunk.partition}`,
    ({ worker, step }) =>
      worker !== name &&
      step.step === "inbox.chunk-committed" &&
      Number(step.data?.partition) === chunk.partition &&
      BigInt(String(step.data?.nextOffset)) > chunk.firstOffset,
    since,
  );
}

/** Whether the step is the end of a chunk that its worker had no right to any more. */
export function endsStale({ worker, step }: Heard, name: string, chunk: ChunkStep): boolean {
  if (worker !== name || Number(step.data?.partition) !== chunk.partition) return false;
  if (step.step !== "inbox.fenced" && step.step !== "inbox.chunk-committed") return false;
  return BigInt(String(step.data?.epoch)) === chunk.epoch;
}

export function chunkOf(data: Readonly<Record<string, unknown>>): ChunkStep {
  return {
    partition: Number(data.partition),
    epoch: BigInt(String(data.epoch)),
    firstOffset: BigInt(String(data.firstOffset)),
  };
}
