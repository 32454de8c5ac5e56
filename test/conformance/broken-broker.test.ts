// The broker suite itself on trial: every promise is broken on purpose, and the suite has to notice.
// The table says which cases notice what, all of them. A run tries those only; `npm run test:long`
// tries all, which takes minutes, and tells what the table should say.

import { brokerConformance } from "@oncebox/testing";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { hasKafka } from "../fixtures/servers.ts";
import { brokenBrokers } from "./broken-brokers.ts";
import { capabilities, type KafkaSide, kafkajsUnderTest, kafkaSide } from "./kafkajs-under-test.ts";

type Name = keyof typeof brokenBrokers;

const noticed: Readonly<Record<Name, readonly string[]>> = {
  "B1: what was unknown is acknowledged": [
    "B1 what no server has taken is not acknowledged",
    "B2 a call without records has no outcome, and none fails after the end",
    "B2 where no server can be reached all is unknown, in time, and nothing rejects",
    "B2 what nobody answers is unknown by the time-out, and later calls go through",
  ],
  "B1: a call is sent backwards": [
    "B1 what is acknowledged is stored, each partition in the order of the call",
    "B1 more than fits one batch is stored in the order of the call",
    "B2 each record of a mixed call has one outcome: acknowledged, unknown or refused",
    "B2 a record that is too large is refused alone, wherever it stands in the call",
    "B3 bytes, null, and headers with their repeats and order arrive as they were published",
  ],
  "B1: of calls at once the last goes first": [
    "B1 calls at once are carried out one after another, in their order",
  ],
  "B1: keys are spread by their last byte": [
    "B1 the partition of a key is that of Kafka's Java client; without a key the id decides",
  ],
  "B2: an index is left out": [
    "B1 what is acknowledged is stored, each partition in the order of the call",
    "B1 more than fits one batch is stored in the order of the call",
    "B1 calls at once are carried out one after another, in their order",
    "B2 each record of a mixed call has one outcome: acknowledged, unknown or refused",
    "B2 a record that is too large is refused alone, wherever it stands in the call",
    "B2 what nobody answers is unknown by the time-out, and later calls go through",
    "B3 bytes, null, and headers with their repeats and order arrive as they were published",
  ],
  "B2: an index comes twice": [
    "B1 what is acknowledged is stored, each partition in the order of the call",
    "B1 more than fits one batch is stored in the order of the call",
    "B1 calls at once are carried out one after another, in their order",
    "B2 each record of a mixed call has one outcome: acknowledged, unknown or refused",
    "B2 a record that is too large is refused alone, wherever it stands in the call",
    "B2 what nobody answers is unknown by the time-out, and later calls go through",
    "B3 bytes, null, and headers with their repeats and order arrive as they were published",
  ],
  "B2: a missing topic is laid to its messages": [
    "B2 each record of a mixed call has one outcome: acknowledged, unknown or refused",
    "B2 a missing topic is refused as a topic, with its code, and is not created",
  ],
  "B2: a publish rejects where the outcome is unknown": [
    "B1 what no server has taken is not acknowledged",
    "B2 a call without records has no outcome, and none fails after the end",
    "B2 where no server can be reached all is unknown, in time, and nothing rejects",
    "B2 what nobody answers is unknown by the time-out, and later calls go through",
  ],
  "B3: batches change places": [
    "B3 batches of each partition go on from one another, and miss nothing written meanwhile",
    "B3 a large backlog comes in offset order, without a gap between its batches",
    "B3 after its connections were cut it goes on where it was, without a gap",
    "B3 bytes, null, and headers with their repeats and order arrive as they were published",
    "B3 each record has its time and leader epoch, each batch its topic's id and its last epoch",
    "B3 of committed and aborted transactions in a row the committed ones are handed over",
    "B5 the position is asked before each fetch, and counts whatever the group's offset says",
  ],
  "B3: aborted records are handed over": [
    "B3 aborted records are never handed over, and are covered where nothing else is left",
    "B3 of committed and aborted transactions in a row the committed ones are handed over",
    "B3 a fetch that begins inside overlapping transactions is not misled by them",
    "B5 while a transaction is open the last stable offset lies below the end, and bounds what comes",
  ],
  "B3: what has no record is not accounted for": [
    "B3 aborted records are never handed over, and are covered where nothing else is left",
    "B3 of committed and aborted transactions in a row the committed ones are handed over",
  ],
  "B3: of a header's repeats the last is left": [
    "B3 bytes, null, and headers with their repeats and order arrive as they were published",
  ],
  "B3: delivering waits": ["B3 what is told of a batch is not waited for"],
  "B3: nothing says which leader wrote it": [
    "B3 each record has its time and leader epoch, each batch its topic's id and its last epoch",
    "B7 a position past what its epoch wrote is reported with what the logs share",
  ],
  "B4: an assignment is told late": [
    "B4 an assignment is told before anything of it, and what it holds is asked from then on",
    "B4 when a second member joins, every earlier assignment is void from the new one on",
    "B4 when a member leaves, the one that stays is told of its share under a new number",
  ],
  "B4: batches of a void assignment are handed over": [
    "B4 when a second member joins, every earlier assignment is void from the new one on",
  ],
  "B4: all assignments have one number": [
    "B4 when a second member joins, every earlier assignment is void from the new one on",
    "B4 when a member leaves, the one that stays is told of its share under a new number",
  ],
  "B5: a changed position is ignored": [
    "B3 a fetch that begins inside overlapping transactions is not misled by them",
    "B5 a changed position takes effect in the next batch that goes on from it, back and forth",
    "B7 a position above the log is reported with the log's bounds and never followed",
    "B7 a position below the log is reported with the log's bounds and never followed",
    "B7 a position past what its epoch wrote is reported with what the logs share",
    "B7 a topic made anew and empty is reported with its new id; the others go on",
    "B7 a topic made anew and filled past the position is reported, and nothing of it delivered",
    "B7 a position of another topic's id is reported from the first fetch on",
  ],
  "B5: a partition without a position is read from its start": [
    "B5 a partition without a position is left out while others go on, and taken up with one",
  ],
  "B5: empty answers are not told": [
    "B5 each answer tells the log as it was found, an empty one too, and before its records",
  ],
  "B5: an open transaction is not told": [
    "B5 while a transaction is open the last stable offset lies below the end, and bounds what comes",
  ],
  "B6: a commit that failed is true": [
    "B6 a commit of another member's partition is false, writes nothing and costs nothing",
    "B6 a commit by a member that has left is false and writes nothing",
    "B6 a commit by a member whose session ran out is false, and the member comes back",
  ],
  "B6: a commit leaves its metadata out": [
    "B6 a commit that is said to be true is there, with its metadata, before anything was read",
    "B6 a commit by a member that has left is false and writes nothing",
  ],
  "B6: a commit that failed costs the membership": [
    "B6 a commit of another member's partition is false, writes nothing and costs nothing",
  ],
  "B6: an active group's offsets pass for written": [
    "B6 a group with members is told apart, and its offsets cannot be written from outside",
  ],
  "B7: a position outside the log is moved to its start": [
    "B7 a position above the log is reported with the log's bounds and never followed",
    "B7 a position below the log is reported with the log's bounds and never followed",
  ],
  "B7: the log's bounds are not told": [
    "B7 a position above the log is reported with the log's bounds and never followed",
    "B7 a position below the log is reported with the log's bounds and never followed",
  ],
  "B7: a topic made anew passes for the old one": [
    "B7 a position past what its epoch wrote is reported with what the logs share",
    "B7 a topic made anew and empty is reported with its new id; the others go on",
    "B7 a topic made anew and filled past the position is reported, and nothing of it delivered",
    "B7 a position of another topic's id is reported from the first fetch on",
  ],
  "B8: a stop does not leave the group": [
    "B4 when a member leaves, the one that stays is told of its share under a new number",
    "B6 a commit by a member that has left is false and writes nothing",
    "B6 a group with members is told apart, and its offsets cannot be written from outside",
    "B8 a stop leaves the group: another member has the partitions long before a session's end",
    "B8 a stop during the first join leaves no member behind",
    "B8 a stop that has time for it does not end before the member has left",
  ],
  "B8: a stop knows no deadline": ["B8 a stop returns by its deadline also when nobody answers"],
};

