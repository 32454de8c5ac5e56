/** B6, B8: the group's offsets, who may write them, and the end of a membership. */
import { systemClock } from "@oncebox/core";
import { holds, rejected, same, within } from "../check.ts";
import {
  type BrokerCase,
  join,
  membersReach,
  networkOf,
  owned,
  owns,
  plain,
  received,
  shortWaitMs,
} from "./arrange.ts";
import type { BrokerUnderTest } from "./broker-under-test.ts";
import { nameOf } from "./listener.ts";

const commitCases: readonly BrokerCase[] = [
  {
    promise: "B6",
    name: "a commit that is said to be true is there, with its metadata, before anything was read",
    run: async (context) => {
      const topic = await context.createTopic({ partitions: 2 });
      const groupId = context.newName();
      const member = await join(context, [topic], { groupId });
      await owns(member, 2);
      const position = { topic, partition: 1, offset: 2n ** 53n + 1n, metadata: "m 1" };
      same(await member.consumer.commit([position]), true, "a commit of an owned partition");
      const other = context.broker();
      same(await other.group(groupId, [topic]), { members: 1, offsets: [position] }, "the group");
      const empty = { ...position, offset: 0n, metadata: "" };
      same(await member.consumer.commit([empty]), true, "a commit further back");
      same((await other.group(groupId, [topic])).offsets, [empty], "the offsets afterwards");
      same((await other.group(groupId, [])).offsets, [], "the offsets of no topics");
    },
  },
  {
    promise: "B6",
    name: "a commit of another member's partition is false, writes nothing and costs nothing",
    run: async (context) => {
      const topic = await context.createTopic({ partitions: 2 });
      const groupId = context.newName();
      const first = await join(context, [topic], { groupId });
      await owns(first, 2);
      const second = await join(context, [topic], { groupId });
      await Promise.all([owns(first, 1), owns(second, 1)]);
      const [own] = owned(first);
      const [lost] = owned(second);
      holds(own !== undefined && lost !== undefined, "each member must have a partition");
      const joins = first.assignments().length;
      const late = { ...lost, offset: 7n, metadata: "late" };
      same(await first.consumer.commit([late]), false, "a commit of a lost partition");
      const both = [{ ...own, offset: 1n, metadata: "own" }, late];
      same(await first.consumer.commit(both), false, "a commit of an own and a lost partition");
      const offsets = (await context.broker().group(groupId, [topic])).offsets;
      const written = offsets.map(({ metadata }) => metadata);
      holds(!written.includes("late"), "nothing must be written of another's partition");
      await context.produce(topic, own.partition, plain("a"));
      await received(first, 1, own);
      same(first.assignments().length, joins, "the number of assignments after a failed commit");
      same(await first.consumer.commit([{ ...own, offset: 1n, metadata: "" }]), true, "its own");
    },
  },
  {
    promise: "B6",
    name: "a commit by a member that has left is false and writes nothing",
    run: async (context) => {
      const topic = await context.createTopic();
      const groupId = context.newName();
      const at = { topic, partition: 0 };
      const member = await join(context, [topic], { groupId });
      await owns(member, 1);
      const kept = { ...at, offset: 3n, metadata: "kept" };
      same(await member.consumer.commit([kept]), true, "a commit before the end");
      await member.consumer.stop(5_000);
      const late = { ...at, offset: 4n, metadata: "late" };
      same(await member.consumer.commit([late]), false, "a commit after the end");
      same((await context.broker().group(groupId, [topic])).offsets, [kept], "the offsets");
    },
  },
  {
    promise: "B6",
    name: "a commit by a member whose session ran out is false, and the member comes back",
    needs: ["network"],
    run: async (context) => {
      const topic = await context.createTopic({ partitions: 2 });
      const groupId = context.newName();
      const { broker, silence, resume } = await networkOf(context, { sessionTimeoutMs: 2_000 });
      const first = await join(context, [topic], { groupId, broker });
      await owns(first, 2);
      const second = await join(context, [topic], { groupId });
      await Promise.all([owns(first, 1), owns(second, 1)]);
      const [lost] = owned(first);
      holds(lost !== undefined, "each member must have a partition");
      silence();
      await owns(second, 2);
      const late = first.consumer.commit([{ ...lost, offset: 9n, metadata: "late" }]);
      resume();
      same(await late, false, "a commit under a session that ran out");
      await Promise.all([owns(first, 1), owns(second, 1)]);
      same((await second.broker.group(groupId, [topic])).offsets, [], "the offsets");
    },
  },
];

