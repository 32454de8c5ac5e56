// Owns the watch over parked messages: every change of their rows as it is committed, the turns in
// which they are tried, and which processes ended meanwhile. A message is given up for what it did
// itself, and for nothing else.

import type { ParkedTransaction, ParkedTurn } from "@oncebox/core";
import { behind, type MemoryTx } from "@oncebox/testing";
import type { Parked } from "../fixtures/checker.ts";
import { lettersTopic, type OpenTransaction, type StoredPosition, type World } from "./world.ts";

/** What is wrong about each. */
export const parkedManners = {
  strayTurn: "parked messages tried by a process that does not hold their turn",
  uncounted: "tries of parked messages that were not written down before",
  overcounted: "attempts that no run of a handler has spent",
  condemned: "messages given up for processes that they did not end",
  killLoop: "messages that end process after process and are never given up",
  vanished: "parked messages that were taken away by nobody who may",
  unsettled: "parked messages that could be tried, and that nobody tries",
  unlettered: "deaths of parked messages and letters of them that were not committed together",
} as const;

/** A row of parked messages, as far as it is looked at from outside. */
interface StoredParked {
  readonly id: bigint;
  readonly partition: number;
  readonly record: ParkedTurn["record"];
  readonly key: string | null;
  readonly state: "waiting" | "retrying" | "dead";
  readonly attempts: number;
  readonly token: string | null;
  readonly error: { readonly code: string } | null;
}

/** A row of the outbox that is a letter. */
interface StoredLetter {
  readonly topic: string;
  readonly value: Uint8Array | null;
}

/** A try of a parked message, as the outside knows it. */
interface Turn {
  readonly client: string | null;
  readonly row: string;
  /** Whether who took it has begun. */
  begun: boolean;
  /** Whether its handler has failed by itself. */
  failed: boolean;
}

const kills = "message-kills-process";
/** Processes in a row that end while a message is tried alone, before it is given up. */
const endsMin = 2;
/** More than any settings allow: in crowds, alone, and parked. */
const killsMax = 16;

export class ParkedWatch {
  readonly found: { readonly [K in keyof typeof parkedManners]: string[] } = {
    strayTurn: [],
    uncounted: [],
    overcounted: [],
    condemned: [],
    killLoop: [],
    vanished: [],
    unsettled: [],
    unlettered: [],
  };
  readonly #world: World;
  /** By token. */
  readonly #turns = new Map<string, Turn>();
  /** By connection. */
  readonly #tried = new Map<string, { readonly worker: string; readonly token: string }>();
  readonly #turnOf = new WeakMap<MemoryTx, Turn>();
  /** By row. */
  readonly #endedTurns = new Map<string, number>();
  /** Claims whose process ended while it tried a message alone, by partition and offset. */
  readonly #endedTries = new Map<string, Set<string>>();
  readonly #killed = new Map<string, number>();
  /** Processes that ended, or stood still: what they had sent may arrive later. */
  readonly #ended = new Set<string>();
  /** Those of them that have not gone on. */
  readonly #away = new Set<string>();

