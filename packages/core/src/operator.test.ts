import { describe, expect, it } from "vitest";
import { ConfigurationError } from "./errors.ts";
import { createOperator, type OperatorStorage, type SeekOptions } from "./operator.ts";
import type { Broker, GroupState } from "./ports/broker.ts";
import type { PartitionPosition } from "./ports/storage.ts";

const topicId = "topic-1";
const who = { actor: "anna", reason: "the handler was wrong" };
const reason = who.reason;

const positionOf = (topic: string, partition: number, nextOffset: bigint): PartitionPosition => ({
  ...{ topic, partition, nextOffset, epoch: BigInt(partition + 3), owner: null },
  log: { topicId, leaderEpoch: 2, last: null },
});

/** `billing` stands at 12 and 7 of `orders`; the log holds 5 to 20 and 0 to 7. */
function scene(group: GroupState = { members: 0, offsets: [] }) {
  const did: [string, unknown][] = [];
  const note =
    <R>(verb: string, answer: (given: never) => R) =>
    async (...given: never[]) => {
      did.push([verb, given.length === 1 ? given[0] : given]);
      return answer(given[0] as never);
    };
  const known = [positionOf("orders", 0, 12n), positionOf("orders", 1, 7n)];
  const storage = {
    positions: async (consumer: string) => {
      const there = consumer === "billing";
      const groupId = there ? "shop" : null;
      return { groupId, incarnation: "db-1", at: 0, positions: there ? known : [] };
    },
    seek: note("seek", ({ moves }: { moves: readonly object[] }) =>
      moves.map((move) => ({ ...move, from: 1n })),
    ),
    adopt: note("adopt", () => undefined),
    audit: note("audit", () => undefined),
    auditLog: note("auditLog", () => []),
  } as unknown as OperatorStorage;
  const ends = {
    earliest: new Map([
      [0, 5n],
      [1, 0n],
    ]),
    latest: new Map([
      [0, 20n],
      [1, 7n],
    ]),
  };
  const broker = {
    offsets: async (_: string, at: keyof typeof ends | object) => ({
      topicId,
      offsets:
        typeof at === "string" ? ends[at] : new Map([...ends.latest.keys()].map((p) => [p, 6n])),
    }),
    group: async () => group,
    setGroupOffsets: note("setGroupOffsets", () => undefined),
  } as unknown as Broker;
  const operator = createOperator({ storage, broker, actor: who.actor });
  const seek = (given: Partial<SeekOptions>) =>
    operator.seek({ consumer: "billing", topic: "orders", to: "earliest", reason, ...given });
  return { operator, seek, did, ends, known };
}

const to = (first: bigint, second: bigint) => [
  { partition: 0, to: first },
  { partition: 1, to: second },
];

