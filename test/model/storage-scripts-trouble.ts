// Owns the storage scripts made by hand about chunks that fail, and positions that others move.

import type { Script } from "./storage-script.ts";
import {
  chunk,
  claim,
  commit,
  effect,
  fail,
  next,
  open,
  register,
  rollback,
  seek,
} from "./storage-steps.ts";

const failures: readonly Script[] = [
  {
    name: "a failed statement that is swallowed aborts the chunk",
    steps: [...chunk, fail("k"), effect("k", "ignored"), commit("k", 2), ...next, commit("n", 3)],
  },
  {
    name: "a failed statement frees what its chunk has locked: whoever waits goes on",
    steps: [
      ...[register("a", 0, 0), claim("a", "a1"), open("a1", "k", 0, 1), claim("b", "b0", 1)],
      ...[open("b0", "m", { at: 0, id: 1 }), claim("c", "c1"), fail("k"), effect("k", "ignored")],
      ...[commit("m", 1), open("c1", "n", 0, 1), commit("k", 2), commit("n", 2)],
    ],
  },
  {
    name: "a failed statement, and the chunk is rolled back",
    steps: [...chunk, fail("k"), rollback("k"), ...next, commit("n", 3)],
  },
  {
    name: "a handler that commits early: its effects stay, the position does not move",
    steps: [
      ...[...chunk, { do: "end secretly", in: "k", begin: false } as const, commit("k", 2)],
      ...[open("a1", "x", 0, 1), effect("x", "again"), commit("x", 2)],
    ],
  },
  {
    name: "a handler that commits early can neither enqueue nor record ids afterwards",
    steps: [
      ...chunk,
      { do: "end secretly", in: "k", begin: false },
      { do: "enqueue", in: "k", by: "a", lane: 1, rows: ["x"] },
      { do: "record", in: "k", by: "a", ids: [50] },
      ...[effect("k", "stays"), commit("k", 2)],
    ],
  },
  {
    name: "a handler that commits early and begins another transaction",
    steps: [
      ...[...chunk, { do: "end secretly", in: "k", begin: true } as const, effect("k", "late")],
      ...[commit("k", 2), open("a1", "x", 0, 1), effect("x", "again"), commit("x", 2)],
    ],
  },
  {
    name: "a handler that commits early lets another claim through, and is rolled back",
    steps: [
      ...[...chunk, { do: "end secretly", in: "k", begin: false } as const, claim("b", "b1")],
      ...[rollback("k"), open("b1", "n", 0, 1), commit("n", 2)],
    ],
  },
  {
    name: "an early commit, a claim by another, a commit of the fenced owner",
    steps: [
      ...[...chunk, { do: "end secretly", in: "k", begin: true } as const, claim("b", "b1")],
      ...[commit("k", 2), open("b1", "n", 0, 1), commit("n", 2)],
    ],
  },
  {
    name: "a handle is dead after its end, and another of the chunk is not",
    steps: [
      ...[register("a", 0), claim("a", "a1"), open("a1", "k", 0)],
      { do: "handle", of: "k", as: "h" },
      { do: "handle", of: "k", as: "g" },
      ...[effect("h", "first"), { do: "end", handle: "h" } as const, effect("h", "dead")],
      { do: "record", in: "h", by: "a", ids: [50] },
      { do: "enqueue", in: "h", by: "a", lane: 1, rows: ["x"] },
      ...[effect("g", "alive"), commit("k", 1), effect("g", "dead as well"), effect("k", "late")],
    ],
  },
  {
    name: "a chunk that ended is ended again in every way",
    steps: [
      ...[...chunk, commit("k", 2), commit("k", 2), rollback("k"), commit("k", 5)],
      ...[open("a1", "x", 2), rollback("x"), commit("x", 3), rollback("x")],
    ],
  },
  {
    name: "the connection dies under a chunk, and its commit knows that nothing was done",
    steps: [...chunk, { do: "cut", in: "k" }, commit("k", 2), ...next, commit("n", 3)],
  },
  {
    name: "the connection dies under a chunk, its handler goes on, and it is rolled back",
    steps: [...chunk, { do: "cut", in: "k" }, effect("k", "late"), rollback("k"), ...next],
  },
  {
    name: "the connection dies while another waits for the chunk's ids",
    steps: [
      ...[register("a", 0, 0), claim("a", "a1"), claim("b", "b1", 1), open("a1", "k", 4)],
      ...[open("b1", "n", { at: 0, id: 4 }), { do: "cut", in: "k" } as const, commit("k", 5)],
      commit("n", 1),
    ],
  },
  ...(["request-lost", "reply-lost"] as const).map((fault): Script => {
    return {
      name: `a chunk's COMMIT meets ${fault}`,
      steps: [
        ...chunk,
        { do: "commit", of: "k", to: 2, fault },
        rollback("k"),
        ...next,
        commit("n", 3),
      ],
    };
  }),
  {
    name: "a COMMIT arrives late, behind the claim that waits for it",
    steps: [
      ...chunk,
      { do: "commit", of: "k", to: 2, fault: "request-late" },
      ...[claim("b", "b1"), { do: "deliver" } as const, open("b1", "n", 0, 1, 2), commit("n", 3)],
    ],
  },
  {
    name: "a COMMIT arrives late, and whoever waits for its ids meets duplicates",
    steps: [
      ...[register("a", 0, 0), claim("a", "a1"), claim("b", "b1", 1), open("a1", "k", 4)],
      { do: "commit", of: "k", to: 5, fault: "request-late" },
      ...[open("b1", "n", { at: 0, id: 4 }), { do: "deliver" } as const, commit("n", 1)],
    ],
  },
];