const groupCases: readonly BrokerCase[] = [
  {
    promise: "B6",
    name: "a group that was never used has no members and no offsets; they can be written",
    run: async (context) => {
      const topic = await context.createTopic({ partitions: 3 });
      const other = await context.createTopic();
      const groupId = context.newName();
      const broker = context.broker();
      same(await broker.group(groupId, [topic]), { members: 0, offsets: [] }, "an unknown group");
      const offsets = [
        { topic, partition: 0, offset: 0n, metadata: "" },
        { topic, partition: 2, offset: 2n ** 53n + 1n, metadata: "m" },
        { topic: other, partition: 0, offset: 5n, metadata: "" },
      ];
      await broker.setGroupOffsets(groupId, offsets);
      const reread = await context.broker().group(groupId, [topic]);
      const sorted = [...reread.offsets].sort((a, b) => a.partition - b.partition);
      same(sorted, offsets.slice(0, 2), "the offsets of the topic that was asked for");
      await broker.setGroupOffsets(groupId, []);
      same((await broker.group(groupId, [other])).offsets, offsets.slice(2), "those of the other");
    },
  },
  {
    promise: "B6",
    name: "a group with members is told apart, and its offsets cannot be written from outside",
    run: async (context) => {
      const topic = await context.createTopic();
      const groupId = context.newName();
      const broker = context.broker();
      const position = { topic, partition: 0, offset: 1n, metadata: "" };
      const member = await join(context, [topic], { groupId });
      await owns(member, 1);
      await rejected(
        broker.setGroupOffsets(groupId, [position]),
        "group-active",
        "writing the offsets of an active group",
      );
      same(await broker.group(groupId, [topic]), { members: 1, offsets: [] }, "the active group");
      same(member.assignments().length, 1, "the number of its assignments");
      await member.consumer.stop(5_000);
      await membersReach(context.patienceMs, broker, groupId, 0);
      await broker.setGroupOffsets(groupId, [position]);
      same(
        (await broker.group(groupId, [topic])).offsets,
        [position],
        "the offsets of an empty one",
      );
    },
  },
];

/** A session so long that whoever waits less than half of it was told, and did not time out. */
const longSession = { sessionTimeoutMs: 20_000 };

function leaveWithinMs({ patienceMs }: BrokerUnderTest): number {
  return Math.min(patienceMs, longSession.sessionTimeoutMs / 2 - 1_000);
}

const stopCases: readonly BrokerCase[] = [
  {
    promise: "B8",
    name: "a stop leaves the group: another member has the partitions long before a session's end",
    run: async (context) => {
      const topic = await context.createTopic({ partitions: 2 });
      const groupId = context.newName();
      const first = await join(context, [topic], { groupId, settings: longSession });
      await owns(first, 2);
      const second = await join(context, [topic], { groupId, settings: longSession });
      await Promise.all([owns(first, 1), owns(second, 1)]);
      await first.consumer.stop(5_000);
      await within(leaveWithinMs(context), owns(second, 2), "to have the other's partition");
      await membersReach(leaveWithinMs(context), second.broker, groupId, 1);
    },
  },
  {
    promise: "B8",
    name: "a stop during the first join leaves no member behind",
    run: async (context) => {
      const topic = await context.createTopic();
      const groupId = context.newName();
      const member = await join(context, [topic], { groupId, settings: longSession });
      const { consumer, broker, told } = member;
      await within(6_000, consumer.stop(5_000), "a stop with a deadline of 5 s");
      const before = told.length;
      await membersReach(leaveWithinMs(context), context.broker(), groupId, 0);
      await systemClock.sleep(shortWaitMs);
      same(told.length, before, "what is told after the end");
      same((await broker.group(groupId, [])).members, 0, "the members afterwards");
    },
  },
  {
    promise: "B8",
    name: "a stop returns by its deadline also when nobody answers",
    needs: ["network"],
    run: async (context) => {
      const topic = await context.createTopic();
      const { broker, silence } = await networkOf(context);
      const member = await join(context, [topic], { broker });
      await owns(member, 1);
      silence();
      await within(2_000, member.consumer.stop(300), "a stop with a deadline of 300 ms");
    },
  },
  {
    promise: "B8",
    name: "a stop that has time for it does not end before the member has left",
    run: async (context) => {
      const topic = await context.createTopic();
      const groupId = context.newName();
      const member = await join(context, [topic], { groupId });
      await owns(member, 1);
      await member.consumer.stop(10_000);
      const { members } = await context.broker().group(groupId, []);
      same(members, 0, `the members of the group of ${owned(member).map(nameOf)}`);
    },
  },
];

export const membershipCases = [...commitCases, ...groupCases];
export const endCases = stopCases;