/** Whether it meets a break is up to chance: it is in no list. */
const byChance = ["B2 a connection that was cut costs no call its outcome"];

const whole = process.env.WHOLE_SUITES === "1";
/** A broken promise is waited for so long, and no longer; nothing waits for one that is kept. */
const patienceMs = whole ? 10_000 : 4_000;
/** Most of a case is waiting. */
const casesAtOnce = 6;

const cases = brokerConformance()
  .filter(
    ({ needs, promise, name }) =>
      !byChance.includes(`${promise} ${name}`) && needs.every((need) => capabilities.has(need)),
  )
  .map(({ promise, name, run }) => ({ promise, title: `${promise} ${name}`, run }));

type Case = (typeof cases)[number];

async function fails(side: KafkaSide, name: Name, { run }: Case): Promise<boolean> {
  const { context, close } = kafkajsUnderTest(side, { wrap: brokenBrokers[name], patienceMs });
  try {
    await run(context);
    return false;
  } catch {
    return true;
  } finally {
    await close();
  }
}

/** The titles of those that fail, in the order of the suite. */
async function failing(side: KafkaSide, name: Name): Promise<string[]> {
  const tried = cases.filter(({ title }) => whole || noticed[name].includes(title));
  const results = new Map<string, boolean>();
  const queue = tried.values();
  const worker = async () => {
    for (const each of queue) results.set(each.title, await fails(side, name, each));
  };
  await Promise.all(Array.from({ length: casesAtOnce }, worker));
  return tried.map(({ title }) => title).filter((title) => results.get(title));
}

test("every promise is broken by one broker at least", () => {
  const promises = new Set(Object.keys(brokenBrokers).map((name) => name.slice(0, 2)));
  expect([...promises].sort()).toEqual([...new Set(cases.map(({ promise }) => promise))].sort());
});

describe.skipIf(!hasKafka())("the suite notices", () => {
  let side: KafkaSide;
  beforeAll(() => {
    side = kafkaSide();
  });
  afterAll(() => side.close());

  const runs = whole ? test : test.concurrent;
  for (const name of Object.keys(brokenBrokers) as Name[]) {
    runs(name, { timeout: 300_000 }, async () => {
      const found = await failing(side, name);
      expect(found).toEqual(noticed[name]);
      expect(found.some((title) => title.startsWith(name.slice(0, 2)))).toBe(true);
    });
  }
});
