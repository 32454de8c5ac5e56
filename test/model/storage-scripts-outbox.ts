// Owns the storage scripts made by hand, as far as they are about ids outside of partitions,
// transactions of applications and of the storage, and the outbox with its relays.

import type { Actor, Script, ScriptId, Step } from "./storage-script.ts";
import { claim, commit, effect, open, register, rollback } from "./storage-steps.ts";

const begin = (as: string): Step => ({ do: "begin", as });
const work = (by: Actor, as: string): Step => ({ do: "work", by, as });
const record = (name: string, ...ids: readonly ScriptId[]): Step => {
  return { do: "record", in: name, by: "a", ids };
};
export const enqueue = (name: string, lane: number, ...rows: readonly string[]): Step => {
  return { do: "enqueue", in: name, by: "a", lane, rows };
};
const lease = (by: Actor, as: string, renew?: string, ms?: number): Step => {
  const renewing = renew === undefined ? {} : { renew };
  return { do: "lease", by, as, ...renewing, ...(ms === undefined ? {} : { ms }) };
};
const read = (by: Actor, leases: string, as: string): Step => ({ do: "read", by, leases, as });
const settle = (by: Actor, leases: string, from: string, ...only: readonly string[]): Step => {
  return { do: "settle", by, leases, read: from, ...(only.length > 0 ? { only } : {}) };
};
const release = (by: Actor, leases: string): Step => ({ do: "release", by, leases });
const pass = (ms: number): Step => ({ do: "pass", ms });

/** A transaction with rows in two lanes, committed. */
const written = (as: string, ...rows: readonly string[]): readonly Step[] => [
  begin(as),
  enqueue(as, 1, ...rows),
  enqueue(as, 2, ...rows.map((row) => `${row}'`)),
  commit(as),
];

const ids: readonly Script[] = [
  {
    name: "ids recorded once, twice in one call, with another value and without any",
    steps: [
      ...[begin("t"), record("t", 1, 2, 1, { id: 2, sum: 1 }, { id: 3, sum: null })],
      ...[record("t", 1, { id: 3, sum: 9 }), commit("t"), begin("u")],
      ...[record("u", 1, { id: 2, sum: 1 }, { id: 2, sum: null }, 4), rollback("u")],
    ],
  },
  {
    name: "an id waits for whoever records it at the same time, and is a duplicate",
    steps: [
      ...[register("a", 0), begin("s"), record("s", 99), commit("s"), begin("t"), begin("u")],
      ...[record("t", 1, 2), record("u", 3, 2), record("u", 4), commit("t"), commit("u")],
    ],
  },
  {
    name: "an id waits for whoever records it at the same time, and is new after a rollback",
    steps: [
      ...[register("a", 0), begin("s"), record("s", 99), commit("s"), begin("t"), begin("u")],
      ...[record("t", 1, 2), record("u", 3, 2), rollback("t"), commit("u")],
    ],
  },
  {
    name: "an id of a chunk and of inbox.once are one and the same",
    steps: [
      ...[register("a", 0), claim("a", "a1"), begin("t"), record("t", 0), open("a1", "k", 0, 1)],
      ...[commit("t"), commit("k", 2), begin("u"), record("u", 0, 1, 2), commit("u")],
    ],
  },
  {
    name: "a chunk's handler records ids, its own among them",
    steps: [
      ...[register("a", 0), claim("a", "a1"), open("a1", "k", 0), record("k", 0, 5, 5)],
      ...[commit("k", 1), open("a1", "x", 1, 5), commit("x", 6)],
    ],
  },
  {
    name: "ids by a consumer that is registered only afterwards",
    steps: [begin("t"), record("t", 1), commit("t"), register("a", 0), claim("a", "a1")],
  },
];

const transactions: readonly Script[] = [
  {
    name: "a transaction of the storage commits what its work did",
    steps: [
      ...[
        register("a", 0),
        work("a", "w"),
        effect("w", "one"),
        record("w", 1),
        enqueue("w", 1, "x"),
      ],
      ...[commit("w"), effect("w", "late")],
    ],
  },
  {
    name: "a transaction of the storage whose work throws",
    steps: [
      ...[
        register("a", 0),
        work("a", "w"),
        effect("w", "one"),
        record("w", 1),
        enqueue("w", 1, "x"),
      ],
      ...[rollback("w"), effect("w", "late")],
    ],
  },
  {
    name: "a transaction of the storage with a swallowed failure",
    steps: [
      ...[work("a", "w"), effect("w", "one"), { do: "fail", in: "w" } as const],
      ...[effect("w", "two"), commit("w")],
    ],
  },
  ...[true, false].map((again): Script => {
    return {
      name: `a transaction of the storage that its work ended${again ? " and began anew" : ""}`,
      steps: [
        ...[work("a", "w"), effect("w", "one")],
        { do: "end secretly", in: "w", begin: again },
        commit("w"),
      ],
    };
  }),
  {
    name: "a transaction of the storage whose connection died",
    steps: [work("a", "w"), effect("w", "one"), { do: "cut", in: "w" }, commit("w")],
  },
  {
    name: "a transaction of the storage whose connection died, and whose work throws",
    steps: [work("a", "w"), { do: "cut", in: "w" }, effect("w", "one"), rollback("w")],
  },
  ...(["request-lost", "reply-lost", "request-late"] as const).map((fault): Script => {
    return {
      name: `the COMMIT of a transaction of the storage meets ${fault}`,
      steps: [
        ...[work("a", "w"), effect("w", "one"), enqueue("w", 1, "x")],
        { do: "commit", of: "w", fault },
        ...[lease("b", "l"), read("b", "l", "r"), { do: "deliver" } as const, read("b", "l", "s")],
      ],
    };
  }),
];

