// Owns a stage for outcomes made by hand: one partition, one message that was handled as it should be,
// and the means to do to it what a run would have done. What is found there, tests ask.

import { randomUUID } from "node:crypto";
import {
  type BrokerRecord,
  type OnceboxEvent,
  type OutgoingRecord,
  type ParkedTurn,
  PositionError,
  type RecordRef,
  sha256First16,
} from "@oncebox/core";
import { memoryStorage } from "@oncebox/testing";
import { Happenings } from "./happenings.ts";
import { Hits } from "./hits.ts";
import { IdWatch } from "./ids.ts";
import { Manners } from "./manners.ts";
import { ParkedWatch } from "./parked.ts";
import { type Plan, planOf } from "./plan.ts";
import { Sources } from "./sources.ts";
import { judge, Witness } from "./verdict.ts";
import { Worker } from "./worker.ts";
import { consumerName, type EffectRow, lettersTopic, orders, World } from "./world.ts";

/** Of all processes: the one that holds the partition, and another one. */
export const holder = "w0.1";
export const other = "w1.1";
export const at = { consumer: consumerName, topic: orders.name, partition: 0 };
export const assigned = {
  ...({ type: "inbox.assigned", consumer: consumerName, assignment: 1 } as const),
  partitions: [{ topic: orders.name, partition: 0 }],
};
const noMark = { topicId: null, leaderEpoch: null, last: null };
const encoder = new TextEncoder();

export class Scene {
  readonly world: World;
  readonly witness = new Witness();
  readonly manners: Manners;
  readonly happenings: Happenings;
  readonly parked: ParkedWatch;
  readonly ids: IdWatch;
  readonly #sources: Sources;
  readonly #storages;

  constructor(change: Partial<Plan>) {
    const plan = { ...planOf(1), source: "log", partitions: 1, publishing: false, committing: 0 };
    this.world = new World({ ...plan, ...change } as Plan, null);
    const { world } = this;
    this.manners = new Manners(world);
    this.parked = new ParkedWatch(world);
    this.ids = new IdWatch(world);
    const worker = new Worker(0, world, {} as ConstructorParameters<typeof Worker>[2]);
    this.happenings = new Happenings(world, [worker]);
    this.#sources = new Sources(world);
    // What the storages below do is theirs by name.
    new Hits(world, [], this.manners, () => undefined);
    const storageOf = (name: string) => memoryStorage({ database: world.database, name });
    this.#storages = { [holder]: storageOf(holder), [other]: storageOf(other) };
  }

  /** Time passes until it is done. */
  async done<R>(work: Promise<R>): Promise<R> {
    let over = false;
    const end = () => {
      over = true;
    };
    work.then(end, end);
    while (!over) await this.world.clock.advance(10);
    return await work;
  }

  say(worker: string, event: OnceboxEvent): void {
    this.witness.event(worker, event);
    this.manners.event(worker, event);
  }

  /** A message that lies in the log, and was meant to. */
  write(number: number) {
    const order = { id: `m${number}`, key: "k", sequence: number };
    const record = { key: order.key, value: JSON.stringify(order) };
    const offset = this.world.outside.admin.produce(orders.name, 0, [record]);
    this.world.written.push({ ...order, state: "acknowledged" });
    return { ...order, partition: 0, offset };
  }

  #claim: Awaited<ReturnType<ReturnType<typeof memoryStorage>["claim"]>> = null;

  /** The first message is written and handled, as it should be. */
  async begin(): Promise<void> {
    const start = new Map([[0, 0n]]);
    const topic = { topic: orders.name, topicId: null, start, added: new Map() };
    const storage = this.#storages[holder];
    const registering = { consumer: consumerName, groupId: consumerName, ...topic };
    await this.done(storage.registerTopic(registering));
    const { offset, ...order } = this.write(1);
    this.say(holder, assigned);
    this.#claim = await this.done(storage.claim({ ...at, owner: holder }, 1_000));
    this.say(holder, { ...at, type: "inbox.claimed", epoch: 1n, nextOffset: 0n, ms: 1 });
    this.say(holder, opening(1));
    await this.advance(holder, 1n);
    await this.#leave({ ...order, offset });
  }

  /** The effect of a message of these. */
  async apply(number: number): Promise<void> {
    const order = { id: `m${number}`, key: "k", sequence: number, partition: 0 };
    this.say(holder, opening(number));
    await this.#leave({ ...order, offset: BigInt(number - 1) });
  }

