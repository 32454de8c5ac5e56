// Owns the watch over what is forgotten: every id that is deleted, as it is committed, held against what
// the log still holds unread. Knows the times of records by the log, not by the rows of ids.

import { sha256First16 } from "@oncebox/core";
import { type OpenTransaction, orders, type World } from "./world.ts";

/** What is wrong about each. */
export const idManners = {
  forgotten: "ids deleted although their message may still come again within the window",
} as const;

/** A row of an id, as far as it is looked at from outside. */
interface StoredId {
  readonly taker: { readonly partition: number; readonly offset: bigint } | null;
}

interface StoredParked {
  readonly partition: number;
  readonly record: { readonly offset: bigint };
}

interface Known {
  readonly message: string;
  /** Of the record that took the id. */
  readonly time: bigint;
}

const table = "forgotten";

export class IdWatch {
  readonly found: { readonly [K in keyof typeof idManners]: string[] } = { forgotten: [] };
  readonly #world: World;
  readonly #windowMs: bigint;
  /** By id and place. */
  readonly #known = new Map<string, Known>();

  constructor(world: World) {
    this.#world = world;
    const { windowMs } = world.plan;
    this.#windowMs = BigInt(windowMs ?? 0);
    if (windowMs !== null) world.committing.push((transaction) => this.#committed(transaction));
  }

  /** Messages whose id was deleted as it may be, once for each time: what comes behind is new. */
  history(): readonly string[] {
    return this.#world.database.rows<string>(table);
  }

  #committed(transaction: OpenTransaction): void {
    for (const [key, { row }] of transaction.changes.get("ids") ?? []) {
      if (row !== undefined) this.#taken(key, row as StoredId);
      else this.#deleted(key, transaction);
    }
  }

  #taken(key: string, row: StoredId): void {
    const { taker } = row;
    if (taker === null) return;
    const { partition, offset } = taker;
    const limits = { recordsMax: 1, bytesMax: Number.POSITIVE_INFINITY, uncommitted: true };
    const [record] = this.#world.log(partition).read(offset, limits)?.records ?? [];
    // Taken away while it was handled: what is not known is not judged.
    if (record?.offset !== offset) return;
    const { id } = JSON.parse(decoder.decode(record.value ?? noValue)) as { readonly id: string };
    // Nor is a log that was made anew meanwhile.
    if (!key.includes(hexOf(sha256First16(encoder.encode(id))))) return;
    this.#known.set(nameOf(key, row), { message: id, time: record.timestamp });
  }

  #deleted(key: string, transaction: OpenTransaction): void {
    const row = this.#world.row("ids", key) as StoredId | undefined;
    const known = row === undefined ? undefined : this.#known.get(nameOf(key, row));
    if (row === undefined || known === undefined) return;
    const why = this.#stillNeeded(row, known);
    if (why !== null) this.found.forgotten.push(`${known.message}: ${why}`);
    else this.#write(transaction, known.message);
  }

  /** What speaks for keeping it; null: nothing. */
  #stillNeeded({ taker }: StoredId, { time }: Known): string | null {
    const { clock, plan } = this.#world;
    const until = time + this.#windowMs;
    if (BigInt(clock.epochMs()) <= until) return "the window is not over";
    const parked = this.#world.rowsOf("parked") as readonly StoredParked[];
    for (const { partition, record } of parked) {
      if (partition === taker?.partition && record.offset === taker.offset) return "it is parked";
    }
    const positions = this.#world.committed();
    for (let partition = 0; partition < plan.partitions; partition += 1) {
      const nextOffset = positions.get(partition)?.nextOffset ?? 0n;
      const unread = this.#world.log(partition).stored();
      const near = unread.find(({ offset, timestamp }) => {
        return offset >= nextOffset && timestamp <= until;
      });
      if (near !== undefined) {
        return `${near.timestamp - time} ms later ${orders.name}/${partition}@${near.offset} was written, and is not read`;
      }
    }
    return null;
  }

  /** Beside the change and with it, as a trigger does: what a restore undoes never was. */
  #write({ changes }: OpenTransaction, message: string): void {
    const rows = changes.get(`user ${table}`) ?? new Map();
    const place = `${this.#world.clock.now()} ${message}`;
    changes.set(`user ${table}`, rows.set(place, { row: message }));
  }
}

const encoder = new TextEncoder();
const decoder = new TextDecoder();
const noValue = new Uint8Array();

function nameOf(key: string, { taker }: StoredId): string {
  return `${key} ${taker?.partition}@${taker?.offset}`;
}

function hexOf(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}