  constructor(world: World) {
    this.#world = world;
    world.committing.push((transaction, client) => this.#committed(transaction, client));
  }

  /** What is parked now. */
  rows(): readonly (StoredParked & { readonly message: string; readonly isHead: boolean })[] {
    const rows = this.#world.rowsOf("parked") as readonly StoredParked[];
    return rows.map((row) => {
      const isHead = !rows.some(
        ({ key, partition, record }) =>
          key !== null &&
          key === row.key &&
          partition === row.partition &&
          record.offset < row.record.offset,
      );
      return { ...row, isHead, message: messageOf(row) };
    });
  }

  /** Whoever took the turn is about to open its transaction. */
  opening({ token }: ParkedTurn): void {
    const turn = this.#turns.get(token);
    if (turn !== undefined) turn.begun = true;
  }

  isTurn(tx: MemoryTx): boolean {
    return this.#turnOf.has(tx);
  }

  /** The transaction of a turn, watched. */
  opened(
    worker: string,
    { token }: ParkedTurn,
    transaction: ParkedTransaction<MemoryTx>,
  ): ParkedTransaction<MemoryTx> {
    const known = this.#turns.get(token);
    return {
      ...transaction,
      handle: (use) => {
        const handle = transaction.handle(use);
        this.tried(worker, behind(handle.tx).connection, token);
        if (known !== undefined) this.#turnOf.set(handle.tx, known);
        return handle;
      },
    };
  }

  /** Under which turn a connection tries what it takes away in the end. */
  tried(worker: string, connection: string, token: string): void {
    this.#tried.set(connection, { worker, token });
  }

  /** A run of a handler fails by what it does itself. */
  failing(tx: MemoryTx): void {
    const turn = this.#turnOf.get(tx);
    if (turn !== undefined) turn.failed = true;
  }

  killing(message: string): void {
    const times = (this.#killed.get(message) ?? 0) + 1;
    this.#killed.set(message, times);
    if (times === killsMax) this.found.killLoop.push(`${message}: ${times} processes`);
  }

  /**
   * A process is killed, or stands still: what it tries may be held against the message, also where it
   * tried others at the same time.
   */
  ending(worker: string, holders: ReadonlyMap<string, string | null>): void {
    this.#ended.add(worker);
    this.#away.add(worker);
    for (const row of this.#world.rowsOf("parked") as readonly StoredParked[]) {
      const turn = row.token === null ? undefined : this.#turns.get(row.token);
      if (turn?.client === worker) count(this.#endedTurns, turn.row);
    }
    for (const { partition, token, trying } of this.#world.committed().values()) {
      if (token !== null && holders.get(token) === worker) this.#endedTry(partition, token, trying);
    }
  }

  /** A process that stood still goes on: what it tries from now on it can say itself. */
  thawing(worker: string): void {
    this.#away.delete(worker);
  }

  #endedTry(partition: number, token: string | null, trying: StoredPosition["trying"]): void {
    if (token === null || trying === null) return;
    const at = `${partition}@${trying.offset}`;
    this.#endedTries.set(at, (this.#endedTries.get(at) ?? new Set()).add(token));
  }

  /** Every message that was ever parked. */
  history(): readonly Parked[] {
    const { database } = this.#world;
    const there = new Set(this.rows().map(({ message }) => message));
    const skipped = new Set(database.rows<string>("skipped"));
    return [...new Set(database.rows<string>("parked"))].map((id): Parked => {
      if (there.has(id)) return { id, end: "parked" };
      return { id, end: skipped.has(id) ? "skipped" : null };
    });
  }

  /** All had their time. */
  ended(): void {
    for (const { isHead, state, message } of this.rows()) {
      if (isHead && state !== "dead") this.found.unsettled.push(`${message}: ${state}`);
    }
  }

  #committed(transaction: OpenTransaction, client: string | null): void {
    for (const { row } of transaction.changes.get("partitions")?.values() ?? []) {
      const { partition, token, trying } = row as StoredPosition;
      if (client !== null && this.#away.has(client)) this.#endedTry(partition, token, trying);
      if (trying !== null) this.#tries(partition, trying);
    }
    const died: string[] = [];
    for (const [name, { row }] of transaction.changes.get("parked") ?? []) {
      const before = this.#world.row("parked", name) as StoredParked | undefined;
      const after = row as StoredParked | undefined;
      if (after?.state === "dead" && before?.state !== "dead") died.push(messageOf(after));
      if (after === undefined) this.#gone(name, before, transaction);
      else if (before === undefined) this.#parked(after, transaction);
      else if (after.state === "retrying") this.#taken(name, before, after, client);
      else if (before.state === "retrying") this.#settled(name, before, after, transaction);
    }
    const written = [...(transaction.changes.get("outbox")?.values() ?? [])]
      .map(({ row }) => row as StoredLetter | undefined)
      .flatMap((row) => (row?.topic === lettersTopic ? [messageOf({ record: row })] : []));
    if (died.join() !== written.join()) {
      this.found.unlettered.push(`died: ${died.join()}; letters: ${written.join()}`);
    }
  }

  /** Of the claims that are held against a message, all but the one at hand have ended with it. */
  #tries(partition: number, { offset, claims }: NonNullable<StoredPosition["trying"]>): void {
    const before = this.#world.committed().get(partition)?.trying;
    if (before?.offset === offset && before.claims >= claims) return;
    const ended = this.#endedTries.get(`${partition}@${offset}`)?.size ?? 0;
    if (claims - 1 <= ended || Number.isFinite(this.#world.restoredAt)) return;
    this.found.overcounted.push(`${partition}@${offset}: ${claims} claims, ${ended} ended`);
  }

  #parked(row: StoredParked, transaction: OpenTransaction): void {
    this.#write(transaction, "parked", messageOf(row));
    const at = `${row.partition}@${row.record.offset}`;
    if (row.error?.code === kills && (this.#endedTries.get(at)?.size ?? 0) < endsMin) {
      this.found.condemned.push(`${messageOf(row)} at ${at}`);
    }
    const blocked = this.#world.blocked.get(at) ?? 0;
    if (row.attempts > blocked) {
      this.found.overcounted.push(`${messageOf(row)} at ${at}: ${row.attempts}, failed ${blocked}`);
    }
  }

  #taken(name: string, before: StoredParked, after: StoredParked, client: string | null): void {
    const { token } = after;
    if (token === null || token === before.token) return;
    const last = before.token === null ? undefined : this.#turns.get(before.token);
    // Nobody can tell a process that never heard of its turn from one that ended.
    // And a database that was set back has forgotten how the turn it remembers has ended.
    const forgotten = before.state === "retrying" && Number.isFinite(this.#world.restoredAt);
    if (last?.begun === false || forgotten) count(this.#endedTurns, name);
    // Who lives gives back what it was not told of.
    const alive = last?.client != null && !this.#ended.has(last.client);
    if (last?.begun === false && alive && !Number.isFinite(this.#world.restoredAt)) {
      this.found.overcounted.push(
        `${messageOf(after)}: ${before.attempts}, and nobody has begun it`,
      );
    }
    this.#turns.set(token, { client, row: name, begun: false, failed: false });
    if (after.attempts !== before.attempts + 1) {
      this.found.uncounted.push(`${messageOf(after)}: ${after.attempts} after ${before.attempts}`);
    }
  }

  #settled(
    name: string,
    before: StoredParked,
    after: StoredParked,
    { connection }: OpenTransaction,
  ): void {
    const turn = before.token === null ? undefined : this.#turns.get(before.token);
    const verb = this.#world.verbs.get(connection);
    if (verb === "release-parked" && turn?.begun) {
      this.found.uncounted.push(`${messageOf(after)}: given back by who tries it`);
    }
    if (verb !== "settle-parked") return;
    const code = after.error?.code;
    if (code === kills) {
      if (!this.#endedTurns.has(name)) this.found.condemned.push(messageOf(after));
    } else if (after.attempts === before.attempts && !turn?.failed && code !== "handler-timed-out")
      this.found.overcounted.push(`${messageOf(after)}: ${after.attempts}, and did not fail`);
  }

  #gone(name: string, row: StoredParked | undefined, transaction: OpenTransaction): void {
    if (row === undefined) return;
    this.#endedTurns.delete(name);
    const { connection } = transaction;
    if (this.#world.verbs.get(connection) === "change-parked") {
      this.#write(transaction, "skipped", messageOf(row));
    } else if (!this.#world.turns.has(connection)) this.found.vanished.push(messageOf(row));
    const tried = this.#tried.get(connection);
    // Only now: whose turn ran out before may hear of its beginning long after.
    if (tried !== undefined && tried.token !== row.token) {
      this.found.strayTurn.push(`${messageOf(row)} by ${tried.worker}`);
    }
  }

  /** Beside the change and with it, as a trigger does: what a restore undoes never was. */
  #write({ changes }: OpenTransaction, table: string, message: string): void {
    const rows = changes.get(`user ${table}`) ?? new Map();
    changes.set(`user ${table}`, rows.set(message, { row: message }));
  }
}

const decoder = new TextDecoder();

function messageOf({ record }: { readonly record: { readonly value: Uint8Array | null } }): string {
  const { id } = JSON.parse(decoder.decode(record.value ?? new Uint8Array())) as { id: string };
  return id;
}

function count(counts: Map<string, number>, name: string): void {
  counts.set(name, (counts.get(name) ?? 0) + 1);
}
