// Owns what happens in a run without servers, and the proof that it did: accidents that only seemed
// to happen would prove nothing. What it says was read from the database and the broker.

import type { OnceboxEvent } from "@oncebox/core";
import type { OffsetPair } from "../../../test/fixtures/checker.ts";
import { DemoFailure } from "../ending.ts";
import type { Screen } from "../screen.ts";
import type { Actor, Cast, Cues } from "./cast.ts";
import { Gone, type Process } from "./process.ts";
import type { Shop } from "./shop.ts";
import {
  countOf,
  left,
  offsetPairs,
  partitions,
  positionsOf,
  recordsOf,
  type World,
} from "./world.ts";

export interface Story {
  readonly world: World;
  readonly cast: Cast;
  readonly shop: Shop;
  readonly say: Screen["say"];
  /** Whether consumers record no ids. */
  readonly withoutIds: boolean;
}

type Event<T extends OnceboxEvent["type"]> = Extract<OnceboxEvent, { type: T }>;

/** Three accidents, at the three places where two systems commit one after the other. */
export async function play(story: Story): Promise<void> {
  const { shop, say, cast } = story;
  const first = betweenCommits(story);
  const second = insideChunk(story);
  const third = beforeDeletion(story);
  await cast.relay("relay-1", third.cues);
  await cast.consumer("consumer-1", first.cues);
  say("  orders and their messages commit in one transaction; some are rolled back");
  say("  a relay carries committed messages to the broker; a consumer turns them into invoices");
  await shop.placeUntil(0.2);
  await cast.until("the group's offsets were not committed", async () => {
    return (await offsetPairs(story.world)).some(({ groupOffset }) => groupOffset > 0n);
  });
  // Told before the orders come that it happens at: there is no later chance.
  first.arm();
  await Promise.all([shop.placeUntil(0.5), first.happen(second.cues)]);
  second.arm();
  await Promise.all([shop.placeUntil(0.8), second.happen()]);
  third.arm();
  await Promise.all([shop.placeUntil(1), third.happen()]);
  first.conclude();
}

/** After the database's commit, before the one of the group's offsets. */
function betweenCommits(story: Story) {
  const { world, cast, shop, say } = story;
  // So many that the group does not know of yet: otherwise there would be little to see.
  const uncopiedMin = Math.floor(shop.orders / 50);
  let armed = false;
  let uncopied = 0;
  let at = new Map<number, bigint>();
  let deliveriesBefore = 0;
  const event = (event: OnceboxEvent, process: Process) => {
    if (event.type === "inbox.offsets-committed" && event.ok) uncopied = 0;
    if (event.type !== "inbox.chunk-committed") return;
    uncopied += event.applied + event.duplicates;
    if (!armed || uncopied < uncopiedMin) return;
    armed = false;
    process.die();
    at = new Map(positionsOf(world));
    deliveriesBefore = cast.deliveries.length;
  };
  return {
    cues: { event } satisfies Cues,
    arm: () => {
      armed = true;
    },
    happen: async (cues: Cues) => {
      await cast.until("consumer-1 had no accident", () => at.size > 0);
      say("  accident 1: consumer-1 crashed between the database's commit and the offset commit");
      const again = behind(await offsetPairs(world));
      prove(again.sum > 0n, "the group's offsets were not behind the database");
      say(
        `    the group's offsets in the broker say ${again.group} handled, the database ${again.database}`,
      );
      say(`    a consumer that trusts the broker would have handled ${again.sum} messages again`);
      const began = performance.now();
      const heir = await cast.consumer("consumer-2", cues);
      await cast.until("consumer-2 did not take over", () => claims(heir).size === partitions);
      for (const [partition, nextOffset] of claims(heir)) {
        prove(nextOffset === at.get(partition), `consumer-2 began elsewhere in ${partition}`);
      }
      say(
        `    consumer-2 took over ${since(began)} s later where the database stands: 0 handled again`,
      );
    },
    /** Behind everything that followed: what was committed then was never handed over again. */
    conclude: () => {
      for (const { partition, firstOffset } of cast.deliveries.slice(deliveriesBefore)) {
        prove(firstOffset >= (at.get(partition) ?? 0n), `${partition}@${firstOffset} came again`);
      }
    },
  };
}

function behind(pairs: readonly OffsetPair[]) {
  const total = (of: (pair: OffsetPair) => bigint) => pairs.reduce((sum, p) => sum + of(p), 0n);
  const [group, database] = [total((p) => p.groupOffset), total((p) => p.nextOffset)];
  return { group, database, sum: database - group };
}

/** Where each partition was first claimed at. */
function claims({ events }: Actor): ReadonlyMap<number, bigint> {
  const found = events.filter((event) => event.type === "inbox.claimed").reverse();
  return new Map(found.map(({ partition, nextOffset }) => [partition, nextOffset]));
}

