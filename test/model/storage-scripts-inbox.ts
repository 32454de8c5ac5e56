// Owns the storage scripts made by hand about claims, and about chunks that meet each other.

import type { Script } from "./storage-script.ts";
import { chunk, claim, commit, effect, next, open, register, rollback } from "./storage-steps.ts";

const claims: readonly Script[] = [
  {
    name: "a claim of nothing, then of what was registered, then of what was not",
    steps: [claim("a", "a1"), register("a", 5, 0), claim("a", "a1"), claim("a", "a2", 2)],
  },
  {
    name: "a claim waits for an open chunk, and finds what it committed",
    steps: [...chunk, claim("b", "b1"), commit("k", 2), { do: "positions", by: "a" }],
  },
  {
    name: "a claim waits for an open chunk, and finds nothing of it when it was rolled back",
    steps: [...chunk, claim("b", "b1"), rollback("k"), open("b1", "n", 0, 1), commit("n", 2)],
  },
  {
    name: "a fenced owner can open nothing",
    steps: [register("a", 0), claim("a", "a1"), claim("b", "b1"), open("a1", "k", 0)],
  },
  {
    name: "a fenced owner is told so without waiting for the chunk of the next one",
    steps: [...chunk, rollback("k"), claim("b", "b1"), open("b1", "n", 0), open("a1", "x", 0)],
  },
  {
    name: "a fenced owner who claims again fences in turn",
    steps: [
      ...[register("a", 0), claim("a", "a1"), claim("b", "b1"), claim("a", "a2")],
      ...[open("a1", "x", 0), open("b1", "k", 0), open("a2", "m", 0), commit("m", 1)],
    ],
  },
  {
    name: "a claim that has waited long enough names a time-out, and the owner keeps its own",
    steps: [
      ...chunk,
      { do: "claim", by: "b", as: "b1", waitMs: 500 },
      { do: "wait" },
      { do: "lost", by: "b", claims: ["a1"] },
      commit("k", 2),
    ],
  },
  {
    name: "claims of other partitions wait for nobody",
    steps: [...chunk, register("a", 0, 0), register("b", 0), claim("b", "b1", 1), commit("k", 2)],
  },
  {
    name: "an unregistered partition is added later",
    steps: [
      ...[register("a", 3), claim("a", "a1"), claim("a", "a2", 1)],
      { do: "register", by: "b", starts: [9, 9], added: [[1, 4]] },
      ...[claim("a", "a2", 1), claim("b", "b1")],
    ],
  },
  {
    name: "a consumer belongs to its group",
    steps: [
      register("a", 0),
      { do: "register", by: "b", starts: [0], group: "another" },
      { do: "adopt", by: "b", starts: [0], group: "another", topic: "payments" },
      { do: "registered", by: "b", topic: "payments" },
    ],
  },
  ...(["request-lost", "reply-lost"] as const).map((fault): Script => {
    return {
      name: `a claim whose COMMIT meets ${fault} may own and does not know it`,
      steps: [
        ...[register("a", 0), claim("a", "a1")],
        { do: "claim", by: "b", as: "b1", fault },
        { do: "lost", by: "a", claims: ["a1"] },
        ...[claim("b", "b2"), open("b2", "k", 0), commit("k", 1)],
      ],
    };
  }),
];

