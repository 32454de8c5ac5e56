// What a consumer does with a claim that stalled again and again, and with one that it gives up alive.
import { expect, it } from "vitest";
import { CommitUnknownError } from "../errors.ts";
import type { PartitionClaim, PartitionRef, RecordRef } from "../ports/storage.ts";
import { makeConsumer, orders, reading, topicId } from "./consumer-scene.ts";

const neighbour = { topic: orders.name, partition: 1 };

/** Two partitions; processes died under the claims of the first, so its messages are tried alone. */
async function suspected() {
  const scene = makeConsumer(undefined, { partitionsAtOnceMax: 2 });
  const { claim } = scene.parts;
  scene.storage.claim = async (ref: PartitionRef) => ({
    ...(await claim(ref)),
    stalledClaims: ref.partition === 0 ? 4 : 1,
  });
  await scene.consumer.start();
  await scene.assigned([scene.at, neighbour]);
  const deliveredBeside = async () => {
    const place = scene.newest().position(neighbour);
    if (place === null) throw new Error("the neighbour is left out of the fetch");
    const fetchedOffset = place.offset;
    const fields = { timestamp: 0n, leaderEpoch: 0, key: null, headers: [] };
    scene.newest().deliver({
      ...{ ...neighbour, assignment: 1, fetchedOffset, endOffset: fetchedOffset + 1n, topicId },
      ...{ endEpoch: 0, records: [{ ...fields, offset: fetchedOffset, value: new Uint8Array() }] },
    });
    await scene.advance(0);
  };
  return { ...scene, deliveredBeside };
}

it("a message that is to be tried alone holds nobody up while the database keeps it waiting", async () => {
  // Guards the release before #setBack: it has taken every permit, and its wait has no limit.
  const scene = await suspected();
  let answers = false;
  scene.storage.noteClaim = async () => {
    if (!answers) throw new Error("down");
  };
  await scene.delivered();
  expect(scene.ofType("inbox.chunk-rerun")).toHaveLength(1);
  await scene.deliveredBeside();
  expect(scene.handled).toEqual([10n]);
  answers = true;
  await scene.advance(1_000);
  expect(scene.handled).toEqual([10n, 10n]);
});

it("nor while it waits for its partition, which another has taken", async () => {
  const scene = await suspected();
  await scene.delivered(2);
  expect(scene.handled).toEqual([10n, 11n]);
  scene.row.epoch += 1n;
  await scene.delivered();
  expect(scene.ofType("inbox.fenced")).toHaveLength(1);
  await scene.deliveredBeside();
  expect(scene.handled).toEqual([10n, 11n, 10n]);
});

it("a claim that is won when a stop has begun is told as given up alive", async () => {
  // Guards: a process that stops while it claims counts as one that died.
  const scene = makeConsumer();
  const { claim } = scene.parts;
  let win = () => {};
  const winning = new Promise<void>((resolve) => {
    win = resolve;
  });
  scene.storage.claim = async (ref: PartitionRef) => {
    await winning;
    return claim(ref);
  };
  const noted: unknown[] = [];
  scene.storage.noteClaim = async ({ token }: PartitionClaim, note: unknown) => {
    noted.push([token, note]);
  };
  await scene.consumer.start();
  await scene.assigned();
  const stopped = scene.consumer.stop({ deadlineMs: 10_000 });
  await scene.advance(1);
  win();
  await scene.advance(1);
  expect(noted).toEqual([["1", { kind: "left" }]]);
  await stopped;
});

it("a database that does not take the note holds no stop up", async () => {
  // Guards leavingMaxMs: the note is a courtesy to the next process.
  const scene = await reading();
  scene.storage.noteClaim = () => new Promise(() => {});
  let ended = false;
  const stopped = scene.consumer.stop({ deadlineMs: 60_000 }).then(() => {
    ended = true;
  });
  await scene.advance(900);
  expect(ended).toBe(false);
  await scene.advance(200);
  expect(ended).toBe(true);
  await stopped;
});

/** The processes before have died; the answers to these COMMITs, by their number, are lost. */
async function losing(...commits: readonly number[]) {
  const scene = await suspected();
  const { claim, open } = scene.parts;
  const said: string[] = [];
  let number = 0;
  const wins = scene.storage.claim as typeof claim;
  scene.storage.claim = async (ref: PartitionRef) => {
    said.push("claim");
    return wins(ref);
  };
  const note = { answer: async (): Promise<void> => undefined };
  scene.storage.noteClaim = async (_: PartitionClaim, { kind }: { kind: string }) => {
    said.push(kind);
    if (kind === "left") await note.answer();
  };
  scene.storage.open = async (held: PartitionClaim, records: readonly RecordRef[]) => {
    const chunk = await open(held, records);
    return {
      ...chunk,
      commit: async (...to: Parameters<typeof chunk.commit>) => {
        number += 1;
        if (commits.includes(number)) throw new CommitUnknownError("nobody knows");
        await chunk.commit(...to);
      },
    };
  };
  return { ...scene, said, note };
}

it("what is said of a claim comes before the next one", async () => {
  // Guards: the next claim finds the own one before it counted, and a message dies of two lost COMMITs.
  const scene = await losing(1);
  let answer = () => {};
  scene.note.answer = () => new Promise((resolve) => (answer = resolve));
  await scene.delivered();
  expect(scene.said).toEqual(["trying", "left"]);
  answer();
  await scene.advance(0);
  expect(scene.said).toEqual(["trying", "left", "claim"]);
});

it("and is said once more where the database was away, for a second at the most", async () => {
  const scene = await losing(1);
  scene.note.answer = async () => {
    scene.note.answer = () => new Promise(() => {});
    throw new Error("down");
  };
  await scene.delivered();
  expect(scene.said).toEqual(["trying", "left", "left"]);
  await scene.advance(1_000);
  expect(scene.said).toEqual(["trying", "left", "left", "claim"]);
});

it("a claim under which a message is tried alone is told as given up, also behind a commit", async () => {
  // Guards: the position has moved, and what is written down since stays held against its message.
  const scene = await losing(2);
  await scene.delivered(2);
  expect(scene.said).toEqual(["trying", "trying", "left", "claim"]);
});
