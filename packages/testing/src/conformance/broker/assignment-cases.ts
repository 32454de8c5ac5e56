/** B4, B5: assignments and what voids them; positions, and when they count. */
import { systemClock } from "@oncebox/core";
import { holds, same } from "../check.ts";
import { type BrokerCase, join, type Member, owned, owns, plain, received } from "./arrange.ts";
import { type Listener, listener, nameOf, type Told } from "./listener.ts";

/**
 * Checks everything told in its order: nothing before the first assignment, numbers that rise, and of
 * every partition only what the assignment of that moment holds.
 */
function sameAssignments({ told }: Listener): void {
  let current = 0;
  let partitions = new Set<string>();
  for (const each of told) {
    if (each.what === "assigned") {
      const { assignment } = each;
      holds(assignment > current, `assignment ${assignment} must have a number above ${current}`);
      current = assignment;
      partitions = new Set(each.partitions.map(nameOf));
      continue;
    }
    if (each.what === "failed") continue;
    holds(current > 0, `nothing must be told before an assignment, but ${each.what} was`);
    const own = partitions.has(nameOf(each.at));
    holds(own, `${each.what} of ${nameOf(each.at)} must not come under assignment ${current}`);
    if (each.what !== "delivered") continue;
    same(each.batch.assignment, current, "the assignment of a batch");
  }
}

/** Writes to every partition until told to end, so that each rebalance meets records on their way. */
function keepWriting(write: (value: string) => Promise<unknown>): () => Promise<void> {
  const end = new AbortController();
  const work = (async () => {
    for (let n = 0; !end.signal.aborted; n += 1) {
      await write(`busy ${n}`);
      await systemClock.sleep(20, end.signal);
    }
  })();
  return async () => {
    end.abort();
    await work;
  };
}

/** Resolves when something arrived under the assignment of this moment. */
async function untilBusy(member: Member): Promise<void> {
  const before = member.batches().length;
  await member.until(() => member.batches().length > before + 1, "batches under the assignment");
}

const allOf = (...members: readonly Member[]) => members.flatMap(owned).map(nameOf).sort();

const assignmentCases: readonly BrokerCase[] = [
  {
    promise: "B4",
    name: "an assignment is told before anything of it, and what it holds is asked from then on",
    run: async (context) => {
      const topic = await context.createTopic({ partitions: 2 });
      for (const partition of [0, 1]) await context.produce(topic, partition, plain("a"));
      const member = await join(context, [topic]);
      await received(member, 2);
      same(member.told[0]?.what, "assigned", "what is told first");
      same(allOf(member), [`${topic}/0`, `${topic}/1`], "the assigned partitions");
      sameAssignments(member);
    },
  },
  {
    promise: "B4",
    name: "when a second member joins, every earlier assignment is void from the new one on",
    run: async (context) => {
      const topic = await context.createTopic({ partitions: 4 });
      const groupId = context.newName();
      const first = await join(context, [topic], { groupId });
      await owns(first, 4);
      const end = keepWriting(async (value) => {
        for (const partition of [0, 1, 2, 3]) await context.produce(topic, partition, plain(value));
      });
      try {
        await untilBusy(first);
        const second = await join(context, [topic], { groupId });
        await Promise.all([owns(first, 2), owns(second, 2)]);
        await Promise.all([untilBusy(first), untilBusy(second)]);
        same(
          allOf(first, second),
          [0, 1, 2, 3].map((partition) => `${topic}/${partition}`),
          "the partitions of both members",
        );
        for (const member of [first, second]) sameAssignments(member);
      } finally {
        await end();
      }
    },
  },
  {
    promise: "B4",
    name: "when a member leaves, the one that stays is told of its share under a new number",
    run: async (context) => {
      const topic = await context.createTopic({ partitions: 2 });
      const groupId = context.newName();
      const first = await join(context, [topic], { groupId });
      await owns(first, 2);
      const second = await join(context, [topic], { groupId });
      await Promise.all([owns(first, 1), owns(second, 1)]);
      await second.consumer.stop(5_000);
      await owns(first, 2);
      for (const partition of [0, 1]) await context.produce(topic, partition, plain("a"));
      await received(first, 2);
      for (const member of [first, second]) sameAssignments(member);
    },
  },
];

/** Checks that a position was asked for between any two answers about a partition. */
function askedBeforeEach(told: readonly Told[]): void {
  const asked = new Set<string>();
  for (const each of told) {
    if (each.what === "asked" && each.position !== null) asked.add(nameOf(each.at));
    if (each.what !== "fetched") continue;
    const name = nameOf(each.at);
    holds(asked.delete(name), `the position of ${name} must be asked for before each fetch`);
  }
}