describe("seek", () => {
  it.each<[string, SeekOptions["to"], object[]]>([
    ["the first offset kept", "earliest", to(5n, 0n)],
    ["the next offset", "latest", to(20n, 7n)],
    ["a time", { timestamp: 5 }, to(6n, 6n)],
    ["offsets", { offsets: { 0: 20, 1: 0n } }, to(20n, 0n)],
    ["one offset for all", 6n, to(6n, 6n)],
  ])("to %s", async (_, target, moves) => {
    // Guards: every form of a target, the topic's id and the audit that go with it.
    const { seek, did } = scene();
    expect(await seek({ to: target })).toEqual(moves.map((move) => ({ ...move, from: 1n })));
    const act = { consumer: "billing", topic: "orders", topicId, replay: true, expected: null };
    expect(did).toEqual([["seek", { ...act, moves, audit: who }]]);
  });

  it("of some partitions moves no other, and without a replay where that is asked", async () => {
    // Guards: `partitions` and `replay` reach the storage as they were given.
    const { seek, did } = scene();
    await seek({ partitions: [1], to: { offsets: { 1: 3 } }, replay: false });
    expect(did).toMatchObject([["seek", { moves: [{ partition: 1, to: 3n }], replay: false }]]);
  });

  it("as a dry run says from where to where, and writes nothing", async () => {
    // Guards: a dry run of everything that the real one refuses as well.
    const { seek, did } = scene();
    expect(await seek({ dryRun: true })).toEqual([
      { partition: 0, from: 12n, to: 5n },
      { partition: 1, from: 7n, to: 0n },
    ]);
    await expect(seek({ dryRun: true, to: 3n })).rejects.toThrow("holds 5 to 20, not 3");
    expect(did).toEqual([]);
  });

  it("outside the log is refused with both bounds, all problems at once", async () => {
    // Guards: such a position would pause its partition again. Nothing is moved in part.
    const { seek, did } = scene();
    const problems = async (target: SeekOptions["to"], partitions?: number[]) => {
      const given = partitions === undefined ? { to: target } : { to: target, partitions };
      const error = await seek(given).catch((thrown: ConfigurationError) => thrown);
      expect(error).toBeInstanceOf(ConfigurationError);
      return (error as ConfigurationError).details.problems;
    };
    const first = "partition 0 holds 5 to 20, not 4";
    expect(await problems(4n)).toEqual([first]);
    expect(await problems({ offsets: { 0: 4, 1: 8 } })).toEqual([
      first,
      "partition 1 holds 0 to 7, not 8",
    ]);
    expect(await problems({ offsets: { 0: 6 } })).toEqual(["partition 1 has no offset"]);
    // A slip of the finger must not move less than was meant.
    expect(await problems({ offsets: { 0: 6, 11: 6 } }, [0])).toEqual([
      "partition 11 is not among those to move",
    ]);
    expect(did).toEqual([]);
  });

  it("of a partition that the topic has no more is refused", async () => {
    // Guards: a topic made anew with fewer partitions.
    const { seek, ends } = scene();
    ends.earliest.delete(1);
    await expect(seek({})).rejects.toThrow("orders has no partition 1 any more");
    await expect(seek({ to: 6n })).rejects.toThrow("there is no partition 1 any more");
  });

  it("of what has no row is refused", async () => {
    // Guards: a seek registers nothing.
    const { seek } = scene();
    const code = "not-registered";
    await expect(seek({ consumer: "other" })).rejects.toMatchObject({ code });
    await expect(seek({ topic: "other" })).rejects.toMatchObject({ code });
    await expect(seek({ partitions: [1, 4, 5] })).rejects.toMatchObject({
      ...{ code, details: { partitions: [4, 5] } },
      message: expect.stringContaining("in partitions 4, 5"),
    });
  });

  it.each<[string, object]>([
    ["another word as a target", { to: "newest" }],
    ["null as a target", { to: null }],
    ["a negative offset", { to: -1n }],
    ["a number", { to: 5 }],
    ["a time that is none", { to: { timestamp: "today" } }],
    ["no reason", { reason: " " }],
    ["no partitions", { partitions: [] }],
    ["an unknown option", { force: true }],
  ])("refuses %s", async (_, wrong) => {
    // Guards: what cannot be meant is named before anything is looked at.
    const { seek } = scene();
    const refused = { code: "invalid-options", message: expect.stringContaining("operator.seek:") };
    await expect(seek(wrong)).rejects.toMatchObject(refused);
  });
});

