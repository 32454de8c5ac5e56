/** I4, I5: topics adopted at given positions, and the log of who did what. */
import type { AuditEntry } from "@oncebox/core";
import { failureOf, holds, rejected, same } from "../check.ts";
import {
  audit,
  consumer,
  groupId,
  longWaitMs,
  noMark,
  ref,
  register,
  type StorageCase,
  topic,
} from "./arrange.ts";

function starts(...offsets: readonly bigint[]): ReadonlyMap<number, bigint> {
  return new Map(offsets.map((offset, partition) => [partition, offset]));
}

const all = { limit: 100, below: null };

const adoptionCases: readonly StorageCase[] = [
  {
    promise: "I4",
    name: "an adoption registers its topics at the given positions, with their line in the log",
    run: async ({ storage, another }) => {
      const topics = [
        { topic: "b", topicId: "id of b", start: starts(5n, 2n ** 53n + 1n) },
        { topic: "a", topicId: null, start: starts(7n) },
      ];
      await storage.adopt({ consumer, groupId, topics, audit });
      const other = another();
      const read = await other.positions(consumer);
      const found = read.positions.map((each) => [each.topic, each.nextOffset, each.log]);
      const inB = { ...noMark, topicId: "id of b" };
      same(read.groupId, groupId, "the group bound");
      same<unknown>(
        found,
        [
          ["a", 7n, noMark],
          ["b", 5n, inB],
          ["b", 2n ** 53n + 1n, inB],
        ],
        "the positions",
      );
      const claimed = await other.claim({ ...ref(1), topic: "b" }, longWaitMs);
      same(claimed?.nextOffset, 2n ** 53n + 1n, "a claim's position");
      same(claimed?.replay, { number: 0, until: 0n }, "a claim's replay");
      const [line, ...more] = await other.auditLog(consumer, all);
      same(more, [], "further lines");
      const { action, actor, reason } = line ?? {};
      same<unknown>({ action, actor, reason }, { action: "adopt", ...audit }, "the line");
      same(line?.details.groupId, groupId, "the group in its details");
    },
  },
  {
    promise: "I4",
    name: "an adoption that names a topic with rows, or another group, changes nothing",
    run: async ({ storage }) => {
      await register(storage, 5n);
      const fresh = { topic: "a fresh topic", topicId: null, start: starts(1n) };
      const taken = { topic, topicId: null, start: starts(1n, 1n) };
      const error = await rejected(
        storage.adopt({ consumer, groupId, topics: [fresh, taken], audit }),
        "already-registered",
        "an adoption of a topic that has rows",
      );
      same(error.details.topics, [topic], "the topics in the error's details");
      const stranger = { consumer, groupId: "another group", topics: [fresh], audit };
      await rejected(storage.adopt(stranger), "group-mismatch", "an adoption by another group");
      const twice = { consumer, groupId, topics: [fresh, fresh], audit };
      await failureOf(storage.adopt(twice), "an adoption of one topic twice must reject");
      const wrong = { ...fresh, start: starts(1n, -1n) };
      const negative = storage.adopt({ consumer, groupId, topics: [wrong], audit });
      await failureOf(negative, "an adoption at -1 must reject");
      const { positions } = await storage.positions(consumer);
      same(
        positions.map((each) => [each.topic, String(each.nextOffset)]),
        [[topic, "5"]],
        "the positions",
      );
      same(await storage.auditLog(consumer, all), [], "the audit log");
    },
  },
  {
    promise: "I4",
    name: "of adoptions and registrations at once one gives all positions",
    run: async ({ storage, another }) => {
      await register(storage, 9n);
      const other = another();
      const names = ["a", "b", "c", "d"];
      const adopt = (side: typeof storage, offset: bigint, order: readonly string[]) => {
        const start = starts(offset, offset);
        const topics = order.map((name) => ({ topic: name, topicId: null, start }));
        return side.adopt({ consumer, groupId, topics, audit });
      };
      const results = await Promise.allSettled([
        adopt(storage, 1n, names),
        adopt(other, 2n, [...names].reverse()),
        adopt(storage, 3n, names),
        other.registerTopic({
          ...{ consumer, groupId, topic: "b", topicId: null },
          ...{ start: starts(4n, 4n), added: starts() },
        }),
      ]);
      const adopted = results.slice(0, 3).filter(({ status }) => status === "fulfilled");
      holds(adopted.length <= 1, "at most one adoption of the same topics may succeed");
      for (const result of results) {
        if (result.status === "rejected") {
          await rejected(Promise.reject(result.reason), "already-registered", "an adoption");
        }
      }
      const { positions } = await storage.positions(consumer);
      const adoptable = positions.filter((each) => names.includes(each.topic));
      const offsets = new Set(adoptable.map((each) => each.nextOffset));
      same(offsets.size, 1, "the number of different starts");
    },
  },
];

const auditCases: readonly StorageCase[] = [
  {
    promise: "I5",
    name: "the audit log is read back newest first, page by page, for one consumer",
    run: async ({ storage, another }) => {
      const details = { text: "ü \" ' \\", list: [1, null, { offset: String(2n ** 62n) }] };
      for (const n of [1, 2, 3, 4, 5]) {
        const entry = { consumer, actor: `actor ${n}`, reason: `it's "${n}" \\ ü`, details };
        await storage.audit({ ...entry, action: "sync-offsets" });
        await storage.audit({ ...entry, consumer: "shipping", action: "seek" });
      }
      const other = another();
      const read = await other.auditLog(consumer, all);
      const told = read.map(({ id: _, at: __, ...rest }) => rest);
      const expected = [5, 4, 3, 2, 1].map((n): Omit<AuditEntry, "id" | "at"> => {
        const { actor, reason } = { actor: `actor ${n}`, reason: `it's "${n}" \\ ü` };
        return { consumer, actor, reason, action: "sync-offsets", details };
      });
      same(told, expected, "the lines");
      for (const { at } of read) holds(Number.isInteger(at) && at > 1e12, "`at` is milliseconds");
      const pages: AuditEntry[][] = [];
      let below: bigint | null = null;
      for (let page = 0; page < 4; page += 1) {
        const lines: readonly AuditEntry[] = await other.auditLog(consumer, { limit: 2, below });
        pages.push([...lines]);
        below = lines.at(-1)?.id ?? below;
      }
      same(
        pages.map((page) => page.length),
        [2, 2, 1, 0],
        "the sizes of pages",
      );
      same(pages.flat(), [...read], "the pages one after another");
      same(await other.auditLog("nobody", all), [], "the log of a consumer without lines");
    },
  },
];

export const operatorCases: readonly StorageCase[] = [...adoptionCases, ...auditCases];