const positionCases: readonly BrokerCase[] = [
  {
    promise: "B5",
    name: "the position is asked before each fetch, and counts whatever the group's offset says",
    run: async (context) => {
      const topic = await context.createTopic();
      const groupId = context.newName();
      const at = { topic, partition: 0 };
      await context.produce(topic, 0, plain("a", "b", "c", "d"));
      await context.broker().setGroupOffsets(groupId, [{ ...at, offset: 3n, metadata: "" }]);
      const member = await join(context, [topic], { groupId });
      await received(member, 4);
      same(member.batches()[0]?.fetchedOffset, 0n, "the offset of the first fetch");
      await context.produce(topic, 0, plain("e"));
      await received(member, 5);
      askedBeforeEach(member.told);
    },
  },
  {
    promise: "B5",
    name: "a changed position takes effect in the next batch that goes on from it, back and forth",
    run: async (context) => {
      const topic = await context.createTopic();
      const at = { topic, partition: 0 };
      await context.produce(topic, 0, plain("a", "b", "c", "d"));
      const member = await join(context, [topic]);
      await received(member, 4);
      member.set(at, 1n);
      await received(member, 7);
      same(member.values(at), ["a", "b", "c", "d", "b", "c", "d"], "the values after going back");
      member.set(at, null);
      await context.produce(topic, 0, plain("e", "f", "g"));
      member.set(at, 6n);
      await received(member, 8);
      same(member.values(at).slice(7), ["g"], "the values after going ahead");
    },
  },
  {
    promise: "B5",
    name: "a partition without a position is left out while others go on, and taken up with one",
    run: async (context) => {
      const topic = await context.createTopic({ partitions: 2 });
      const [idle, busy] = [0, 1].map((partition) => ({ topic, partition }));
      holds(idle !== undefined && busy !== undefined, "two partitions");
      const ear = listener(context.patienceMs);
      ear.set(idle, null);
      const member = await join(context, [topic], { ear });
      await context.produce(topic, 0, plain("a"));
      for (const value of ["b", "c"]) {
        await context.produce(topic, 1, plain(value));
        await member.until(() => member.values(busy).includes(value), "the other partition");
      }
      const early = member.told.filter(
        (each) => "at" in each && each.what !== "asked" && nameOf(each.at) === nameOf(idle),
      );
      same(early.length, 0, "the number of answers about a partition that was left out");
      member.set(idle, 0n);
      await received(member, 1, idle);
      same(member.values(idle), ["a"], "the values of the partition that was left out");
    },
  },
];

const answerCases: readonly BrokerCase[] = [
  {
    promise: "B5",
    name: "each answer tells the log as it was found, an empty one too, and before its records",
    run: async (context) => {
      const topic = await context.createTopic();
      const at = { topic, partition: 0 };
      await context.produce(topic, 0, plain("a", "b", "c", "d", "e"));
      await context.deleteRecords(topic, 0, 2n);
      const ear = listener(context.patienceMs);
      ear.set(at, 3n);
      const member = await join(context, [topic], { ear });
      await received(member, 2);
      const found = () => member.told.filter((each) => each.what === "fetched");
      same(found()[0]?.log, { start: 2n, lastStable: 5n, end: 5n }, "the log as first told");
      const before = found().length;
      await member.until(() => found().length > before + 1, "answers without records");
      await context.produce(topic, 0, plain("f"));
      await received(member, 3);
      same(found().at(-1)?.log, { start: 2n, lastStable: 6n, end: 6n }, "the log as last told");
      let told = false;
      for (const { what } of member.told) {
        if (what === "asked") told = false;
        if (what === "fetched") told = true;
        if (what === "delivered")
          holds(told, "the log must be told before the records found in it");
      }
      askedBeforeEach(member.told);
    },
  },
  {
    promise: "B5",
    name: "while a transaction is open the last stable offset lies below the end, and bounds what comes",
    run: async (context) => {
      const topic = await context.createTopic();
      await context.produce(topic, 0, plain("a"));
      const open = await context.transaction(topic, 0, "x");
      await context.produce(topic, 0, plain("behind"));
      const member = await join(context, [topic]);
      await received(member, 1);
      const log = () => member.told.filter((each) => each.what === "fetched").at(-1)?.log;
      same(log(), { start: 0n, lastStable: 1n, end: 3n }, "the log with an open transaction");
      same(member.values(), ["a"], "the values before it ends");
      await open.commit();
      await received(member, 3);
      same(member.values(), ["a", "x", "behind"], "the values after it ended");
      same(log(), { start: 0n, lastStable: 4n, end: 4n }, "the log afterwards");
    },
  },
];

export const memberCases = [...assignmentCases, ...positionCases, ...answerCases];