  async #leave(effect: Omit<EffectRow, "worker">): Promise<void> {
    await this.done(
      this.#storages[holder].transaction(async (tx) => {
        await tx.append("effects", { ...effect, worker: holder });
        await tx.update<number>("totals", effect.key, (sum) => (sum ?? 0) + 1);
      }),
    );
  }

  /** Under the holder's claim, whoever does it. */
  async advance(worker: typeof holder | typeof other, to: bigint): Promise<void> {
    if (this.#claim === null) throw new Error("nobody has claimed");
    const chunk = await this.done(this.#storages[worker].open(this.#claim, []));
    await this.done(chunk.commit(to, noMark));
  }

  /** The next message fails, and is set aside. */
  async park(error: string | null = "handler-failed", attempts = 1): Promise<void> {
    if (this.#claim === null) throw new Error("nobody has claimed");
    const { offset } = this.write(2);
    const record = this.#newest();
    const { key, value, headers, timestamp } = record;
    const chunk = await this.done(this.#storages[holder].open(this.#claim, [refOf(record, 2)]));
    const told = error === null ? null : { code: error, text: "it failed" };
    const stored = { offset, key, value, headers, timestamp };
    const state = "waiting" as const;
    const toPark = [{ record: stored, state, attempts, afterMs: 0, error: told }];
    await this.done(chunk.commit(offset + 1n, noMark, toPark));
  }

  #newest() {
    const [record] = this.world.outside.admin.stored(orders.name).slice(-1);
    if (record === undefined) throw new Error("nothing was written");
    return record;
  }

  /** A message is written. What is returned has it handled, and its id known from then on. */
  send(number: number): () => Promise<void> {
    const { offset } = this.write(number);
    const record = this.#newest();
    return async () => {
      if (this.#claim === null) throw new Error("nobody has claimed");
      this.say(holder, opening(Number(offset) + 1));
      const ref = refOf(record, number);
      const chunk = await this.done(this.#storages[holder].open(this.#claim, [ref]));
      const isNew = chunk.recorded[0] === "new";
      await this.done(chunk.commit(offset + 1n, noMark));
      const order = { id: `m${number}`, key: "k", sequence: number };
      if (isNew) await this.#leave({ ...order, partition: 0, offset });
    };
  }

  /** All ids are deleted. */
  forget(): void {
    const { tables } = this.world.database;
    const transaction = tables.begin("forgetting");
    for (const [name] of tables.entries(transaction, "ids")) {
      tables.write(transaction, "ids", name, undefined);
    }
    tables.commit(transaction);
  }

  /** It failed where its partition waited for it, so often. */
  failed(times: number): void {
    this.world.blocked.set("0@1", times);
  }

  /** A change that no storage makes. Null: it is gone. */
  tamper(change: object | null): void {
    const { tables } = this.world.database;
    const transaction = tables.begin("tampering");
    for (const [name, row] of tables.entries(transaction, "parked")) {
      const changed = change === null ? undefined : { ...(row as object), ...change };
      tables.write(transaction, "parked", name, changed);
    }
    tables.commit(transaction);
  }

  /** The end of a try of what is parked, under a turn. */
  remove(token: string): void {
    this.world.turns.add("tampering");
    this.parked.tried(holder, "tampering", token);
    this.tamper(null);
  }

  async skip(): Promise<void> {
    const page = { limit: 10, above: null };
    const audit = { actor: "test", reason: "it is of no use" };
    const filter = { consumer: consumerName };
    await this.done(this.#storages[other].changeParked({ action: "skip", filter, page, audit }));
  }

  /** The next message is tried alone. */
  async tryAlone(): Promise<void> {
    if (this.#claim === null) throw new Error("nobody has claimed");
    const note = { kind: "trying", offset: 1n } as const;
    await this.done(this.#storages[holder].noteClaim(this.#claim, note));
  }

  /** And a process that does so ends. */
  async endWhileTrying(): Promise<void> {
    await this.tryAlone();
    this.parked.ending(holder, this.manners.holders);
  }

  /** The partition is claimed anew; by one that gave it up before, and said so, or did not. */
  async claimAgain({ left }: { readonly left: boolean }): Promise<void> {
    if (this.#claim === null) throw new Error("nobody has claimed");
    const storage = this.#storages[holder];
    if (left) await this.done(storage.noteClaim(this.#claim, { kind: "left" }));
    this.#claim = await this.done(storage.claim({ ...at, owner: holder }, 1_000));
  }

  async take(worker: typeof holder | typeof other) {
    const request = {
      consumer: consumerName,
      topics: [orders.name],
      limit: 1,
      leaseMs: 1_000,
      token: randomUUID(),
    };
    const [turn] = await this.done(this.#storages[worker].takeParked(request));
    if (turn === undefined) throw new Error("nothing is due");
    return turn;
  }

  async giveBack({ token }: ParkedTurn): Promise<void> {
    await this.done(this.#storages[holder].releaseParked({ consumer: consumerName, token }));
  }

  async settle(turn: ParkedTurn, code: string, counts = true, lettered = true): Promise<void> {
    const error = { code, text: "it failed" };
    const outcome = { state: "dead", counts, afterMs: 0, error } as const;
    const { key, value, headers } = turn.record;
    const letter = { lane: 0, id: "letter", topic: lettersTopic, key, value, headers };
    const letters = lettered ? [letter] : [];
    await this.done(this.#storages[holder].settleParked(turn, outcome, letters));
  }

  /** The handler of a parked message runs, and fails. */
  async fail(worker: typeof holder | typeof other, turn: ParkedTurn): Promise<void> {
    this.parked.opening(turn);
    const opened = await this.done(this.#storages[worker].openParked(turn));
    const transaction = this.parked.opened(worker, turn, opened);
    this.parked.failing(transaction.handle().tx);
    await this.done(transaction.rollback());
  }

  async count(): Promise<void> {
    const storage = this.#storages[holder];
    await this.done(
      storage.transaction((tx) => tx.update<number>("totals", "k", (sum) => (sum ?? 0) + 1)),
    );
  }

  async lease(): Promise<void> {
    const request = { relay: "relay", leaseMs: 60_000, renew: [], acquireMax: 64 };
    await this.done(this.#storages[holder].leaseLanes(request));
    const lanes = Array.from({ length: 64 }, (_, lane) => lane);
    this.say(holder, { type: "outbox.lanes-held", relay: "relay", lanes, relays: 1 });
  }

  /** Retention takes a message that nobody has read; whoever is asked next goes on behind it. */
  async passOver(told: boolean): Promise<void> {
    const { offset } = this.write(2);
    const fault = { at: 0, worker: 0, step: null, act: "retention-ahead", ms: 0 } as const;
    if (!this.happenings.act(fault)) throw new Error("there was nothing to take");
    const details = { from: offset, to: offset };
    const error = new PositionError("position-out-of-range", "gone", { details });
    if (told) this.say(holder, { ...at, type: "inbox.displaced", error, paused: true });
    await this.advance(holder, offset + 1n);
  }

  /** What one process sends: twice the same. */
  async publish(how: "at once" | "in turn"): Promise<void> {
    const producer = this.manners.watched(holder, {
      publish: async (records) => {
        await this.world.clock.sleep(1);
        return { acknowledged: [...records.keys()], unknown: [], refused: [] };
      },
      close: async () => undefined,
    });
    const key = encoder.encode("k");
    const record: OutgoingRecord = { ...at, key, value: null, headers: [] };
    const first = producer.publish([record]);
    if (how === "in turn") await this.done(first);
    await this.done(Promise.all([first, producer.publish([record])]));
  }

  found(): Readonly<Record<string, readonly string[]>> {
    const { world, witness, manners, happenings, parked, ids } = this;
    const judged = { sources: this.#sources, happenings, manners, parked, ids };
    return Object.fromEntries(judge(world, witness, judged));
  }
}

/** By which a message of this number is known. */
function refOf(
  { offset, timestamp, key }: Pick<BrokerRecord, "offset" | "timestamp" | "key">,
  number: number,
): RecordRef {
  const id = sha256First16(encoder.encode(`m${number}`));
  return { offset, timestamp, checksum: number, source: orders.name, id, key };
}

export function opening(messages: number): OnceboxEvent & { type: "inbox.chunk-opening" } {
  const endOffset = BigInt(messages);
  const span = { epoch: 1n, firstOffset: 0n, endOffset, messages };
  return { ...at, type: "inbox.chunk-opening", ...span };
}