const chunks: readonly Script[] = [
  {
    name: "a chunk commits all it did",
    steps: [...chunk, commit("k", 2), ...next, commit("n", 3)],
  },
  {
    name: "a chunk rolled back is as if it had never been",
    steps: [...chunk, rollback("k"), ...next, commit("n", 3)],
  },
  {
    name: "a destroyed chunk frees the partition and can do nothing any more",
    steps: [
      ...[...chunk, { do: "destroy", of: "k" } as const, ...next, commit("n", 3)],
      ...[commit("k", 2), rollback("k"), effect("k", "late"), { do: "destroy", of: "k" } as const],
    ],
  },
  {
    name: "a chunk that waits for its claim's row is fenced when it gets there",
    steps: [...chunk, claim("b", "b1"), open("a1", "x", 2), commit("k", 2), open("b1", "n", 2)],
  },
  {
    name: "of two chunks of one claim the second waits, and goes on from the first",
    steps: [
      ...[...chunk, open("a1", "x", 1, 2, 3), commit("k", 2), effect("x", "two")],
      ...[commit("x", 4), open("a1", "y"), commit("y", 4)],
    ],
  },
  {
    name: "a commit that moves the position back, and one that does not move it",
    steps: [
      ...[...chunk, commit("k", 2), open("a1", "x", 2), commit("x", 1)],
      ...[open("a1", "y", 0, 1, 2), commit("y")],
    ],
  },
  {
    name: "records below the position are done, whatever their id",
    steps: [
      ...[register("a", 5), claim("a", "a1")],
      open("a1", "k", 3, { at: 4, id: 90 }, 5, { at: 6, id: null }, { at: 7, id: 5 }),
      ...[commit("k", 8), open("a1", "x", 5, 8, { at: 9, id: 5, sum: 1 }), commit("x", 10)],
    ],
  },
  {
    name: "one id three times in a chunk: once new, then by its checksum",
    steps: [
      ...[register("a", 0), claim("a", "a1")],
      open("a1", "k", { at: 0, id: 7 }, { at: 1, id: 7 }, { at: 2, id: 7, sum: 1 }),
      commit("k", 3),
    ],
  },
  {
    name: "an id of another partition: waits, then duplicate",
    steps: [
      ...[register("a", 0, 0), claim("a", "a1"), claim("b", "b1", 1), open("a1", "k", 4)],
      ...[
        open("b1", "n", { at: 0, id: 4 }, { at: 1, id: 4, sum: 1 }),
        commit("k", 5),
        commit("n", 2),
      ],
    ],
  },
  {
    name: "an id of another partition: waits, then new after a rollback",
    steps: [
      ...[register("a", 0, 0), claim("a", "a1"), claim("b", "b1", 1), open("a1", "k", 4)],
      ...[open("b1", "n", { at: 0, id: 4 }), rollback("k"), commit("n", 1), open("a1", "x", 4)],
      commit("x", 5),
    ],
  },
  {
    name: "three partitions with one id: both who wait go on when the first commits",
    steps: [
      ...[register("a", 0, 0, 0), claim("a", "a1"), claim("b", "b1", 1), claim("c", "c1", 2)],
      ...[open("a1", "k", 4), open("b1", "n", { at: 0, id: 4 }), open("c1", "m", { at: 0, id: 4 })],
      // After a rollback either of them may be the next: the server wakes both.
      ...[commit("k", 5), commit("n", 1), commit("m", 1)],
    ],
  },
  {
    name: "ids in opposite orders wait for each other's chunk, never in a circle",
    steps: [
      ...[register("a", 0, 0), claim("a", "a1"), claim("b", "b1", 1), open("a1", "k", 1, 2, 3, 4)],
      open("b1", "n", { at: 0, id: 4 }, { at: 1, id: 3 }, { at: 2, id: 9 }, { at: 3, id: 1 }),
      ...[commit("k", 5), commit("n", 4)],
    ],
  },
  {
    name: "a mark is kept where a commit brings none of its own",
    steps: [
      ...chunk,
      { do: "commit", of: "k", to: 2, mark: { topicId: "t-1", epoch: 3, last: 1 } },
      open("a1", "x", 2),
      { do: "commit", of: "x", to: 3, mark: { topicId: "t-1", epoch: 4 } },
      ...[
        claim("b", "b1"),
        open("b1", "y", 3),
        commit("y", 4),
        { do: "positions", by: "a" } as const,
      ],
    ],
  },
];

export const inboxScripts: readonly Script[] = [...claims, ...chunks];