describe("adopt", () => {
  const offsets = [{ topic: "orders", partition: 0, offset: 9n, metadata: "" }];

  it("takes over what the group has committed, and begins elsewhere where it has not", async () => {
    // Guards: all partitions of all topics in one write; each topic once.
    const { operator, did } = scene({ members: 0, offsets });
    const given = { consumer: "new", topics: ["orders", "orders"], groupId: "shop", reason };
    const adopted = [
      { topic: "orders", partition: 0, nextOffset: 9n, committed: true },
      { topic: "orders", partition: 1, nextOffset: 7n, committed: false },
    ];
    expect(await operator.adopt({ ...given, dryRun: true, otherwise: "latest" })).toEqual(adopted);
    expect(did).toEqual([]);
    expect(await operator.adopt({ ...given, otherwise: "latest" })).toEqual(adopted);
    const start = new Map([
      [0, 9n],
      [1, 7n],
    ]);
    const topics = [{ topic: "orders", topicId, start }];
    expect(did).toEqual([["adopt", { consumer: "new", groupId: "shop", topics, audit: who }]]);
    const [, first] = await operator.adopt({ consumer: "new", topics: ["orders"], reason });
    expect(first?.nextOffset).toBe(0n);
    expect(did[1]).toMatchObject(["adopt", { groupId: "new" }]);
  });

  it("refuses a group with members, as a dry run, too", async () => {
    // Guards: its members would go on committing, and both would handle the same messages.
    const { operator, did } = scene({ members: 2, offsets });
    const refused = { code: "group-active", details: { groupId: "new", members: 2 } };
    const given = { consumer: "new", topics: ["orders"], reason };
    await expect(operator.adopt(given)).rejects.toMatchObject(refused);
    await expect(operator.adopt({ ...given, dryRun: true })).rejects.toMatchObject(refused);
    expect(did).toEqual([]);
  });
});

describe("syncOffsets", () => {
  const given = { consumer: "billing", reason };
  const offsets = [
    { topic: "orders", partition: 0, offset: 12n, metadata: "oncebox/1 db-1 3 12" },
    { topic: "orders", partition: 1, offset: 7n, metadata: "oncebox/1 db-1 4 7" },
  ];

  it("writes positions with what tells where they come from, then the audit log", async () => {
    // Guards: the form beside the offset, and that the log tells of nothing that was not done.
    const { operator, did } = scene();
    expect(await operator.syncOffsets({ ...given, dryRun: true })).toEqual(offsets);
    expect(did).toEqual([]);
    expect(await operator.syncOffsets(given)).toEqual(offsets);
    const inWords = offsets.map((at) => ({ ...at, offset: String(at.offset) }));
    const details = { groupId: "shop", offsets: inWords };
    expect(did).toEqual([
      ["setGroupOffsets", ["shop", offsets]],
      ["audit", { ...who, consumer: "billing", action: "sync-offsets", details }],
    ]);
  });

  it("refuses a group with members, and a consumer without positions", async () => {
    // Guards: running members write these offsets themselves.
    const { operator, did } = scene({ members: 1, offsets: [] });
    await expect(operator.syncOffsets(given)).rejects.toMatchObject({ code: "group-active" });
    const unknown = operator.syncOffsets({ ...given, consumer: "other" });
    await expect(unknown).rejects.toMatchObject({ code: "not-registered" });
    expect(did).toEqual([]);
  });
});

it("history asks for pages, newest first", async () => {
  // Guards: the defaults, and that a page of nonsense is refused.
  const { operator, did } = scene();
  await operator.history({ consumer: "billing" });
  await operator.history({ consumer: "billing", limit: 5, below: 9n });
  expect(did).toEqual([
    ["auditLog", ["billing", { limit: 100, below: null }]],
    ["auditLog", ["billing", { limit: 5, below: 9n }]],
  ]);
  await expect(operator.history({ consumer: "billing", limit: 0 })).rejects.toMatchObject({
    code: "invalid-options",
  });
});

it("positions are those of the storage", async () => {
  // Guards: looking needs neither a reason nor Kafka.
  const { operator, known } = scene();
  expect((await operator.positions("billing")).positions).toBe(known);
});

it("is made of a storage, a broker and a name", () => {
  // Guards: nobody acts without saying who.
  const make = createOperator as (options: unknown) => unknown;
  expect(() => make({ actor: " " })).toThrow(
    /storage is missing.*broker is missing.*actor must be/,
  );
});