const relays: readonly Script[] = [
  {
    name: "rows are read when they are committed, and settled once",
    steps: [
      ...[lease("a", "l"), begin("t"), enqueue("t", 1, "x", "y"), read("a", "l", "r"), commit("t")],
      ...[read("a", "l", "s"), settle("a", "l", "s"), read("a", "l", "u"), settle("a", "l", "s")],
    ],
  },
  {
    name: "rows of a transaction that was rolled back never appear",
    steps: [
      ...[lease("a", "l"), begin("t"), enqueue("t", 1, "x"), ...written("u", "y"), rollback("t")],
      ...[read("a", "l", "r"), settle("a", "l", "r"), read("a", "l", "s")],
    ],
  },
  {
    name: "a lower row that commits after a higher one was settled",
    steps: [
      ...[lease("a", "l"), begin("t"), enqueue("t", 1, "low"), ...written("u", "high")],
      ...[read("a", "l", "r"), settle("a", "l", "r"), read("a", "l", "s"), commit("t")],
      ...[read("a", "l", "v"), settle("a", "l", "v"), read("a", "l", "w")],
    ],
  },
  {
    name: "a lower row that commits late, and its lane has another holder meanwhile",
    steps: [
      ...[lease("a", "l"), begin("t"), enqueue("t", 1, "low"), ...written("u", "high")],
      ...[read("a", "l", "r"), settle("a", "l", "r"), release("a", "l"), lease("b", "m")],
      ...[read("b", "m", "s"), commit("t"), read("b", "m", "v"), settle("b", "m", "v")],
    ],
  },
  {
    name: "some rows are settled, others read again, others are pending",
    steps: [
      ...[...written("t", "x", "y", "z"), lease("a", "l"), read("a", "l", "r")],
      ...[settle("a", "l", "r", "y", "x'"), read("a", "l", "s"), ...written("u", "v")],
      { do: "read", by: "a", leases: "l", as: "w", pending: "s" },
      ...[settle("a", "l", "s"), read("a", "l", "q")],
    ],
  },
  {
    name: "one row at a time of one lane, to its end",
    steps: [
      ...[begin("t"), enqueue("t", 0, "x", "y"), commit("t")],
      { do: "lease", by: "a", as: "l", max: 1 },
      ...["r", "s", "u"].flatMap((as): readonly Step[] => [
        { do: "read", by: "a", leases: "l", as, rows: 1 },
        settle("a", "l", as),
      ]),
    ],
  },
  {
    name: "a sweep finds all that is there, and nothing below a floor",
    steps: [
      ...[...written("t", "x"), lease("a", "l"), read("a", "l", "r"), settle("a", "l", "r", "x")],
      ...[...written("u", "y"), read("a", "l", "s")],
      { do: "read", by: "a", leases: "l", as: "w", sweep: true },
    ],
  },
  {
    name: "leases that run out are taken over, and their holder is told",
    steps: [
      ...[...written("t", "x", "y"), lease("a", "l", undefined, 5_000), read("a", "l", "r")],
      ...[lease("b", "m"), pass(6_000), lease("b", "n"), settle("a", "l", "r")],
      ...[read("b", "n", "s"), settle("b", "n", "s"), lease("a", "k", "l"), release("a", "l")],
      ...[lease("c", "o"), settle("b", "n", "s")],
    ],
  },
  {
    name: "a lease that ran out and that nobody took is renewed",
    steps: [
      ...[...written("t", "x"), lease("a", "l", undefined, 5_000), pass(6_000)],
      ...[lease("a", "m", "l", 5_000), read("a", "m", "r"), settle("a", "m", "r")],
    ],
  },
  {
    name: "renewing keeps a lease alive, and takes what is free besides",
    steps: [
      { do: "lease", by: "a", as: "l", max: 3, ms: 5_000 },
      { do: "lease", by: "b", as: "m", max: 2, ms: 20_000 },
      pass(4_000),
      { do: "lease", by: "a", as: "n", max: 0, renew: "l", ms: 5_000 },
      ...[pass(4_000), lease("c", "o"), pass(4_000), lease("c", "q", "o"), release("b", "m")],
      lease("c", "p", "q"),
    ],
  },
  {
    name: "lanes given back are free at once, those of others are not",
    steps: [
      { do: "lease", by: "a", as: "l", max: 32 },
      ...[lease("b", "m"), release("b", "l"), lease("c", "n"), release("a", "l")],
      ...[lease("c", "o"), release("a", "l"), lease("a", "p")],
    ],
  },
  {
    name: "relays that are gone are not counted",
    steps: [
      ...[lease("a", "l", undefined, 5_000), lease("b", "m", undefined, 50_000), pass(6_000)],
      ...[lease("c", "n"), release("a", "l"), release("b", "m"), lease("c", "o", "n")],
    ],
  },
  {
    name: "rows written in a chunk come and go with it",
    steps: [
      ...[register("a", 0), claim("a", "a1"), open("a1", "k", 0), enqueue("k", 3, "lost")],
      ...[rollback("k"), open("a1", "x", 0), enqueue("x", 3, "kept"), enqueue("x", 4)],
      ...[commit("x", 1), lease("b", "l"), read("b", "l", "r")],
    ],
  },
  {
    name: "what is settled as another's is lost, and what lies in lanes not asked for stays",
    steps: [
      ...[...written("t", "x"), lease("a", "l"), read("a", "l", "r"), release("a", "l")],
      { do: "lease", by: "b", as: "m", max: 1 },
      ...[settle("b", "m", "r"), settle("a", "l", "r"), read("a", "l", "s")],
    ],
  },
];

export const outboxScripts: readonly Script[] = [...ids, ...transactions, ...relays];