const seeks: readonly Script[] = [
  {
    name: "a seek fences the owner, and below it ids still count",
    steps: [
      ...[...chunk, commit("k", 2), seek("b", 0, 0), open("a1", "x", 0), claim("a", "a2")],
      ...[open("a2", "y", 0, 1, 2), commit("y", 3), { do: "audit log", by: "a" } as const],
    ],
  },
  {
    name: "a seek waits for an open chunk",
    steps: [...chunk, seek("b", 0, 7), commit("k", 2), claim("a", "a2"), open("a2", "y", 7)],
  },
  {
    name: "a chunk that waits behind a seek is fenced",
    steps: [...chunk, seek("b", 0, 7), open("a1", "x", 2), rollback("k"), claim("a", "a2")],
  },
  {
    name: "a replay, and another one within it",
    steps: [
      ...[...chunk, commit("k", 2), seek("b", 0, 0, true), claim("a", "a2"), open("a2", "x", 0)],
      ...[commit("x", 1), seek("b", 0, 0, true), claim("a", "a3"), open("a3", "y", 0, 1, 2)],
      ...[commit("y", 3), claim("a", "a4"), seek("b", 0, 9, true), claim("a", "a5")],
    ],
  },
  {
    name: "a policy's move needs its claim",
    steps: [
      ...[register("a", 0, 0), claim("a", "a1"), claim("b", "b1"), claim("a", "a2", 1)],
      { do: "seek", by: "a", moves: [[0, 5]], expected: "a1" },
      { do: "seek", by: "b", moves: [[0, 6]], expected: "b1", topicId: "t-2" },
      { do: "seek", by: "b", moves: [[1, 6]], expected: "a2" },
      { do: "seek", by: "b", moves: [[7, 6]], expected: "a2" },
      { do: "lost", by: "a", claims: ["a1", "b1", "a2"] },
      { do: "audit log", by: "c" },
    ],
  },
  {
    name: "a seek of what has no row moves nothing else either",
    steps: [
      register("a", 3, 4),
      {
        do: "seek",
        by: "a",
        moves: [
          [1, 9],
          [5, 0],
          [0, 9],
        ],
      },
      {
        do: "seek",
        by: "a",
        moves: [
          [1, 9],
          [1, 8],
        ],
      },
      { do: "seek", by: "a", moves: [[1, -1]] },
      { do: "seek", by: "a", moves: [] },
      {
        do: "seek",
        by: "a",
        moves: [
          [1, 9],
          [0, 8],
        ],
      },
      { do: "audit log", by: "a" },
    ],
  },
  ...(["request-lost", "reply-lost"] as const).map((fault): Script => {
    return {
      name: `a seek whose COMMIT meets ${fault}`,
      steps: [
        ...[register("a", 0), claim("a", "a1")],
        { do: "seek", by: "b", moves: [[0, 5]], fault },
        ...[{ do: "audit log", by: "a" } as const, open("a1", "k", 0, 5), commit("k", 6)],
      ],
    };
  }),
  {
    name: "an early commit is redone after a seek: ids of its own record are new above it only",
    steps: [
      ...[register("a", 0), claim("a", "a1"), open("a1", "p", 0), commit("p", 1)],
      ...[open("a1", "k", 1, 2), { do: "end secretly", in: "k", begin: false } as const],
      ...[
        rollback("k"),
        seek("b", 0, 0),
        claim("a", "a2"),
        open("a2", "x", 0, 1, 2),
        commit("x", 3),
      ],
    ],
  },
  {
    name: "adopted once: what has rows is not adopted again",
    steps: [
      { do: "adopt", by: "a", starts: [3, 4], topicId: "t-1" },
      { do: "adopt", by: "b", starts: [5] },
      { do: "register", by: "b", starts: [7, 7, 7] },
      ...[claim("a", "a1", 1), claim("a", "a2", 2), { do: "audit log", by: "a" } as const],
    ],
  },
];

export const troubleScripts: readonly Script[] = [...failures, ...seeks];
