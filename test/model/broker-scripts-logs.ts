// Owns the broker scripts made by hand about logs: what is read of them, and from where.

import type { BrokerScript, BrokerStep } from "./broker-script.ts";
import {
  begin,
  create,
  end,
  join,
  offsets,
  point,
  produce,
  read,
  stored,
  t,
} from "./broker-steps.ts";

const logs: readonly BrokerScript[] = [
  {
    name: "a log from its beginning, and what comes later",
    steps: [create(), produce(t, "a", "b"), join("m"), read, produce(t, "c"), read, read],
  },
  {
    name: "an empty log",
    steps: [create(2), join("m"), read, offsets("earliest"), offsets("latest")],
  },
  {
    name: "records of a transaction, when it has committed",
    steps: [
      ...[create(), join("m"), begin("x", t, "a", "b"), read, produce(t, "c"), read],
      ...[end("x", "commit"), read, offsets("latest")],
    ],
  },
  {
    name: "records of a transaction, never when it was aborted",
    steps: [
      ...[create(), produce(t, "a"), begin("x", t, "b", "c"), produce(t, "d"), join("m"), read],
      ...[end("x", "abort"), read, produce(t, "e"), read, stored],
    ],
  },
  {
    name: "nothing but what was aborted: the position moves all the same",
    steps: [
      create(),
      begin("x", t, "a", "b"),
      end("x", "abort"),
      join("m"),
      read,
      offsets("latest"),
    ],
  },
  {
    name: "two transactions that overlap, one aborted and one committed",
    steps: [
      ...[
        create(),
        begin("x", t, "a"),
        begin("y", t, "b"),
        { do: "write", to: "x", values: ["c"] },
      ],
      ...[join("m"), end("y", "commit"), read, end("x", "abort"), read],
    ] as readonly BrokerStep[],
  },
  {
    name: "a transaction within which ordinary records lie",
    steps: [
      ...[create(), begin("x", t, "a"), produce(t, "b"), { do: "write", to: "x", values: ["c"] }],
      ...[end("x", "commit"), begin("y", t, "d"), join("m"), read, end("y", "commit"), read],
    ] as readonly BrokerStep[],
  },
  {
    name: "a transaction in one partition holds up no other",
    steps: [
      ...[create(2), begin("x", t, "a"), produce(t, "b"), produce(["t", 1], "c"), join("m"), read],
      ...[end("x", "abort"), read],
    ],
  },
  {
    name: "a read that begins between records of an aborted transaction",
    steps: [
      ...[create(), begin("x", t, "a", "b", "c"), end("x", "abort"), produce(t, "d")],
      ...[point(t, 1), join("m"), read],
    ],
  },
  {
    name: "a read that begins at the marker of a transaction",
    steps: [
      ...[
        create(),
        begin("x", t, "a"),
        end("x", "commit"),
        produce(t, "b"),
        point(t, 1),
        join("m"),
      ],
      read,
    ],
  },
];

