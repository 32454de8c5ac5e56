// Owns the seeded bugs of forgetting: ids that are deleted although their messages may come again. The
// memory storage stands for PostgreSQL and SQLite; `real` names what notices the same there.

import { inFile, type SeededBug } from "./seeded-bug.ts";

const pruning = "packages/testing/src/memory-storage/pruning.ts";

const finds = ["forgotten", "doubled"] as const;

export const pruningBugs: readonly SeededBug[] = [
  {
    name: "window by the wall clock",
    why: "The window is counted in the time of records: a stop forgets nothing that the backlog repeats.",
    replace: inFile(pruning, ["return earlier(time, now);", "return now;"]),
    finds,
    real: "I7: the window goes by the wall clock",
  },
  {
    name: "the fastest partition decides what is forgotten",
    why: "The window is counted from the slowest partition, which may still hold repeats.",
    replace: inFile(pruning, ["return one < than.comeTo;", "return one > than.comeTo;"]),
    finds,
    real: "I7: the fastest partition decides",
  },
  {
    name: "a partition of which nothing is known does not hold pruning back",
    why: "Of a partition that was sought back nobody knows what it will read: nothing is forgotten.",
    replace: inFile(pruning, [
      "return one === null && than.comeTo !== null;",
      "return one !== null && than.comeTo === null;",
    ]),
    finds,
    seed: 343,
    real: "I7: a partition of which nothing is known is passed over",
  },
  {
    name: "the end of a log counts as far as the clock of the step",
    why: "A process may stand still for long between asking where logs end and deleting by it.",
    replace: inFile(pruning, ["return earlier(BigInt(askedAt), now);", "return now;"]),
    finds,
    seed: 25,
    real: "I7: the end of a log counts as far as the clock of the step",
  },
  {
    name: "ids of parked messages are pruned",
    why: "What is parked is not applied yet: its repeat must not be taken for new.",
    replace: inFile(pruning, ["!parked.has(placeOf(row)) && ", ""]),
    finds,
    real: "I7: ids of parked messages are deleted",
  },
];