/** With invoices written, and nothing committed. */
function insideChunk(story: Story) {
  const { world, cast, say } = story;
  const writtenMin = 3;
  const invoices = "SELECT count(*) FROM invoices WHERE partition = ? AND record_offset >= ?";
  let armed = false;
  // Chunks of several partitions may wait for their turn at once.
  const openings = new Map<number, Event<"inbox.chunk-opening">>();
  let lost: { readonly chunk: Event<"inbox.chunk-opening">; readonly written: number } | null =
    null;
  const cues: Cues = {
    event: (event) => {
      if (event.type === "inbox.chunk-opening") openings.set(event.partition, event);
    },
    written: ({ partition }, tx, process) => {
      const opening = openings.get(partition);
      if (!armed || opening === undefined) return;
      const found = tx.prepare(invoices).pluck().get(partition, opening.firstOffset);
      const written = Number(found);
      if (written < Math.min(writtenMin, opening.messages)) return;
      armed = false;
      lost = { chunk: opening, written };
      process.die();
      throw new Gone(process.name);
    },
  };
  const happen = async () => {
    await cast.until("consumer-2 had no accident", () => lost !== null);
    const { chunk, written } = lost as unknown as NonNullable<typeof lost>;
    const { partition, firstOffset, endOffset } = chunk;
    const range = `partition ${partition}, offsets ${firstOffset} to ${endOffset - 1n}`;
    say(`  accident 2: consumer-2 crashed inside a chunk (${range})`);
    const stayed = countOf(world, invoices, partition, firstOffset);
    prove(stayed === 0, `${stayed} invoices of the chunk stayed`);
    prove(positionsOf(world).get(partition) === firstOffset, "the position moved");
    say(`    ${written} invoices were written in it; the database has none of them`);
    const began = performance.now();
    const { events } = await cast.consumer("consumer-3");
    await cast.until("consumer-3 did not handle the chunk", () =>
      events.some((event) => {
        const done = event.type === "inbox.chunk-committed" && event.partition === partition;
        return done && event.firstOffset === firstOffset && event.nextOffset >= endOffset;
      }),
    );
    say(
      `    consumer-3 was handed the same orders ${since(began)} s later, and has committed them`,
    );
  };
  return {
    cues,
    arm: () => {
      armed = true;
    },
    happen,
  };
}

/** After the broker has acknowledged, before the rows are deleted. */
function beforeDeletion(story: Story) {
  const { world, cast, say, withoutIds } = story;
  let armed = false;
  let ids: readonly string[] = [];
  let duplicatesBefore = 0;
  const called = (verb: string, args: readonly unknown[], process: Process) => {
    if (!armed || verb !== "settleBatch") return;
    const rows = args[1] as readonly { readonly id: string }[];
    if (rows.length === 0) return;
    armed = false;
    duplicatesBefore = cast.duplicates;
    process.die();
    ids = rows.map(({ id }) => id);
  };
  const list = () => JSON.stringify(ids);
  const times = (count: number) => {
    const found = new Map<string | null, number>();
    for (const { id } of recordsOf(world)) found.set(id, (found.get(id) ?? 0) + 1);
    return ids.every((id) => (found.get(id) ?? 0) >= count);
  };
  const happen = async () => {
    await cast.until("relay-1 had no accident", () => ids.length > 0);
    prove(times(1), "the broker had not stored what the relay was about to delete");
    const rows = countOf(
      world,
      `SELECT count(*) FROM oncebox_outbox_messages
       WHERE message_id IN (SELECT value FROM json_each(?))`,
      list(),
    );
    prove(rows === ids.length, `${rows} rows of ${ids.length} are left`);
    say(`  accident 3: relay-1 crashed after the broker acknowledged ${ids.length} messages`);
    say("    and before it deleted their rows");
    await cast.relay("relay-2");
    await cast.until("relay-2 did not publish them", () => times(2));
    await cast.until("the repeats were not handled", async () => (await left(world)) === 0);
    say(`    relay-2 has published the same ${ids.length} ids again`);
    const invoices = countOf(
      world,
      "SELECT count(*) FROM invoices WHERE message_id IN (SELECT value FROM json_each(?))",
      list(),
    );
    if (withoutIds) {
      say(`    nobody knows their ids: ${invoices} invoices for ${ids.length} orders`);
      return;
    }
    prove(invoices === ids.length, `${invoices} invoices for ${ids.length} orders`);
    const dropped = cast.duplicates - duplicatesBefore;
    prove(dropped >= ids.length, `${dropped} duplicates were dropped`);
    say(`    the consumer knew them and dropped them: ${invoices} invoices, as before`);
  };
  return {
    cues: { called } satisfies Cues,
    arm: () => {
      armed = true;
    },
    happen,
  };
}

function prove(holds: boolean, otherwise: string): void {
  if (!holds) throw new DemoFailure(`this run proves nothing: ${otherwise}`);
}

function since(began: number): string {
  return ((performance.now() - began) / 1_000).toFixed(1);
}