const positions: readonly BrokerScript[] = [
  {
    name: "a read from the middle, from the end, and back",
    steps: [
      ...[create(), produce(t, "a", "b", "c"), point(t, 2), join("m"), read, point(t, 3), read],
      ...[point(t, 1), read],
    ],
  },
  {
    name: "a position behind the log is told, and not followed",
    steps: [create(), produce(t, "a"), point(t, 5), join("m"), read, read, point(t, 1), read],
  },
  {
    name: "a position before the log's first record",
    steps: [
      ...[create(), produce(t, "a", "b", "c"), { do: "delete records", at: t, below: 2 }],
      ...[join("m"), read, point(t, 2), read, offsets("earliest"), point(t, 1), read],
    ] as readonly BrokerStep[],
  },
  {
    name: "records deleted below the position change nothing",
    steps: [
      ...[create(), produce(t, "a", "b", "c"), join("m"), read],
      ...[{ do: "delete records", at: t, below: 2 }, produce(t, "d"), read, stored],
    ] as readonly BrokerStep[],
  },
  {
    name: "everything deleted: the log begins at its end",
    steps: [
      ...[create(), produce(t, "a", "b"), { do: "delete records", at: t, below: 2 }],
      ...[offsets("earliest"), offsets("latest"), join("m"), read, point(t, 2), read],
      ...[produce(t, "c"), read],
    ] as readonly BrokerStep[],
  },
  {
    name: "a partition without a position is left out, the other is read",
    steps: [
      ...[create(2), produce(t, "a"), produce(["t", 1], "b"), point(t, null), join("m"), read],
      ...[point(t, 0), read],
    ],
  },
  {
    name: "a position that knows its log",
    steps: [
      ...[create(), produce(t, "a", "b"), point(t, 1, { id: 1, epoch: 0 }), join("m"), read],
      ...[point(t, 0, { id: 1 }), read, point(t, 2, { id: 1, epoch: 0 }), produce(t, "c"), read],
    ],
  },
  {
    name: "a position with an epoch that the log has never seen",
    steps: [create(), produce(t, "a", "b"), point(t, 1, { id: 1, epoch: 7 }), join("m"), read],
  },
  {
    name: "a position behind the log with an epoch that the log has never seen",
    steps: [create(), produce(t, "a", "b"), point(t, 5, { id: 1, epoch: 7 }), join("m"), read],
  },
  {
    name: "a topic made anew, while it is read",
    steps: [
      ...[create(), produce(t, "a", "b", "c"), join("m"), read, { do: "recreate", topic: "t" }],
      ...[read, produce(t, "d"), point(t, 0, { id: 2 }), read, stored],
    ] as readonly BrokerStep[],
  },
  {
    name: "a topic made anew before it is read on, with more records than before",
    steps: [
      ...[create(), produce(t, "a"), { do: "recreate", topic: "t" }, produce(t, "b", "c", "d")],
      ...[point(t, 1, { id: 1, epoch: 0 }), join("m"), read, point(t, 0), read],
    ] as readonly BrokerStep[],
  },
  {
    name: "a topic that is deleted while it is read",
    steps: [
      ...[create(), produce(t, "a"), join("m"), read, { do: "delete", topic: "t" }, read],
      ...[offsets("latest"), { do: "partitions", topic: "t" }],
    ] as readonly BrokerStep[],
  },
  {
    name: "offsets by time: at, before, between and behind",
    steps: [
      create(),
      { do: "produce", at: t, values: ["a", "b"], time: 0 },
      { do: "produce", at: t, values: ["c"], time: 5_000 },
      ...[-60_000, 1, 2].map(offsets),
      ...[5_000, 5_001].map(offsets),
    ],
  },
  {
    name: "offsets by time where times go back",
    steps: [
      create(),
      { do: "produce", at: t, values: ["a"], time: 9_000 },
      { do: "produce", at: t, values: ["b"], time: 1_000 },
      { do: "produce", at: t, values: ["c"], time: 12_000 },
      ...[500, 9_001, 20_000].map(offsets),
    ],
  },
  {
    name: "offsets by time among records of aborted transactions, and behind what was deleted",
    steps: [
      create(),
      { do: "produce", at: t, values: ["a", "b"], time: 0 },
      { do: "delete records", at: t, below: 1 },
      offsets(-60_000),
      ...[begin("x", t, "c"), offsets("latest"), offsets(2)],
      ...[end("x", "abort"), offsets("latest"), offsets(2)],
    ],
  },
];

const times: readonly BrokerScript[] = [
  {
    name: "offsets by time behind the beginning of an open transaction",
    steps: [
      create(),
      { do: "produce", at: t, values: ["a"], time: 0 },
      begin("x", t, "b"),
      { do: "produce", at: t, values: ["c"], time: 5_400_000 },
      ...[offsets(5_400_000), offsets(1), offsets("latest")],
      ...[end("x", "commit"), offsets(5_400_000), offsets("latest")],
    ],
  },
];

export const logScripts: readonly BrokerScript[] = [...logs, ...positions, ...times];
