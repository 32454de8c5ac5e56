import fc from "fast-check";
import kafkajs from "kafkajs";
import { describe, expect, it } from "vitest";
import { createAssigner, decodeOwnership, encodeUserData } from "./assigner.ts";
import type { Ownership } from "./assignment-strategies.ts";
import type { KafkaCluster } from "./kafkajs-client.ts";

const { MemberMetadata, MemberAssignment } = kafkajs.AssignerProtocol;

/** A cluster that knows how many partitions each topic has. */
function clusterOf(counts: Record<string, number>): KafkaCluster {
  return {
    findTopicPartitionMetadata: (topic: string) =>
      Array.from({ length: counts[topic] ?? 0 }, (_, partitionId) => ({ partitionId, leader: 0 })),
    addMultipleTargetTopics: async () => undefined,
  } as Partial<KafkaCluster> as KafkaCluster;
}

const count = fc.nat(2 ** 31);
const ownership: fc.Arbitrary<Ownership> = fc.record({
  generation: count,
  partitions: fc.array(fc.tuple(fc.string(), fc.array(count))),
});

describe("what a member says beside its topics", () => {
  it("comes back", () => {
    fc.assert(
      fc.property(ownership, (owned) => {
        expect(decodeOwnership(encodeUserData([["t", 3]], owned))).toEqual(owned);
      }),
    );
    expect(decodeOwnership(encodeUserData([["t", 3]], null))).toBeNull();
  });

  it("is worth nothing where it is malformed", () => {
    const odd = [
      "",
      "t=3",
      "null",
      "7",
      "[]",
      '{"owned":7}',
      '{"owned":{"generation":-1,"partitions":[]}}',
      '{"owned":{"generation":1,"partitions":{}}}',
      '{"owned":{"generation":1,"partitions":[["t"]]}}',
      '{"owned":{"generation":1,"partitions":[["t",[-1]]]}}',
      '{"owned":{"generation":1,"partitions":[["t",["0"]]]}}',
    ];
    for (const text of odd) expect(decodeOwnership(Buffer.from(text))).toBeNull();
    fc.assert(
      fc.property(fc.uint8Array(), (bytes) => {
        expect(decodeOwnership(Buffer.from(bytes))).toBeNull();
      }),
    );
  });

  it("changes with the number of partitions, and else only with what a sticky member owns", () => {
    // Guards: a rebalance when partitions are added, and none for a mere new join.
    const counts = { t: 2 };
    let generation = 1;
    const owned = () => ({ generation, partitions: [["t", [0, 1]]] as const });
    for (const kind of ["round-robin", "range", "sticky"] as const) {
      const assigner = createAssigner(clusterOf(counts), kind, owned);
      const said = () => assigner.protocol({ topics: ["t"] }).metadata.toString("hex");
      const first = said();
      expect(said()).toBe(first);
      counts.t += 1;
      const second = said();
      expect(second).not.toBe(first);
      generation += 1;
      expect(said() === second).toBe(kind !== "sticky");
    }
  });
});

describe("the leader", () => {
  const said = (topics: string[], userData: Buffer) =>
    MemberMetadata.encode({ version: 1, topics, userData });

  it("shares out by what the members said, each under a name of its own kind", async () => {
    const members = [
      { memberId: "a", memberMetadata: said(["t"], Buffer.from("nonsense")) },
      {
        memberId: "b",
        memberMetadata: said(
          ["t", "gone"],
          encodeUserData([], { generation: 1, partitions: [["t", [0, 1]]] }),
        ),
      },
    ];
    const shares = async (kind: "round-robin" | "range" | "sticky") => {
      const assigner = createAssigner(clusterOf({ t: 4 }), kind);
      expect(assigner.name).toBe(`oncebox-${kind}`);
      const assigned = await assigner.assign({ members, topics: [] } as never);
      return assigned.map(({ memberId, memberAssignment }) => [
        memberId,
        { ...MemberAssignment.decode(memberAssignment)?.assignment },
      ]);
    };
    expect(await shares("round-robin")).toEqual([
      ["a", { t: [0, 2] }],
      ["b", { t: [1, 3] }],
    ]);
    expect(await shares("range")).toEqual([
      ["a", { t: [0, 1] }],
      ["b", { t: [2, 3] }],
    ]);
    expect(await shares("sticky")).toEqual([
      ["a", { t: [2, 3] }],
      ["b", { t: [0, 1] }],
    ]);
  });
});
